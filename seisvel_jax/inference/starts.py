"""Models a refinement starts from: files of velocities, matched with the gathers, or what a trained run predicts."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.inference.predictor import Options, Predictor
from seisvel_jax.inference.submission import Finished
from seisvel_jax.logging import say
from seisvel_jax.survey import Grid

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset
    from seisvel_jax.data.velocity_files import Velocities
    from seisvel_jax.inference.sample_files import SampleFile

PREDICTED = Options(tta=True, post_process=True)
"""How a run's answer is made where the user names a run as the start: the best it can say."""


class Starts(Protocol):
    """Starting models of some samples of a data set."""

    fingerprint: str
    """Other models, other fingerprint."""

    def __call__(self, indices: Sequence[int], gathers: np.ndarray) -> np.ndarray:
        """`[batch, depth, x]` m/s on the data's grid, of the samples `indices` with `gathers` `[batch, ...]`."""
        ...


class Predicted:
    """What a trained run says to the gathers, with its mirror and its fitted post-processing."""

    def __init__(self, predictor: Predictor, dataset: "Dataset", batch_size: int):
        predictor.check_experiment(dataset.survey)
        self.predictor, self._dataset, self._batch_size = predictor, dataset, batch_size
        self.fingerprint = predictor.fingerprint

    def __call__(self, indices: Sequence[int], gathers: np.ndarray) -> np.ndarray:
        """`[batch, depth, x]` m/s."""
        names = [self._dataset.names[index] for index in indices]
        fields = self.predictor.predict_fields(
            gathers, self._dataset.survey, PREDICTED, batch_size=self._batch_size, deviation=False, names=names
        )
        return fields["velocity"]


class OfFinished:
    """What a prediction has just finished."""

    def __init__(self, finished: Finished, fingerprint: str):
        self._finished, self.fingerprint = finished, fingerprint

    def __call__(self, indices: Sequence[int], gathers: np.ndarray) -> np.ndarray:
        """`[batch, depth, x]` m/s."""
        return np.stack([self._finished.read("velocity", index) for index in indices])


class OfFile:
    """Velocity models as somebody wrote them; of a file of samples their means.

    All are read once at the beginning: a bad one is said before any work.
    """

    def __init__(self, path: Path, dataset: "Dataset", count: int):
        from seisvel_jax.data.velocity_files import open_velocities
        from seisvel_jax.inference.sample_files import SampleFile, holds_samples

        if path.suffix == ".csv":
            raise UserError(
                f"{path}: a competition file holds every second column only, expected whole models: write the "
                "prediction as .npy or .npz"
            )
        self._velocities = SampleFile(path) if holds_samples(path) else open_velocities(path)
        self._where = _match(self._velocities, dataset, count)
        self._dataset = dataset
        digest = hashlib.sha256()
        for index in range(count):
            digest.update(np.ascontiguousarray(self._velocity(index)).tobytes())
        self.fingerprint = digest.hexdigest()

    def __call__(self, indices: Sequence[int], gathers: np.ndarray) -> np.ndarray:
        """`[batch, depth, x]` m/s."""
        return np.stack([self._velocity(index) for index in indices])

    def _velocity(self, index: int) -> np.ndarray:
        from seisvel_jax.data.resample import resample_velocity

        velocity, grid = self._velocities.velocity(self._where[index]), self._dataset.survey.grid
        if velocity.shape == grid.shape:
            return velocity
        depth, width = grid.extent
        spacing = width / velocity.shape[1]
        if abs(velocity.shape[0] * spacing - depth) > 1.01 * max(spacing, grid.spacing):
            raise UserError(
                f"{self._velocities.path}: {self._velocities.names[self._where[index]]} has shape {velocity.shape} "
                f"(depth, x), expected {grid.shape} or another sampling of the same {depth:g} m x {width:g} m: check "
                "that it belongs to these gathers"
            )
        return resample_velocity(velocity, Grid(velocity.shape[0], velocity.shape[1], spacing), grid).astype(np.float32)


def is_run(path: Path) -> bool:
    """Whether `path` is a training run or one of its checkpoints, and no file or folder of velocities."""
    return path.is_dir() and ((path / "checkpoints").is_dir() or path.resolve().parent.name == "checkpoints")


def _match(velocities: "Velocities | SampleFile", dataset: "Dataset", count: int) -> list[int]:
    """Index of the model of each of the first `count` samples: by name, or in order where an array has no names."""
    where = {name: index for index, name in enumerate(velocities.names)}
    missing = [name for name in dataset.names[:count] if name not in where]
    if velocities.layout == "array" and missing:
        if len(velocities) not in (count, len(dataset)):
            raise UserError(
                f"{velocities.path}: {len(velocities)} models, expected {len(dataset)}, one a sample of "
                f"{dataset.path}: without names they are matched in order"
            )
        return list(range(count))
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"{velocities.path}: no model for {len(missing)} of {count} samples of {dataset.path}: "
            f"{', '.join(missing[:5])}{more}: give the models of these gathers"
        )
    extra = set(where) - set(dataset.names)
    if extra:
        say(f"warning: {velocities.path}: {len(extra)} models without gathers are left out")
    return [where[name] for name in dataset.names[:count]]

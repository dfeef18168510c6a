"""Batches for training: resampled to the network's survey, shuffled, read ahead in bounded memory, exact by step.

Light to import: commands import `DataConfig` for their `--help`; grain and jax come in with the first batch.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seisvel_jax.data.online import OnlineConfig
from seisvel_jax.data.split import SplitBy
from seisvel_jax.errors import UserError
from seisvel_jax.logging import say

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset
    from seisvel_jax.survey import Survey


@dataclass(frozen=True)
class DataConfig:
    """Which samples, on which sampling, in which order."""

    path: str = ""
    """Folder of samples (challenge or OpenFWI layout), one OpenFWI file, or a pack. With `online` it may be left out;
    where every row of a batch is drawn online, all of it validates."""
    split_by: SplitBy = "file"
    """What stays together: samples of one file, of one name prefix (cube07_line012 -> cube07), or nothing."""
    validation_fraction: float = 0.1
    """Share of the samples held out for evaluation and for the ensemble's weights. 0: none, drawn online or stored."""
    grid_spacing: float | None = None
    """Metres between nodes of the network's velocity grid; none: the files' own."""
    dt: float | None = None
    """Seconds between time samples of the gathers given to the network; none: the files' own."""
    read_threads: int = 2
    """Threads that read and resample."""
    prefetch: int = 4
    """Batches read ahead at most."""
    seed: int = 0
    """Of the order of samples and of the split; independent of the seed of the networks."""
    limit: int | None = None
    """Use at most so many samples, drawn by the seed."""
    cache_gib: float = 2.0
    """Keep the resampled samples in memory after their first reading if all of them fit into so many GiB."""
    skip_bad: bool = False
    """Train on without samples that cannot be read, naming and counting them (RUN/skipped.json); others take their
    places. Without it the first one stops the run."""
    online: OnlineConfig | None = None
    """Draw and simulate samples while training, instead of reading them or beside it (docs/online.md)."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use. Raises UserError naming the option."""
        for name, smallest in (("read_threads", 1), ("prefetch", 1), ("limit", 1), ("cache_gib", 0)):
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise UserError(f"--data.{name.replace('_', '-')} {value}, expected at least {smallest}")
        for name in ("grid_spacing", "dt"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"--data.{name.replace('_', '-')} {value}, expected a positive number")


def open_data(config: DataConfig) -> "Dataset":
    """The dataset at `config.path`, cut to `config.limit` samples. Raises UserError as `open_dataset` does."""
    from seisvel_jax.data.dataset import Subset, open_dataset

    if not config.path:
        raise UserError("no data: give the folder of training samples with --data.path DATA")
    dataset = open_dataset(config.path)
    if config.limit is None or config.limit >= len(dataset):
        return dataset
    return Subset(dataset, np.sort(np.random.default_rng(config.seed).permutation(len(dataset))[: config.limit]))


def training_survey(dataset: "Dataset", config: DataConfig) -> "Survey":
    """The dataset's survey on `config.grid_spacing` and `config.dt`: the same experiment, coarser or finer.

    Raises UserError where `dt` would cut into the spectrum of the wavelet, or the shots were not fired alike.
    """
    if np.ndim(dataset.survey.wavelet) != 1:
        raise UserError(
            f"{dataset.path}: survey with wavelets of shape {np.shape(dataset.survey.wavelet)}, expected one for all "
            "shots: networks train on shots that differ in nothing but the place; deconvolve the gathers to one wavelet"
        )
    return resampled_survey(dataset.survey, config.grid_spacing, config.dt, option="--data.dt")


def resampled_survey(survey: "Survey", spacing: float | None, dt: float | None, *, option: str) -> "Survey":
    """`survey` every `spacing` metres and `dt` seconds. Raises UserError naming `option` where `dt` cuts into the
    spectrum of the wavelet.
    """
    if dt is not None and dt > survey.dt:
        highest = _highest_frequency(np.asarray(survey.wavelet, np.float64), survey.dt)
        longest = 0.3 / highest  # resampling keeps 0.6 of the Nyquist frequency 1 / (2 dt)
        if dt > longest * (1 + 1e-6):
            raise UserError(
                f"{option} {dt:g} s would remove part of a signal that reaches {highest:.0f} Hz, "
                f"expected at most {longest:.1e} s: give a smaller one"
            )
    return survey.resampled(spacing=spacing, dt=dt)


def _highest_frequency(wavelet: np.ndarray, dt: float) -> float:
    """Hz above which the wavelet's spectrum stays below 1 % of its peak."""
    spectrum = np.abs(np.fft.rfft(wavelet))
    return max(float(np.fft.rfftfreq(wavelet.size, dt)[np.nonzero(spectrum > 0.01 * spectrum.max())[0][-1]]), 1e-9)


class Resampled:
    """A dataset seen on another survey's times and grid, kept in memory where all of it fits into `cache_gib`."""

    def __init__(self, dataset: "Dataset", survey: "Survey", cache_gib: float = 0.0):
        self.dataset = dataset
        self.survey = survey
        self.path, self.layout = dataset.path, dataset.layout
        self.names, self.has_velocity = dataset.names, dataset.has_velocity
        values = int(np.prod(survey.gather_shape)) + int(np.prod(survey.grid.shape)) * dataset.has_velocity
        self.cached = 4 * values * len(dataset) <= cache_gib * 2**30
        # Filled by several threads: each writes a whole array once, and writing it twice changes nothing.
        self._gathers: dict[int, np.ndarray] = {}
        self._velocity: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def origin(self, index: int) -> Path:
        """File or folder the sample comes from."""
        return self.dataset.origin(index)

    def gathers(self, index: int) -> np.ndarray:
        """`[source, time, receiver]` float32 on the survey's times; not to be written to."""
        from seisvel_jax.data.resample import resample_gathers

        found = self._gathers.get(index)
        if found is None:
            found = resample_gathers(self.dataset.gathers(index), self.dataset.survey.dt, self.survey)
            if self.survey.record_start == 1:
                found[:, -1] = 0  # OpenFWI's last row, which interpolation would fill with an echo of its neighbours
            if self.cached:
                self._gathers[index] = found
        return found

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s on the survey's grid; not to be written to."""
        from seisvel_jax.data.resample import resample_velocity

        found = self._velocity.get(index)
        if found is None:
            found = resample_velocity(self.dataset.velocity(index), self.dataset.survey.grid, self.survey.grid)
            if self.cached:
                self._velocity[index] = found
        return found


class SkipBad:
    """A dataset in which the next readable sample of the same group takes the place of one that cannot be read.

    Which one it is depends on the files alone, so that a run that goes on sees what it would have seen. `groups` are
    index arrays; stand-ins never cross from one to the other (training and validation).
    """

    def __init__(self, dataset: Any, groups: Sequence[np.ndarray]):
        self.dataset = dataset
        self.survey, self.path, self.layout = dataset.survey, dataset.path, dataset.layout
        self.names, self.has_velocity = dataset.names, dataset.has_velocity
        self.skipped: dict[str, str] = {}
        """Reason by name, of the bad samples met so far."""
        self._groups = [np.asarray(group) for group in groups]
        self._lock = threading.Lock()
        self._just_read = threading.local()

    def __len__(self) -> int:
        return len(self.dataset)

    def origin(self, index: int) -> Path:
        """File or folder the sample comes from."""
        return self.dataset.origin(index)

    def gathers(self, index: int) -> np.ndarray:
        """`[source, time, receiver]` of the sample or its stand-in. Raises UserError where most samples are bad."""
        return self._pair(index)[0]

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` of the sample or its stand-in. Raises UserError where most samples are bad."""
        velocity = self._pair(index)[1]
        assert velocity is not None
        return velocity

    def _pair(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        # Both or neither: a good gather beside a bad model is a bad sample. One pair a thread is kept, as they are
        # asked for one after the other.
        kept = getattr(self._just_read, "pair", None)
        if kept is not None and kept[0] == index:
            return kept[1]
        group = next(group for group in self._groups if index in group)
        start = int(np.flatnonzero(group == index)[0])
        for candidate in np.roll(group, -start):
            try:
                gathers = self.dataset.gathers(int(candidate))
                pair = gathers, self.dataset.velocity(int(candidate)) if self.has_velocity else None
            except UserError as error:
                self._skip(int(candidate), str(error), len(group))
                continue
            self._just_read.pair = index, pair
            return pair
        raise UserError(f"{self.path}: none of its {len(group)} samples can be read: run python -m seisvel_jax.inspect")

    def _skip(self, index: int, reason: str, count: int) -> None:
        with self._lock:
            name = self.names[index]
            if name in self.skipped:
                return
            self.skipped[name] = reason
            total = len(self.skipped)
        say(f"warning: {name} is skipped, the {total}. of {len(self)}: {reason}")
        if 2 * total > max(count, 2):
            raise UserError(f"{self.path}: more than half of its samples are bad; the last: {reason}")


def read_batch(dataset: "Dataset", indices: Any, survey: "Survey") -> dict[str, np.ndarray]:
    """The samples `indices` in order: gathers `[batch, source, time, receiver]`, velocity `[batch, depth, x]` (where
    the dataset has it), float32 on `survey`'s times and grid. Raises UserError naming a bad sample.
    """
    return _gather_batch(dataset if dataset.survey is survey else Resampled(dataset, survey), indices)


def _gather_batch(samples: "Dataset", indices: Any) -> dict[str, np.ndarray]:
    # Sample after sample into one array: their own memory is used again at once, which halves the CPU time of stacking.
    batch: dict[str, np.ndarray] = {}
    for row, index in enumerate(indices):
        sample = {"gathers": samples.gathers(int(index))}
        if samples.has_velocity:
            sample["velocity"] = samples.velocity(int(index))
        for what, array in sample.items():
            if row == 0:
                batch[what] = np.empty((len(indices), *array.shape), array.dtype)
            elif array.shape != batch[what].shape[1:]:
                raise ValueError(f"{what} of shapes {array.shape} and {batch[what].shape[1:]} in a batch")
            batch[what][row] = array
    return batch


class Batches:
    """An endless stream of shuffled batches; batch n depends on the seed and n alone.

    Every epoch has an order of its own, and batches run on over its end. With `process_count` processes each reads
    its own `batch_size` rows of a common batch: side by side in the order of the processes they are the batch, row by
    row, that one process would read. Without `labels` the samples may lack velocities. With `family [sample]` the
    batches carry `family [batch]`.
    """

    def __init__(
        self,
        dataset: "Dataset",
        indices: np.ndarray,
        survey: "Survey",
        batch_size: int,
        seed: int,
        *,
        read_threads: int = 2,
        prefetch: int = 4,
        cache_gib: float = 2.0,
        process_index: int = 0,
        process_count: int = 1,
        labels: bool = True,
        family: np.ndarray | None = None,
    ):
        if len(indices) == 0:
            raise UserError(f"{dataset.path}: no samples to train on: lower --data.validation-fraction")
        if labels and not dataset.has_velocity:
            raise UserError(
                f"{dataset.path}: gathers without velocity models, expected pairs: give a training folder, or train "
                "without labels (--loss.wave.weight 1)"
            )
        if batch_size < 1:
            raise UserError(f"--batch-size {batch_size}, expected at least 1")
        grain = _grain()
        samples = dataset if dataset.survey is survey else Resampled(dataset, survey, cache_gib)
        # Shuffled, repeated and cut into parts before these are dealt to the processes: the same stream for any number.
        stream = grain.MapDataset.source(np.asarray(indices)).seed(seed).shuffle().repeat(None)
        self._parts = stream.batch(batch_size, drop_remainder=True)
        self._samples, self._process_count = samples, process_count
        parts = self._parts[process_index::process_count]

        def read(chosen: Any) -> dict[str, np.ndarray]:
            batch = _gather_batch(samples, chosen)
            return batch if family is None else {**batch, "family": family[np.asarray(chosen)]}

        self._batches = parts.map(read)
        # Grain's own buffer is 500 batches: tens of GB here.
        self._read = grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=max(prefetch, read_threads))
        self.batch_size = batch_size
        self.batches_per_epoch = len(indices) / (batch_size * process_count)

    def describe(self, step: int) -> str:
        """The samples of batch `step` with their files, those of the largest amplitude first: for a message."""
        found = []
        for part in range(step * self._process_count, (step + 1) * self._process_count):
            for index in np.asarray(self._parts[part]):
                gathers = np.abs(self._samples.gathers(int(index)))
                largest = float(gathers.max()) if np.isfinite(gathers).all() else float("inf")
                found.append((largest, f"{self._samples.names[index]} ({self._samples.origin(int(index))})"))
        found.sort(key=lambda pair: -pair[0])
        said = [f"{name}, gathers up to {largest:.3g}" for largest, name in found[:4]]
        return "; ".join(said) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")

    def from_step(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches `step`, `step + 1`, …: `{"gathers": [batch, source, time, receiver], "velocity": [batch, depth, x]}`.

        Jumps there without reading what lies before. Raises UserError (from `next`) naming a bad sample.
        """
        grain = _grain()
        iterator = iter(self._batches.to_iter_dataset(self._read))
        grain.experimental.set_next_index(iterator, step)
        try:
            yield from iterator
        finally:
            iterator.close()


def _grain() -> Any:
    # Grain and what it imports warn about their own deprecations, which no user of this package can act on.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import grain
    return grain

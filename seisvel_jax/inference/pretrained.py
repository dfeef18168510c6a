"""Trained runs, ready to predict: `load("RUN").predict(gathers)`, or several runs at once."""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.inference.predictor import Ensemble, Predictor
from seisvel_jax.survey import Survey

if TYPE_CHECKING:
    from seisvel_jax.training.checkpoint import Run


def load(paths: str | Path | Sequence[str | Path]) -> Predictor:
    """A Predictor of one trained run, or of several: `load("RUN")`, `load(["RUN1", "RUN2/checkpoints/4000"])`.

    A run's best checkpoint by validation MAPE is taken. A diffusion run is an ensemble whose members are 16 samples
    given the gathers. Raises UserError naming what is no run.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    return Predictor([_ensemble(path) for path in paths])


def _ensemble(path: str | Path) -> Ensemble:
    from seisvel_jax.training.runs import load_diffusion, load_run

    if not holds_diffusion(Path(path)):
        return ensemble_of(load_run(path))
    from seisvel_jax.inference.posterior import as_ensemble

    return as_ensemble(load_diffusion(path))


def holds_diffusion(path: Path) -> bool:
    """Whether a run, or one of its checkpoints, is a diffusion model's. What cannot be read is not."""
    from seisvel_jax.config import is_diffusion
    from seisvel_jax.training.checkpoint_files import read_metadata, step_folders

    try:
        steps = [path] if (path / "_CHECKPOINT_METADATA").is_file() else step_folders(path)[::-1]
    except UserError:
        return False
    for step in steps:
        try:
            return is_diffusion(read_metadata(step)["config"])
        except UserError:
            continue
    return False


@functools.cache
def _program(graphdef: Any) -> Callable:
    """One member's prediction, jitted; the same for every run of this architecture."""
    import jax

    from seisvel_jax.models.ensemble import apply_member

    def one(params: Any, member: Any, gathers: Any, survey: Survey, first: Any) -> Any:
        return apply_member(graphdef, jax.tree.map(lambda leaf: leaf[member], params), gathers, survey, first=first)

    return jax.jit(one)


def ensemble_of(run: "Run") -> Ensemble:
    """A trained run as a function: one program a group of members, one member at a time in memory.

    Members are looped over on the host: a program for one member compiles fastest, and five width-512 networks over
    a batch need the memory of one. They share the batch on the device; several devices of this process divide its
    rows, as many of them as divide it evenly.
    """
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from seisvel_jax.models.ensemble import member_names

    programs = [_program(graphdef) for graphdef in run.graphdefs]
    counts = [group.members for group in run.config.groups]

    @functools.lru_cache(maxsize=1)
    def placed(count: int) -> tuple[NamedSharding, tuple]:
        mesh = Mesh(np.asarray(jax.local_devices()[:count]), ("data",))
        everywhere = NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec("data")), jax.device_put(run.params, everywhere)

    before = None if run.config.first_stage is None else FirstAnswer(run)

    def predict(gathers: np.ndarray, survey: Survey) -> np.ndarray:
        rows, stacked = placed(math.gcd(len(gathers), jax.local_device_count()))
        on_device = jax.device_put(gathers, rows)
        first = None if before is None else jax.device_put(before(gathers, survey), rows)
        return np.stack(
            [
                np.asarray(one(params, np.int32(member), on_device, survey, first))
                for one, params, count in zip(programs, stacked, counts)
                for member in range(count)
            ]
        )

    return Ensemble(
        predict=predict,
        survey=run.survey,
        weights=np.asarray(run.weights, np.float64) / np.sum(run.weights, dtype=np.float64),
        postprocess=run.postprocess,
        names=member_names(run.config.groups),
        fingerprint=_fingerprint(run),
    )


class FirstAnswer:
    """What a second stage reads beside the gathers: the first stage's velocity, and the gathers simulated from it.

    Raises UserError where the first stage's checkpoint is not where the run says, or not the one it was trained with.
    """

    def __init__(self, run: "Run"):
        from seisvel_jax.training.first_stage import first_stage_run

        first = first_stage_run(run.config)
        self._ensemble = ensemble_of(first)
        self._plans: dict[bytes, Any] = {}

    def __call__(self, gathers: np.ndarray, survey: Survey) -> dict[str, np.ndarray]:
        """`velocity [batch, depth, x]` and `gathers [batch, source, time, receiver]`, for gathers of `survey`."""
        import jax

        from seisvel_jax.training.first_stage import BOUNDS
        from seisvel_jax.wave.plan import make_plan
        from seisvel_jax.wave.propagate import run_plan

        members = self._ensemble.predict(gathers, survey)
        weights = self._ensemble.weights.astype(np.float32)
        velocity = np.clip(np.tensordot(weights, members, 1), *BOUNDS)
        key = json.dumps(survey.to_dict()).encode()
        if key not in self._plans:
            self._plans = {key: make_plan(survey, BOUNDS[1])}
        # One lane a chunk on a CPU: a sample is rounded the same whatever lies beside it.
        lanes = 1 if jax.default_backend() == "cpu" else None
        simulated = np.array(run_plan(velocity, self._plans[key], lanes=lanes))
        if survey.record_start == 1:
            simulated[:, :, -1] = 0  # as in OpenFWI's files
        return {"velocity": velocity, "gathers": simulated}


def _fingerprint(run: "Run") -> str:
    import jax

    digest = hashlib.sha256(json.dumps([run.survey.to_dict(), dict(run.postprocess)], sort_keys=True).encode())
    digest.update(repr(run.config.groups).encode())
    if run.config.first_stage is not None:
        digest.update(run.config.first_stage.digest.encode())
    for leaf in jax.tree.leaves((run.params, run.weights)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()

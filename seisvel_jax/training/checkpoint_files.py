"""A checkpoint's folder as it lies on the disk: all of Orbax in one file.

Nothing in it is pickled, and nothing is parsed before its checksum is verified.
"""

import contextlib
import gc
import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from seisvel_jax.config import Config, DiffusionConfig, from_dict, is_diffusion
from seisvel_jax.errors import UserError
from seisvel_jax.files import read_json
from seisvel_jax.training.manifest import VERSION, Foreign, check_manifest
from seisvel_jax.training.state import TrainState

_PARTS = ("config", "survey", "samples", "weights", "postprocess", "validation")


def step_folders(run: Path) -> list[Path]:
    """The finished checkpoints of a RUN (or of its `checkpoints` folder), by ascending step.

    Raises UserError where `run` does not exist or is a file.
    """
    if not run.exists():
        raise UserError(f"{run}: no such folder; expected the --workdir of a training run")
    if not run.is_dir():
        raise UserError(f"{run}: a file stands where the folder of a training run is needed")
    folder = run / "checkpoints" if (run / "checkpoints").is_dir() else run
    steps = [p for p in folder.iterdir() if p.name.isdecimal() and (p / "_CHECKPOINT_METADATA").is_file()]
    return sorted(steps, key=lambda p: int(p.name))


def read_metadata(step: Path) -> dict[str, Any]:
    """What was saved beside the arrays: config, survey, samples, weights, postprocess, validation.

    Raises UserError naming the folder.
    """
    content = read_json(step / "_CHECKPOINT_METADATA")
    values = content.get("custom_metadata") if isinstance(content, dict) else None
    if not isinstance(values, dict) or any(name not in values for name in _PARTS):
        raise UserError(f"{step}: not a checkpoint of seisvel_jax, or damaged")
    weights, numbers = values["weights"], values["postprocess"]
    if (
        not all(isinstance(values[name], dict) for name in ("config", "survey", "samples", "validation"))
        or not (isinstance(weights, list) and all(_is_number(weight) and weight >= 0 for weight in weights))
        or not sum(weights) > 0
        or not (isinstance(numbers, dict) and all(_is_number(value) for value in numbers.values()))
        or not all(_is_number(values["validation"].get(name, 0.0)) for name in ("mape", "crps"))
    ):
        raise UserError(f"{step}: damaged: its metadata are of the wrong kinds")
    return {name: value for name, value in values.items() if name in _PARTS or name == "version"}


def _is_number(value: Any) -> bool:
    # Bounded so that float32 holds it. Compared, not asked whether it is finite: no float holds an int of 400 digits.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e30


def measure_of(step: Path) -> float | None:
    """The validation measure that decides which checkpoint is the best, low is good: MAPE of an ensemble, CRPS of a
    diffusion model. None where the step was not validated, or is damaged."""
    try:
        values = read_metadata(step)
    except UserError:
        return None
    return values["validation"].get("crps" if is_diffusion(values["config"]) else "mape")


def best_first(steps: list[Path]) -> list[Path]:
    """By validation measure, then later before earlier; those without one last, the latest of them first."""
    measures = {step: measure_of(step) for step in steps}
    return sorted(steps, key=lambda s: (math.inf if (m := measures[s]) is None else m, -int(s.name)))


def verified(step: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The metadata, and `step`, of a checkpoint whose (wanted) files are as they were written. Raises UserError."""
    number = check_manifest(step, lambda name: "/" not in name or wanted(name))
    values = read_metadata(step)
    if number is None and values.get("version", 1) != 1:
        raise UserError(f"{step}: damaged: its manifest.json is missing")
    return {**values, "step": number if number is not None else int(step.name) if step.name.isdecimal() else 0}


def config_of(step: Path, values: dict[str, Any], kind: type[Config] | type[DiffusionConfig]) -> Any:
    """The config in a checkpoint's metadata, of this kind. Raises Foreign where it is of the other, or of another
    version of seisvel_jax."""
    if is_diffusion(values["config"]) != (kind is DiffusionConfig):
        raise Foreign(f"{step}: {_OTHER[kind]}")
    try:
        return from_dict(values["config"], str(step), kind)
    except UserError as error:
        # Its checksum was right: the other version of seisvel_jax that made it had other fields.
        raise Foreign(str(error)) from error


_OTHER: dict[type, str] = {
    Config: (
        "holds a diffusion model, expected an ensemble: draw from it with python -m seisvel_jax.sample, train it "
        "further with python -m seisvel_jax.train_diffusion"
    ),
    DiffusionConfig: (
        "holds an ensemble, expected a diffusion model: predict with it with python -m seisvel_jax.predict, train it "
        "further with python -m seisvel_jax.train"
    ),
}


def load_tree(step: Path, name: str, abstract: Any) -> Any:
    """The pytree saved under `name`, with the structure, shapes and dtypes of `abstract`, on the default device."""
    paths, tree = jax.tree.flatten_with_path(abstract)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    want = {
        _name(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or device)
        for path, leaf in paths
    }
    try:
        with quiet():
            have = ocp.checkpointables_metadata(step).metadata[name]
        have = {key: (tuple(leaf.shape), np.dtype(leaf.dtype)) for key, leaf in have.items()}
    except Exception as error:
        raise UserError(f"{step}: damaged: its {name} cannot be read ({short(error)})") from error
    wrong = [key for key in sorted(want.keys() | have.keys()) if _kind(want.get(key)) != have.get(key)]
    if wrong:
        key = wrong[0]
        raise Foreign(
            f"{step}: {len(wrong)} arrays do not fit the model of its config, first {name}/{key}: "
            f"{have.get(key, 'absent')}, expected {_kind(want.get(key)) or 'absent'}: made by another version?"
        )
    problem = ""
    try:
        with quiet():
            found = ocp.load_checkpointables(step, {name: want})[name]
    except Exception as error:
        problem = short(error)
    if problem:
        # Outside of `except`, so that nothing holds the readers Orbax has left unfinished: each complains when it is
        # collected, and is collected here, quietly.
        with quiet():
            gc.collect()
        raise UserError(f"{step}: damaged: its {name} cannot be read ({problem})")
    return jax.tree.unflatten(tree, [found[_name(path)] for path, _ in paths])


def _kind(leaf: Any) -> tuple | None:
    return None if leaf is None else (tuple(leaf.shape), np.dtype(leaf.dtype))


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _flat(tree: Any) -> dict[str, Any]:
    # Plain names, not the classes of optax and nnx: a new release of either may rename its own.
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def save_trees(folder: Path, state: TrainState, metadata: dict[str, Any]) -> None:
    """Write state, averages and metadata; no manifest yet."""
    trees = {
        "state": _flat({"step": state.step, "params": state.params, "opt": state.opt_state}),
        "ema": _flat(state.ema),
    }
    ocp.save_checkpointables(folder, trees, custom_metadata={**metadata, "version": VERSION})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Orbax logs the traceback of what it raises, and the user gets one line from us instead."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    sys.unraisablehook = lambda error: hook(error) if isinstance(error.exc_value, KeyboardInterrupt) else None
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def short(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

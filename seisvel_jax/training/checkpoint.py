"""Checkpoints: all of Orbax in one file.

    RUN/config.json               the config and survey, for people
    RUN/checkpoints/STEP/state    parameters and optimiser, to go on training
    RUN/checkpoints/STEP/ema      averaged parameters, to predict with
    RUN/checkpoints/STEP/_CHECKPOINT_METADATA   config, survey, ensemble weights, post-processing, validation metrics
    RUN/checkpoints/STEP/manifest.json          format version, and size and checksum of every other file

A STEP folder is complete or not there at all, and enough by itself to rebuild the model. Kept are the latest two and
the best by validation MAPE. Nothing in it is pickled, and nothing is parsed before its checksum is verified.
"""

import contextlib
import gc
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from seisvel_jax.config import Config, differences, from_dict, to_dict
from seisvel_jax.errors import UserError
from seisvel_jax.files import only_one, read_json, sync
from seisvel_jax.logging import say
from seisvel_jax.survey import Survey
from seisvel_jax.training.manifest import VERSION, Foreign, check_manifest, write_manifest
from seisvel_jax.training.state import TrainState, abstract_params

KEPT = 2
"""Latest checkpoints that stay; the best one stays besides."""
_PARTS = ("config", "survey", "samples", "weights", "postprocess", "validation")


@dataclass(frozen=True)
class Run:
    """A trained ensemble, ready to predict with."""

    config: Config
    survey: Survey
    graphdefs: tuple
    """One a group, static."""
    params: tuple
    """Averaged (EMA) parameters: one pytree a group, leaves `[member, ...]`."""
    weights: np.ndarray
    """`[member]`, sums to 1: fitted on validation predictions."""
    postprocess: dict[str, float]
    """Post-processing parameters fitted on validation predictions; empty = none."""
    step: int
    metrics: dict[str, Any]
    """Validation metrics at this step; empty where the run was interrupted before one."""


def load_run(path: str | Path) -> Run:
    """The ensemble in `RUN` (its best checkpoint by validation MAPE, else the latest) or in `RUN/checkpoints/STEP`.

    A damaged checkpoint of a RUN is named and the next best taken. Raises UserError naming `path` where there is no
    usable checkpoint, or one of a newer version.
    """
    path = Path(path).absolute()
    if (path / "_CHECKPOINT_METADATA").is_file():
        return _load_step(path)
    steps = step_folders(path)
    if not steps:
        raise UserError(f"{path}: no finished checkpoint here; expected the --workdir of a training run")
    for step in _best_first(steps):
        try:
            return _load_step(step)
        except Foreign:
            raise
        except UserError as error:
            say(f"warning: {error}")
    raise UserError(f"{path}: none of its {len(steps)} checkpoints can be read; train again")


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
        or not _is_number(values["validation"].get("mape", 0.0))
    ):
        raise UserError(f"{step}: damaged: its metadata are of the wrong kinds")
    return {name: value for name, value in values.items() if name in _PARTS or name == "version"}


def _is_number(value: Any) -> bool:
    # Bounded so that float32 holds it. Compared, not asked whether it is finite: no float holds an int of 400 digits.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e30


def _mape_or_none(step: Path) -> float | None:
    try:
        return read_metadata(step)["validation"].get("mape")
    except UserError:
        return None


def _best_first(steps: list[Path]) -> list[Path]:
    """By validation MAPE, then later before earlier; those without one last, the latest of them first."""
    measures = {step: _mape_or_none(step) for step in steps}
    return sorted(steps, key=lambda s: (math.inf if (m := measures[s]) is None else m, -int(s.name)))


def _verified(step: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """The metadata of a checkpoint whose (wanted) files are as they were written. Raises UserError."""
    number = check_manifest(step, lambda name: "/" not in name or wanted(name))
    values = read_metadata(step)
    if number is None and values.get("version", 1) != 1:
        raise UserError(f"{step}: damaged: its manifest.json is missing")
    return {**values, "step": number if number is not None else int(step.name) if step.name.isdecimal() else 0}


def _load_step(step: Path) -> Run:
    values = _verified(step, lambda name: not name.startswith("state/"))
    config = _config_of(step, values)
    try:
        survey = Survey.from_dict(values["survey"])
    except UserError as error:
        raise UserError(f"{step}: {error}") from error
    if len(values["weights"]) != config.members:
        raise UserError(f"{step}: {len(values['weights'])} ensemble weights for {config.members} members: damaged")
    try:
        graphdefs, abstract = abstract_params(config.groups, survey)
    except UserError as error:
        raise UserError(f"{step}: {error}") from error
    except Exception as error:
        raise Foreign(f"{step}: its config builds no model of this version of seisvel_jax ({_short(error)})") from error
    params = _load(step, "ema", abstract)
    weights = np.asarray(values["weights"], np.float32)
    postprocess = {name: float(value) for name, value in values["postprocess"].items()}
    return Run(config, survey, graphdefs, params, weights, postprocess, values["step"], values["validation"])


def _config_of(step: Path, values: dict[str, Any]) -> Config:
    try:
        return from_dict(values["config"], str(step))
    except UserError as error:
        # Its checksum was right: the other version of seisvel_jax that made it had other fields.
        raise Foreign(str(error)) from error


def _load(step: Path, name: str, abstract: Any) -> Any:
    """The pytree saved under `name`, with the structure, shapes and dtypes of `abstract`, on the default device."""
    paths, tree = jax.tree.flatten_with_path(abstract)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    want = {
        _name(path): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or device)
        for path, leaf in paths
    }
    try:
        with _quiet():
            have = ocp.checkpointables_metadata(step).metadata[name]
        have = {key: (tuple(leaf.shape), np.dtype(leaf.dtype)) for key, leaf in have.items()}
    except Exception as error:
        raise UserError(f"{step}: damaged: its {name} cannot be read ({_short(error)})") from error
    wrong = [key for key in sorted(want.keys() | have.keys()) if _kind(want.get(key)) != have.get(key)]
    if wrong:
        key = wrong[0]
        raise Foreign(
            f"{step}: {len(wrong)} arrays do not fit the model of its config, first {name}/{key}: "
            f"{have.get(key, 'absent')}, expected {_kind(want.get(key)) or 'absent'}: made by another version?"
        )
    problem = ""
    try:
        with _quiet():
            found = ocp.load_checkpointables(step, {name: want})[name]
    except Exception as error:
        problem = _short(error)
    if problem:
        # Outside of `except`, so that nothing holds the readers Orbax has left unfinished: each complains when it is
        # collected, and is collected here, quietly.
        with _quiet():
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Orbax logs the traceback of what it raises; the user gets one line from us instead.
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


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Checkpoints:
    """The checkpoints of one run while it trains. With several processes every one makes every call."""

    def __init__(self, run: Path) -> None:
        self.folder = (run / "checkpoints").absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held = contextlib.ExitStack()

    def resume(self, abstract: TrainState, metadata: dict[str, Any]) -> tuple[TrainState, dict[str, Any]] | None:
        """The latest readable state and what was saved beside it; None where there is no checkpoint.

        A damaged checkpoint is named, moved out of the way to `RUN/damaged-STEP`, and the one before it taken. Raises
        UserError where none can be read, where another process trains here, and, listing the differences, where the
        run was made with another config, survey, data or version of seisvel_jax. Holds the run until `close`.
        """
        self._held.close()
        self._first_process(lambda: self._held.enter_context(only_one(self.folder.parent, "training")))
        self._first_process(self._tidy)
        steps = step_folders(self.folder)
        damaged: list[tuple[Path, UserError]] = []
        found = None
        for step in reversed(steps):
            try:
                found = self._read(step, abstract, metadata)
                break
            except Foreign:
                raise
            except UserError as error:
                damaged.append((step, error))
        if steps and found is None:
            first = damaged[0][1]
            raise UserError(f"{first}; none of the {len(steps)} checkpoints can be read: choose another --workdir")
        self._first_process(lambda: _move_away(damaged))
        return found

    def _read(
        self, step: Path, abstract: TrainState, metadata: dict[str, Any]
    ) -> tuple[TrainState, dict[str, Any]] | None:
        self._first_process(lambda: _verified(step))
        values = read_metadata(step)
        changed = differences(to_dict(_config_of(step, values)), metadata["config"])
        survey = Survey.from_dict(values["survey"]).to_dict()
        changed += [f"survey.{d}" for d in differences(survey, metadata["survey"])]
        changed += [f"samples.{d}" for d in differences(values["samples"], metadata["samples"])]
        if changed:
            more = [f"and {len(changed) - 20} more"] if len(changed) > 20 else []
            raise Foreign(
                f"{self.folder.parent}: holds a run of another config; choose another --workdir or undo:\n  "
                + "\n  ".join(changed[:20] + more)
            )
        flat = _load(step, "state", {"step": abstract.step, "params": abstract.params, "opt": abstract.opt_state})
        if int(flat["step"]) != int(step.name):
            raise UserError(f"{step}: damaged: its state is of step {int(flat['step'])}")
        ema = _load(step, "ema", abstract.ema)
        return TrainState(flat["step"], flat["params"], flat["opt"], ema), values

    def save(self, state: TrainState, metadata: dict[str, Any]) -> None:
        """Save a step, then drop what need not be kept. Returns when it is safely on the disk.

        Raises UserError where it cannot be written (disk full, no permission); earlier checkpoints stay.
        """
        step = int(state.step)
        part = self.folder / f".{step}.part"
        self._first_process(self._tidy)
        problem = ""
        try:
            with _quiet():
                _save(part, state, metadata)
            self._first_process(lambda: self._finish(part, step))
        except Exception as error:
            problem = _short(error)
        if problem:  # outside of `except`, so that nothing holds what Orbax has left unfinished
            self._clear_up()
            raise UserError(
                f"{self.folder / str(step)}: the checkpoint cannot be written ({problem}): is the disk full? "
                "Earlier checkpoints are as they were"
            )
        self._first_process(self._drop)

    def _finish(self, part: Path, step: int) -> None:
        """Give a written checkpoint its manifest and its name."""
        write_manifest(part, step)
        final = self.folder / str(step)
        if final.exists():  # a run that was interrupted between validations, and validates this step now
            final.rename(self.folder / f".{step}.old")
        part.rename(final)
        sync(self.folder)
        self._tidy()

    def _clear_up(self) -> None:
        """Remove half a checkpoint, which should not fill the disk.

        Orbax's threads fail one after the other, some after `_save` has returned, and may write until then: so this
        waits (5 s at most) until nothing has come back for a while. They log tracebacks even later; the run ends here.
        """
        logging.getLogger("absl").setLevel(logging.CRITICAL + 1)
        still = 0
        with _quiet(), contextlib.suppress(OSError):
            for _ in range(50):
                gc.collect()
                self._tidy()
                time.sleep(0.1)
                still = 0 if any(self._unfinished(path) for path in self.folder.iterdir()) else still + 1
                if still == 4:
                    return

    @staticmethod
    def _unfinished(path: Path) -> bool:
        number = path.name.strip(".").split(".")[0]
        return (path.name.startswith(".") and number.isdecimal()) or ".orbax-checkpoint-tmp" in path.name

    def _tidy(self) -> None:
        """Remove what a killed run left unfinished, or half deleted."""
        for path in self.folder.iterdir():
            number = path.name.strip(".").split(".")[0]
            if path.name == f".{number}.old" and not (self.folder / number).exists():
                path.rename(self.folder / number)  # killed between the two renames of `_finish`
            elif self._unfinished(path):
                shutil.rmtree(path, ignore_errors=True)

    def _drop(self) -> None:
        """Delete all but the latest ones and the best."""
        steps = step_folders(self.folder)
        best = _best_first(steps)[:1] if any(_mape_or_none(step) is not None for step in steps) else []
        for step in steps[:-KEPT]:
            if step not in best:
                # Renamed first: a kill amid the deletion must not leave half a checkpoint under its name.
                gone = self.folder / f".{step.name}.gone"
                step.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)

    def _first_process(self, work: Callable[[], Any]) -> None:
        """Do `work` in the first of the processes that train together; all go on when it is done, or none does."""
        if jax.process_count() == 1:
            work()
            return
        from jax.experimental.multihost_utils import broadcast_one_to_all

        problem: Exception | None = None
        if jax.process_index() == 0:
            try:
                work()
            except (UserError, OSError) as error:
                problem = error
        kind = 0 if problem is None else 2 if isinstance(problem, Foreign) else 1
        kind = int(broadcast_one_to_all(np.int32(kind)))
        if problem is not None:
            raise problem
        if kind:
            text = f"{self.folder}: refused by the first process, which says why"
            raise Foreign(text) if kind == 2 else UserError(text)

    def close(self) -> None:
        """Let go of the folder."""
        self._held.close()


def _save(folder: Path, state: TrainState, metadata: dict[str, Any]) -> None:
    trees = {
        "state": _flat({"step": state.step, "params": state.params, "opt": state.opt_state}),
        "ema": _flat(state.ema),
    }
    ocp.save_checkpointables(folder, trees, custom_metadata={**metadata, "version": VERSION})


def _move_away(damaged: list[tuple[Path, UserError]]) -> None:
    for step, error in damaged:
        aside = step.parent.parent / f"damaged-{step.name}"
        if aside.is_dir():
            shutil.rmtree(aside)
        step.rename(aside)
        say(f"warning: {error}; moved to {aside}, going on from the checkpoint before it")


__all__ = ["Checkpoints", "Run", "load_run", "read_metadata", "step_folders"]

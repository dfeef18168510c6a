"""Checkpoints: all of Orbax in one file.

    RUN/config.json               the config and survey, for people
    RUN/checkpoints/STEP/state    parameters and optimiser, to go on training
    RUN/checkpoints/STEP/ema      averaged parameters, to predict with
    RUN/checkpoints/STEP/_CHECKPOINT_METADATA   config, survey, ensemble weights, post-processing, validation metrics

A STEP folder is complete or not there at all, and enough by itself to rebuild the model. Kept are the latest two and
the best by validation MAPE. Nothing in it is pickled.
"""

import contextlib
import gc
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from seisvel_jax.config import Config, differences, from_dict
from seisvel_jax.errors import UserError
from seisvel_jax.logging import say
from seisvel_jax.survey import Survey
from seisvel_jax.training.state import TrainState, abstract_params

_policies = ocp.training.preservation_policies


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
    usable checkpoint, or one of another version.
    """
    path = Path(path).absolute()
    if (path / "_CHECKPOINT_METADATA").is_file():
        return _load_step(path)
    steps = step_folders(path)
    if not steps:
        raise UserError(f"{path}: no finished checkpoint here; expected the --workdir of a training run")
    infos = [(_mape_or_none(step), step) for step in steps]
    best = sorted((mape, -int(step.name), step) for mape, step in infos if mape is not None)
    unmeasured = [step for mape, step in reversed(infos) if mape is None]
    for step in [step for *_, step in best] + unmeasured:
        try:
            return _load_step(step)
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
    try:
        values = json.loads((step / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))["custom_metadata"]
        return {name: values[name] for name in ("config", "survey", "samples", "weights", "postprocess", "validation")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{step}: not a checkpoint of seisvel_jax, or damaged ({error!r})") from error


def _mape_or_none(step: Path) -> float | None:
    try:
        return read_metadata(step)["validation"].get("mape")
    except (UserError, AttributeError):
        return None


def _load_step(step: Path) -> Run:
    values = read_metadata(step)
    config = from_dict(values["config"], str(step))
    try:
        survey = Survey.from_dict(values["survey"])
    except UserError as error:
        raise UserError(f"{step}: {error}") from error
    graphdefs, abstract = abstract_params(config.groups, survey)
    params = _load(step, "ema", abstract)
    weights = np.asarray(values["weights"], np.float32)
    if weights.shape != (config.members,):
        raise UserError(f"{step}: {weights.size} ensemble weights for {config.members} members: damaged")
    postprocess = {name: float(value) for name, value in values["postprocess"].items()}
    return Run(config, survey, graphdefs, params, weights, postprocess, int(step.name), values["validation"])


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
        raise UserError(
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
    sys.unraisablehook = lambda _: None
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
    """The checkpoints of one run while it trains."""

    def __init__(self, run: Path) -> None:
        self.folder = (run / "checkpoints").absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._orbax: ocp.training.Checkpointer | None = None

    def resume(self, abstract: TrainState, metadata: dict[str, Any]) -> tuple[TrainState, dict[str, Any]] | None:
        """The latest readable state and what was saved beside it; None where there is no checkpoint.

        A damaged checkpoint is named, moved out of the way to `RUN/damaged-STEP`, and the one before it taken.
        Raises UserError listing the differences where the run was made with another config, survey or data.
        """
        for step in reversed(step_folders(self.folder)):
            try:
                values = read_metadata(step)
                changed = differences(values["config"], metadata["config"])
                changed += [f"survey.{d}" for d in differences(values["survey"], metadata["survey"])]
                changed += [f"samples.{d}" for d in differences(values["samples"], metadata["samples"])]
                if changed:
                    raise _Changed(
                        f"{self.folder.parent}: holds a run of another config; choose another --workdir or undo:\n  "
                        + "\n  ".join(changed)
                    )
                flat = _load(
                    step, "state", {"step": abstract.step, "params": abstract.params, "opt": abstract.opt_state}
                )
                ema = _load(step, "ema", abstract.ema)
            except _Changed:
                raise
            except UserError as error:
                aside = self.folder.parent / f"damaged-{step.name}"
                shutil.rmtree(aside, ignore_errors=True)
                step.rename(aside)
                say(f"warning: {error}; moved to {aside}, going on from the checkpoint before it")
                continue
            return TrainState(flat["step"], flat["params"], flat["opt"], ema), values
        return None

    def save(self, state: TrainState, metadata: dict[str, Any]) -> None:
        """Save a step, then drop what need not be kept. Returns when it is safely on the disk.

        Raises UserError where it cannot be written (disk full, no permission); earlier checkpoints stay.
        """
        step = int(state.step)
        mape = metadata["validation"].get("mape")
        try:
            with _quiet():
                self._manager().save_checkpointables(
                    step,
                    {
                        "state": _flat({"step": state.step, "params": state.params, "opt": state.opt_state}),
                        "ema": _flat(state.ema),
                    },
                    force=True,
                    metrics=None if mape is None else {"mape": mape},
                    custom_metadata=metadata,
                )
        except Exception as error:
            # Its threads fail one after the other and log tracebacks even after this; the run ends here anyway.
            logging.getLogger("absl").setLevel(logging.CRITICAL + 1)
            raise UserError(
                f"{self.folder / str(step)}: the checkpoint cannot be written ({_short(error)}): is the disk full? "
                "Earlier checkpoints are as they were"
            ) from error

    def _manager(self) -> ocp.training.Checkpointer:
        if self._orbax is None:
            best = _policies.BestN(
                get_metric_fn=lambda metrics: metrics["mape"],
                reverse=True,
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            self._orbax = ocp.training.Checkpointer(
                self.folder,
                preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(2), best]),
                cleanup_tmp_directories=True,
            )
        return self._orbax

    def close(self) -> None:
        """Let go of the folder."""
        if self._orbax is not None:
            # A save that failed has been reported; closing would report it again.
            with _quiet(), contextlib.suppress(Exception):
                self._orbax.close()


class _Changed(UserError):
    """The run was made with another config."""


__all__ = ["Checkpoints", "Run", "load_run", "read_metadata", "step_folders"]

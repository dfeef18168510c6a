"""Checkpoints of a run while it trains.

    RUN/config.json               the config and survey, for people
    RUN/checkpoints/STEP/state    parameters and optimiser, to go on training
    RUN/checkpoints/STEP/ema      averaged parameters, to predict with
    RUN/checkpoints/STEP/_CHECKPOINT_METADATA   config, survey, ensemble weights, post-processing, validation metrics
    RUN/checkpoints/STEP/manifest.json          format version, and size and checksum of every other file

A STEP folder is complete or not there at all, and enough by itself to rebuild the model. Kept are the latest two and
the best by validation (MAPE of an ensemble, CRPS of a diffusion model). `checkpoint_files.py` reads and writes a step,
`runs.py` loads a finished one.
"""

import contextlib
import gc
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seisvel_jax.config import Config, DiffusionConfig, differences, is_diffusion, to_dict
from seisvel_jax.errors import UserError
from seisvel_jax.files import only_one, sync
from seisvel_jax.logging import say
from seisvel_jax.survey import Survey
from seisvel_jax.training.checkpoint_files import (
    best_first,
    config_of,
    load_tree,
    measure_of,
    quiet,
    read_metadata,
    save_trees,
    short,
    step_folders,
    verified,
)
from seisvel_jax.training.manifest import Foreign, write_manifest
from seisvel_jax.training.runs import Run, load_run
from seisvel_jax.training.state import TrainState

KEPT = 2
"""Latest checkpoints that stay; the best one stays besides."""


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
        self._first_process(lambda: verified(step))
        values = read_metadata(step)
        kind = DiffusionConfig if is_diffusion(metadata["config"]) else Config
        changed = differences(to_dict(config_of(step, values, kind)), metadata["config"])
        survey = Survey.from_dict(values["survey"]).to_dict()
        changed += [f"survey.{d}" for d in differences(survey, metadata["survey"])]
        changed += [f"samples.{d}" for d in differences(values["samples"], metadata["samples"])]
        if changed:
            more = [f"and {len(changed) - 20} more"] if len(changed) > 20 else []
            raise Foreign(
                f"{self.folder.parent}: holds a run of another config; choose another --workdir or undo:\n  "
                + "\n  ".join(changed[:20] + more)
            )
        flat = load_tree(step, "state", {"step": abstract.step, "params": abstract.params, "opt": abstract.opt_state})
        if int(flat["step"]) != int(step.name):
            raise UserError(f"{step}: damaged: its state is of step {int(flat['step'])}")
        ema = load_tree(step, "ema", abstract.ema)
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
            with quiet():
                save_trees(part, state, metadata)
            self._first_process(lambda: self._finish(part, step))
        except Exception as error:
            problem = short(error)
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
        with quiet(), contextlib.suppress(OSError):
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
        best = best_first(steps)[:1] if any(measure_of(step) is not None for step in steps) else []
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


def _move_away(damaged: list[tuple[Path, UserError]]) -> None:
    for step, error in damaged:
        aside = step.parent.parent / f"damaged-{step.name}"
        if aside.is_dir():
            shutil.rmtree(aside)
        step.rename(aside)
        say(f"warning: {error}; moved to {aside}, going on from the checkpoint before it")


__all__ = ["Checkpoints", "Run", "load_run", "read_metadata", "step_folders"]

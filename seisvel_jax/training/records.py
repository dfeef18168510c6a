"""What a run writes down as it goes: metrics.jsonl, and the same for TensorBoard."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.files import read_json, remove_parts, whole_file


class Records:
    """`RUN/metrics.jsonl`, one JSON object a line, each with its `step` (steps done) and `kind` (train, validation).

    Numbers are single values or lists with one entry a member. A run that goes on from `step` drops the lines beyond
    it first, so that nothing is there twice; half a line, left by a crash, is dropped too. `validated` is the step of
    the last validation that the checkpoint knows of: a later one was written down, but the run killed before it saved.
    """

    def __init__(
        self, run: Path, step: int, members: tuple[str, ...], *, tensorboard: bool, validated: int | None = None
    ) -> None:
        self.path = run / "metrics.jsonl"
        self.members = members
        for folder in (run, run / "figures"):
            remove_parts(folder)  # of a run that was killed; `Checkpoints` keeps other processes out
        known = step if validated is None else validated
        self.records = [
            record
            for record in read_records(self.path)
            if record["step"] <= (known if record.get("kind") == "validation" else step)
        ]
        with whole_file(self.path) as part:
            part.write_text("".join(json.dumps(record) + "\n" for record in self.records), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        self._board: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def add(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append a record; it is on its way to the disk when this returns."""
        record = {"kind": kind, "step": step, **values}
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is None:
            return
        for name, value in values.items():
            if isinstance(value, list):
                for member, one in zip(self.members, value):
                    self._scalar(f"{kind}_{name}/{member.replace('/', '_')}", one, step)
            else:
                self._scalar(f"{kind}/{name}", value, step)

    def figure(self, name: str, path: Path, step: int) -> None:
        """Show the PNG at `path` in TensorBoard."""
        if self._board is not None:
            from matplotlib.image import imread

            self._board.add_image(name, imread(path)[..., :3], step, dataformats="HWC")

    def _scalar(self, name: str, value: Any, step: int) -> None:
        if isinstance(value, int | float) and math.isfinite(value):
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and let go of the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def log_step(
    records: Records | None,
    pending: tuple[int, Any],
    names: tuple[str, ...],
    config: Any,
    *,
    rate: Callable,
    describe: Callable[[int], str],
) -> float:
    """Write down a finished step `(its number, metrics [member])`; return its mean loss.

    `config` tells `log_every` and `steps`, `rate` the learning rate, `describe` a batch in words. Raises UserError
    where a member's loss is not finite.
    """
    step, metrics = pending
    values = {name: np.asarray(value, np.float32) for name, value in metrics.items()}
    bad = ~np.isfinite(values["loss"]) | ~np.isfinite(values["gradient_norm"])
    if bad.any():
        members = ", ".join(name for name, wrong in zip(names, bad) if wrong)
        raise UserError(
            f"step {step}: the loss or gradient of {members} is not finite; nothing of it was saved. Its samples: "
            f"{describe(step - 1)}. Lower --optim.learning-rate, or look for bad samples with "
            "python -m seisvel_jax.inspect DATA"
        )
    if records is not None and (step % config.log_every == 0 or step == config.steps):
        numbers = {name: [float(one) for one in value] for name, value in values.items()}
        records.add("train", step, {**numbers, "learning_rate": float(rate(step - 1)), "time": round(time.time(), 3)})
    return float(values["loss"].mean())


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; none where there is no such file. Broken lines are left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, numbers of thousands of digits; too deep
            continue
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append(record)
    return records


def write_skipped(path: Path, skipped: dict[str, str]) -> None:
    """Write down which bad samples were left out, and why; adds to those that the run met before it was stopped."""
    before = read_json(path) if path.is_file() else {}
    known = before.get("samples") if isinstance(before, dict) else None
    samples = {**(known if isinstance(known, dict) else {}), **skipped}
    with whole_file(path) as part:
        part.write_text(json.dumps({"count": len(samples), "samples": samples}, indent=1) + "\n", encoding="utf-8")

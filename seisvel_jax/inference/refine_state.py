"""An inversion between two evaluations as one array, so that a batch which was interrupted goes on where it was."""

import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, whole_file
from seisvel_jax.inversion import adam, lbfgs
from seisvel_jax.inversion.config import InversionConfig
from seisvel_jax.inversion.invert import State
from seisvel_jax.logging import say

HISTORY = ("objective", "misfit", "prior", "best", "frequency", "weight")
MAX_COUNT = 2**31
COUNTS = ("evaluations", "stage", "stage_evaluations", "quiet")


def save(path: Path, state: State) -> None:
    """Write the state: counts, arrays and history one after another, float64, which float32 and int32 fit exactly.

    The last value is the checksum of all others.
    """
    head = [float(getattr(state, name)) for name in COUNTS]
    lowest = state.misfit_after if state.lowest is None else state.lowest
    parts = [np.array([*head, state.lowest is not None]), *(_flat(leaf) for leaf in _leaves(state)), _flat(lowest)]
    parts += [_flat(np.stack(state.history[name])) for name in HISTORY]
    values = np.concatenate(parts)
    with whole_file(path) as part:
        np.save(part, np.append(values, _checksum(values)))


def read(path: Path, shape: tuple[int, int, int], config: InversionConfig) -> State | None:
    """The state in `path` for models of `shape` (batch, depth, x); None where there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        values = _checked(load_npy(path), path)
        state, size = _empty(shape, config), len(COUNTS) + 1
        leaves, tree = jax.tree.flatten((state.optimizer, state.best, state.score, state.misfit_before))
        leaves += [state.misfit_after, state.misfit_after]  # and the lowest
        evaluations = int(values[0])
        expected = size + sum(leaf.size for leaf in leaves) + len(HISTORY) * evaluations * shape[0]
        if values.shape != (expected,):
            raise UserError(f"{path}: {values.shape} values, expected {expected}")
    except UserError as error:
        say(f"warning: {error}; the batch is begun anew")
        return None
    read_leaves = []
    for leaf in leaves:
        with np.errstate(over="ignore", invalid="ignore"):
            read_leaves.append(values[size : size + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        size += leaf.size
    *rest, after, lowest = read_leaves
    optimizer, best, score, before = jax.tree.unflatten(tree, rest)
    history: dict[str, list[np.ndarray]] = {}
    for name in HISTORY:
        block = values[size : size + evaluations * shape[0]].reshape(evaluations, shape[0])
        history[name], size = list(block.astype(np.float32)), size + block.size
    counts: dict[str, Any] = {name: int(values[i]) for i, name in enumerate(COUNTS)}
    known = bool(values[len(COUNTS)])
    return State(optimizer, best, score, before, after, lowest=lowest if known else None, history=history, **counts)


def _checked(values: np.ndarray, path: Path) -> np.ndarray:
    """The values without their checksum. Raises UserError where they are not what `save` writes."""
    if values.dtype != np.float64 or values.ndim != 1 or len(values) <= len(COUNTS) + 1:
        raise UserError(f"{path}: {values.dtype} of shape {values.shape}, expected a row of float64")
    values, said = values[:-1], values[-1]
    if said != _checksum(values):
        raise UserError(f"{path}: damaged: its checksum is another")
    counts = values[: len(COUNTS)]
    if not ((counts >= 0) & (counts <= MAX_COUNT) & (counts == np.floor(counts))).all():
        raise UserError(f"{path}: counts of {counts.tolist()}, expected whole numbers up to {MAX_COUNT}")
    return values


def _checksum(values: np.ndarray) -> float:
    return float(zlib.crc32(values.tobytes()))


def _empty(shape: tuple[int, int, int], config: InversionConfig) -> State:
    point, batch = np.zeros(shape, np.float32), np.zeros(shape[0], np.float32)
    optimizer: Any = adam.begin(point) if config.optimizer == "adam" else lbfgs.begin(point, config.memory)  # type: ignore[arg-type]
    return State(optimizer, point, batch, batch, batch)  # type: ignore[arg-type]


def _leaves(state: State) -> list[Any]:
    return jax.tree.leaves((state.optimizer, state.best, state.score, state.misfit_before, state.misfit_after))


def _flat(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64).reshape(-1)

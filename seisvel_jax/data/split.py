"""Training and validation indices that do not leak: what was made together stays together."""

import re
from typing import TYPE_CHECKING, Literal

import numpy as np

from seisvel_jax.errors import UserError

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset

SplitBy = Literal["file", "prefix", "none"]


def split_indices(
    dataset: "Dataset", *, split_by: SplitBy = "file", validation_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted indices `(train, validation)`, the same for the same names and seed; no group is on both sides.

    A group is: `file` the batch file of OpenFWI (a sample folder of the challenge is a file of its own); `prefix` the
    name up to its last `_` or `-` (`cube07_line012` -> `cube07`); `none` each sample. The validation side comes as
    close to its fraction as whole groups allow without going over, but holds at least one group; 0 gives none.
    Raises UserError where there is only one group.
    """
    count = len(dataset)
    everything = np.arange(count)
    if not 0 <= validation_fraction < 1:
        raise UserError(f"--data.validation-fraction {validation_fraction:g}, expected 0 up to but not including 1")
    if validation_fraction == 0:
        return everything, everything[:0]
    groups: dict[str, list[int]] = {}
    for i in range(count):
        groups.setdefault(_group(dataset, i, split_by), []).append(i)
    if len(groups) < 2:
        what = (
            "one sample" if count == 1 else f"{count} samples that are one group by {split_by} ({next(iter(groups))})"
        )
        cure = "--data.validation-fraction 0" if count == 1 or split_by == "none" else "--data.split-by none"
        raise UserError(f"{dataset.path}: {what}, expected two groups or more to split off validation: give {cure}")

    names = sorted(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    wanted = validation_fraction * count
    validation: list[int] = []
    for name in (names[k] for k in order):
        if len(validation) + len(groups[name]) <= wanted + 1e-9:
            validation += groups[name]
    if not validation:
        validation = groups[min((names[k] for k in order), key=lambda name: len(groups[name]))]
    held = np.array(sorted(validation))
    return np.setdiff1d(everything, held), held


def file_group(dataset: "Dataset", index: int) -> str:
    """The file or folder that the sample came from: where it lies, or what a pack remembers of where it lay."""
    group = getattr(dataset, "group", None)
    return str(dataset.origin(index)) if group is None else group(index)


def _group(dataset: "Dataset", index: int, split_by: SplitBy) -> str:
    if split_by == "file":
        return file_group(dataset, index)
    if split_by == "prefix":
        return re.sub(r"[_-][^_-]*$", "", dataset.names[index])
    return dataset.names[index]

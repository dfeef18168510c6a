"""All doors, and how many of the inputs each gets."""

from collections.abc import Callable

from fuzzing.array_doors import csv, logs, npy, npz, refining
from fuzzing.checkpoint_doors import checkpoint, signed
from fuzzing.data_doors import dataset, pack, survey
from fuzzing.setting_doors import config, override, record

DOORS: dict[str, tuple[Callable, int]] = {
    "npy": (npy, 14),
    "npz": (npz, 11),
    "csv": (csv, 4),
    "logs": (logs, 2),
    "refining": (refining, 3),
    "dataset": (dataset, 12),
    "pack": (pack, 11),
    "survey": (survey, 11),
    "config": (config, 10),
    "override": (override, 4),
    "record": (record, 5),
    "checkpoint": (checkpoint, 8),
    "signed": (signed, 5),
}
"""Each door `(draw, folder, sound)`, and its share of the inputs in percent: the dearer an input, the smaller."""

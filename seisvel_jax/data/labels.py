"""Geology labels of stored samples, read from their names."""

from typing import Any

import numpy as np


def stored_families(dataset: Any, labels: tuple[str, ...]) -> np.ndarray:
    """`[sample]` int32: 1 for the first label, 0 where none is found or several are.

    A sample is of a family that its name or the path of its file contains, in whatever case and with `_` for `-`: the
    samples of `simulate` are called `curvefault-b-1_000003`, OpenFWI's folders `CurveFault_B`.
    """
    numbers = np.zeros(len(dataset), np.int32)
    for index in range(len(dataset)):
        text = f"{dataset.origin(index)}/{dataset.names[index]}".lower().replace("_", "-")
        found = [number for number, label in enumerate(labels, 1) if label.lower().replace("_", "-") in text]
        numbers[index] = found[0] if len(found) == 1 else 0
    return numbers

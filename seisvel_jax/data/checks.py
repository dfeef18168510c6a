"""What every array must be before anyone computes with it: real, finite, of the stated shape, in the stated unit."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from seisvel_jax.errors import UserError

SLOWEST, FASTEST = 100.0, 20_000.0
"""m/s. No rock, water or mud lies outside; numbers that do are in another unit."""

MAX_SAMPLES = 10**7
"""In one data set: what a header claims beyond that was not simulated by anyone."""


def is_plain_name(name: str) -> bool:
    """Whether `name` may become the name of a file, a folder or a row: one printable component, nothing hidden."""
    return (
        0 < len(name) <= 200
        and name.isprintable()
        and not name.startswith(".")
        and name.strip() != ""
        and "/" not in name
        and "\\" not in name
    )


def check_names(names: Iterable[str], path: Path) -> None:
    """Raises UserError for a sample's name that could not be printed, stored or made the name of a file."""
    for name in names:
        if not is_plain_name(name):
            raise UserError(f"{path}: a sample named {name!r:.100}, expected a plain name: rename its file or folder")


def finite_float32(array: np.ndarray, name: str) -> np.ndarray:
    """`array` as float32. Raises UserError naming `name` where a value is NaN, infinite, or too large for float32."""
    with np.errstate(all="ignore"):
        array = np.ascontiguousarray(array, np.float32)
        flat = array.reshape(-1)
        # One pass without a temporary: the sum of squares is finite only where every value is.
        finite = np.isfinite(np.dot(flat, flat))
    if not finite:
        bad = ~np.isfinite(array)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise UserError(
                f"{name}: {int(bad.sum())} of {array.size} values are NaN or infinite, the first at {list(first)}, "
                "expected finite numbers: leave this sample out or write it again"
            )
    return array


def sane_velocity(velocity: np.ndarray, name: str, unit: str) -> np.ndarray:
    """`velocity` (m/s, float32, finite) back. Raises UserError where it cannot be m/s, naming the mistaken unit.

    `unit` is the unit of the file (`m/s` or `km/s`), in which the message speaks.
    """
    smallest, largest = float(velocity.min()), float(velocity.max())
    if smallest >= SLOWEST and largest <= FASTEST:
        return velocity
    scale = 1000.0 if unit == "km/s" else 1.0
    seen = f"{name}: velocities from {smallest / scale:g} to {largest / scale:g}, expected {unit}"
    bounds = f"within {SLOWEST / scale:g} to {FASTEST / scale:g} {unit}"
    if unit == "m/s" and smallest >= 0.1 and largest <= 20:
        raise UserError(f"{seen}: these look like km/s; multiply the file by 1000")
    if unit == "km/s" and smallest >= 1000 * SLOWEST and largest <= 1000 * FASTEST:
        raise UserError(f"{seen}: these look like m/s; divide the file by 1000")
    if smallest >= -1.5 * scale and largest <= 1.5 * scale:
        raise UserError(f"{seen} {bounds}: these look normalised to [-1, 1] or [0, 1]; save the physical values")
    raise UserError(f"{seen} {bounds}: check the file's unit and contents")

"""How a pack stores numbers: gathers in 16 or 32 bits, velocity in steps of 0.1 m/s, and back.

Error of a stored gather, relative to each value: float16 2^-11 (scaled by a power of two so that its largest value
lies just below 2^15; what is more than 2^29 smaller loses digits), bfloat16 2^-8, float32 none.
"""

from typing import Literal

import ml_dtypes
import numpy as np

from seisvel_jax.errors import UserError

GatherDtype = Literal["float16", "bfloat16", "float32"]
VelocityDtype = Literal["uint16", "float32"]

GATHER_STORED: dict[str, np.dtype] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
}
"""A .npy file of bfloat16 comes back as raw bytes, so its bits are stored as unsigned integers."""
VELOCITY_STORED: dict[str, np.dtype] = {"uint16": np.dtype("<u2"), "float32": np.dtype("<f4")}
STEP = 0.1
"""m/s between the velocities that uint16 can hold: whole numbers (water, salt, OpenFWI's layers) stay exact."""
FASTEST_UINT16 = 6553.5
"""m/s."""
EXPONENTS = range(-126, 128)
"""Powers of two that float32 holds as normal numbers."""


def encode_gathers(gathers: np.ndarray, dtype: GatherDtype, name: str) -> tuple[np.ndarray, int]:
    """Finite float32 `gathers` as stored, and the exponent e: their values are `2^e` times the stored ones."""
    exponent = 0
    if dtype == "float32":
        stored = gathers.astype("<f4")
    elif dtype == "bfloat16":
        stored = gathers.astype(ml_dtypes.bfloat16).view(np.uint16).astype("<u2", copy=False)
    else:
        largest = float(np.abs(gathers).max())
        if largest > 0:
            # largest = m 2^k with m in [0.5, 1)
            exponent = max(int(np.frexp(largest)[1]) - 15, EXPONENTS.start)
        stored = (gathers * np.float32(2.0**-exponent)).astype("<f2")
    if dtype == "bfloat16" and float(np.abs(gathers).max()) > 3.38e38:
        raise UserError(f"{name}: values up to {np.abs(gathers).max():g}, too large for bfloat16: give --dtype float32")
    return np.ascontiguousarray(stored), exponent


def decode_gathers(stored: np.ndarray, dtype: GatherDtype, exponent: int) -> np.ndarray:
    """Stored gathers of any shape as a new float32 array."""
    if dtype == "bfloat16":
        return stored.astype(np.uint16, copy=False).view(ml_dtypes.bfloat16).astype(np.float32)
    gathers = stored.astype(np.float32)
    if exponent:
        gathers *= np.float32(2.0**exponent)
    return gathers


def encode_velocity(velocity: np.ndarray, dtype: VelocityDtype, name: str) -> np.ndarray:
    """Velocity in m/s as stored. Raises UserError where it does not fit."""
    if dtype == "float32":
        return np.ascontiguousarray(velocity, "<f4")
    largest = float(velocity.max())
    if largest > FASTEST_UINT16:
        raise UserError(
            f"{name}: velocities up to {largest:g} m/s, expected at most {FASTEST_UINT16} for steps of {STEP} m/s in "
            "uint16: give --velocity-dtype float32"
        )
    return np.rint(velocity.astype(np.float64) / STEP).astype("<u2")


def decode_velocity(stored: np.ndarray, dtype: VelocityDtype) -> np.ndarray:
    """Stored velocity as a new float32 array in m/s; whole numbers are exact."""
    return stored.astype(np.float32) if dtype == "float32" else np.multiply(stored, np.float32(STEP), dtype=np.float32)

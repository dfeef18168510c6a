"""Fine velocity models on a coarser solver's grid, and a coarse correction back on the fine one."""

import math

import numpy as np

from seisvel_jax.data.resample import resample_velocity
from seisvel_jax.survey import Grid


def to_solver(velocity: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """Velocity `[..., depth, x]` m/s of `grid` on the coarser `target`, float32, as waves feel it.

    Where the ratio is whole, a coarse node has the mean of the squared slowness of the cell about it (the mean that a
    wave of long wavelength travels by); other ratios are linear interpolation. Equal grids pass through.
    """
    ratio = target.spacing / grid.spacing
    whole = round(ratio)
    if whole < 2 or not math.isclose(ratio, whole, rel_tol=1e-6):
        return resample_velocity(velocity, grid, target)
    slowness = 1 / np.asarray(velocity, np.float64) ** 2
    for axis, count in zip((-2, -1), target.shape):
        nodes = np.arange(count)[:, None] * whole + np.arange(whole) - (whole - 1) // 2
        around = np.take(slowness, np.clip(nodes, 0, slowness.shape[axis] - 1), axis=axis)
        slowness = around.mean(axis=axis)
    return (1 / np.sqrt(slowness)).astype(np.float32)


def add_correction(
    velocity: np.ndarray, correction: np.ndarray, grid: Grid, target: Grid, bounds: tuple[float, float]
) -> np.ndarray:
    """`velocity` `[..., depth, x]` of `grid` plus `correction` `[..., depth, x]` of the coarser `target`, m/s, float32.

    The correction is interpolated linearly, so what is finer than `target` in the velocity stays. Nothing leaves
    `bounds` (m/s) that was not outside before, and where the correction is 0 all around the velocity keeps its bits.
    """
    step = resample_velocity(correction.astype(np.float32), target, grid)
    low, high = (np.float32(bound) for bound in bounds)
    corrected = np.clip(velocity + step, np.minimum(velocity, low), np.maximum(velocity, high))
    return np.where(step == 0, velocity, corrected).astype(np.float32)

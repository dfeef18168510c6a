"""Fine velocity models on a coarser solver's grid, as waves feel them, and a coarse correction back on the fine one."""

import dataclasses
import math
from functools import lru_cache

import numpy as np

from seisvel_jax.data.resample import resample_velocity
from seisvel_jax.survey import Grid, Survey

HALF = 6
"""Nodes of the coarse grid on each side that the low-pass looks at."""
SHAPE = 6.0
"""Of its Kaiser window."""
CUT = 1.2
"""Its corner over the coarse grid's Nyquist wavenumber; 0.8, 1 and 1.2 were tried (docs/simulate.md)."""


def solving_survey(survey: Survey) -> Survey:
    """The survey on a grid that reaches as far as the data set's own: up to the place where its boundary begins.

    On 5 m the challenge's last column lies at 295 m, its own at 299 m, and the sponge repeats the last. Where the
    seabed dips, four metres of it misplace the whole ground beyond. So one more node is solved on, and not written.
    """
    h = survey.grid.spacing
    depth, x = (
        max(count, math.ceil(start / h - 1e-6) + 1)
        for count, start in zip(survey.grid.shape, survey.boundary.start, strict=True)
    )
    grid = Grid(depth, x, h)
    return survey if grid == survey.grid else dataclasses.replace(survey, grid=grid)


def to_solver(velocity: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """Velocity `[..., depth, x]` m/s of `grid` as waves feel it on `target`, which may reach further; float32.

    Coarser: `effective_velocity`. As fine or finer: the values at the nodes. Beyond the last node it goes on with its
    value. Equal grids pass through.
    """
    velocity = np.asarray(velocity, np.float32)
    if target.spacing / grid.spacing > 1 + 1e-3:
        return effective_velocity(velocity, target.spacing / grid.spacing, target.shape)
    beyond = [(0, max(0, more - count)) for more, count in zip(target.shape, grid.shape, strict=True)]
    if target.spacing == grid.spacing and any(after for _, after in beyond):
        return np.pad(velocity, [(0, 0)] * (velocity.ndim - 2) + beyond, mode="edge")
    return resample_velocity(velocity, grid, target)


def effective_velocity(velocity: np.ndarray, ratio: float, shape: tuple[int, int]) -> np.ndarray:
    """`velocity` `[..., depth, x]` as waves feel it on nodes `ratio` times as far apart, `shape` of them, float32 m/s.

    With constant density that is the squared slowness, low-passed about the coarse grid's Nyquist wavenumber by
    a Kaiser-windowed sinc: what is finer can neither be told by the waves nor held by the grid. The outermost rows and
    columns stay the model's own, since the boundary repeats them. Never outside the range of the model.
    """
    slowness = 1 / np.asarray(velocity, np.float64) ** 2
    down, along = (_low_pass(have, ratio, count) for have, count in zip(velocity.shape[-2:], shape, strict=True))
    slowest, fastest = (bound((-2, -1), keepdims=True) for bound in (slowness.max, slowness.min))
    smooth = np.clip(down @ slowness @ along.T, fastest, slowest)
    return (1 / np.sqrt(smooth)).astype(np.float32)


@lru_cache(8)
def _low_pass(have: int, ratio: float, count: int) -> np.ndarray:
    """`[count, have]` weights; beyond its ends the model goes on with its last values."""
    centres = np.minimum(np.arange(count) * ratio, have - 1)
    reach = math.ceil(HALF * ratio)
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 2)
    away = (taps - centres[:, None]) / ratio
    window = np.i0(SHAPE * np.sqrt(np.maximum(1 - (away / HALF) ** 2, 0))) * (np.abs(away) <= HALF)
    values = np.sinc(CUT * away) * window
    values /= values.sum(1, keepdims=True)
    weights = np.zeros((count, have))
    np.add.at(weights, (np.arange(count)[:, None], np.clip(taps, 0, have - 1)), values)
    for node in {0, count - 1} if centres[-1] == have - 1 else {0}:
        weights[node] = 0
        weights[node, round(centres[node])] = 1
    return weights


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

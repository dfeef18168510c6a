"""A velocity model on the survey's grid: what the waves feel, and what is written."""

import dataclasses
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.simulation.velocities import Velocities

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey

HALF = 6
"""Nodes of the coarse grid on each side that the low-pass looks at."""
SHAPE = 6.0
"""Of its Kaiser window."""
CUT = 1.2
"""Its corner over the coarse grid's Nyquist wavenumber; 0.8, 1 and 1.2 were tried (docs/simulate.md)."""


def solving_survey(survey: "Survey") -> "Survey":
    """The survey on a grid that reaches as far as the data set's own: up to the place where its boundary begins.

    On 5 m the challenge's last column lies at 295 m, its own at 299 m, and the sponge repeats the last. Where the
    seabed dips, four metres of it misplace the whole ground beyond. So one more node is solved on, and not written.
    """
    from seisvel_jax.survey import Grid

    h = survey.grid.spacing
    depth, x = (
        max(count, math.ceil(start / h - 1e-6) + 1)
        for count, start in zip(survey.grid.shape, survey.boundary.start, strict=True)
    )
    return dataclasses.replace(survey, grid=Grid(depth, x, h))


def read_model(velocities: Velocities, index: int, survey: "Survey") -> tuple[np.ndarray, np.ndarray]:
    """Model `index` twice, `[depth, x]` float32 m/s: to be solved on `solving_survey`'s grid, and to be written.

    Long waves feel the squared slowness of a finer model without what the coarse grid cannot hold, so that is solved
    on; written are the values at the nodes, which is what a reader of the fine model would take.
    Raises UserError for a model that is none, or of other ground than the survey's.
    """
    from seisvel_jax.data.resample import resample_velocity
    from seisvel_jax.survey import Grid
    from seisvel_jax.wave.checks import check_sampling, check_velocity
    from seisvel_jax.wave.scheme import scheme_of

    name = f"model {velocities.names[index]}"
    velocity = np.asarray(velocities.velocity(index), np.float32)
    check_velocity(velocity, name)
    grid = survey.grid
    depth, width = grid.extent
    spacing = width / velocity.shape[-1]
    if velocity.ndim != 2 or abs(velocity.shape[0] * spacing - depth) > 1.01 * max(spacing, grid.spacing):
        raise UserError(
            f"{name}: shape {velocity.shape}, expected (depth, x) {grid.shape} or another sampling of the same "
            f"{depth:g} m x {width:g} m (survey {survey.name}): check the axis order and the survey, or cut windows "
            "out of a larger model by giving its spacing (--model-spacing)"
        )
    check_sampling(survey, scheme_of(survey).order, float(velocity.min()))
    solved = solving_survey(survey).grid
    model_grid = Grid(velocity.shape[0], velocity.shape[1], spacing)
    written = velocity if velocity.shape == grid.shape else resample_velocity(velocity, model_grid, grid)
    if grid.spacing / spacing > 1 + 1e-3:
        return effective_velocity(velocity, grid.spacing / spacing, solved.shape), written
    beyond = [(0, more - count) for more, count in zip(solved.shape, grid.shape, strict=True)]
    return np.pad(written, beyond, mode="edge"), written


def effective_velocity(velocity: np.ndarray, ratio: float, shape: tuple[int, int]) -> np.ndarray:
    """`velocity` `[depth, x]` as waves feel it on nodes `ratio` times as far apart, `shape` of them, float32 m/s.

    With constant density that is the squared slowness, low-passed about the coarse grid's Nyquist wavenumber by
    a Kaiser-windowed sinc: what is finer can neither be told by the waves nor held by the grid. The outermost rows and
    columns stay the model's own, since the boundary repeats them. Never outside the range of the model.
    """
    slowness = 1 / np.asarray(velocity, np.float64) ** 2
    down, along = (_low_pass(have, ratio, count) for have, count in zip(velocity.shape, shape, strict=True))
    smooth = np.clip(down @ slowness @ along.T, slowness.min(), slowness.max())
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

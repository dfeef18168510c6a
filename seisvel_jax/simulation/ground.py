"""A velocity model on the survey's grid: what the waves feel, and what is written."""

import math
from typing import TYPE_CHECKING

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.simulation.velocities import Velocities

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey


def read_model(velocities: Velocities, index: int, survey: "Survey") -> tuple[np.ndarray, np.ndarray]:
    """Model `index` twice, `[depth, x]` float32 m/s on `survey.grid`: to be solved on, and to be written.

    They differ where the model is finer by a whole ratio. Waves feel the mean of the squared slowness of a cell, so
    that is solved on; written are the values at the nodes, which is what a reader of the fine model would take.
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
    if velocity.shape == grid.shape:
        return velocity, velocity
    model_grid = Grid(velocity.shape[0], velocity.shape[1], spacing)
    written = resample_velocity(velocity, model_grid, grid)
    ratio = grid.spacing / spacing
    if round(ratio) > 1 and math.isclose(ratio, round(ratio), rel_tol=1e-3):
        return average_slowness(velocity, round(ratio), grid.shape), written
    return written, written


def average_slowness(velocity: np.ndarray, ratio: int, shape: tuple[int, int]) -> np.ndarray:
    """Velocity whose squared slowness is the mean over the `ratio`-wide cell about each node `i * ratio`."""
    slowness = 1 / np.asarray(velocity, np.float64) ** 2
    for axis, count in enumerate(shape):
        nodes = np.arange(count)[:, None] * ratio + np.arange(ratio) - (ratio - 1) // 2
        around = np.take(slowness, np.clip(nodes, 0, slowness.shape[axis] - 1), axis=axis)
        slowness = around.mean(axis=axis + 1)
    return (1 / np.sqrt(slowness)).astype(np.float32)

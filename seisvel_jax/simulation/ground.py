"""A velocity model on the survey's grid: what the waves feel, and what is written."""

from typing import TYPE_CHECKING

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.simulation.velocities import Velocities

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey


def read_model(velocities: Velocities, index: int, survey: "Survey") -> tuple[np.ndarray, np.ndarray]:
    """Model `index` twice, `[depth, x]` float32 m/s: to be solved on `solving_survey`'s grid, and to be written.

    Long waves feel the squared slowness of a finer model without what the coarse grid cannot hold, so that is solved
    on; written are the values at the nodes, which is what a reader of the fine model would take.
    Raises UserError for a model that is none, or of other ground than the survey's.
    """
    from seisvel_jax.data.coarsen import solving_survey, to_solver
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
    model_grid = Grid(velocity.shape[0], velocity.shape[1], spacing)
    written = velocity if velocity.shape == grid.shape else resample_velocity(velocity, model_grid, grid)
    solved = solving_survey(survey).grid
    if grid.spacing / spacing > 1 + 1e-3:
        return to_solver(velocity, model_grid, solved), written
    return to_solver(written, grid, solved), written

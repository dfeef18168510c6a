"""Thick sponges for the price of a thin PML: invert with the one, for data corrected by the difference of the two.

OpenFWI's sponge is 120 cells wide: 70 x 70 cells become 310 x 310, with a PML of 10 cells 90 x 90. Inside the model the
two waves are nearly the same. So the inversion runs with the PML, G, against `observed - (F(m) - G(m))`, F being the
survey's own forward run and m the model of the last correction. Where m no longer changes, F(m) = observed exactly: it
is a fixed-point iteration (defect correction, Stetter 1978), whose error falls by the small factor in which F and G
differ, and each correction costs two forward runs and no gradient.
"""

import dataclasses

import numpy as np

from seisvel_jax.arrays import Array
from seisvel_jax.survey import PML_CELLS, Boundary, Survey
from seisvel_jax.wave.propagate import propagate
from seisvel_jax.wave.scheme import Scheme, scheme_of


def with_pml(survey: Survey, *, cells: int = PML_CELLS) -> Survey:
    """The same experiment within a PML. Solve it with `scheme_of` the original survey."""
    grid = survey.grid
    last = (grid.depth_count - 1) * grid.spacing, (grid.x_count - 1) * grid.spacing
    boundary = Boundary("pml", cells * grid.spacing, last, survey.boundary.free_surface)
    return dataclasses.replace(survey, boundary=boundary, name=f"{survey.name} in a PML")


def corrected(
    observed: Array, velocity: Array, survey: Survey, *, max_velocity: float, scheme: Scheme | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gathers to invert with `with_pml(survey)` in place of `observed`, and those of `survey` at this velocity.

    observed `[batch, shot, time, receiver]`, velocity `[batch, depth, x]` m/s. Rows at the end that are 0 in all of
    `observed` (OpenFWI's last) stay 0.
    """
    scheme = scheme or scheme_of(survey)
    own, cheap = (
        np.asarray(propagate(velocity, each, scheme=scheme, max_velocity=max_velocity))
        for each in (survey, with_pml(survey))
    )
    silent = ~np.asarray(observed).any((0, 1, 3), keepdims=True)
    return np.where(silent, 0, observed - (own - cheap)).astype(own.dtype), own

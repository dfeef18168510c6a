"""The two derivatives of `propagate` under their names in the field, and what they make together."""

import jax

from seisvel_jax.arrays import Array, Gathers, Velocity
from seisvel_jax.survey import Survey
from seisvel_jax.wave.propagate import propagate
from seisvel_jax.wave.scheme import Scheme


def born(
    velocity: Velocity, change: Velocity, survey: Survey, *, max_velocity: float, scheme: Scheme | None = None
) -> tuple[Gathers, Gathers]:
    """Gathers of `velocity`, and what `change` (m/s) adds to them to first order: single scattering."""
    return jax.jvp(lambda v: propagate(v, survey, scheme=scheme, max_velocity=max_velocity), (velocity,), (change,))


def gauss_newton_product(
    velocity: Velocity, direction: Velocity, survey: Survey, *, max_velocity: float, scheme: Scheme | None = None
) -> Array:
    """`J^T J direction`, `[batch, depth, x]`: the Hessian of half the squared residual, without its residual term.

    J is the derivative of `propagate` at `velocity`. The forward field is kept once for both. Symmetric and not
    negative, so that conjugate gradients may use it.
    """
    pushed = jax.linearize(lambda v: propagate(v, survey, scheme=scheme, max_velocity=max_velocity), velocity)[1]
    return jax.linear_transpose(pushed, velocity)(pushed(direction))[0]

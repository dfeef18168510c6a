"""The number that an inversion lowers, for each model of a batch, and its gradient by the velocity."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from seisvel_jax.arrays import Array as AnyArray
from seisvel_jax.inversion.config import Estimate, InversionConfig, Misfit
from seisvel_jax.inversion.misfits import MISFITS, low_pass, low_pass_response
from seisvel_jax.inversion.priors import make_prior
from seisvel_jax.inversion.wavelet import fitted
from seisvel_jax.survey import Survey
from seisvel_jax.wave.plan import Plan, make_plan
from seisvel_jax.wave.propagate import run_plan
from seisvel_jax.wave.scheme import Scheme

LearnedPrior = Callable[[Array], tuple[Array, Array]]
"""Velocity `[batch, depth, x]` m/s -> values `[batch]` and their gradients `[batch, depth, x]`."""


class Values(NamedTuple):
    """Of one evaluation; all `[batch]` but the gradient."""

    objective: Array
    """Misfit in this stage's band, relative to the energy observed there, plus weight times prior."""
    misfit: Array
    """Of all frequencies."""
    prior: Array
    """Without its weight."""
    gradient: Array
    """Of the objective by the velocity, `[batch, depth, x]` per m/s."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["observed", "mask", "scale", "plan", "prior"],
    meta_fields=["misfit", "turn", "estimate", "filtered"],
)
@dataclass(frozen=True)
class Objective:
    """What was recorded, what is assumed, and how the two are compared. A pytree."""

    observed: Array
    """`[batch, shot, time, receiver]` over `scale`."""
    mask: Array
    """As `observed`, or 1 long in some axes."""
    scale: Array
    """`[batch, 1, 1, 1]`: the RMS value of what counts of the observed gathers."""
    plan: Plan
    prior: Callable | None
    misfit: Misfit
    turn: float
    estimate: Estimate
    filtered: bool

    def compare(self, predicted: Array, observed: Array) -> Array:
        """Unreduced misfit of gathers over `scale`."""
        compare = MISFITS[self.misfit]
        if self.misfit == "huber":
            compare = partial(compare, turn=self.turn)
        return compare(predicted, observed, self.mask)

    def reduce(self, unreduced: Array) -> Array:
        """Mean over the samples that count, `[batch]`."""
        live = jnp.broadcast_to(self.mask, unreduced.shape).sum((1, 2, 3))
        return unreduced.sum((1, 2, 3)) / jnp.maximum(live, 1)

    def shots(self, index: Array) -> "Objective":
        """Of these shots alone."""

        def taken(values: AnyArray, axis: int, count: int) -> Array:
            return (
                jnp.take(jnp.asarray(values), index, axis=axis)
                if values.shape[axis] == count > 1
                else jnp.asarray(values)
            )

        count = self.plan.shot_count
        plan = replace(
            self.plan,
            source_nodes=taken(self.plan.source_nodes, 1, count),
            source_weights=taken(self.plan.source_weights, 1, count),
            wavelet=taken(self.plan.wavelet, 0, count),
        )
        return replace(self, observed=taken(self.observed, 1, count), mask=taken(self.mask, 1, count), plan=plan)


def make_objective(
    observed: AnyArray,
    start: AnyArray,
    survey: Survey,
    config: InversionConfig,
    *,
    mask: AnyArray | None = None,
    scheme: Scheme | None = None,
) -> Objective:
    """The objective of observed gathers `[batch, shot, time, receiver]` around a start `[batch, depth, x]`.

    `mask` broadcasts to the gathers, a `[shot, time, receiver]` one too. Where a record's last row is 0 throughout, as
    OpenFWI's files have it, that row does not count.
    """
    plan = make_plan(survey, config.bounds[1], scheme)
    observed = jnp.asarray(observed, plan.dtype)
    mask = jnp.ones((1, 1, observed.shape[2], 1), plan.dtype) if mask is None else jnp.asarray(mask, plan.dtype)
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    if not np.asarray(observed[:, :, -1]).any():
        row = jnp.ones(observed.shape[2], plan.dtype).at[-1].set(0)
        mask = mask * row[None, None, :, None]
    live = jnp.broadcast_to(mask, observed.shape).sum((1, 2, 3), keepdims=True)
    energy = (mask * observed**2).sum((1, 2, 3), keepdims=True)
    scale = jnp.where(energy > 0, jnp.sqrt(energy / jnp.maximum(live, 1)), 1)
    return Objective(
        observed / scale,
        mask,
        scale,
        plan,
        make_prior(config, jnp.asarray(start, plan.dtype)),
        config.misfit,
        config.huber,
        config.estimate_wavelet,
        bool(config.frequencies),
    )


@jax.jit
def evaluate(objective: Objective, velocity: Array, response: Array, weight: Array) -> Values:
    """Values and gradient at velocity `[batch, depth, x]`; `response`: of this stage's low-pass filter, `[nt + 1]`."""

    def cost(velocity: Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        predicted = run_plan(velocity, objective.plan) / objective.scale
        observed = objective.observed
        predicted = fitted(predicted, observed, objective.mask, objective.estimate)
        whole = objective.reduce(objective.compare(predicted, observed))
        band = whole
        if objective.filtered:
            heard, said = low_pass(observed, response), low_pass(predicted, response)
            energy = objective.reduce(objective.mask * heard**2)[:, None, None, None]
            unit = jax.lax.rsqrt(energy + jnp.finfo(energy.dtype).tiny)  # else low bands would count next to nothing
            band = objective.reduce(objective.compare(unit * said, unit * heard))
        prior = jnp.zeros_like(whole) if objective.prior is None else objective.prior(velocity)
        each = band + weight * prior
        return each.sum(), (each, whole, prior)  # the models do not know of each other

    (_, found), gradient = jax.value_and_grad(cost, has_aux=True)(velocity)
    objective_value, whole, prior = found
    return Values(objective_value, whole, prior, gradient)


@jax.jit
def predict(objective: Objective, velocity: Array) -> Array:
    """Gathers of a velocity in the units of the observed ones, `[batch, shot, time, receiver]`."""
    predicted = run_plan(velocity, objective.plan) / objective.scale
    return objective.scale * fitted(predicted, objective.observed, objective.mask, objective.estimate)


def response_of(objective: Objective, corner: float, survey: Survey) -> Array:
    """The low-pass filter of a stage."""
    return jnp.asarray(low_pass_response(corner, survey.nt, survey.dt), objective.plan.dtype)

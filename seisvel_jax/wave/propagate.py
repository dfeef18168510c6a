"""Velocity in, gathers out: the acoustic wave equation, with exact derivatives both ways.

The time loop, its derivative (Born) and its transpose (adjoint) are three programs over the same update; JAX is told of
them here, so that `jax.grad`, `jax.jvp` and their compositions work and never differentiate the loop itself.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import linear_call

from seisvel_jax.arrays import Array, Gathers, Velocity, typed
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey
from seisvel_jax.wave import boundary, checks, sampling
from seisvel_jax.wave.adjoint import backward
from seisvel_jax.wave.born import born
from seisvel_jax.wave.march import Chunk, Fields, chunk_of, clock_of, forward, forward_keeping
from seisvel_jax.wave.plan import Plan, make_plan
from seisvel_jax.wave.scheme import Scheme, scheme_of
from seisvel_jax.wave.spread import Spread, spread_of


@typed
def propagate(
    velocity: Velocity,
    survey: Survey,
    *,
    wavelet: Array | None = None,
    scheme: Scheme | None = None,
    max_velocity: float | None = None,
) -> Gathers:
    """Gathers `[batch, shot, time, receiver]` of velocity `[batch, depth, x]` m/s on `survey.grid`.

    Differentiable in velocity and in `wavelet`, which takes the place of the survey's and has its shape; exactly so:
    the derivatives are those of the discrete scheme. `scheme` left out is `scheme_of(survey)`. `max_velocity` m/s fixes
    the solver's time step; left out, it is taken from the velocity, which must then be concrete. Under jit give it, and
    close over the survey. Raises UserError for a velocity of the wrong shape and, where it is concrete, for values that
    are no velocities or that the grid cannot carry.
    """
    scheme = scheme or scheme_of(survey)
    if velocity.shape[1:] != survey.grid.shape:
        raise UserError(
            f"velocity of shape {velocity.shape}, expected (batch, {survey.grid.depth_count}, {survey.grid.x_count}) "
            f"for survey {survey.name}: resample the model or the survey's grid"
        )
    if not isinstance(velocity, jax.core.Tracer):
        checks.check_velocity(np.asarray(velocity))
        checks.check_sampling(survey, scheme.order, float(velocity.min()), coefficients=scheme.coefficients)
        fastest = float(velocity.max())
        if max_velocity is not None and fastest > max_velocity:
            raise UserError(f"velocity up to {fastest:g} m/s, expected at most max_velocity = {max_velocity:g} m/s")
        max_velocity = max_velocity or fastest
    if max_velocity is None:
        raise UserError("propagate under jit needs max_velocity in m/s, which fixes its time step")
    plan = make_plan(survey, max_velocity, scheme)
    if wavelet is not None:
        plan = dataclasses.replace(plan, wavelet=_solver_wavelet(wavelet, survey, plan))
    gathers = run_plan(velocity, plan)
    if not isinstance(gathers, jax.core.Tracer) and not bool(jnp.isfinite(gathers).all()):
        checks.check_finite(np.asarray(gathers), f"survey {survey.name}")
    return gathers


def run_plan(velocity: Array, plan: Plan, *, lanes: int | None = None, devices: int | None = None) -> jax.Array:
    """`propagate` for a plan made before, spread over all devices of this process, or so many; 1 inside `shard_map`.

    Raises UserError where the velocity is concrete and too high for the plan's time step.
    """
    spring = None
    if not isinstance(velocity, jax.core.Tracer):
        scheme = plan.scheme
        checks.check_courant(
            float(velocity.max()), plan.dt, plan.grid.spacing, scheme.order, coefficients=scheme.coefficients
        )
        if plan.to_the_letter:
            spring = boundary.spring(np.asarray(velocity), plan.dt, plan.grid, plan.boundary)
    velocity = jnp.asarray(velocity, plan.dtype)
    # What is left out here is not part of the program: other lengths of record use it too.
    program = dataclasses.replace(plan, nt=0, record_start=0, readout=None)
    record = _run(velocity, program, spring, spread=spread_of(plan, velocity.shape[0], lanes, devices))
    return _finish(record, plan.readout, nt=plan.nt, record_start=plan.record_start)


@partial(jax.jit, static_argnames=("spread",))
def _run(velocity: jax.Array, plan: Plan, spring: Array | None = None, *, spread: Spread) -> jax.Array:
    return _record(fields_of(velocity, plan, spring), plan, spread)


def fields_of(velocity: jax.Array, plan: Plan, spring: Array | None = None) -> Fields:
    """What the time loop takes, of velocity `[batch, depth, x]`. Plain JAX: its derivatives are JAX's own."""
    alpha, beta = boundary.coefficients(velocity, plan.dt, plan.grid, plan.boundary)
    nodes, weights = jnp.asarray(plan.source_nodes), jnp.asarray(plan.source_weights)
    depth = jnp.clip(nodes[..., 0] - plan.pad.top, 0, plan.grid.depth_count - 1)
    x = jnp.clip(nodes[..., 1] - plan.pad.left, 0, plan.grid.x_count - 1)
    model = jnp.arange(velocity.shape[0]).reshape(-1, 1, 1, 1)
    speed = velocity[model, depth, x]  # beyond the model that of its edge
    return Fields(alpha, beta, weights * speed**2 * plan.dt**2, jnp.asarray(plan.wavelet), spring)


# ---- what JAX is told of the loop's derivatives -------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _record(fields: Fields, plan: Plan, spread: Spread) -> jax.Array:
    """`[batch, shot, row, receiver]`."""

    def work(total: tuple, pairs: tuple, whole: tuple) -> tuple[tuple, jax.Array]:
        fields, plan = whole
        return total, forward(chunk_of(fields, plan, *pairs), clock_of(plan))

    record = spread.over_chunks(work, (), spread.numbers(), (fields, plan))[1]
    return _from_rows(record, spread)


@_record.defjvp
def _record_jvp(spread: Spread, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    fields, plan = primals

    def work(total: tuple, pairs: tuple, whole: tuple) -> tuple[tuple, Any]:
        fields, plan = whole
        return total, forward_keeping(chunk_of(fields, plan, *pairs), clock_of(plan), plan)

    record, kept = spread.over_chunks(work, (), spread.numbers(), (fields, plan))[1]
    change = linear_call(partial(_change, spread), partial(_gradient, spread), (fields, plan, kept), _tied(tangents[0]))
    return _from_rows(record, spread), change


def _tied(change: Fields) -> Fields:
    """The same values, each made to depend on all.

    `linear_call` transposes all of its arguments or none; the wavelet is often a constant where the velocity is not.
    """
    first = 0 * sum(leaf.reshape(-1)[0] for leaf in jax.tree.leaves(change))
    return jax.tree.map(lambda leaf: leaf + first, change)


def _change(spread: Spread, known: tuple, change: Fields) -> jax.Array:
    """The record's change for a change of the fields."""

    def work(total: tuple, pairs: tuple, whole: tuple) -> tuple[tuple, jax.Array]:
        fields, change, plan = whole
        moved = chunk_of(fields, plan, *pairs)
        model, shot = pairs
        own = shot if change.wavelet.shape[0] > 1 else jnp.zeros_like(shot)
        lanes = Fields(
            None if change.alpha is None else change.alpha[model],
            change.beta[model],
            change.strength[model, shot],
            jnp.moveaxis(change.wavelet[own], -1, 0),
            None,
        )
        return total, born(moved, clock_of(plan), lanes)

    fields, plan, _ = known
    return _from_rows(spread.over_chunks(work, (), spread.numbers(), (fields, change, plan))[1], spread)


def _gradient(spread: Spread, known: tuple, residual: jax.Array) -> Fields:
    """The transpose of `_change`: the fields' gradient for residuals `[batch, shot, row, receiver]`."""

    def work(total: tuple, each: tuple, whole: tuple) -> tuple[tuple, tuple]:
        (model, shot), residual, kept = each
        fields, plan = whole
        chunk: Chunk = chunk_of(fields, plan, model, shot)
        found = backward(chunk, clock_of(plan), plan, kept, jnp.moveaxis(residual, 1, 0))
        of_alpha, of_beta = total
        of_alpha = None if of_alpha is None else of_alpha.at[model].add(found.alpha)
        return (of_alpha, of_beta.at[model].add(found.beta)), (found.strength, jnp.moveaxis(found.wavelet, 0, -1))

    fields, plan, kept = known
    rest = jax.tree.map(jnp.zeros_like, (fields.alpha, fields.beta))
    each = (spread.numbers(), spread.chunked(residual), kept)
    totals, (of_strength, of_wavelet) = spread.over_chunks(work, rest, each, (fields, plan))
    of_alpha, of_beta = jax.tree.map(lambda t: t.sum(0), totals)
    wavelet = spread.gathered(of_wavelet).sum(0)
    if fields.wavelet.shape[0] == 1:
        wavelet = wavelet.sum(0, keepdims=True)
    spring = None if fields.spring is None else jnp.zeros_like(fields.spring)
    return Fields(of_alpha, of_beta, spread.gathered(of_strength), wavelet, spring)


def _from_rows(record: jax.Array, spread: Spread) -> jax.Array:
    """`[chunk, row, lane, receiver]` as `[batch, shot, row, receiver]`."""
    return spread.gathered(jnp.moveaxis(record, 1, 2))


# ---- between the loop's time axis and the survey's ----------------------------------------------------------------


@partial(jax.jit, static_argnames=("nt", "record_start"))
def _finish(record: jax.Array, readout: Array | None, *, nt: int, record_start: int) -> jax.Array:
    """Recorded rows `[..., row, receiver]` as the rows of the gather: row 0 at t = 0 is silent; then the filter."""
    rows = nt if readout is None else readout.shape[1]
    record = record[..., : rows - (1 - record_start), :]
    if record_start == 0:
        record = jnp.pad(record, [(0, 0)] * (record.ndim - 2) + [(1, 0), (0, 0)])
    if readout is None:
        return record
    return jnp.einsum("nt,...tr->...nr", readout, record, precision="highest")


def _solver_wavelet(wavelet: Array, survey: Survey, plan: Plan) -> jax.Array:
    """A wavelet of the survey's shape at the solver's step, as `make_plan` has it; traced."""
    if wavelet.shape != np.shape(survey.wavelet):
        raise UserError(
            f"wavelet of shape {wavelet.shape}, expected {np.shape(survey.wavelet)} as in survey {survey.name}: "
            "resample it, or change the survey's"
        )
    fine = jnp.asarray(wavelet, plan.dtype)
    if plan.substeps > 1 or plan.scheme.correct_dispersion:
        analysis, synthesis = sampling.refinement(
            fine.shape[-1], survey.dt, plan.substeps, correct_dispersion=plan.scheme.correct_dispersion
        )
        kind = np.complex128 if plan.dtype == np.float64 else np.complex64
        spectra = jnp.einsum("ft,...t->...f", jnp.asarray(analysis, kind), fine.astype(kind), precision="highest")
        fine = jnp.einsum("tf,...f->...t", jnp.asarray(synthesis, kind), spectra, precision="highest").real
    fine = fine if fine.ndim == 3 else fine.reshape(-1, 1, fine.shape[-1])
    steps = plan.wavelet.shape[-1]
    fine = fine[..., :steps] / plan.grid.spacing**2
    return jnp.pad(fine, ((0, 0), (0, 0), (0, steps - fine.shape[-1])))

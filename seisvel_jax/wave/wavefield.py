"""The field itself: snapshots to look at, and how much of the energy each place has seen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Velocity
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey
from seisvel_jax.wave.march import Chunk, chunk_of, clock_of, march
from seisvel_jax.wave.medium import State
from seisvel_jax.wave.plan import Plan, make_plan
from seisvel_jax.wave.propagate import fields_of
from seisvel_jax.wave.scheme import Scheme
from seisvel_jax.wave.spread import Spread, spread_of


def snapshots(
    velocity: Velocity,
    survey: Survey,
    *,
    every: int,
    scheme: Scheme | None = None,
    max_velocity: float | None = None,
    layers: bool = False,
) -> jax.Array:
    """Pressure `[batch, shot, frame, depth, x]` on the nodes of the model; frame i is at `(i + 1) every dt`.

    `every` is a number of recorded samples. `layers`: on those of the absorbing layers around it
    too. Raises UserError where it is not 1 to nt - 1.
    """
    if not 1 <= every < survey.nt:
        raise UserError(f"every {every}, expected 1 to {survey.nt - 1} samples of survey {survey.name}")
    plan = make_plan(survey, max_velocity or float(np.max(velocity)), scheme)
    frames = (survey.nt - 1) // every
    velocity = jnp.asarray(velocity, plan.dtype)
    spread = spread_of(plan, velocity.shape[0])
    return _snapshots(velocity, plan, frames=frames, every=every, spread=spread, layers=layers)


def illumination(
    velocity: Velocity, survey: Survey, *, scheme: Scheme | None = None, max_velocity: float | None = None
) -> jax.Array:
    """`sum over shots and time of u^2 dt`, `[batch, depth, x]` on the nodes of the model: what scales a gradient."""
    plan = make_plan(survey, max_velocity or float(np.max(velocity)), scheme)
    velocity = jnp.asarray(velocity, plan.dtype)
    return _illumination(velocity, plan, spread=spread_of(plan, velocity.shape[0])) * survey.dt


@partial(jax.jit, static_argnames=("frames", "every", "spread", "layers"))
def _snapshots(velocity: jax.Array, plan: Plan, *, frames: int, every: int, spread: Spread, layers: bool) -> jax.Array:
    def work(total: tuple, pairs: tuple, whole: tuple) -> tuple[tuple, jax.Array]:
        fields, plan = whole
        chunk, clock = chunk_of(fields, plan, *pairs), clock_of(plan)
        layout = chunk.medium.layout

        def keep(store: jax.Array, n: jax.Array, state: State, row_ends: bool) -> tuple[jax.Array, jax.Array | None]:
            if not row_ends:
                return store, None
            # Every row goes into its frame, over the one before it; what follows the last frame goes into one more.
            slot = jnp.minimum(n // clock.substeps // every, frames)
            store = jax.lax.dynamic_update_index_in_dim(store, layout.inner(state.now), slot, 0)
            return store, store[slot, 0]

        store = jnp.zeros((frames + 1, layout.size), plan.dtype)
        store = march(chunk, clock, (0, clock.turns), chunk.medium.start(), (store, keep))[1][:frames]
        found = jax.vmap(layout.unpack)(store)
        return total, found if layers else _model_part(found, plan)

    each = spread.over_chunks(work, (), spread.numbers(), (fields_of(velocity, plan), plan))[1]
    return spread.gathered(jnp.moveaxis(each, 1, 2))


@partial(jax.jit, static_argnames=("spread",))
def _illumination(velocity: jax.Array, plan: Plan, *, spread: Spread) -> jax.Array:
    def work(total: tuple, pairs: tuple, whole: tuple) -> tuple[tuple, jax.Array]:
        fields, plan = whole
        chunk: Chunk = chunk_of(fields, plan, *pairs)
        clock = clock_of(plan)
        layout = chunk.medium.layout

        def keep(energy: jax.Array, n: jax.Array, state: State, row_ends: bool) -> tuple[jax.Array, jax.Array | None]:
            if not row_ends:
                return energy, None
            energy = energy + jnp.where(n < clock.rows * clock.substeps, layout.inner(state.now) ** 2, 0)
            return energy, energy[0]

        energy = jnp.zeros(layout.size, plan.dtype)
        energy = march(chunk, clock, (0, clock.turns), chunk.medium.start(), (energy, keep))[1]
        return total, _model_part(layout.unpack(energy), plan)

    each = spread.over_chunks(work, (), spread.numbers(), (fields_of(velocity, plan), plan))[1]
    return spread.gathered(each).sum(1)


def _model_part(values: jax.Array, plan: Plan) -> jax.Array:
    """Of `[..., depth, x]` on the padded grid, the model's nodes."""
    pad, (depth, x) = plan.pad, plan.grid.shape
    return values[..., pad.top : pad.top + depth, pad.left : pad.left + x]

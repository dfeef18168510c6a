"""L-BFGS over a batch of models, each with its own history and line search. One evaluation of all models a step.

optax's line search waits for the slowest model of a batch, and evaluates the finished ones again; here a model whose
step was good enough goes on while its neighbour still shortens its own. Nocedal & Wright, Numerical Optimization
(2006), algorithm 7.4, with a backtracking line search (3.1) and bounds by projection (Bertsekas 1982).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from seisvel_jax.inversion.parameters import Space

SUFFICIENT = 1e-4
"""Armijo's constant."""
MOST_TRIES = 6


class Lbfgs(NamedTuple):
    """Everything between two evaluations. `trial` is what to evaluate next."""

    trial: Array
    """`[batch, depth, x]`."""
    point: Array
    """The last accepted one, with its value `[batch]` (inf: none yet) and gradient."""
    value: Array
    gradient: Array
    direction: Array
    step: Array
    """`[batch]`."""
    tries: Array
    """`[batch]` evaluations of this line search."""
    moves: Array
    """`[memory, batch, depth, x]` differences of accepted points, the newest last, and of their gradients."""
    turns: Array
    inverse: Array
    """`[memory, batch]`: 1 / (move . turn); 0 for an empty place."""


def begin(point: Array, memory: int) -> Lbfgs:
    """Nothing known yet."""
    batch = point.shape[0]
    none = jnp.zeros_like(point)
    pairs = jnp.zeros((memory, *point.shape), point.dtype)
    scalar = jnp.zeros(batch, point.dtype)
    tries = jnp.zeros(batch, jnp.int32)
    inverse = jnp.zeros((memory, batch), point.dtype)
    return Lbfgs(point, point, scalar + jnp.inf, none, none, scalar, tries, pairs, pairs, inverse)


def renew(state: Lbfgs, point: Array) -> Lbfgs:
    """The same curvature for another objective, from `point`, which is evaluated first."""
    return state._replace(
        trial=point, point=point, value=jnp.full_like(state.value, jnp.inf), tries=jnp.zeros_like(state.tries)
    )


@jax.jit
def update(state: Lbfgs, value: Array, gradient: Array, space: Space, first_step: Array) -> Lbfgs:
    """The state after `trial` was found to have this value `[batch]` and gradient; `first_step`: largest change."""
    fresh = jnp.isinf(state.value)
    move, turn = state.trial - state.point, gradient - state.gradient
    falls = value <= state.value + SUFFICIENT * _dot(state.gradient, move)
    accepted = (fresh | falls) & jnp.isfinite(value)
    curved = accepted & ~fresh & (_dot(move, turn) > 1e-8 * jnp.sqrt(_dot(move, move) * _dot(turn, turn)))

    moves = _push(state.moves, move, curved)
    turns = _push(state.turns, turn, curved)
    product = _dot(move, turn)
    inverse = _push(state.inverse, 1 / jnp.where(curved, product, 1), curved)
    stuck = ~accepted & (state.tries + 1 >= MOST_TRIES)
    inverse = jnp.where(stuck, 0, inverse)  # forget: steepest descent again

    point = _choose(accepted, state.trial, state.point)
    now = jnp.where(accepted, value, state.value)
    downhill = _choose(accepted, gradient, state.gradient)
    free = space.free(point, downhill)
    direction = -free * _inverse_hessian(free * downhill, moves, turns, inverse, space)
    direction = _choose(accepted | stuck, direction, state.direction)

    known = (inverse != 0).any(0)
    # A first step has no scale of its own; one after a failed search is shorter.
    largest = jnp.max(jnp.abs(direction), axis=(1, 2)) + jnp.finfo(direction.dtype).tiny
    alone = jnp.where(stuck, 0.1, 1.0).astype(direction.dtype) * first_step / largest
    new_step = jnp.where(known, 1.0, alone).astype(direction.dtype)
    incline = _dot(state.gradient, state.direction) * state.step
    rise = value - state.value - incline
    shorter = jnp.where(jnp.isfinite(rise) & (rise > 0), -incline / (2 * jnp.where(rise > 0, rise, 1)), 0.1)
    shorter = state.step * jnp.clip(shorter, 0.1, 0.5)
    step = jnp.where(accepted | stuck, new_step, shorter)
    tries = jnp.where(accepted | stuck, 0, state.tries + 1)
    trial = space.clip(point + step[:, None, None] * direction)
    return Lbfgs(trial, point, now, downhill, direction, step, tries, moves, turns, inverse)


def _inverse_hessian(gradient: Array, moves: Array, turns: Array, inverse: Array, space: Space) -> Array:
    """The two loops, over every model at once; empty places have `inverse` 0 and do nothing."""
    q, alphas = gradient, []
    for i in reversed(range(moves.shape[0])):
        alpha = inverse[i] * _dot(moves[i], q)
        q = q - alpha[:, None, None] * turns[i]
        alphas.append(alpha)
    rough = space.precondition(turns[-1])
    curvature = _dot(turns[-1], rough)
    known = (inverse[-1] != 0) & (curvature > 0)
    scale = jnp.where(known, 1 / jnp.where(known, inverse[-1] * curvature, 1), 1)
    r = scale[:, None, None] * space.precondition(q)
    for i, alpha in enumerate(reversed(alphas)):
        beta = inverse[i] * _dot(turns[i], r)
        r = r + (alpha - beta)[:, None, None] * moves[i]
    return r


def _dot(a: Array, b: Array) -> Array:
    """`[batch]`."""
    return jnp.sum(jnp.asarray(a) * b, axis=(1, 2))


def _choose(which: Array, a: Array, b: Array) -> Array:
    return jnp.where(which[:, None, None], a, b)


def _push(store: Array, new: Array, which: Array) -> Array:
    """`[memory, batch, ...]` with `new` as the last of those models that are pushed."""
    pushed = jnp.concatenate([store[1:], new[None].astype(store.dtype)])
    return jnp.where(which.reshape(1, -1, *(1,) * (store.ndim - 2)), pushed, store)

"""Adam over a batch of models, preconditioned and within bounds. Kingma & Ba (2015)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from seisvel_jax.inversion.parameters import Space

FIRST, SECOND, SMALL = 0.9, 0.99, 1e-8
"""Decay of the means of gradients and of their squares; a hundred steps and not a thousand are the rule here."""


class Adam(NamedTuple):
    """`trial` is what to evaluate next."""

    trial: Array
    mean: Array
    square: Array
    steps: Array


def begin(point: Array) -> Adam:
    """Nothing known yet."""
    return Adam(point, jnp.zeros_like(point), jnp.zeros_like(point), jnp.zeros((), jnp.int32))


@jax.jit
def update(state: Adam, gradient: Array, space: Space, rate: Array) -> Adam:
    """The state after `trial` was found to have this gradient. One that is not finite counts as 0."""
    usable = jnp.isfinite(gradient).all(axis=(1, 2), keepdims=True)
    gradient = jnp.where(usable, gradient, 0)
    gradient = space.precondition(gradient * space.free(state.trial, gradient))
    steps = state.steps + 1
    mean = FIRST * state.mean + (1 - FIRST) * gradient
    square = SECOND * state.square + (1 - SECOND) * gradient**2
    power = steps.astype(gradient.dtype)
    direction = (mean / (1 - FIRST**power)) / (jnp.sqrt(square / (1 - SECOND**power)) + SMALL)
    return Adam(space.clip(state.trial - rate * direction), mean, square, steps)

"""A denoiser as the regulariser of full-waveform inversion: `velocity [batch, depth, x] m/s -> (value, gradient)`.

The inversion package takes such a function as its learned prior. Values and gradients are means over the cells, as
those of its other priors, so that a weight means the same on every grid.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array, PRNGKeyArray
from seisvel_jax.diffusion.edm import Denoise
from seisvel_jax.diffusion.likelihood import squares
from seisvel_jax.diffusion.scale import Scale

LearnedPrior = Callable[[Array], tuple[jax.Array, jax.Array]]
"""Velocity `[batch, depth, x]` m/s -> values `[batch]` and gradients `[batch, depth, x]` per m/s."""
FAR = 80.0
"""A level at which the denoiser answers with the prior's mean."""


def red_diffeq(
    denoise: Denoise,
    condition: Any,
    key: PRNGKeyArray,
    scale: Scale,
    *,
    sigmas: Sequence[float] = (0.1, 0.2, 0.4, 0.8, 1.6),
    pairs: int = 1,
) -> LearnedPrior:
    """The prior's noise residual as gradient (RED-DiffEq, Shan et al. 2025; RED, Romano et al. 2017).

    gradient = mean over levels of E[n^ - n] = E[(m - D(m + sigma n, sigma)) / sigma], without the network's derivative.
    E is a mean over `pairs` of noises and their negatives, drawn once with `key`: the same model has the same gradient
    (the paper draws them anew at each step; pass a function that makes a new prior for that). The pairs make E exact
    where the denoiser is affine. value = 1/2 gradient . (m - mean of the prior): the potential of that gradient for a
    Gaussian prior; for others the gradient has no exact potential and a line search should not be too strict (Adam).
    """

    def prior(velocity: Array) -> tuple[jax.Array, jax.Array]:
        clean = jnp.asarray(scale.to_unit(velocity), jnp.float32)
        rows = clean.shape[0]
        noises = jax.random.normal(key, (len(sigmas) * pairs, *clean.shape))

        def one(total: jax.Array, at: tuple) -> tuple[jax.Array, None]:
            noise, sigma = at
            level = jnp.full(rows, sigma)
            both = [denoise(clean + sign * sigma * noise, level, condition) for sign in (1.0, -1.0)]
            return total + (clean - (both[0] + both[1]) / 2) / sigma, None

        levels = jnp.repeat(jnp.asarray(sigmas, jnp.float32), pairs)
        total = jax.lax.scan(one, jnp.zeros_like(clean), (noises, levels))[0] / len(levels)
        middle = denoise(jnp.zeros_like(clean), jnp.full(rows, FAR), condition)
        cells = clean[0].size
        value = jnp.sum(total * (clean - middle), axis=(1, 2)) / (2 * cells)
        return value.astype(velocity.dtype), (total / (cells * scale.half)).astype(velocity.dtype)

    return jax.jit(prior)


def proximal(denoise: Denoise, condition: Any, start: Array, scale: Scale, *, sigma: float) -> LearnedPrior:
    """Half the squared distance to the denoised start, over sigma^2: the plug-and-play proximal step.

    Inversion with this prior from `start` (m/s), then a new prior about its result with a smaller sigma, is half
    quadratic splitting with the denoiser for the prior's proximal map (Zhang et al. 2021, arXiv 2008.13751; DiffPIR,
    2305.08995). Within one inversion it is a quadratic: value and gradient agree exactly.
    """
    begin = jnp.asarray(scale.to_unit(start), jnp.float32)
    anchor = denoise(begin, jnp.full(begin.shape[0], sigma), condition)

    def prior(velocity: Array) -> tuple[jax.Array, jax.Array]:
        apart = jnp.asarray(scale.to_unit(velocity), jnp.float32) - anchor
        cells = apart[0].size
        value, gradient = squares(apart) / (2 * sigma**2 * cells), apart / (sigma**2 * cells * scale.half)
        return value.astype(velocity.dtype), gradient.astype(velocity.dtype)

    return jax.jit(prior)


def denoised(denoise: Denoise, condition: Any, velocity: Array, scale: Scale, *, sigma: float) -> jax.Array:
    """The proximal map itself: velocity m/s to the model most like it at noise `sigma` (scaled), m/s."""
    clean = jnp.asarray(scale.to_unit(velocity), jnp.float32)
    return jnp.asarray(scale.to_velocity(denoise(clean, jnp.full(clean.shape[0], sigma), condition)))

"""Decoupled annealing posterior sampling (Zhang et al. 2024, arXiv 2407.01521): no gradient through the network.

At each level: an estimate of clean from noisy, Langevin steps on CLEAN under the likelihood with a Gaussian about that
estimate, and fresh noise of the next level. Each step costs a gradient of the likelihood (one forward and one adjoint
run of the wave solver) and nothing of the network.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array, Float, PRNGKeyArray, typed
from seisvel_jax.diffusion.edm import Denoise, over
from seisvel_jax.diffusion.likelihood import Likelihood, squares
from seisvel_jax.diffusion.sampler import SamplerConfig, integrate, over_samples, sigma_levels


@dataclass(frozen=True)
class DAPSConfig:
    """Levels and steps."""

    levels: int = 50
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    rho: float = 7.0
    solver_steps: int = 0
    """Steps of DPM-Solver++ from noisy to the estimate of clean (the paper: 5). 0 takes the denoiser's answer, the mean
    of clean given noisy, about which the Gaussian below is the right one where the prior is a Gaussian."""
    langevin_steps: int = 10
    """Gradients of the likelihood at each level."""
    one_by_one: bool = False
    """As in `SamplerConfig`: needed with the wave solver."""
    prior_deviation: float = 0.5
    """s; clean given noisy is taken for a Gaussian of variance r^2 = sigma^2 s^2 / (sigma^2 + s^2)."""


@typed
def daps(
    denoise: Denoise,
    likelihood: Likelihood,
    condition: Any,
    shape: tuple[int, int, int],
    key: PRNGKeyArray,
    *,
    config: DAPSConfig,
    samples: int = 1,
    known: tuple[Array, Array] | None = None,
) -> Float[Array, "sample batch depth x"]:
    """Samples of the posterior, scaled velocity `[sample, batch, depth, x]`; `shape` is `(batch, depth, x)`.

    `known`: values and mask `[batch, depth, x]` of cells that are known exactly. The Langevin steps move the others
    alone; give a `denoise` that knows of them too (`guidance.known`).
    """
    levels = sigma_levels(config.levels, config.sigma_max, config.sigma_min, config.rho)
    following = jnp.append(jnp.asarray(levels[1:]), jnp.float32(0))

    def mean(noisy: jax.Array, sigma: jax.Array) -> jax.Array:
        whole = jnp.full(shape[:1], sigma)
        return over_samples(lambda one: denoise(one, whole, condition), noisy, one_by_one=config.one_by_one)

    def estimate(noisy: jax.Array, sigma: jax.Array) -> jax.Array:
        if not config.solver_steps:
            return mean(noisy, sigma)
        # The solver's grid is static: one of unit length, on which noisy and sigma are scaled.
        grid = SamplerConfig("dpm", config.solver_steps, sigma_min=1e-2, sigma_max=1.0, one_by_one=config.one_by_one)

        def scaled(noisy: Array, level: Array, condition: Any) -> jax.Array:
            return denoise(noisy * sigma, level * sigma, condition) / sigma

        return sigma * integrate(scaled, noisy / sigma, condition, grid.sigmas, jax.random.key(0), config=grid)

    def level(carry: tuple, at: tuple) -> tuple[tuple, None]:
        noisy, step = carry
        sigma, after, key = at
        langevin_key, noise_key = jax.random.split(key)
        deviation = sigma * config.prior_deviation / jnp.sqrt(sigma**2 + config.prior_deviation**2)
        keys = jax.random.split(langevin_key, samples)

        def explore(one: tuple) -> tuple[jax.Array, jax.Array]:
            near, step, key = one
            return langevin(likelihood, near, deviation, step, key, count=config.langevin_steps, known=known)

        each = (estimate(noisy, sigma), step, keys)
        clean, step = over_samples(explore, each, one_by_one=config.one_by_one)
        return (clean + after * jax.random.normal(noise_key, clean.shape), step), None

    first, rest = jax.random.split(key)
    noisy = config.sigma_max * jax.random.normal(first, (samples, *shape))
    carry = (noisy, jnp.full((samples, shape[0]), 0.1))
    (clean, _), _ = jax.lax.scan(level, carry, (jnp.asarray(levels), following, jax.random.split(rest, len(levels))))
    return clean


def langevin(
    likelihood: Likelihood,
    near: jax.Array,
    deviation: jax.Array,
    step: jax.Array,
    key: PRNGKeyArray,
    *,
    count: int,
    known: tuple[Array, Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`count` Langevin steps from p(clean) = N(near, deviation^2) times the likelihood, with accept and reject (MALA).

    near `[batch, depth, x]`; `step` `[batch]` in units of deviation^2 grows where moves are accepted and shrinks where
    they are not, towards the 57 % that is best (Roberts & Rosenthal 1998). `known` cells (values, mask) stand still at
    their values. Returns clean, starting at `near`, and the step to go on with.
    """
    free = jnp.ones_like(near)
    if known is not None:
        free = jnp.asarray(known[1] == 0, near.dtype)
        near = jnp.where(free > 0, near, known[0])

    def target(clean: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = likelihood.log(clean) - squares(clean - near) / (2 * deviation**2)
        return jnp.sum(values), values

    def slope_and_value(clean: jax.Array) -> tuple[jax.Array, jax.Array]:
        slope, values = jax.grad(target, has_aux=True)(clean)
        return slope * free, values

    def once(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        clean, slope, value, step = carry
        move_key, accept_key = jax.random.split(key)
        size = over(step, clean) * deviation**2
        there = clean + size * slope + jnp.sqrt(2 * size) * free * jax.random.normal(move_key, clean.shape)
        new_slope, new_value = slope_and_value(there)
        forth = -squares((there - clean - size * slope) / jnp.sqrt(2 * size)) / 2
        back = -squares((clean - there - size * new_slope) / jnp.sqrt(2 * size)) / 2
        chance = new_value - value + back - forth
        accept = jnp.log(jax.random.uniform(accept_key, step.shape)) < chance
        wide = over(accept, clean)
        # 1.3^0.574 * 0.7^0.426 = 1.
        step = jnp.minimum(step * jnp.where(accept, 1.3, 0.7), 1.0)
        carry = (
            jnp.where(wide, there, clean),
            jnp.where(wide, new_slope, slope),
            jnp.where(accept, new_value, value),
            step,
        )
        return carry, None

    slope, value = slope_and_value(near)
    (clean, _, _, step), _ = jax.lax.scan(once, (near, slope, value, step), jax.random.split(key, count))
    return clean, step

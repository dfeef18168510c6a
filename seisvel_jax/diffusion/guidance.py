"""A prior's denoiser and a likelihood become the posterior's denoiser: four ways, from cheap to exact for Gaussians.

The posterior's is D + sigma^2 grad ln p(observed | noisy), and p(observed | noisy) = E over p(clean | noisy) of the
likelihood. The ways differ in what they take p(clean | noisy) for.

| | p(clean given noisy) | exact for |
|---|---|---|
| `dps` | a point at D, a step of fixed length | nothing: a heuristic |
| `sda` | N(D, r^2), r^2 = sigma^2 s^2 / (sigma^2 + s^2), gamma r^2 in data | isotropic Gaussians, A A^T = gamma 1 |
| `moment_matching` | N(D, sigma^2 dD/dnoisy), the true covariance (Tweedie) | every Gaussian, every linear operator |
| `daps.py` | drawn by Langevin steps on clean | isotropic Gaussians, any operator |
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array
from seisvel_jax.diffusion.edm import Denoise, over
from seisvel_jax.diffusion.likelihood import Likelihood, squares


def dps(denoise: Denoise, likelihood: Likelihood, *, strength: float) -> Denoise:
    """Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687): D - strength grad |observed - A D(noisy)|.

    The gradient of the NORM, so its length does not tell how far the data are missed, and the noise's size plays no
    part: the well-known baseline, whose `strength` (scaled velocity squared a unit of data) is tuned by hand.
    """

    def posterior(noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        def miss(noisy: Array) -> tuple[jax.Array, jax.Array]:
            clean = denoise(noisy, sigma, condition)
            # A model that fits exactly has no direction to go.
            return jnp.sum(jnp.sqrt(squares(likelihood.residual(clean)) + 1e-20)), clean

        gradient, clean = jax.grad(miss, has_aux=True)(jnp.asarray(noisy))
        return clean - strength * gradient

    return posterior


def sda(
    denoise: Denoise,
    likelihood: Likelihood,
    *,
    gamma: float | None = None,
    prior_deviation: float = 0.5,
    reach: float | None = None,
) -> Denoise:
    """Likelihood with a widened variance (Rozet & Louppe 2023, arXiv 2306.10574): deviation^2 + gamma r(sigma)^2.

    `gamma` stands for |A|^2, the operator's gain in data units a unit of scaled velocity: large sigma makes D a poor
    guess of clean, and the data must not be believed to their noise then. r^2 = sigma^2 s^2 / (sigma^2 + s^2) with
    s = `prior_deviation`, where the paper has sigma^2 for r^2: the variance of clean given noisy never exceeds s^2.

    None measures it anew of each model at each level, along the residual: gamma = |A^T d|^2 / |d|^2 with d = observed -
    A D. Where r^2 outweighs the noise, the data then move D by the step of steepest descent that fits them best.
    `reach`: see `within`.
    """

    def posterior(noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        clean, pull = jax.vjp(lambda values: denoise(values, sigma, condition), jnp.asarray(noisy))
        residual, back = jax.vjp(likelihood.residual, clean)
        toward = -back(residual)[0]
        gain = squares(toward) / jnp.maximum(squares(residual), 1e-30) if gamma is None else gamma
        spread = (sigma * prior_deviation) ** 2 / (sigma**2 + prior_deviation**2)
        variance = likelihood.deviation**2 + gain * spread
        return clean + within(over(sigma**2 / variance, clean) * pull(toward)[0], spread, reach)

    return posterior


def moment_matching(
    denoise: Denoise,
    likelihood: Likelihood,
    *,
    iterations: int = 8,
    floor: float = 1e-4,
    prior_deviation: float = 0.5,
    reach: float | None = None,
) -> Denoise:
    """Posterior mean with the denoiser's own covariance (Rozet et al. 2024, arXiv 2405.13712):

        D + C A^T (deviation^2 + A C A^T)^-1 (observed - A D),    C = sigma^2 dD/dnoisy,

    solved by `iterations` of conjugate gradients, each one product with dD/dnoisy and, for the wave solver, one Born
    and one adjoint run. A is linearised at D. `floor` adds floor * r(sigma)^2 (as in `sda`) to the variance, so that
    exact data (deviation 0) leave a system that can be solved. `reach`: see `within`.
    """

    def posterior(noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        clean, pull = jax.vjp(lambda values: denoise(values, sigma, condition), jnp.asarray(noisy))
        data, push = jax.linearize(likelihood.predict, clean)
        back = jax.linear_transpose(push, clean)
        miss = likelihood.residual(clean)
        spread = (sigma * prior_deviation) ** 2 / (sigma**2 + prior_deviation**2)
        noise = over(likelihood.deviation**2 + floor * spread, data)

        def moved(data: jax.Array) -> jax.Array:
            # dD/dnoisy of an exact denoiser is symmetric: its transpose is at hand and serves for it.
            change = pull(back(data)[0])[0]
            return over(sigma**2, change) * change

        solved = conjugate_gradients(lambda data: noise * data + push(moved(data)), miss, iterations)
        return clean + within(moved(solved), spread, reach)

    return posterior


def within(shift: jax.Array, spread: Array, reach: float | None) -> jax.Array:
    """The shift `[batch, depth, x]` of a denoiser, shortened to a root mean square of `reach` r; None: as it is.

    `spread` is r^2, the variance that clean given noisy is taken to have: data that ask for more than a few r do not
    suit the linearised operator, and following them runs away. A shift that is not finite is none.
    """
    if reach is None:
        return shift
    cells = shift[0].size
    size = jnp.sqrt(squares(shift) / cells)
    factor = jnp.minimum(1, reach * jnp.sqrt(spread) / jnp.maximum(size, 1e-30))
    return jnp.where(over(jnp.isfinite(size), shift), over(factor, shift) * shift, 0)


def known(denoise: Denoise, values: Array, mask: Array, *, iterations: int = 8) -> Denoise:
    """Hard data: cells whose scaled velocity is known exactly (wells, water), imposed WHILE sampling.

    The denoiser's answer is conditioned on the known cells by moment matching, which carries what they say to their
    neighbours, and then holds them exactly; so every sample does. `values`, `mask` `[batch, depth, x]`, mask 1 where
    known. `iterations=0` only puts the known values in (replacement): cheap, and biased beside the wells.
    """
    mask = jnp.asarray(mask, jnp.float32)
    values = jnp.asarray(values, jnp.float32) * mask
    if iterations:
        denoise = moment_matching(denoise, Likelihood(lambda clean: clean, values, 0.0, mask), iterations=iterations)

    def holding(noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        return jnp.where(mask > 0, values, denoise(noisy, sigma, condition))

    return holding


def conjugate_gradients(
    product: Callable[[jax.Array], jax.Array], right: jax.Array, iterations: int, tolerance: float = 1e-5
) -> jax.Array:
    """Solve product(solution) = right for each row `[batch, ...]` by itself, from 0; rows that are done stand still.

    `product` is symmetric and positive within a row. A row whose curvature is not positive (a network's Jacobian is
    only nearly symmetric) keeps what it has.
    """

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))

    goal = tolerance**2 * dot(right, right)

    def once(carry: tuple, _: None) -> tuple[tuple, None]:
        solution, residual, direction, size = carry
        image = product(direction)
        curvature = dot(direction, image)
        go = (size > goal) & (curvature > 0)
        step = jnp.where(go, size / jnp.where(go, curvature, 1), 0)
        solution = solution + over(step, right) * direction
        residual = residual - over(step, right) * image
        new = dot(residual, residual)
        turn = jnp.where(go, new / jnp.where(size > 0, size, 1), 0)
        direction = jnp.where(over(go, right), residual + over(turn, right) * direction, direction)
        return (solution, residual, direction, jnp.where(go, new, size)), None

    carry = (jnp.zeros_like(right), right, right, dot(right, right))
    return jax.lax.scan(once, carry, length=iterations)[0][0]

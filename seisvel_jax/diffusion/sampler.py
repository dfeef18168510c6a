"""Samples from a denoiser: the probability-flow equation and its stochastic forms over a grid of sigma, in one scan.

    d noisy / d sigma = (noisy - denoise(noisy, sigma)) / sigma            (Karras et al. 2022, equation 1)

from sigma_max, where noisy is noise alone, to 0, where it is a sample. `heun` takes two evaluations a step (EDM's
algorithms 1 and 2), `dpm` one (DPM-Solver++ 2M, Lu et al. 2022, arXiv 2211.01095); both are of second order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Array, Float, PRNGKeyArray, typed
from seisvel_jax.diffusion.edm import Denoise
from seisvel_jax.errors import UserError


@dataclass(frozen=True)
class SamplerConfig:
    """How samples are drawn."""

    method: Literal["heun", "dpm"] = "dpm"
    steps: int = 16
    sigma_min: float = 0.01
    """The last level but 0; 15 m/s where 3000 m/s are scaled to 2."""
    sigma_max: float = 40.0
    rho: float = 30.0
    """Levels are evenly spaced in sigma^(1 / rho), here nearly in ln(sigma). On EDM's own grid (80 to 0.002, rho 7) the
    variance of 16 steps is 17 to 20 % too large, on this one 4 % (docs/diffusion.md)."""
    stochastic: float = 0.0
    """0 is deterministic in the first noise. 1: `dpm` becomes the reverse diffusion; `heun` first raises each level by
    the factor 1 + (sqrt(2) - 1) * stochastic with fresh noise (EDM's churn)."""
    corrections: int = 0
    """Langevin steps at each level, which pull the samples to that level's own distribution (Song et al. 2021). With
    `heun` only: what `dpm` remembers of the step before is of no use after them."""
    correction_size: float = 0.5
    """Of a Langevin step, in sigma^2."""
    one_by_one: bool = False
    """The samples of a model one after the other in the denoiser, not together: needed where the wave solver guides,
    whose derivatives cannot be mapped."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.corrections < 0:
            raise UserError(f"sampler: steps {self.steps}, corrections {self.corrections}, expected at least 1 and 0")
        if not 0 < self.sigma_min < self.sigma_max:
            raise UserError(f"sampler: sigma from {self.sigma_max} to {self.sigma_min}, expected falling and positive")
        if self.corrections and self.method == "dpm":
            raise UserError("sampler: corrections with method dpm, expected heun: dpm extrapolates a path they leave")
        if not 0 < self.correction_size < 1:
            raise UserError(f"sampler: correction_size {self.correction_size}, expected above 0 and below 1")
        if not 0 <= self.stochastic <= 1:
            raise UserError(f"sampler: stochastic {self.stochastic}, expected 0 (none) to 1")

    @property
    def sigmas(self) -> np.ndarray:
        """Levels `[steps + 1]`, from `sigma_max` to `sigma_min`, then 0 (Karras et al. 2022, equation 5)."""
        return np.append(sigma_levels(self.steps, self.sigma_max, self.sigma_min, self.rho), np.float32(0))

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser a sample."""
        once = 2 * self.steps - 1 if self.method == "heun" else self.steps
        return once + self.corrections * (self.steps - 1)


def sigma_levels(count: int, first: float, last: float, rho: float) -> np.ndarray:
    """`[count]` float32 levels from `first` to `last`, evenly spaced in sigma^(1 / rho)."""
    share = np.linspace(0, 1, count)
    return ((first ** (1 / rho) + share * (last ** (1 / rho) - first ** (1 / rho))) ** rho).astype(np.float32)


@typed
def sample(
    denoise: Denoise,
    condition: Any,
    shape: tuple[int, int, int],
    key: PRNGKeyArray,
    config: SamplerConfig,
    *,
    samples: int = 1,
) -> Float[Array, "sample batch depth x"]:
    """Draw `samples` of each model of the condition's batch: scaled velocity `[sample, batch, depth, x]`.

    `shape` is `(batch, depth, x)`. What the denoiser computes of the condition alone is computed once, not once a
    sample. Jit it with `shape`, `config` and `samples` closed over.
    """
    first, rest = jax.random.split(key)
    noisy = config.sigma_max * jax.random.normal(first, (samples, *shape))
    return integrate(denoise, noisy, condition, config.sigmas, rest, config=config)


class _Step(NamedTuple):
    """What one step of the scan is told."""

    now: Any
    next: Any
    lean: Any
    """h / (2 h of the step before) in h = ln(now / next); 0 in the first step."""
    key: Any


def integrate(
    denoise: Denoise, noisy: Array, condition: Any, sigmas: np.ndarray, key: PRNGKeyArray, *, config: SamplerConfig
) -> jax.Array:
    """Carry noisy `[sample, batch, depth, x]` from level `sigmas[0]` to `sigmas[-1]`; a last level of 0 is the clean.

    The last step to 0 is the denoiser's own answer, as in every such solver: of first order, over a step of sigma_min.
    """

    def clean(values: jax.Array, sigma: jax.Array) -> jax.Array:
        level = jnp.full(values.shape[1:2], sigma, values.dtype)
        return over_samples(lambda one: denoise(one, level, condition), values, one_by_one=config.one_by_one)

    def correct(values: jax.Array, sigma: jax.Array, key: jax.Array) -> jax.Array:
        if not config.corrections:
            return values
        size, keys = config.correction_size, jax.random.split(key, config.corrections)

        def moved(values: jax.Array, size: float, noise: jax.Array) -> jax.Array:
            return values + size * (clean(values, sigma) - values) + math.sqrt(config.correction_size / 2) * noise

        def once(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            values, before = carry
            noise = sigma * jax.random.normal(key, values.shape, values.dtype)
            return (moved(values, size, before + noise), noise), None

        # Half of this step's noise and half of the one before's (Leimkuhler & Matthews 2013): for a Gaussian the spread
        # is exact at any size, where the plain Langevin step is too wide. The first, which has none before, is shorter.
        first = sigma * jax.random.normal(keys[0], values.shape, values.dtype)
        return jax.lax.scan(once, (moved(values, size / 4, first), first), keys[1:])[0][0]

    def heun(carry: tuple, step: _Step) -> tuple[tuple, None]:
        values, old = carry
        churn_key, correct_key = jax.random.split(step.key)
        sigma = step.now * (1 + (math.sqrt(2) - 1) * config.stochastic)
        if config.stochastic:
            noise = jax.random.normal(churn_key, values.shape, values.dtype)
            values = values + jnp.sqrt(sigma**2 - step.now**2) * noise
        slope = (values - clean(values, sigma)) / sigma
        ahead = values + (step.next - sigma) * slope
        slope = (slope + (ahead - clean(ahead, step.next)) / step.next) / 2
        values = values + (step.next - sigma) * slope
        return (correct(values, step.next, correct_key), old), None

    def dpm(carry: tuple, step: _Step) -> tuple[tuple, None]:
        values, old = carry
        new = clean(values, step.now)
        ratio = step.next / step.now
        # exp(-eta h) with h = ln(now / next): the share of the noise that is kept, the rest is drawn afresh.
        keep = ratio**config.stochastic
        values = ratio * keep * values + (1 - ratio * keep) * (new + step.lean * (new - old))
        if config.stochastic:
            noise = jax.random.normal(step.key, values.shape, values.dtype)
            values = values + step.next * jnp.sqrt(1 - keep**2) * noise
        return (values, new), None

    levels = np.asarray(sigmas, np.float32)
    positive = levels[levels > 0]
    carry = (jnp.asarray(noisy), jnp.zeros_like(noisy))
    if len(positive) > 1:
        log_steps = np.log(positive[:-1] / positive[1:])
        lean = np.append(np.float32(0), log_steps[1:] / (2 * log_steps[:-1])).astype(np.float32)
        keys = jax.random.split(key, len(positive) - 1)
        steps = _Step(jnp.asarray(positive[:-1]), jnp.asarray(positive[1:]), jnp.asarray(lean), keys)
        carry = jax.lax.scan(heun if config.method == "heun" else dpm, carry, steps)[0]
    return clean(carry[0], jnp.asarray(positive[-1])) if levels[-1] == 0 else carry[0]


def over_samples(function: Callable[[Any], Any], values: Any, *, one_by_one: bool) -> Any:
    """`function` of one sample over the leading axis of all leaves of `values`: mapped, or one after the other."""
    return jax.lax.map(function, values) if one_by_one else jax.vmap(function)(values)

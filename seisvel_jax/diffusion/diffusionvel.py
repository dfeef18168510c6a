"""DiffusionVel's own process, for comparison (Zhang et al. 2024, arXiv 2410.21776, and the code published with it).

T = 1000 steps of the cosine schedule, networks that predict the clean model from the noisy one, plain mean squared
error at uniform t, and deterministic DDIM on the WEIGHTED MEAN of the networks' answers. Faithful on purpose, also
where `compose.py` and `sampler.py` do better: the noise is estimated from the answer before it is clamped to [-1, 1],
the next level is made of the clamped one, and a chain of few steps starts from noise alone at a level that is not.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Array, Float, PRNGKeyArray, Velocity, typed
from seisvel_jax.diffusion.compose import weighted_mean
from seisvel_jax.diffusion.edm import Denoise, over
from seisvel_jax.errors import UserError

STEPS = 1000
"""T."""
Predict = Callable[[Any, Any, Any], jax.Array]
"""`(noisy [batch, depth, x], t [batch] int, condition) -> clean [batch, depth, x]`."""


def kept_shares() -> np.ndarray:
    """alpha-bar `[STEPS]`: the share of the clean model's variance left at each t. Nichol & Dhariwal (2021), s = 0.008.

    A float64 product of 1 - beta with beta clipped at 0.999, as it is published.
    """
    shares = np.cos((np.arange(STEPS + 1) / STEPS + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.clip(1 - shares[1:] / shares[:-1], 0, 0.999))


@typed
def loss(predict: Predict, clean: Velocity, condition: Any, key: PRNGKeyArray) -> Float[Array, "batch"]:
    """|predict - clean|^2, mean over cells, at uniform t: `[batch]`."""
    time_key, noise_key = jax.random.split(key)
    time = jax.random.randint(time_key, clean.shape[:1], 0, STEPS)
    share = over(jnp.asarray(kept_shares(), jnp.float32)[time], clean)
    noise = jax.random.normal(noise_key, clean.shape)
    noisy = jnp.sqrt(share) * clean + jnp.sqrt(1 - share) * noise
    return jnp.mean((predict(noisy, time, condition) - clean) ** 2, axis=(1, 2))


@typed
def ddim(
    predicts: Sequence[Predict],
    conditions: tuple,
    shape: tuple[int, int, int],
    key: PRNGKeyArray,
    *,
    weights: Sequence[float],
    steps: int = 10,
    samples: int = 1,
    clamp: bool = True,
) -> Float[Array, "sample batch depth x"]:
    """Samples of the weighted mean of `predicts`, one condition each. `clamp=False` is for tests with wide models.

    Raises UserError unless the weights, one a network, sum to one, and for more steps than the schedule has.
    """
    if not 1 <= steps <= STEPS:
        raise UserError(f"DDIM: {steps} steps, expected 1 to {STEPS}")
    mean = weighted_mean(predicts, weights)
    shares = kept_shares()
    times = np.arange(0, STEPS, STEPS // steps) + 1
    times = np.minimum(times, STEPS - 1)
    levels = np.stack([shares[times], np.append(shares[0], shares[times[:-1]])], axis=1).astype(np.float32)

    def step(noisy: jax.Array, at: tuple) -> tuple[jax.Array, jax.Array]:
        time, (now, after) = at
        whole = jnp.full(shape[:1], time)
        clean = jax.vmap(lambda one: mean(one, whole, conditions))(noisy)
        noise = (noisy - jnp.sqrt(now) * clean) / jnp.sqrt(1 - now)
        clean = jnp.clip(clean, -1, 1) if clamp else clean
        return jnp.sqrt(after) * clean + jnp.sqrt(1 - after) * noise, clean

    noisy = jax.random.normal(key, (samples, *shape))
    cleans = jax.lax.scan(step, noisy, (jnp.asarray(times[::-1].copy()), jnp.asarray(levels[::-1].copy())))[1]
    return cleans[-1]


def as_predict(denoise: Denoise) -> Predict:
    """A denoiser of `edm.py` as a network of this process: noisy / sqrt(alpha-bar) has sigma^2 = 1 / alpha-bar - 1."""
    shares = jnp.asarray(kept_shares(), jnp.float32)

    def predict(noisy: Array, time: Array, condition: Any) -> jax.Array:
        share = shares[time]
        return denoise(noisy / over(jnp.sqrt(share), noisy), jnp.sqrt(1 / share - 1), condition)

    return predict

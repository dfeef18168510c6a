"""EDM: a network made into a denoiser by preconditioning, and its loss (Karras et al. 2022, arXiv 2206.00364).

Everything in this room sees velocity scaled to about [-1, 1] (`scale.py`), called clean, and noisy = clean + sigma n
with n standard normal. A denoiser is any function

    denoise(noisy [batch, depth, x], sigma [batch], condition) -> [batch, depth, x]

that estimates E[clean | noisy, condition]. The score of the noisy distribution is (denoise - noisy) / sigma^2
(Tweedie), so a denoiser is all that a sampler needs. `flow.py` is the other way to make one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array, Float, PRNGKeyArray, Velocity, typed

Denoise = Callable[[Any, Any, Any], jax.Array]
"""`(noisy [batch, depth, x], sigma [batch], condition) -> clean [batch, depth, x]`."""
Network = Callable[[Any, Any, Any], jax.Array]
"""`(values [batch, depth, x] of about unit size, log_sigma [batch] / 4, condition) -> [batch, depth, x]`."""


@dataclass(frozen=True)
class EDM:
    """EDM preconditioning: D = c_skip noisy + c_out F(c_in noisy, ln(sigma) / 4, condition)."""

    deviation: float = 0.5
    """Standard deviation of clean: 0.51 to 0.57 for OpenFWI's velocities scaled from 1500..4500 m/s to [-1, 1]."""
    log_mean: float = -1.2
    log_deviation: float = 1.2
    """In training ln(sigma) is normal with these."""

    def denoise(self, network: Network, noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        """The denoiser made of `network`. At sigma -> 0 it returns what it is given, at large sigma the network's."""
        total = jnp.sqrt(sigma**2 + self.deviation**2)
        skip, out = (self.deviation / total) ** 2, sigma * self.deviation / total
        answer = network(over(1 / total, noisy) * noisy, jnp.log(sigma) / 4, condition)
        return over(skip, noisy) * noisy + over(out, noisy) * answer

    @typed
    def loss(self, network: Network, clean: Velocity, condition: Any, key: PRNGKeyArray) -> Float[Array, "batch"]:
        """weight(sigma) |D - clean|^2, mean over cells, `[batch]`; weight = 1 / c_out^2, so that F's error counts 1."""
        level_key, noise_key = jax.random.split(key)
        normal = jax.random.normal(level_key, clean.shape[:1])
        sigma = jnp.exp(self.log_mean + self.log_deviation * normal)
        noisy = clean + over(sigma, clean) * jax.random.normal(noise_key, clean.shape)
        error = jnp.mean((self.denoise(network, noisy, sigma, condition) - clean) ** 2, axis=(1, 2))
        return error * (sigma**2 + self.deviation**2) / (sigma * self.deviation) ** 2


def over(values: Array, like: Array) -> jax.Array:
    """Values `[batch]` as `[batch, 1, 1]`: one for each model of `like`, whatever follows its batch axis."""
    values = jnp.broadcast_to(jnp.asarray(values), like.shape[:1])
    return values.reshape(like.shape[0], *(1 for _ in like.shape[1:]))

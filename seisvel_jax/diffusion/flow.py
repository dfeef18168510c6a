"""Flow matching behind the denoiser's interface (Lipman et al. 2022, arXiv 2210.02747; Liu et al. 2022, 2209.03003).

A straight path from clean to noise, z_t = (1 - t) clean + t n, and a network for its velocity n - clean. With
sigma = t / (1 - t) this is the noisy = z_t / (1 - t) of `edm.py`, so every sampler, composition and guidance here takes
a flow as it takes EDM. Euler steps in t on z and in sigma on noisy are the same numbers.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array, Float, PRNGKeyArray, Velocity, typed
from seisvel_jax.diffusion.edm import Network, over


@dataclass(frozen=True)
class Flow:
    """Flow matching with logit-normal times (Esser et al. 2024, arXiv 2403.03206)."""

    logit_mean: float = 0.0
    logit_deviation: float = 1.0
    """In training logit(t), which is ln(sigma), is normal with these."""

    def denoise(self, network: Network, noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        """clean = z_t - t F(z_t): the end of the path that the network's velocity points along."""
        time = sigma / (1 + sigma)
        along = over(1 - time, noisy) * noisy
        return along - over(time, noisy) * network(along, jnp.log(sigma) / 4, condition)

    @typed
    def loss(self, network: Network, clean: Velocity, condition: Any, key: PRNGKeyArray) -> Float[Array, "batch"]:
        """|F - (n - clean)|^2, mean over cells: `[batch]`."""
        time_key, noise_key = jax.random.split(key)
        log_sigma = self.logit_mean + self.logit_deviation * jax.random.normal(time_key, clean.shape[:1])
        noise = jax.random.normal(noise_key, clean.shape)
        time = over(jax.nn.sigmoid(log_sigma), clean)
        answer = network((1 - time) * clean + time * noise, log_sigma / 4, condition)
        return jnp.mean((answer - (noise - clean)) ** 2, axis=(1, 2))

"""Priors whose denoisers are known exactly, on models of 2 x 3 cells, and the moments of samples."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.diffusion.edm import over
from seisvel_jax.diffusion.sampler import sample

SHAPE = (2, 3)
CELLS = 6


@dataclass(frozen=True)
class Gaussian:
    """N(mean [cell], covariance [cell, cell]) and what follows from it, float64 on the host."""

    mean: np.ndarray
    covariance: np.ndarray

    def given(self, operator: np.ndarray, observed: np.ndarray, deviation: float) -> "Gaussian":
        """The posterior of observed = operator clean + deviation n."""
        across = self.covariance @ operator.T
        gain = across @ np.linalg.inv(operator @ across + deviation**2 * np.eye(len(operator)))
        mean = self.mean + gain @ (observed - operator @ self.mean)
        return Gaussian(mean, self.covariance - gain @ across.T)

    def denoise(self, noisy, sigma, condition=None):
        """E[clean | noisy] = mean + V S / (S + sigma^2) V^T (noisy - mean)."""
        sizes, axes = np.linalg.eigh(self.covariance)
        sizes, axes = jnp.asarray(sizes, jnp.float32), jnp.asarray(axes, jnp.float32)
        batch = noisy.shape[0]
        mean = jnp.broadcast_to(jnp.asarray(self.mean, jnp.float32), (batch, CELLS))
        shrink = sizes[None] / (sizes[None] + over(sigma, noisy)[:, :, 0] ** 2)
        along = (noisy.reshape(batch, CELLS) - mean) @ axes
        return (mean + (shrink * along) @ axes.T).reshape(noisy.shape)


@dataclass(frozen=True)
class Mixture:
    """sum_k weights[k] N(means[k], covariances[k])."""

    weights: np.ndarray
    parts: tuple[Gaussian, ...]

    @property
    def mean(self) -> np.ndarray:
        return sum(w * part.mean for w, part in zip(self.weights, self.parts))

    @property
    def covariance(self) -> np.ndarray:
        return sum(
            w * (part.covariance + np.outer(part.mean - self.mean, part.mean - self.mean))
            for w, part in zip(self.weights, self.parts)
        )

    def given(self, operator: np.ndarray, observed: np.ndarray, deviation: float) -> "Mixture":
        noise = deviation**2 * np.eye(len(operator))
        logs = []
        for weight, part in zip(self.weights, self.parts):
            total = operator @ part.covariance @ operator.T + noise
            miss = observed - operator @ part.mean
            logs.append(np.log(weight) - (np.linalg.slogdet(total)[1] + miss @ np.linalg.solve(total, miss)) / 2)
        weights = np.exp(np.asarray(logs) - max(logs))
        return Mixture(weights / weights.sum(), tuple(part.given(operator, observed, deviation) for part in self.parts))

    def denoise(self, noisy, sigma, condition=None):
        """Each part's answer in proportion to how likely noisy is under it."""
        batch = noisy.shape[0]
        answers, logs = [], []
        for weight, part in zip(self.weights, self.parts):
            sizes, axes = np.linalg.eigh(part.covariance)
            sizes, axes = jnp.asarray(sizes, jnp.float32), jnp.asarray(axes, jnp.float32)
            mean = jnp.broadcast_to(jnp.asarray(part.mean, jnp.float32), (batch, CELLS))
            along = (noisy.reshape(batch, CELLS) - mean) @ axes
            total = sizes[None] + over(sigma, noisy)[:, :, 0] ** 2
            logs.append(np.log(weight) - jnp.sum(jnp.log(total) + along**2 / total, axis=1) / 2)
            answers.append(part.denoise(noisy, sigma))
        shares = jax.nn.softmax(jnp.stack(logs), axis=0)
        return jnp.sum(shares[:, :, None, None] * jnp.stack(answers), axis=0)


def gaussian(seed: int = 0) -> Gaussian:
    """Neighbouring cells go together; deviations 0.3 to 0.6."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij"), -1).reshape(CELLS, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    deviations = rng.uniform(0.3, 0.6, CELLS)
    return Gaussian(rng.uniform(-0.4, 0.4, CELLS), np.exp(-apart / 1.5) * np.outer(deviations, deviations))


def mixture() -> Mixture:
    """Two geologies, 0.3 and 0.7, apart by about three deviations."""
    low, high = gaussian(1), gaussian(2)
    shift = np.linspace(0.3, 0.7, CELLS)
    return Mixture(
        np.asarray([0.3, 0.7]),
        (Gaussian(low.mean - shift, low.covariance / 4), Gaussian(high.mean + shift, high.covariance / 4)),
    )


def moments(samples) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[cell]` and covariance of `[sample, batch, depth, x]`."""
    flat = np.asarray(samples, np.float64).reshape(-1, CELLS)
    return flat.mean(0), np.cov(flat.T)


def gap(samples, exact) -> tuple[float, float]:
    """Largest error of the mean in exact deviations, and the covariance's relative error in the spectral norm."""
    mean, covariance = moments(samples)
    deviations = np.sqrt(np.diag(exact.covariance)) + 1e-6
    size = np.linalg.norm(exact.covariance, 2)
    return (
        float(np.max(np.abs(mean - exact.mean) / deviations)),
        float(np.linalg.norm(covariance - exact.covariance, 2) / size),
    )


def draw(denoise, config, condition=None, *, count: int = 6000, seed: int = 0) -> np.ndarray:
    """`[sample, 1, depth, x]` by one jitted program."""
    program = jax.jit(lambda key: sample(denoise, condition, (1, *SHAPE), key, config, samples=count))
    return np.asarray(program(jax.random.key(seed)))

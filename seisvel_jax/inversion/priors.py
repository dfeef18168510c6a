"""What is known of the ground before the data are looked at: `[batch]` values of velocity `[batch, depth, x]` in m/s.

Each is a mean over the cells, so that a weight means the same on every grid.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from seisvel_jax.inversion.config import InversionConfig

CORNER = 5.0
"""m/s a cell below which total variation is rounded off, so that it has a derivative at 0."""
NUGGET = 1e-2
"""Share of the Gaussian process' variance that is rough: makes its covariance invertible."""


def total_variation(velocity: Array, *, corner: float = CORNER) -> Array:
    """Mean of `sqrt(|grad v|^2 + corner^2) - corner` over the cells, in km/s a cell. Rudin, Osher & Fatemi (1992).

    Differences are forward ones, 0 beyond the last cell.
    """
    down = jnp.diff(velocity, axis=-2, append=velocity[..., -1:, :])
    across = jnp.diff(velocity, axis=-1, append=velocity[..., -1:])
    return jnp.mean(jnp.sqrt(down**2 + across**2 + corner**2) - corner, axis=(-2, -1)) / 1000


def total_variation_in_depth(velocity: Array, *, corner: float = CORNER, across: float = 30.0) -> Array:
    """The same of differences in depth alone, for flat layers: those in x are held down `across` times as strongly."""
    down = jnp.diff(velocity, axis=-2)
    side = jnp.diff(velocity, axis=-1)
    rounded = jnp.sqrt(down**2 + corner**2) - corner
    flat = jnp.sqrt(side**2 + corner**2) - corner
    cells = velocity.shape[-2] * velocity.shape[-1]
    return (rounded.sum((-2, -1)) + across * flat.sum((-2, -1))) / (1000 * cells)


def tikhonov(velocity: Array, reference: Array, *, sigma: float) -> Array:
    """Half the mean of `((v - reference) / sigma)^2`."""
    return 0.5 * jnp.mean(((velocity - reference) / sigma) ** 2, axis=(-2, -1))


def gaussian_factors(shape: tuple[int, int], length: float, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvectors along depth and x, and the inverse of the covariance's eigenvalues `[depth, x]`, in 1/(m/s)^2.

    The covariance is `sigma^2 (exp(-r^2 / (2 length^2)) + NUGGET [r = 0])`, a product over the axes but for the last
    term, so that two small eigenvalue problems solve the large one. Worked out in float64 on the host.
    """
    values, vectors = [], []
    for count in shape:
        places = np.arange(count)
        value, vector = np.linalg.eigh(np.exp(-((places[:, None] - places) ** 2) / (2 * length**2)))
        values.append(np.maximum(value, 0))
        vectors.append(vector)
    return vectors[0], vectors[1], 1 / (sigma**2 * (values[0][:, None] * values[1] + NUGGET))


def gaussian(velocity: Array, reference: Array, factors: tuple[Array, ...]) -> Array:
    """Half the mean over cells of `d C^-1 d`, d the distance to the reference: -log of the process' density a cell."""
    depth, x, inverse = (jnp.asarray(f, velocity.dtype) for f in factors)
    spectrum = jnp.einsum("zi,bzx,xj->bij", depth, velocity - reference, x, precision="highest")
    return 0.5 * jnp.mean(spectrum**2 * inverse[None], axis=(-2, -1))


def make_prior(config: InversionConfig, reference: Array) -> Callable[[Array], jax.Array] | None:
    """The prior of `config` around the reference `[batch, depth, x]`; None for none. A pytree."""
    if config.prior == "none" or config.prior_weight == 0:
        return None
    if config.prior == "tv":
        return jax.tree_util.Partial(total_variation)
    if config.prior == "tv1d":
        return jax.tree_util.Partial(total_variation_in_depth)
    if config.prior == "tikhonov":
        return jax.tree_util.Partial(tikhonov, reference=reference, sigma=config.sigma)
    depth, x = reference.shape[-2:]
    factors = tuple(jnp.asarray(f, reference.dtype) for f in gaussian_factors((depth, x), config.length, config.sigma))
    return jax.tree_util.Partial(gaussian, reference=reference, factors=factors)

"""Random numbers of several distributions out of uniform ones.

A generator needs dozens of them; drawn in one block they compile in a fraction of the time that as many calls take.
"""

import jax
import jax.numpy as jnp


def uniform(key: jax.Array, *shape: int) -> jax.Array:
    """A block of uniform variables `shape`, each row of which can be used for something else; never 0 or 1."""
    return jax.random.uniform(key, shape, minval=1e-6, maxval=1 - 1e-6)


def between(u: jax.Array, lowest: float | jax.Array, highest: float | jax.Array) -> jax.Array:
    """Uniform between the two."""
    return lowest + (highest - lowest) * u


def triangular(u: jax.Array, lowest: float, mode: float, highest: float) -> jax.Array:
    """Triangular with that mode, by the inverse of its distribution function."""
    span = highest - lowest
    rising = lowest + jnp.sqrt(u * span * (mode - lowest))
    return jnp.where(u * span < mode - lowest, rising, highest - jnp.sqrt((1 - u) * span * (highest - mode)))


def normal(u: jax.Array) -> jax.Array:
    """Normal with deviation 1, less than five deviations away."""
    return jnp.sqrt(2.0) * jax.lax.erf_inv(2 * u - 1)


def sign(u: jax.Array) -> jax.Array:
    """1 or -1."""
    return jnp.where(u < 0.5, 1.0, -1.0)

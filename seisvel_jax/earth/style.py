"""Random models in the manner of OpenFWI's Style families: continuous random fields over a gradient.

The originals are natural images after style transfer. What their second-order statistics say is a Gaussian process
(docs/earth.md): a squared exponential of one length, over a velocity that grows with depth.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Float, PRNGKeyArray, typed
from seisvel_jax.survey import Grid

SLOWEST, FASTEST = 1500.0, 4500.0
CENTRE, OFFSET = 3000.0, 1239.0
"""Mean and standard deviation (m/s) of a map's level before the limits cut it."""
FIELDS = {"a": ((32.0, 183.0),), "b": ((7.0, 158.0), (1.5, 58.0))}
"""Length scale and standard deviation (m/s) of each random field; lengths in seventieths of the width."""
GRADIENT = (0.1, 0.3)
"""Growth from top to bottom as a share of the range of velocities."""
WAVES = 256


@typed
def random_style(key: PRNGKeyArray, grid: Grid, kind: Literal["a", "b"]) -> Float[jax.Array, "depth x"]:
    """One model `[depth, x]` float32 m/s from 1500 to 4500; jit and vmap over `key`."""
    k = jax.random.split(key, 4)
    depth = (jnp.arange(grid.depth_count, dtype=jnp.float32) + 0.5) * grid.spacing / grid.extent[1]
    x = (jnp.arange(grid.x_count, dtype=jnp.float32) + 0.5) * grid.spacing / grid.extent[1]
    growth = (FASTEST - SLOWEST) * jax.random.uniform(k[0], minval=GRADIENT[0], maxval=GRADIENT[1])
    velocity = jnp.broadcast_to(growth * jnp.linspace(0.0, 1.0, grid.depth_count)[:, None], grid.shape)
    for i, (length, deviation) in enumerate(FIELDS[kind]):
        velocity = velocity + deviation * gaussian_field(jax.random.fold_in(k[1], i), depth, x, length / 70)
    # The level is drawn from the part of its normal distribution that keeps the whole map within the limits;
    # the rare field whose own range is wider than the limits is squeezed into them.
    velocity = velocity - velocity.min()
    velocity = velocity * jnp.minimum(1.0, 0.99 * (FASTEST - SLOWEST) / velocity.max())
    lowest, highest = SLOWEST, FASTEST - velocity.max()
    centre = CENTRE - 0.5 * velocity.max()
    normal = jax.random.truncated_normal(k[2], (lowest - centre) / OFFSET, (highest - centre) / OFFSET)
    return jnp.clip(velocity + centre + OFFSET * normal, SLOWEST, FASTEST)


def gaussian_field(key: PRNGKeyArray, depth: jax.Array, x: jax.Array, length: float) -> jax.Array:
    """A Gaussian process `[depth, x]` of variance 1 and covariance exp(-r^2 / (2 length^2)), on any nodes.

    Random Fourier features (Rahimi and Recht 2007): cosines whose wave numbers are normal with deviation 1 / length.
    cos(a + b) = cos a cos b - sin a sin b makes it two products of matrices.
    """
    k = jax.random.split(key, 2)
    down, across = jax.random.normal(k[0], (2, WAVES)) / length
    a = depth[:, None] * down[None, :] + jax.random.uniform(k[1], (1, WAVES), maxval=2 * np.pi)
    b = x[None, :] * across[:, None]
    product = partial(jnp.matmul, precision="highest")
    return jnp.sqrt(2 / WAVES) * (product(jnp.cos(a), jnp.cos(b)) - product(jnp.sin(a), jnp.sin(b)))

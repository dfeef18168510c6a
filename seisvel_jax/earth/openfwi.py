"""Random models in the manner of OpenFWI's layered families: flat or curved layers, cut by faults, integer m/s.

After the published rules (Deng et al. 2022): interfaces are displaced by a few sines, faults shift what lies on one
side of an inclined line. Not a copy of their generator, which was never released.
"""

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Float, PRNGKeyArray, typed
from seisvel_jax.survey import Grid

SLOWEST, FASTEST = 1500, 4500
LAYERS = 8
SINES = 5


@typed
def random_model(
    key: PRNGKeyArray, grid: Grid, *, curved: float = 0.6, faults: int = 2, ordered: float = 0.5
) -> Float[jax.Array, "depth x"]:
    """One model `[depth, x]` float32, integer m/s from 1500 to 4500; jit and vmap over `key`.

    `curved`: share of models whose interfaces are curves. `faults`: up to so many. `ordered`: share of models whose
    velocity grows with depth (the A families); in the others (B) any order may occur.
    """
    k = jax.random.split(key, 12)
    depth_extent, width = grid.extent
    depth = jnp.arange(grid.depth_count, dtype=jnp.float32)[:, None] * grid.spacing
    x = jnp.arange(grid.x_count, dtype=jnp.float32)[None, :] * grid.spacing

    # Faults first: they carry a point back to where its rock lay before it slipped.
    present = jnp.arange(faults) < jax.random.randint(k[0], (), 0, faults + 1)
    foot = width * jax.random.uniform(k[1], (faults,), minval=0.1, maxval=0.9)
    slope = jax.random.uniform(k[2], (faults,), minval=-1.2, maxval=1.2)
    throw = depth_extent * jnp.where(present, jax.random.uniform(k[3], (faults,), minval=-0.2, maxval=0.2), 0.0)
    for i in range(faults):
        beyond = x - foot[i] > slope[i] * (depth - depth_extent / 2)
        depth = depth + jnp.where(beyond, throw[i], 0.0)

    # Each interface is the one above it, displaced again by a few sines.
    count = jax.random.randint(k[4], (), 3, LAYERS + 1)
    share = jnp.where(jnp.arange(LAYERS) < count, jax.random.uniform(k[5], (LAYERS,), minval=0.5, maxval=1.5), 0.0)
    level = depth_extent * jnp.cumsum(share) / share.sum()
    waves = jnp.arange(1, SINES + 1, dtype=jnp.float32)
    amplitude = 0.02 * depth_extent * jax.random.normal(k[6], (LAYERS, SINES)) / waves[None]
    amplitude = jnp.where(jax.random.bernoulli(k[7], curved), amplitude, 0.0)
    phase = jax.random.uniform(k[8], (LAYERS, SINES), maxval=2 * np.pi)
    angle = 2 * np.pi * waves[None, :, None] * (x / width)[None] + phase[..., None]
    bend = jnp.cumsum((amplitude[..., None] * jnp.sin(angle)).sum(1), 0)  # [layer, x]
    interface = jax.lax.cummax(level[:, None] + bend, axis=0)
    layer = (depth[None] >= interface[:-1, None]).sum(0)  # [depth, x]
    layer = jnp.minimum(layer, count - 1)

    velocity = jax.random.randint(k[9], (LAYERS,), SLOWEST, FASTEST + 1)
    # Sorting pads with the largest value, so that unused layers stay last.
    rising = jnp.sort(jnp.where(jnp.arange(LAYERS) < count, velocity, FASTEST + 1))
    velocity = jnp.where(jax.random.bernoulli(k[10], ordered), rising, velocity)
    return velocity[layer].astype(jnp.float32)

"""Random models in the manner of the Speed and Structure challenge: water, thin layers on compaction trends, salt.

Written from the published trends and from statistics of slices (docs/physics.md), not from any data. All draws are of
continuous geology in metres and the grid only samples it: one key is one earth at any spacing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Float, PRNGKeyArray, typed
from seisvel_jax.survey import Grid

WATER, SALT, FASTEST_ROCK = 1500.0, 4500.0, 4300.0
COMPACTION = 4.0
"""Metres of burial in the trends for each metre of the model: the generator's cubes are sampled every 4 m."""
SHALLOWEST_SEABED, DEEPEST_SEABED = 70.0, 650.0
LAYERS = 384
FAULTS = 3


@typed
def random_model(key: PRNGKeyArray, grid: Grid) -> Float[jax.Array, "depth x"]:
    """One model `[depth, x]` float32 m/s on `grid`; jit and vmap over `key` (the grid is static)."""
    keys = jax.random.split(key, 8)
    depth = jnp.arange(grid.depth_count, dtype=jnp.float32)[:, None] * grid.spacing
    x = jnp.arange(grid.x_count, dtype=jnp.float32)[None, :] * grid.spacing
    width = grid.extent[1]

    level = 290.0 * jnp.exp(0.38 * jax.random.truncated_normal(keys[0], -2.2, 2.2))
    relief = _relief(keys[1], x, width, tilt=100.0, fold=48.0)
    seabed = jnp.clip(level + relief, SHALLOWEST_SEABED, DEEPEST_SEABED)  # [1, x]
    burial = depth - seabed  # [depth, x]

    strata = _strata(keys[2], depth, x, level=level, relief=relief, width=width)
    rock = _rock(keys[3], strata, burial)
    salt = _inside_salt(keys[4], depth, x, width, level)
    velocity = jnp.where(salt & (burial > 0), SALT, rock)
    return jnp.where(burial < 0, WATER, velocity)


def _relief(key: PRNGKeyArray, x: jax.Array, width: float, *, tilt: float, fold: float) -> jax.Array:
    """A surface `[1, x]` about 0 in metres: a tilt across the model, two folds and some roughness."""
    k = jax.random.split(key, 4)
    slope = tilt * jax.random.normal(k[0]) * (x / width - 0.5)
    shortest = jnp.asarray([180.0, 90.0, 25.0])
    longest = jnp.asarray([700.0, 250.0, 80.0])
    height = jnp.asarray([fold, fold / 5, fold / 25])
    wavelength = shortest * (longest / shortest) ** jax.random.uniform(k[1], (3,))
    amplitude = height * jax.random.normal(k[2], (3,))
    phase = jax.random.uniform(k[3], (3,), maxval=2 * np.pi)
    waves = amplitude[:, None] * jnp.sin(2 * np.pi * x / wavelength[:, None] + phase[:, None])
    return slope + waves.sum(0, keepdims=True)


def _strata(
    key: PRNGKeyArray, depth: jax.Array, x: jax.Array, *, level: jax.Array, relief: jax.Array, width: float
) -> jax.Array:
    """Stratigraphic height `[depth, x]` in metres below the seabed's own layer: its level sets are the bedding."""
    k = jax.random.split(key, 8)
    # Normal faults: what lies above the inclined plane has slipped down, so it shows what was once above.
    side = jnp.where(jax.random.bernoulli(k[0], 0.5, (FAULTS,)), 1.0, -1.0)
    foot = jax.random.uniform(k[1], (FAULTS,), minval=-0.2 * width, maxval=1.2 * width)
    steep = jnp.tan(jnp.deg2rad(jax.random.uniform(k[2], (FAULTS,), minval=55.0, maxval=80.0)))
    throw = 5.0 + 35.0 * jax.random.uniform(k[3], (FAULTS,)) ** 2
    throw = jnp.where(jax.random.bernoulli(k[4], 0.35, (FAULTS,)), throw, 0.0)
    top = level + jax.random.uniform(k[5], (FAULTS,), minval=30.0, maxval=500.0)  # throws grow from here on down
    middle = 600.0
    slipped = jnp.zeros((depth.shape[0], x.shape[1]))
    for i in range(FAULTS):
        hanging = jax.nn.sigmoid((side[i] * (x - foot[i]) - (depth - middle) / steep[i]) / 2.0)
        slipped = slipped + throw[i] * jnp.clip((depth - top[i]) / 100.0, 0.0, 1.0) * hanging
    depth = depth - slipped
    # The folds of the seabed fade into those of older rock with depth.
    old_relief = 0.6 * relief + _relief(k[6], x, width, tilt=50.0, fold=30.0)
    young = jnp.exp(-jnp.maximum(depth - level, 0.0) / 700.0)
    strata = depth - level - young * relief - (1 - young) * old_relief
    # An unconformity: rock below it was tilted before the rest was laid down on it.
    k = jax.random.split(k[7], 3)
    erosion = jax.random.uniform(k[0], minval=100.0, maxval=1000.0)
    tilt = jnp.where(jax.random.bernoulli(k[2], 0.3), 60.0 * jax.random.normal(k[1]), 0.0)
    return strata + jnp.where(strata > erosion, tilt * (x / width - 0.5) + 300.0, 0.0)


def _rock(key: PRNGKeyArray, strata: jax.Array, burial: jax.Array) -> jax.Array:
    """Shale and sand in layers of a few metres, each on its compaction trend, `[depth, x]` m/s."""
    k = jax.random.split(key, 8)
    thickness = 4.0 * jnp.exp(0.7 * jax.random.normal(k[0], (LAYERS,)))
    base = jnp.cumsum(thickness) - 150.0  # folds lift strata above the seabed's own layer
    layer = jnp.clip(jnp.searchsorted(base, strata.reshape(-1)), 0, LAYERS - 1).reshape(strata.shape)

    share = jax.random.uniform(k[1], minval=0.1, maxval=0.5)
    # Sands come in bundles: a slow wave through the column makes some intervals sandier,
    bundle = jnp.sin(2 * np.pi * (base / jax.random.uniform(k[2], minval=60.0, maxval=300.0)) + 6.0 * share)
    # and the youngest ones are muddy.
    young = jnp.exp(-jnp.maximum(base, 0.0) / 60.0)
    is_sand = jax.random.uniform(k[3], (LAYERS,)) < share * (1 + 0.8 * bundle) * (1 - 0.5 * young)
    sand = jnp.where(is_sand, jax.random.uniform(k[4], (LAYERS,), minval=0.45, maxval=1.0) * (1 - 0.5 * young), 0.0)
    # A layer looks as if it had been buried deeper or less deep than it lies; the whole model a little, too.
    history = 14.0 * jax.random.normal(k[5]) + 40.0 * jax.random.normal(k[6], (LAYERS,))
    quality = 1 + 0.008 * jax.random.normal(k[7], (LAYERS,))

    burial = jnp.maximum(burial, 0.0)
    z = COMPACTION * jnp.maximum(burial + history[layer] * jnp.minimum(burial / 150.0, 1.0), 0.0)
    shale_velocity = -0.00013 * z**2 + 1.13 * z + 1580.0
    sand_velocity = -1.34e-5 * z**2 + 0.49 * z + 2317.0
    velocity = shale_velocity + sand[layer] * (sand_velocity - shale_velocity)
    return jnp.clip(velocity * quality[layer], 1505.0, FASTEST_ROCK)


def _inside_salt(key: PRNGKeyArray, depth: jax.Array, x: jax.Array, width: float, level: jax.Array) -> jax.Array:
    """Where a body of salt lies, `[depth, x]` bool: in a quarter of the models, a drop that narrows downwards."""
    k = jax.random.split(key, 7)
    exists = jax.random.bernoulli(k[0], 0.24)
    centre = width * jax.random.uniform(k[1], minval=-0.05, maxval=1.05)
    top = level + jax.random.uniform(k[2], minval=120.0, maxval=600.0)
    height = jax.random.uniform(k[3], minval=60.0, maxval=480.0)
    half_width = jnp.minimum(jax.random.uniform(k[4], minval=25.0, maxval=95.0), 0.7 * height)
    part = (depth - top) / height
    drop = jnp.minimum(jnp.sqrt(jnp.clip(part / 0.2, 0.0, 1.0)), jnp.clip((1 - part) / 0.8, 0.0, 1.0) ** 0.8)
    phase = jax.random.uniform(k[5], (2,), maxval=2 * np.pi)
    lean = 25.0 * jax.random.normal(k[6]) * part
    rough = 1 + 0.15 * jnp.sin(depth / 17.0 + phase[0]) * jnp.sin(depth / 41.0 + phase[1])
    return exists & (part > 0) & (part < 1) & (jnp.abs(x - centre - lean) < half_width * drop * rough)

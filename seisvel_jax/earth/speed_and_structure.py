"""Random models in the manner of the Speed and Structure challenge: water, thin layers on compaction trends, salt.

A section of a sedimentary basin (docs/earth.md): a stack of layers with unconformities (`strata`), cut by normal faults
(`faults`), of shale and sand (`rock`), incised by channels, pierced by salt (`salt`). Everything is in metres and the
grid only samples it: down a column the earth is averaged over 1 m, so one key is one earth at any spacing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Float, PRNGKeyArray, typed
from seisvel_jax.earth import draws
from seisvel_jax.earth.faults import random_slip
from seisvel_jax.earth.rock import random_rock, velocity
from seisvel_jax.earth.salt import random_salt
from seisvel_jax.earth.strata import random_stack
from seisvel_jax.survey import Grid

WATER, SALT, FASTEST_ROCK = 1500.0, 4500.0, 4340.0
COMPACTION = 4.0
"""Metres of burial in the trends for each metre of the model: the generator's cubes are sampled every 4 m."""
OOZE = 0.4
"""Metres of freshest shale above the first layer: how much higher the seabed lies than it."""
CHANNELS = 2
CHANNEL_SHARE = 0.3
"""Of the models are cut by each of the channels."""


@typed
def random_model(key: PRNGKeyArray, grid: Grid) -> Float[jax.Array, "depth x"]:
    """One model `[depth, x]` float32 m/s on `grid`; jit and vmap over `key` (the grid is static)."""
    k = jax.random.split(key, 5)
    extent, width = grid.extent
    x = jnp.arange(grid.x_count, dtype=jnp.float32) * grid.spacing
    stack = random_stack(k[0], x, depth=extent, width=width)
    seabed = stack.top[0]
    layers = stack.top.shape[0]
    rock = random_rock(k[1], layers)

    # Cells of 1 m; their edges in the depths at which the rock lay before it slipped.
    cells = int(np.ceil(extent - 1e-3))
    edge = jnp.arange(cells + 1, dtype=jnp.float32)[:, None] - 0.5
    before = edge - random_slip(k[2], edge, x[None], deepest=stack.deepest, width=width)
    below = _layer_at(stack.top, before)
    # Layer 0 is water, layer i + 1 the stack's layer i. A cell between two edges lies in one layer or is shared.
    upper, lower = below[:-1], below[1:]
    tops = jnp.concatenate([jnp.zeros((1, x.size)), stack.top])
    share = (jnp.take_along_axis(tops, lower, 0) - before[:-1]) / jnp.maximum(before[1:] - before[:-1], 1e-3)
    share = jnp.where(upper == lower, 1.0, jnp.clip(share, 0.0, 1.0))
    buried = jnp.concatenate([jnp.zeros((1, x.size)), stack.base - seabed[None]])
    buried = jnp.take_along_axis(buried, below, 0)
    burial = COMPACTION * jnp.maximum(share * buried[:-1] + (1 - share) * buried[1:], 0.0)  # [cell, x]

    # From here on only the cells that hold nodes.
    node = np.minimum(np.rint(np.arange(grid.depth_count) * grid.spacing), cells - 1).astype(int)
    share, upper, lower = share[node], upper[node], lower[node]
    layer = jnp.where((share >= 0.5) & (upper > 0), upper, lower)
    sand_of, shale_shift, sand_shift = (jnp.concatenate([jnp.zeros(1), each]) for each in rock)
    sand = share * sand_of[upper] + (1 - share) * sand_of[lower]
    sand = _channels(k[3], sand, 0.5 * (before[node] + before[node + 1]), stack.top, x=x / width, width=width)

    def shifted(shift: jax.Array) -> jax.Array:
        row = node[:, None] + jnp.round(shift).astype(int)[layer]
        return jnp.take_along_axis(burial, jnp.clip(row, 0, cells - 10), 0)

    found = velocity(shifted(shale_shift), shifted(sand_shift), sand)
    found = jnp.clip(found, WATER + 5.0, FASTEST_ROCK)
    depth = jnp.arange(grid.depth_count, dtype=jnp.float32)[:, None] * grid.spacing
    salt = random_salt(k[4], depth, x[None], deepest=stack.deepest, width=width)
    # A cell with any rock in it is not water.
    return jnp.where(edge[1:][node] <= seabed[None] - OOZE, WATER, jnp.where(salt, SALT, found))


def _layer_at(tops: jax.Array, depth: jax.Array) -> jax.Array:
    """How many of `tops` `[layer, x]` (sorted) lie at or above each `depth` `[cell, x]` in its column.

    Counted on whole metres, from where a few steps lead on: a search would read the memory three times as often. Only
    where layers of a few centimetres wedge out may it stop short of the last of them.
    """
    cells, columns = depth.shape
    whole = jnp.clip(jnp.ceil(tops), 0, cells).astype(int)
    column = jnp.broadcast_to(jnp.arange(columns), whole.shape)
    above = jnp.cumsum(jnp.zeros((cells + 1, columns), int).at[whole, column].add(1), 0)
    found = jnp.take_along_axis(above, jnp.clip(jnp.floor(depth), 0, cells).astype(int), 0)
    end = tops.shape[0] - 1
    for _ in range(2):
        following = jnp.take_along_axis(tops, jnp.minimum(found, end), 0)
        found = found + ((following <= depth) & (found <= end)).astype(int)
    return jnp.where(depth < 0, 0, found)


def _channels(
    key: jax.Array, sand: jax.Array, before: jax.Array, tops: jax.Array, *, x: jax.Array, width: float
) -> jax.Array:
    """The share of sand `[cell, x]` with channels filled: incised from a layer's top, sandy or muddy all through.

    `x`: positions as shares of the `width` in metres.
    """
    u = draws.uniform(key, 6, CHANNELS)
    exists = u[0] < CHANNEL_SHARE
    at = draws.between(u[1], 10.0, 0.6 * tops.shape[0]).astype(int)
    wide = draws.between(u[3], 15.0, 80.0)
    deep = wide * draws.between(u[4], 0.12, 0.3)
    fill = jnp.maximum(draws.between(u[5], -0.3, 0.9), 0.0)
    for i in range(CHANNELS):
        cut = deep[i] * (1 - ((x - u[2, i]) * width / wide[i]) ** 2)  # metres below the layer's top
        into = before - tops[at[i]][None]
        sand = jnp.where(exists[i] & (into > 0) & (into < cut[None]), fill[i], sand)
    return sand

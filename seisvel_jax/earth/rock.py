"""What the layers are made of: shale and sand, their compaction trends and the scatter about them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seisvel_jax.earth import draws

UNSCATTERED = 20
"""So many layers below the seabed follow the trends exactly."""
HISTORY = (35.0, 75.0, 125.0)
"""Metres (least, most likely, most over the models): how much deeper or less deep a layer may seem to lie."""
SCATTER = (5.0, 11.0, 20.0)
"""The same, for each kind of rock in a layer."""


class Rock(NamedTuple):
    """Properties of the layers of a stack, each `[layer]`."""

    sand: jax.Array
    """Share of sand in a layer, 0 in shale."""
    shale_shift: jax.Array
    """Metres: a layer's shale has the velocity of the depth so far below (above where negative)."""
    sand_shift: jax.Array
    """The same of its sand."""


def random_rock(key: jax.Array, layers: int) -> Rock:
    """Shale with beds of sand, two layers thick on average, in 5 to 25 % of the layers; the youngest is of either."""
    u = draws.uniform(key, 6, layers)
    # A two-state Markov chain. One uniform variable a layer decides: below `begin` the layer is sand whatever lies
    # above it, above one half (sand ends in every second layer) it is shale; between, it is like the one before.
    share = draws.between(u[0, 0], 0.05, 0.25)
    begin = share / (2 * (1 - share))
    decided = jnp.where((u[1] < begin) | (u[1] > 0.5), jnp.arange(layers), 0)
    last = jax.lax.cummax(decided)
    is_sand = u[1][last] < jnp.where(last == 0, 0.5, begin)
    sand = jnp.where(is_sand, draws.between(u[2], 0.45, 0.9), 0.0)

    deep = jnp.arange(layers) >= UNSCATTERED
    history = draws.triangular(u[0, 1], *HISTORY) * (2 * u[3] - 1)
    scatter = draws.triangular(u[0, 2], *SCATTER)
    shale, brine = history + scatter * (2 * u[4] - 1), history + scatter * (2 * u[5] - 1)
    return Rock(sand, jnp.where(deep, shale, 0.0), jnp.where(deep, brine, 0.0))


def velocity(shale_burial: jax.Array, sand_burial: jax.Array, sand: jax.Array) -> jax.Array:
    """m/s of shale with a share of sand: the trends at metres of burial, mixed in travel time (Wyllie et al. 1956)."""
    z = shale_burial
    shale = -0.00013 * z**2 + 1.13 * z + 1580.0
    z = sand_burial
    brine = -1.34e-5 * z**2 + 0.49 * z + 2317.0
    return 1 / ((1 - sand) / shale + sand / brine)

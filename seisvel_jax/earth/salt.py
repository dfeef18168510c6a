"""A body of salt in a section: a cone up to a tip and a long taper down, cut beside its axis."""

import jax
import jax.numpy as jnp

from seisvel_jax.earth import draws

SHARE = 0.24
"""Of the models hold salt."""


def random_salt(key: jax.Array, depth: jax.Array, x: jax.Array, *, deepest: jax.Array, width: float) -> jax.Array:
    """Where the salt lies, `[depth, x]` bool, at `depth` `[depth, 1]` and `x` `[1, x]` in metres.

    `deepest`: metres of the deepest seabed, below which it ends.
    """
    u = draws.uniform(key, 27)
    exists = u[0] < SHARE
    size = draws.between(u[1], 50.0, 72.0)
    top = deepest + draws.between(u[2], 120.0, 320.0)
    centre = width * u[3]
    height = jnp.minimum(size * draws.between(u[4], 2.3, 12.5), 1100.0 - top)
    lean = 0.15 * width * draws.normal(u[5])
    aside = 0.97 * size * u[6]  # from the body's axis to the section
    # Depths and radii at the tip, the shoulders, the foot and the end, a little different on either side.
    uneven = draws.normal(u[7:27]).reshape(2, 2, 5)
    levels = size * jnp.asarray([[0.0, 0.1, 1.0, 1.0, 1.5]]) + height * jnp.asarray([[0.0, 0.0, 0.0, 1.0, 1.0]])
    levels = top + levels + 0.05 * size * uneven[0]
    radii = size * jnp.asarray([[0.0, 0.22, 1.0, 0.11, 0.0]]) * (1 + 0.06 * uneven[1])
    axis = centre + lean * jnp.clip((depth - top - size) / height, 0.0, 1.2)
    radius = [jnp.interp(depth, levels[side], radii[side], left=-1.0, right=-1.0) for side in (0, 1)]
    half = [jnp.sqrt(jnp.where(r > aside, r**2 - aside**2, 0.0)) for r in radius]
    return exists & (x > axis - half[0]) & (x < axis + half[1])

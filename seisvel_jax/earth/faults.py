"""Normal faults in a section: how far the rock at each point has slipped down.

The hanging wall slips by a throw that is largest at some depth, dies out upwards before the seabed and with distance
from the fault (so its beds roll over); friction drags the beds beside the fault: up in the hanging wall, down in the
footwall.
"""

import jax
import jax.numpy as jnp

from seisvel_jax.earth import draws

FAULTS = 5
SMALLEST_THROW, LARGEST_THROW = 5.0, 35.0
"""Metres, where a fault has its largest throw; a section seldom passes there."""
FLATTEST, STEEPEST = 55.0, 85.0
"""Degrees of dip."""
REACH = 130.0
"""Metres from the fault over which the slip of the largest throw dies out; smaller ones reach less far."""
NO_MORE_THAN = (0.3, 0.5, 0.7, 0.85, 0.95)
"""Shares of the models with at most 0, 1, .. 4 faults."""
DRAG, DRAGGED = 0.3, 8.0
"""Share of the throw that friction takes up beside the fault, and the metres over which it fades."""


def random_slip(key: jax.Array, depth: jax.Array, x: jax.Array, *, deepest: jax.Array, width: float) -> jax.Array:
    """Metres `[depth, x]` by which the rock now at `depth` `[depth, 1]`, `x` `[1, x]` has moved down.

    `deepest`: metres of the deepest seabed, which no fault reaches.
    """
    u = draws.uniform(key, 8, FAULTS)
    # Several faults of one model dip the same way more often than not.
    count = (u[0, 0] > jnp.asarray(NO_MORE_THAN)).sum()
    lean = jnp.where(u[1] < 0.8, 1.0, -1.0) * draws.sign(u[0, 1])
    foot = draws.between(u[2], -0.2 * width, 1.2 * width)
    steep = jnp.tan(jnp.deg2rad(draws.between(u[3], FLATTEST, STEEPEST)))
    # The section passes each fault at some distance from the middle of it.
    throw = draws.between(u[4], SMALLEST_THROW, LARGEST_THROW)
    reach = REACH * (throw / LARGEST_THROW) ** 0.66
    throw = jnp.where(jnp.arange(FAULTS) < count, throw * jnp.exp(-2 * u[5] ** 2), 0.0)
    spread = draws.between(u[6], 100.0, 300.0)
    middle = deepest + 1.6 * spread + 500.0 * u[7]

    def of_each(values: jax.Array) -> jax.Array:
        return values[:, None, None]

    # Metres from each fault, `[fault, depth, x]`, positive in the hanging wall.
    beyond = of_each(lean) * (x[None] - of_each(foot)) - (depth[None] - of_each(middle)) / of_each(steep)
    size = of_each(throw) * jnp.exp(-(((depth[None] - of_each(middle)) / of_each(spread)) ** 4))
    drag = DRAG * jnp.exp(-jnp.abs(beyond) / DRAGGED)
    hanging = jnp.exp(-0.5 * (beyond / of_each(reach)) ** 2) * (1 - drag)
    return (size * jnp.where(beyond > 0, hanging, drag)).sum(0)

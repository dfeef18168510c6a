"""Random models by the published rules of OpenFWI's layered families: whole m/s, flat or curved layers, faults.

After Deng et al. 2022 ("OpenFWI") and what the maps themselves show; their generator was never released and nothing of
it is copied. Lengths are shares of the map, so the same key is the same earth on any grid of the same extent.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Float, PRNGKeyArray, typed
from seisvel_jax.earth import draws
from seisvel_jax.earth.style import random_style
from seisvel_jax.survey import Grid

SLOWEST, FASTEST = 1500, 4500
LAYERS = 8
SINES = 5
LARGEST_THROW = 0.28
"""Share of the depth; the smallest is 0.08."""


@dataclass(frozen=True)
class Rule:
    """What a layered family allows. Static."""

    curved: bool
    """Interfaces are sums of sines instead of flat."""
    counts: tuple[int, ...]
    """Numbers of layers that occur; the likelihood of each is in `weights`."""
    weights: tuple[float, ...]
    rising: bool
    """Velocity grows with depth, in a column that no fault crosses."""
    faults: tuple[int, int] = (0, 0)
    """Fewest and most faults. Where there may be several, the first one parts blocks of different rock (each has
    its own layers and velocities, as in the genuine CurveFault-B maps); the others only displace."""


_VEL = ((3, 4, 5, 6, 7, 8), (0.5, 1.0, 1.0, 1.0, 1.0, 0.5))
_FAULT_A, _FAULT_B = ((2, 3, 4), (1.0,) * 3), ((6, 7, 8), (1.0,) * 3)
RULES = {
    "flatvel-a": Rule(False, *_VEL, rising=True),
    "flatvel-b": Rule(False, *_VEL, rising=False),
    "curvevel-a": Rule(True, *_VEL, rising=True),
    "curvevel-b": Rule(True, *_VEL, rising=False),
    "flatfault-a": Rule(False, *_FAULT_A, rising=True, faults=(1, 1)),
    "flatfault-b": Rule(False, *_FAULT_B, rising=True, faults=(2, 4)),
    "curvefault-a": Rule(True, *_FAULT_A, rising=True, faults=(1, 1)),
    "curvefault-b": Rule(True, *_FAULT_B, rising=True, faults=(2, 4)),
}
STYLES = ("style-a", "style-b")


def random_model(key: PRNGKeyArray, grid: Grid) -> Float[jax.Array, "depth x"]:
    """One model `[depth, x]` float32 m/s of one of the ten families, each as likely; jit and vmap over `key`."""
    choice, draw = jax.random.split(key)
    families = [lambda k, rule=rule: random_layers(k, grid, rule) for rule in RULES.values()]
    families += [lambda k, kind=kind: random_style(k, grid, kind) for kind in ("a", "b")]
    return jax.lax.switch(jax.random.randint(choice, (), 0, len(families)), families, draw)


@typed
def random_layers(key: PRNGKeyArray, grid: Grid, rule: Rule) -> Float[jax.Array, "depth x"]:
    """One model `[depth, x]` float32, integer m/s from 1500 to 4500, under `rule`; jit and vmap over `key`."""
    k = jax.random.split(key, 4)
    depth = (jnp.arange(grid.depth_count, dtype=jnp.float32)[:, None] + 0.5) / grid.depth_count
    x = (jnp.arange(grid.x_count, dtype=jnp.float32)[None, :] + 0.5) / grid.x_count

    likely = np.cumsum(rule.weights) / np.sum(rule.weights)
    count = jnp.asarray(rule.counts)[(draws.uniform(k[0], 1) > jnp.asarray(likely[:-1], jnp.float32)).sum()]
    rock_depth, beyond_first = _carried_back(k[1], depth, x, rule)
    velocity = _block(k[2], rock_depth, x, count, rule)
    if rule.faults[1] > 1:
        velocity = jnp.where(beyond_first, _block(k[3], rock_depth, x, count, rule), velocity)
    return velocity.astype(jnp.float32)


def _carried_back(key: jax.Array, depth: jax.Array, x: jax.Array, rule: Rule) -> tuple[jax.Array, jax.Array]:
    """The depth `[depth, x]` at which the rock of a point lay before it slipped, and what lies beyond fault 0."""
    fewest, most = rule.faults
    beyond_first = jnp.zeros((depth.shape[0], x.shape[1]), bool)
    depth = jnp.broadcast_to(depth, beyond_first.shape)
    u = draws.uniform(key, 7, max(most, 1))
    faults = fewest + (u[6, 0] * (most - fewest + 1)).astype(int)
    # Feet are spread over the width: one a stripe, the stripes in random order.
    stripe = jnp.argsort(u[0]).astype(jnp.float32)
    foot = 0.15 + 0.7 * (stripe + draws.between(u[1], 0.2, 0.8)) / max(most, 1)
    slope = draws.sign(u[2]) * draws.between(u[3], 0.15, 0.8)
    throw = draws.sign(u[4]) * draws.between(u[5], 0.08, LARGEST_THROW)
    middle = depth
    for i in range(most):
        beyond = (x - foot[i] > slope[i] * (middle - 0.5)) & (i < faults)
        beyond_first = beyond if i == 0 else beyond_first
        depth = depth + jnp.where(beyond, throw[i], 0.0)
    # Half of the slip on either side, so that the layers stay within the map.
    return depth - 0.5 * jnp.where(jnp.arange(len(stripe)) < faults, throw, 0.0).sum(), beyond_first


def _block(key: jax.Array, depth: jax.Array, x: jax.Array, count: jax.Array, rule: Rule) -> jax.Array:
    """Velocity `[depth, x]` of `count` layers at `depth`; none is thinner than 4 % of the map where they are flat."""
    k = jax.random.split(key, 2)
    u = draws.uniform(k[0], 4, LAYERS)
    used = jnp.arange(LAYERS) < count
    share = jnp.where(used, draws.between(u[0], 0.5, 1.5), 0.0)
    # Below layer i; fault families keep to the middle of the map, since slip carries layers out of it.
    margin = 0.1 if rule.faults[1] else 0.0
    level = margin + (1 - 2 * margin) * jnp.cumsum(share) / share.sum()
    if rule.curved:
        # Interface i is interface i - 1 displaced by sines of periods 1/1 .. 1/5 of the width; nearly parallel.
        waves = jnp.arange(1, SINES + 1, dtype=jnp.float32)
        fall = u[1, :SINES] / jnp.sqrt(waves)
        size = jnp.where(jnp.arange(LAYERS) == 0, draws.between(u[1, SINES], 0.03, 0.25), 0.008)
        amplitude = size[:, None] * (fall / jnp.sqrt((fall**2).sum()))[None]
        phase = np.pi * (2 * draws.uniform(k[1], LAYERS, SINES) - 1)
        angle = 2 * np.pi * waves[None, :, None] * x[None] + phase[..., None]
        level = level[:, None] + jnp.cumsum((amplitude[..., None] * jnp.sin(angle)).sum(1), 0)  # [layer, x]
        level = jax.lax.cummax(level, axis=0)
    else:
        level = level[:, None]
    layer = jnp.minimum((depth[None] >= level[:-1, None]).sum(0), count - 1)  # [depth, x]

    # Whole numbers, all different: rank r of the sorted draws adds r to values that leave room for it.
    room = (FASTEST - SLOWEST + 2 - count).astype(jnp.float32)
    draw = jnp.sort(jnp.where(used, u[2], 2.0))
    values = SLOWEST + jnp.floor(draw * room) + jnp.arange(LAYERS, dtype=jnp.float32)
    if not rule.rising:
        values = values[jnp.argsort(jnp.where(used, u[3], 2.0))]
    return values[layer]

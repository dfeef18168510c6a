"""Random models by the published rules of OpenFWI's layered families: whole m/s, flat or curved layers, faults.

After Deng et al. 2022 ("OpenFWI") and what the maps themselves show; their generator was never released and nothing of
it is copied. Lengths are shares of the map, so the same key is the same earth on any grid of the same extent.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Float, PRNGKeyArray, typed
from seisvel_jax.earth.style import random_style
from seisvel_jax.survey import Grid

SLOWEST, FASTEST = 1500, 4500
LAYERS = 8
SINES = 5


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
    "flatfault-b": Rule(False, *_FAULT_B, rising=True, faults=(2, 3)),
    "curvefault-a": Rule(True, *_FAULT_A, rising=True, faults=(1, 1)),
    "curvefault-b": Rule(True, *_FAULT_B, rising=True, faults=(2, 3)),
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

    index = jax.random.choice(k[0], len(rule.counts), p=jnp.asarray(rule.weights) / sum(rule.weights))
    count = jnp.asarray(rule.counts)[index]
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
    k = jax.random.split(key, 6)
    faults = jax.random.randint(k[0], (), fewest, most + 1)
    # Feet are spread over the width: one a stripe, the stripes in random order.
    stripe = jax.random.permutation(k[1], max(most, 1)).astype(jnp.float32)
    foot = 0.15 + 0.7 * (stripe + jax.random.uniform(k[5], stripe.shape, minval=0.2, maxval=0.8)) / max(most, 1)
    sense = jax.random.rademacher(k[2], (2, *stripe.shape), jnp.float32)
    slope = sense[0] * jax.random.uniform(k[3], stripe.shape, minval=0.15, maxval=0.8)
    throw = sense[1] * jax.random.uniform(k[4], stripe.shape, minval=0.08, maxval=0.22)
    middle = depth
    for i in range(most):
        beyond = (x - foot[i] > slope[i] * (middle - 0.5)) & (i < faults)
        beyond_first = beyond if i == 0 else beyond_first
        depth = depth + jnp.where(beyond, throw[i], 0.0)
    # Half of the slip on either side, so that the layers stay within the map.
    return depth - 0.5 * jnp.where(jnp.arange(len(stripe)) < faults, throw, 0.0).sum(), beyond_first


def _block(key: jax.Array, depth: jax.Array, x: jax.Array, count: jax.Array, rule: Rule) -> jax.Array:
    """Velocity `[depth, x]` of `count` layers at `depth`; none is thinner than 4 % of the map where they are flat."""
    k = jax.random.split(key, 8)
    used = jnp.arange(LAYERS) < count
    share = jnp.where(used, jax.random.uniform(k[0], (LAYERS,), minval=0.5, maxval=1.5), 0.0)
    # Below layer i; fault families keep to the middle of the map, since slip carries layers out of it.
    margin = 0.1 if rule.faults[1] else 0.0
    level = margin + (1 - 2 * margin) * jnp.cumsum(share) / share.sum()
    if rule.curved:
        # Interface i is interface i - 1 displaced by sines of periods 1/1 .. 1/5 of the width; nearly parallel.
        waves = jnp.arange(1, SINES + 1, dtype=jnp.float32)
        fall = jax.random.uniform(k[1], (SINES,)) / jnp.sqrt(waves)
        size = jnp.where(jnp.arange(LAYERS) == 0, jax.random.uniform(k[2], minval=0.03, maxval=0.12), 0.008)
        amplitude = size[:, None] * (fall / jnp.sqrt((fall**2).sum()))[None]
        phase = jax.random.uniform(k[3], (LAYERS, SINES), minval=-np.pi, maxval=np.pi)
        angle = 2 * np.pi * waves[None, :, None] * x[None] + phase[..., None]
        level = level[:, None] + jnp.cumsum((amplitude[..., None] * jnp.sin(angle)).sum(1), 0)  # [layer, x]
        level = jax.lax.cummax(level, axis=0)
    else:
        level = level[:, None]
    layer = jnp.minimum((depth[None] >= level[:-1, None]).sum(0), count - 1)  # [depth, x]

    # Whole numbers, all different: rank r of the sorted draws adds r to values that leave room for it.
    room = (FASTEST - SLOWEST + 2 - count).astype(jnp.float32)
    draw = jnp.sort(jnp.where(used, jax.random.uniform(k[4], (LAYERS,)), 2.0))
    values = SLOWEST + jnp.floor(draw * room) + jnp.arange(LAYERS, dtype=jnp.float32)
    if not rule.rising:
        values = values[jnp.argsort(jnp.where(used, jax.random.uniform(k[5], (LAYERS,)), 2.0))]
    return values[layer]

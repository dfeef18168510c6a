"""New earths out of given ones: warped, blended with another, mirrored, faster or slower. Keyed; jit and vmap.

Affine warps and blends of two models with weights U(0.3, 0.7), re-simulated by the hundred thousand, made the largest
difference in the competitions. The models may be drawn ones or a user's own. Values in `keep` are rock of one velocity,
like water (1500 m/s) and salt (4500 m/s): they move with the ground, but are neither blended nor scaled.
"""

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Float, PRNGKeyArray, typed
from seisvel_jax.earth import draws
from seisvel_jax.survey import Grid

SLOWEST, FASTEST = 1500.0, 4500.0
TURN, STRETCH, SHEAR, SHIFT = 8.0, 0.2, 0.1, 0.1
"""The largest warp: degrees, relative change of a length, slope, and share of the extent."""
LIGHTEST, HEAVIEST = 0.3, 0.7
"""Limits of the weight of the second model in a blend."""
CHANGE = 0.15
"""The largest relative change of velocity."""


@typed
def augment(
    key: PRNGKeyArray,
    velocity: Float[jax.Array, "depth x"],
    other: Float[jax.Array, "depth x"],
    grid: Grid,
    *,
    warped: float = 0.5,
    blended: float = 0.5,
    mirrored: float = 0.5,
    scaled: float = 0.5,
    keep: tuple[float, ...] = (),
    whole: bool = False,
) -> Float[jax.Array, "depth x"]:
    """A new model `[depth, x]` m/s from two on `grid`: each change is made with its probability.

    keep: values that stay exactly as they are, (1500.0, 4500.0) for water and salt. whole: round to whole m/s, the rule
    of OpenFWI's layered families. The result lies within 1500 to 4500 m/s where both models do.
    """
    k = jax.random.split(key, 5)
    u = draws.uniform(k[0], 4)
    velocity = jnp.where(u[0] < warped, warp(k[1], velocity, grid), velocity)
    velocity = jnp.where(u[1] < blended, blend(k[2], velocity, warp(k[3], other, grid), keep=keep), velocity)
    velocity = jnp.where(u[2] < mirrored, velocity[:, ::-1], velocity)
    velocity = jnp.where(u[3] < scaled, scale(k[4], velocity, keep=keep), velocity)
    return jnp.where(_kept(velocity, keep), velocity, jnp.round(velocity)) if whole else velocity


@typed
def warp(
    key: PRNGKeyArray,
    velocity: Float[jax.Array, "depth x"],
    grid: Grid,
    *,
    strength: float = 1.0,
) -> Float[jax.Array, "depth x"]:
    """The ground turned, stretched, sheared and shifted by up to `strength` times the limits above.

    Every node takes the value of the node nearest to its old place, so no new values appear; those of the edges go on
    beyond them.
    """
    u = strength * (2 * draws.uniform(key, 6) - 1)
    angle = jnp.deg2rad(TURN) * u[0]
    stretch = jnp.exp(jnp.log1p(STRETCH) * u[1:3])
    depth, x = (jnp.arange(count, dtype=jnp.float32) - 0.5 * (count - 1) for count in grid.shape)
    # Beds are sheared up and down, not sideways. Written out, since accelerators round products of matrices.
    depth = stretch[0] * depth[:, None] + SHEAR * u[3] * x[None]
    x = jnp.broadcast_to(stretch[1] * x[None], grid.shape)
    old = (jnp.cos(angle) * depth - jnp.sin(angle) * x, jnp.sin(angle) * depth + jnp.cos(angle) * x)
    row, column = (
        jnp.clip(jnp.round(old[i] + 0.5 * (count - 1) + SHIFT * u[4 + i] * count).astype(int), 0, count - 1)
        for i, count in enumerate(grid.shape)
    )
    return velocity[row, column]


@typed
def blend(
    key: PRNGKeyArray,
    velocity: Float[jax.Array, "depth x"],
    other: Float[jax.Array, "depth x"],
    *,
    keep: tuple[float, ...] = (),
) -> Float[jax.Array, "depth x"]:
    """(1 - w) velocity + w other, with w from U(0.3, 0.7).

    Kept values of the first stay; where the other has them, the first is not blended.
    """
    weight = draws.between(draws.uniform(key, 1)[0], LIGHTEST, HEAVIEST)
    mixed = velocity + weight * (other - velocity)
    return jnp.where(_kept(velocity, keep) | _kept(other, keep), velocity, mixed)


@typed
def scale(
    key: PRNGKeyArray, velocity: Float[jax.Array, "depth x"], *, keep: tuple[float, ...] = ()
) -> Float[jax.Array, "depth x"]:
    """All of the rock faster or slower by one factor, up to 15 %, and no further than 1500 to 4500 m/s allow."""
    rock = ~_kept(velocity, keep)
    slowest = jnp.where(rock, velocity, FASTEST).min()
    fastest = jnp.where(rock, velocity, SLOWEST).max()
    lowest = jnp.minimum(jnp.maximum(1 / (1 + CHANGE), SLOWEST / slowest), 1.0)
    highest = jnp.maximum(jnp.minimum(1 + CHANGE, FASTEST / fastest), 1.0)
    factor = draws.between(draws.uniform(key, 1)[0], lowest, highest)
    return jnp.where(rock, jnp.clip(velocity * factor, SLOWEST, FASTEST), velocity)


def _kept(velocity: jax.Array, keep: tuple[float, ...]) -> jax.Array:
    kept = jnp.zeros(velocity.shape, bool)
    for value in keep:
        kept = kept | (velocity == value)
    return kept

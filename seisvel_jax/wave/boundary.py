"""What ends the grid, as the coefficients of one update: the sponges of the two data sets, and room for a PML.

All schemes have the form `u+ = u- + alpha (u - u-) + beta h^2 lap(u)`: alpha is 2 where nothing is damped.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Array
from seisvel_jax.survey import Boundary, Grid

DEVITO_CELL = 1.0
"""Metres between the nodes of the grid Devito's profile was built on; the profile counts one cell from inside."""
DEVITO_UNIT = 1e-3
"""Devito's time runs in ms and its velocity in km/s: its damping of 1/m is 1e-3 s/m^2 in SI."""


@dataclass(frozen=True)
class Pad:
    """Nodes beyond the model on each side."""

    top: int
    bottom: int
    left: int
    right: int


def pad_of(grid: Grid, boundary: Boundary) -> Pad:
    """How many nodes the sponge has on each side. The lower and right sponges begin at `boundary.start`."""
    h = grid.spacing
    # The last node may lie short of the place where the data set's sponge begins; that stretch is padded as well.
    beyond = [start - (count - 1) * h + boundary.width for start, count in zip(boundary.start, grid.shape, strict=True)]
    bottom, right = (math.floor(metres / h + 1e-6) for metres in beyond)
    near = math.floor(boundary.width / h + 1e-6)
    return Pad(0 if boundary.free_surface else near, bottom, near, right)


def coefficients(velocity: Array, dt: float, grid: Grid, boundary: Boundary) -> tuple[Array | None, Array]:
    """`(alpha, beta)` on the padded grid `[batch, depth, x]` for velocity `[batch, depth, x]` in m/s.

    Outside the model the velocity of the nearest edge node holds. `dt` in seconds is the step of the solver. alpha is
    None for a PML, which damps through its memory (absorber.py). On a free surface beta is 0: the field stays at rest.
    """
    pad = pad_of(grid, boundary)
    padded = jnp.pad(velocity, ((0, 0), (pad.top, pad.bottom), (pad.left, pad.right)), mode="edge")
    beta = (padded * (dt / grid.spacing)) ** 2
    if boundary.free_surface:
        beta = beta.at[:, 0].set(0)
    if boundary.kind == "pml":
        return None, beta
    if boundary.kind == "openfwi":
        # alpha = 2 - damp dt, damp = kappa (d / a)^2, kappa = 3 vmin ln(1e7) / (2 a): each model has its own.
        a = boundary.width - grid.spacing
        slowest = velocity.min(axis=(1, 2), keepdims=True)
        damp = 3 * math.log(1e7) / (2 * a) * dt * openfwi_profile(grid, pad)[None]
        return 2 - slowest * jnp.asarray(damp, velocity.dtype), beta
    # m u_tt - lap u + damp u_t = q with u_t centred and s = damp v^2 dt / 2:
    # (1 + s) u+ = 2 u - (1 - s) u- + (v dt)^2 lap u.
    damp = DEVITO_UNIT * devito_profile(grid, boundary, pad)[None]
    s = beta * jnp.asarray(damp * grid.spacing**2 / (2 * dt), velocity.dtype)
    return 2 / (1 + s), beta / (1 + s)


def spring(velocity: np.ndarray, dt: float, grid: Grid, boundary: Boundary) -> np.ndarray:
    """What one rounding of Devito's adds to the Laplacian, `-spring u` on the padded grid `[batch, depth, x]`, float32.

    Devito divides by `m / dt^2`, a single-precision product off by a factor 1 + d, |d| < 6e-8, that depends on the
    velocity. That makes its update `(1 - d) (2 u - u-) + ...`: a spring of `d / (v dt / h)^2`, which over 10,000 steps
    moves the waves by more than anything else that tells this solver from it (docs/physics.md,
    benchmarks/devito_rounding.py). Only where its scheme is followed to the letter. velocity in m/s on the model.
    With numpy, whose roundings are those that are written: XLA divides by multiplying with reciprocals.
    """
    pad = pad_of(grid, boundary)
    one, step = np.float32(1), np.float32(dt * 1e3)  # Devito's ms, and km/s below
    rate = one / (step * step)
    slowness = one / (velocity.astype(np.float32) / np.float32(1000)) ** 2
    d = (rate * slowness).astype(np.float64) / (np.float64(rate) * slowness.astype(np.float64)) - 1
    inside = d / (velocity.astype(np.float64) * (dt / grid.spacing)) ** 2
    return np.pad(inside, ((0, 0), (pad.top, pad.bottom), (pad.left, pad.right)), mode="edge").astype(np.float32)


def openfwi_profile(grid: Grid, pad: Pad) -> np.ndarray:
    """`(d / a)^2` on the padded grid: 0 at the first sponge node, 1 at the last; in the corners the x profile holds."""

    def axis(before: int, count: int, after: int) -> np.ndarray:
        ramp = np.concatenate([np.arange(before)[::-1], np.zeros(count), np.arange(after)])
        return (ramp / (max(before, after, 2) - 1)) ** 2

    depth, x = axis(pad.top, grid.depth_count, pad.bottom), axis(pad.left, grid.x_count, pad.right)
    profile = np.repeat(depth[:, None], x.size, axis=1)
    profile[:, : pad.left] = x[: pad.left]
    profile[:, x.size - pad.right :] = x[x.size - pad.right :]
    return profile


def devito_profile(grid: Grid, boundary: Boundary, pad: Pad) -> np.ndarray:
    """Devito's "damp" in 1/m on the padded grid, the sum over both axes; its width is in metres on any grid."""

    def axis(before: int, count: int, after: int, start: float) -> np.ndarray:
        places = np.arange(-before, count + after) * grid.spacing
        outside = np.maximum(np.maximum(-places, places - start), 0)
        pos = np.where(outside > 1e-6, (outside + DEVITO_CELL) / boundary.width, 0)
        return 1.5 * math.log(1000) / boundary.width * (pos - np.sin(2 * np.pi * pos) / (2 * np.pi))

    # With a free surface pad.top is 0, and no place lies above 0.
    depth = axis(pad.top, grid.depth_count, pad.bottom, boundary.start[0])
    x = axis(pad.left, grid.x_count, pad.right, boundary.start[1])
    return depth[:, None] + x[None, :]

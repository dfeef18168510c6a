"""A stack of sediment layers in a section: thicknesses that vary along it, and unconformities that tilt it.

Layers are laid down one upon another from an old surface with little relief. Each is thicker here and thinner there, so
that structure grows upwards; at an unconformity everything younger is tilted and laps onto the older surface.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.earth import draws

THINNEST, THICKEST = 0.05, 18.0
"""Metres of a layer anywhere."""
FEATURE = 420.0
"""Metres: wavelength of the broadest changes of a layer's thickness; each octave is 1.9 times as short."""
OCTAVES = 4
LEAN = 0.0024
"""Mean slope of the ground between one old layer and the next (0.14 degrees)."""
UNREST, RECENT = 1.2, 40
"""The youngest layers lean so much more, as a share; over so many layers that falls to a share of 1 / e."""
TILTS = 7
STEEPEST = 20.0
"""Degrees: tilts at unconformities lie between a quarter of this and this, in any azimuth to the section."""
SHALLOWEST_SEABED = 70.0
BASE_RELIEF, BASE_TILT = 22.0, 50.0
"""Metres: standard deviation of the oldest surface's folds, and of its rise from one end to the other."""


class Stack(NamedTuple):
    """Layers of a section, the youngest first."""

    top: jax.Array
    """Depth `[layer, x]` in metres of the top of each layer; the first row is the seabed."""
    base: jax.Array
    """Depth `[layer, x]` in metres of the base of each layer."""
    deepest: jax.Array
    """Depth in metres of the deepest seabed in the section."""


def layer_count(depth: float) -> int:
    """Layers that fill `depth` metres under any seabed: static, the same for grids whose extents differ by a cell."""
    return 16 * int(np.ceil(depth / 70 - 1e-6))


def random_stack(key: jax.Array, x: jax.Array, *, depth: float, width: float) -> Stack:
    """Layers of a section `width` metres long and `depth` deep, at positions `x` `[x]` in metres."""
    layers = layer_count(depth)
    # What depends on the whole section is taken from positions of its own, so that it is the same on any grid.
    nodes, x = x.size, jnp.concatenate([x, jnp.linspace(0.0, width, 13)])
    k = jax.random.split(key, 3)
    thickness = _thickness(k[0], x, layers, width)
    base = jnp.cumsum(thickness, 0)
    u = draws.uniform(k[1], 8)
    level = 290.0 * jnp.exp(0.38 * draws.normal(draws.between(u[0], 0.015, 0.985)))

    # The surface that was flat: the layer whose base lies near the lower end of the model.
    old = jnp.argmin(jnp.abs(base[:, nodes:].mean(1) - 0.9 * (depth - level)))
    base = base + (_folds(u[1:], x, width) - base[old])[None]
    top = jnp.concatenate([base[:1] - thickness[:1], base])  # [layer + 1, x]
    top = _tilted(k[2], top, x, width)

    seabed = top[0, nodes:]
    shift = level - seabed.mean()
    shift = jnp.maximum(shift, SHALLOWEST_SEABED - seabed.min())
    top = top[:, :nodes] + shift
    return Stack(top[:-1], top[1:], seabed.max() + shift)


def _thickness(key: jax.Array, x: jax.Array, layers: int, width: float) -> jax.Array:
    """Metres `[layer, x]`: a mean for each layer times 1 + fractal noise along the section."""
    u = draws.uniform(key, 9 + 4 * OCTAVES, layers)
    mean = 2.0 - jnp.log(u[:4]).sum(0)  # 2 m + a gamma variable of shape 4
    octaves = jnp.floor(draws.triangular(u[4], 1.3, 2.65, 5.0))
    octave = jnp.arange(OCTAVES, dtype=jnp.float32)[:, None]
    height = jnp.where(octave < octaves[None], 0.5**octave, 0.0)
    height = height / jnp.sqrt((height**2).sum(0, keepdims=True))
    # From thinnest to thickest place: the noise spans about four standard deviations.
    height = height * (draws.triangular(u[5], 1.05, 1.8, 2.2) - draws.triangular(u[6], 0.05, 0.2, 0.95))[None] / 4
    phase, stretch = u[9:].reshape(2, OCTAVES, 2, layers, 1)
    stretch = draws.between(stretch, 0.3, 1.3)  # oblique sections see longer waves
    wave_number = 2 * np.pi / FEATURE * 1.9 ** octave[:, None, :, None] * stretch
    waves = jnp.cos(wave_number * x[None, None, None] + 2 * np.pi * phase)  # [octave, 2, layer, x]
    noise = (height[:, None, :, None] * waves).sum((0, 1))
    # Each was laid down on a ground that had tilted a little, in any azimuth: it thins from its thickest edge.
    slope, azimuth = -LEAN * jnp.log(u[7]), 2 * np.pi * u[8]
    slope = slope * (1 + UNREST * np.exp(-np.arange(layers, dtype=np.float32) / RECENT))
    along, across = slope * jnp.cos(azimuth), slope * jnp.sin(azimuth)
    lost = 0.5 * width * (jnp.abs(along) + jnp.abs(across))[:, None] - along[:, None] * (x - width / 2)[None]
    return jnp.clip((mean[:, None] - lost) * (1 + noise), THINNEST, THICKEST)


def _folds(u: jax.Array, x: jax.Array, width: float) -> jax.Array:
    """Relief of the oldest surface, `[x]` metres about 0, from 7 uniform variables."""
    wavelength = draws.between(u[0:2], 250.0, 900.0)[:, None]
    height = BASE_RELIEF * draws.normal(u[2:4])[:, None]
    folds = (height * jnp.sin(2 * np.pi * (x[None] / wavelength + u[4:6, None]))).sum(0)
    return folds + BASE_TILT * draws.normal(u[6]) * (x / width - 0.5)


def _tilted(key: jax.Array, top: jax.Array, x: jax.Array, width: float) -> jax.Array:
    """The interfaces `[layer + 1, x]` after unconformities: what is younger is tilted and laps onto the surface."""
    u = draws.uniform(key, 4, TILTS)
    count = jnp.round(draws.triangular(u[3, 0], 1.0, 4.0, 7.0)).astype(int)
    line = u[3, 1] - 0.5  # where the section lies in the tilted block
    surface = jnp.sort(draws.between(u[0], 5.0, 200.0).astype(int))[::-1]
    slope = jnp.tan(jnp.deg2rad(draws.between(u[1], STEEPEST / 4, STEEPEST)))
    along, across = slope * jnp.cos(2 * np.pi * u[2]), slope * jnp.sin(2 * np.pi * u[2])
    hinge = 0.5 * (jnp.abs(along) + jnp.abs(across)) - across * line
    drop = width * (hinge[:, None] - along[:, None] * (x / width - 0.5)[None])
    drop = jnp.where(jnp.arange(TILTS)[:, None] < count, drop, 0.0)
    index = jnp.arange(top.shape[0])[:, None]

    def tilt(top: jax.Array, episode: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        at, drop = episode
        return jnp.where(index < at, jnp.minimum(top + drop[None], top[at][None]), top), None

    return jax.lax.scan(tilt, top, (jnp.minimum(surface, top.shape[0] - 1), drop))[0]

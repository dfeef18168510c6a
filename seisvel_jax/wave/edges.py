"""What the stencil misses at the edge of the padded grid, as a force on the rows and columns beside it.

Beyond the edge a field holds zeros. A free surface asks for the mirrored field with the other sign instead, OpenFWI's
outer edge for the field of the opposite side. Both enter as a force, because a field that is read must not be written
(layout.py). Both operators are symmetric, so the transposed step uses the same force.
"""

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.wave.layout import Band, Rows, Sides


def free_surface(band: Band, second: np.ndarray, field: jax.Array, force: jax.Array) -> jax.Array:
    """The force on the top band with what `u(-z) = -u(z)` adds to its first rows."""
    layout, h = band.layout, band.layout.halo
    beyond = -Rows(layout, 1, h).read(field, 0)[::-1]
    return Rows(layout, 0, h).write(force, band, _seen_from_below(beyond, second, axis=0, width=1), 0)


def periodic(
    bands: tuple[Band, Band], second: np.ndarray, field: jax.Array, forces: tuple[jax.Array, ...], force_x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The forces on the top and the bottom band, and across, with what the opposite sides add to the outermost."""
    layout = bands[0].layout
    h, width = layout.halo, layout.halo * layout.lanes
    top, bottom = Rows(layout, 0, h), Rows(layout, layout.depth - h, h)
    above = top.write(forces[0], bands[0], _seen_from_below(bottom.read(field, 0), second, axis=0, width=1), 0)
    below = bottom.write(forces[1], bands[1], _seen_from_above(top.read(field, 0), second, axis=0, width=1), 0)
    sides = Sides(layout, h, h)
    block = sides.read(field, 0)
    left = _seen_from_below(block[1:, :width], second, axis=1, width=layout.lanes)
    right = _seen_from_above(block[:-1, -width:], second, axis=1, width=layout.lanes)
    values = jnp.concatenate(
        [jnp.pad(right, ((1, 0), (0, 0))), jnp.zeros_like(block[:, :width]), jnp.pad(left, ((0, 1), (0, 0)))], axis=1
    )
    return above, below, sides.write(force_x, values, 0)


def _seen_from_below(beyond: jax.Array, second: np.ndarray, *, axis: int, width: int) -> jax.Array:
    """What `halo` rows (columns) before the first add to the first `halo` ones. `width` elements a row (column)."""
    halo = second.size - 1
    wide = jnp.concatenate([beyond, jnp.zeros_like(beyond)], axis=axis)
    return sum(  # type: ignore[return-value]
        beyond.dtype.type(second[j]) * jax.lax.slice_in_dim(wide, (halo - j) * width, (2 * halo - j) * width, axis=axis)
        for j in range(1, halo + 1)
    )


def _seen_from_above(beyond: jax.Array, second: np.ndarray, *, axis: int, width: int) -> jax.Array:
    """What `halo` rows (columns) after the last add to the last `halo` ones."""
    halo = second.size - 1
    wide = jnp.concatenate([jnp.zeros_like(beyond), beyond], axis=axis)
    return sum(  # type: ignore[return-value]
        beyond.dtype.type(second[j]) * jax.lax.slice_in_dim(wide, j * width, (halo + j) * width, axis=axis)
        for j in range(1, halo + 1)
    )

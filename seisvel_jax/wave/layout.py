"""Where a node of the padded grid lies in memory: flat fields with the lanes innermost (docs/physics.md).

XLA makes one tight loop of a stencil when every shift is one slice at a constant offset into a one-dimensional array and
the result goes into an array that the loop does not read. Everything here serves that.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array


@dataclass(frozen=True)
class Layout:
    """Node (z, x) of a lane lies at `((lead_z + z) * pitch + lead_x + x) * lanes + lane`. Static.

    Between two rows lie `halo` zeros, shared by the right edge of one and the left edge of the next. The origin is such
    that in the view `[row, pitch * lanes]` the right-hand layer of a row, the zeros and the left-hand layer of the next
    row form one block of columns that begins `2 halo` columns from the left.
    """

    depth: int
    """Rows of the padded grid."""
    x: int
    """Columns of the padded grid."""
    halo: int
    """Half the width of the stencil."""
    right: int
    """Columns of the right-hand layer."""
    lanes: int
    """(model, shot) pairs side by side."""

    @property
    def pitch(self) -> int:
        """Nodes from a row to the next."""
        return self.x + self.halo

    @property
    def row(self) -> int:
        """Elements from a row to the next."""
        return self.pitch * self.lanes

    @property
    def lead_z(self) -> int:
        """Rows of zeros above the grid: what the derivative of a derivative reaches."""
        return 2 * self.halo

    @property
    def lead_x(self) -> int:
        """Column of x = 0."""
        return 3 * self.halo + self.right

    @property
    def rows(self) -> int:
        """Rows of storage; two more than the grid and its zeros need, for the end of the last row."""
        return self.depth + 4 * self.halo + 2

    @property
    def first(self) -> int:
        """Element of node (0, 0) in lane 0."""
        return self.at(0, 0)

    @property
    def size(self) -> int:
        """Elements that a step updates: all rows with the zeros between them."""
        return self.depth * self.row

    @property
    def total(self) -> int:
        """Elements of a field."""
        return self.rows * self.row

    def at(self, z: int, x: int) -> int:
        """Element of node (z, x) in lane 0."""
        return ((self.lead_z + z) * self.pitch + self.lead_x + x) * self.lanes

    def inner(self, field: jax.Array) -> jax.Array:
        """`[size]`: the part that a step updates."""
        return self.shifted(field, 0, 0)

    def shifted(self, field: jax.Array, rows: int, columns: int) -> jax.Array:
        """`[size]`: the part that a step updates, seen from `rows` below and `columns` to the right."""
        start = self.first + rows * self.row + columns * self.lanes
        return jax.lax.slice(field, (start,), (start + self.size,))

    def write(self, field: jax.Array, values: jax.Array) -> jax.Array:
        """The field with `[size]` values in the part that a step updates."""
        return jax.lax.dynamic_update_slice(field, values, (self.first,))

    def pack(self, fields: Array) -> jax.Array:
        """`[lane, depth, x]` as `[size]`; 0 between the rows."""
        return jnp.pad(jnp.moveaxis(fields, 0, -1), ((0, 0), (0, self.halo), (0, 0))).reshape(-1)

    def unpack(self, values: jax.Array) -> jax.Array:
        """`[size]` as `[lane, depth, x]`."""
        return jnp.moveaxis(values.reshape(self.depth, self.pitch, self.lanes)[:, : self.x], -1, 0)

    def index(self, nodes: jax.Array) -> jax.Array:
        """Elements of nodes `[lane, ..., 2]` (depth, x) in a whole field."""
        inside = ((nodes[..., 0] + self.lead_z) * self.pitch + nodes[..., 1] + self.lead_x) * self.lanes
        return inside + jnp.arange(self.lanes, dtype=inside.dtype).reshape(-1, *[1] * (inside.ndim - 1))


@dataclass(frozen=True)
class Rows:
    """A block of whole rows of the padded grid: the layer on top or at the bottom. Static."""

    layout: Layout
    start: int
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of the block as an array: `(row, pitch * lanes)`."""
        return self.count, self.layout.row

    def read(self, field: jax.Array, shift: int = 0) -> jax.Array:
        """The block seen from `shift` rows below."""
        start = self.layout.at(self.start + shift, 0)
        return jax.lax.slice(field, (start,), (start + self.count * self.layout.row,)).reshape(self.shape)

    def write(self, field: jax.Array, values: jax.Array) -> jax.Array:
        """The field with these values in the block."""
        return jax.lax.dynamic_update_slice(field, values.reshape(-1), (self.layout.at(self.start, 0),))

    def shift(self, values: jax.Array, by: int) -> jax.Array:
        """Values of the block, each from `by` rows below; 0 beyond it."""
        return jax.lax.pad(values, jnp.zeros((), values.dtype), ((-by, by, 0), (0, 0, 0)))


@dataclass(frozen=True)
class Sides:
    """The right-hand layer of each row, the zeros and the left-hand layer of the next row, as one block. Static.

    Row r of the block holds the right-hand layer of grid row r - 1 and the left-hand layer of grid row r.
    """

    layout: Layout
    right: int
    """Columns of the block that belong to the right-hand layer, counted from the edge of the grid."""
    left: int

    @property
    def first(self) -> int:
        """Column of the storage where the block begins."""
        return self.layout.lead_x - self.layout.halo - self.right

    @property
    def columns(self) -> int:
        """Nodes across the block."""
        return self.right + self.layout.halo + self.left

    @property
    def shape(self) -> tuple[int, int]:
        """Of the block as an array: `(row, column * lanes)`."""
        return self.layout.depth + 1, self.columns * self.layout.lanes

    def read(self, field: jax.Array, shift: int = 0) -> jax.Array:
        """The block seen from `shift` columns to the right."""
        view, lanes, top = self._view(field), self.layout.lanes, self.layout.lead_z
        start = (self.first + shift) * lanes
        return jax.lax.slice(view, (top, start), (top + self.shape[0], start + self.shape[1]))

    def write(self, field: jax.Array, values: jax.Array) -> jax.Array:
        """The field with these values in the block."""
        where = (self.layout.lead_z, self.first * self.layout.lanes)
        return jax.lax.dynamic_update_slice(self._view(field), values, where).reshape(field.shape)

    def shift(self, values: jax.Array, by: int) -> jax.Array:
        """Values of the block, each from `by` columns to the right; 0 beyond it."""
        by = by * self.layout.lanes
        return jax.lax.pad(values, jnp.zeros((), values.dtype), ((0, 0, 0), (-by, by, 0)))

    def _view(self, field: jax.Array) -> jax.Array:
        return field.reshape(self.layout.rows, self.layout.row)


Block = Rows | Sides

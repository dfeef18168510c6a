"""Where a node of the padded grid lies in memory: flat fields with the lanes innermost (docs/physics.md).

XLA makes one tight loop of a stencil when every shift is one slice at a constant offset into a one-dimensional array
and the result goes into an array that the loop does not read. Everything here serves that.
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
    row form one block of columns, with `halo` columns before it: as far as the layer's stencils reach.
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
        """Rows of zeros above the grid: as far as the stencils reach."""
        return self.halo

    @property
    def lead_x(self) -> int:
        """Column of x = 0."""
        return 2 * self.halo + self.right

    @property
    def rows(self) -> int:
        """Rows of storage; two more than the grid and its zeros need, for the end of the last row."""
        return self.depth + 2 * self.halo + 2

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

    def write(self, field: jax.Array, values: jax.Array, after: Array | float = 0, row: int = 0) -> jax.Array:
        """The field with values in the part that a step updates, from a row on, once the value `after` is known.

        Where the field was read for something else, `after` must come from that: XLA copies a field in every step if
        nothing but the order of the program says that it is read before it is overwritten. 0 * after is 0, or not a
        number where something has blown up already; either way the index is the same.
        """
        start = self.at(row, 0) + (0 * jnp.asarray(after, values.dtype)).astype(jnp.int32)
        return jax.lax.dynamic_update_slice(field, values, (start,))

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
class Band:
    """Rows start..stop-1 of the padded grid, which one loop updates. Static."""

    layout: Layout
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Elements of the band, with the zeros between the rows."""
        return (self.stop - self.start) * self.layout.row

    def inner(self, values: jax.Array) -> jax.Array:
        """The band's part of `[size]` values of the whole grid."""
        return jax.lax.slice(values, (self.start * self.layout.row,), (self.stop * self.layout.row,))

    def shifted(self, field: jax.Array, rows: int, columns: int) -> jax.Array:
        """The band of a field, seen from `rows` below and `columns` to the right."""
        start = self.layout.at(self.start + rows, columns)
        return jax.lax.slice(field, (start,), (start + self.size,))


@dataclass(frozen=True)
class Rows:
    """A block of whole rows of the padded grid: the layer on top or at the bottom. Static.

    Blocks are read and written with a margin of so many halos on either side along their axis, 0.
    """

    layout: Layout
    start: int
    count: int
    axis = 0

    def shape(self, margin: int) -> tuple[int, int]:
        """Of the block with its margin as an array: `(row, pitch * lanes)`."""
        return self.count + 2 * margin * self.layout.halo, self.layout.row

    def read(self, field: jax.Array, margin: int, shift: int = 0) -> jax.Array:
        """The block seen from `shift` rows below."""
        start = self.layout.at(self.start - margin * self.layout.halo + shift, 0)
        rows, row = self.shape(margin)
        return jax.lax.slice(field, (start,), (start + rows * row,)).reshape(rows, row)

    def reach(self, margin: int) -> tuple[int, int]:
        """First row and end of the block with its margin, as far as the grid goes."""
        wide = margin * self.layout.halo
        return max(0, self.start - wide), min(self.layout.depth, self.start + self.count + wide)

    def write(self, force: jax.Array, band: Band, values: jax.Array, margin: int) -> jax.Array:
        """The force on a band with these values in the block."""
        first, stop = self.reach(margin)
        skipped = first - (self.start - margin * self.layout.halo)
        inside = jax.lax.slice_in_dim(values, skipped, skipped + stop - first, axis=0)
        return jax.lax.dynamic_update_slice(force, inside.reshape(-1), ((first - band.start) * self.layout.row,))

    def restore(self, field: jax.Array, values: jax.Array) -> jax.Array:
        """The field with these values in the block."""
        return jax.lax.dynamic_update_slice(field, values.reshape(-1), (self.layout.at(self.start, 0),))

    def inside(self, values: jax.Array, have: int, want: int, shift: int = 0) -> jax.Array:
        """Of values with a margin of `have`, those with a margin of `want`, seen from `shift` rows below."""
        first = (have - want) * self.layout.halo + shift
        return jax.lax.slice_in_dim(values, first, first + self.shape(want)[0], axis=0)

    def put(self, buffer: jax.Array, values: jax.Array, margin: int) -> jax.Array:
        """The buffer, which has that margin, with values in the block itself."""
        return jax.lax.dynamic_update_slice(buffer, values, (margin * self.layout.halo, 0))


@dataclass(frozen=True)
class Sides:
    """The right-hand layer of each row, the zeros and the left-hand layer of the next row, as one block. Static.

    Row r of the block holds the right-hand layer of grid row r - 1 and the left-hand layer of grid row r.
    """

    layout: Layout
    right: int
    """Columns of the block that belong to the right-hand layer, counted from the edge of the grid."""
    left: int
    axis = 1

    def shape(self, margin: int) -> tuple[int, int]:
        """Of the block with its margin as an array: `(row, column * lanes)`."""
        columns = self.right + self.layout.halo + self.left + 2 * margin * self.layout.halo
        return self.layout.depth + 1, columns * self.layout.lanes

    def read(self, field: jax.Array, margin: int, shift: int = 0) -> jax.Array:
        """The block seen from `shift` columns to the right."""
        (rows, columns), top = self.shape(margin), self.layout.lead_z
        start = self._first(margin) + shift * self.layout.lanes
        return jax.lax.slice(self._view(field), (top, start), (top + rows, start + columns))

    def write(self, field: jax.Array, values: jax.Array, margin: int) -> jax.Array:
        """The field with these values in the block."""
        where = (self.layout.lead_z, self._first(margin))
        return jax.lax.dynamic_update_slice(self._view(field), values, where).reshape(field.shape)

    def inside(self, values: jax.Array, have: int, want: int, shift: int = 0) -> jax.Array:
        """Of values with a margin of `have`, those with a margin of `want`, seen from `shift` columns to the right."""
        first = ((have - want) * self.layout.halo + shift) * self.layout.lanes
        return jax.lax.slice_in_dim(values, first, first + self.shape(want)[1], axis=1)

    def put(self, buffer: jax.Array, values: jax.Array, margin: int) -> jax.Array:
        """The buffer, which has that margin, with values in the block itself."""
        return jax.lax.dynamic_update_slice(buffer, values, (0, margin * self.layout.halo * self.layout.lanes))

    def restore(self, field: jax.Array, values: jax.Array) -> jax.Array:
        """The field with these values in the block."""
        return self.write(field, values, 0)

    def _first(self, margin: int) -> int:
        column = self.layout.lead_x - (1 + margin) * self.layout.halo - self.right
        return column * self.layout.lanes

    def _view(self, field: jax.Array) -> jax.Array:
        return field.reshape(self.layout.rows, self.layout.row)


Block = Rows | Sides

"""One chunk's ground and grid: how a field gets from one time to the next, and how its adjoint gets back."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Array
from seisvel_jax.wave import edges, stencil
from seisvel_jax.wave.absorber import Absorber, blocks
from seisvel_jax.wave.boundary import pad_of
from seisvel_jax.wave.layout import Band, Layout, Rows
from seisvel_jax.wave.plan import Plan


class State(NamedTuple):
    """The field at two times and what goes with it. Three buffers rotate: a step writes the one it does not read."""

    before: jax.Array
    now: jax.Array
    spare: jax.Array
    memory: tuple
    """The memory variables of each block of the PML."""
    force_z: tuple
    """What the edges and the PML on top and at the bottom add to the Laplacian, `[band.size]` each; None in a band
    where they add nothing, which is most of the grid."""
    force_x: Any
    """The same of the sides, `[row, pitch * lanes]`: carried as it is written, or XLA copies it. None without any."""


@dataclass(frozen=True)
class Medium:
    """The coefficients of the update on a layout."""

    layout: Layout
    second: np.ndarray
    """`[1 + halo]` weights of the second derivative."""
    alpha: jax.Array | None
    """`[size]`, or None where nothing is damped: 2."""
    beta: jax.Array
    """`[size]` `(v dt / h)^2`, over 1 + s in Devito's sponge; 0 between the rows."""
    spring: jax.Array | None
    """`[size]`, or None: `-spring u` is added to the Laplacian."""
    absorbers: tuple[Absorber, ...]
    free_surface: bool
    periodic: bool

    @property
    def bands(self) -> tuple[Band, ...]:
        """The grid from top to bottom: the rows with a vertical force have bands of their own."""
        h, depth = self.layout.halo, self.layout.depth
        vertical = [a.block.reach(1) for a in self.absorbers if isinstance(a.block, Rows)]
        if self.free_surface or self.periodic:
            vertical.append((0, h))
        if self.periodic:
            vertical.append((depth - h, depth))
        top = max((stop for first, stop in vertical if first == 0), default=0)
        bottom = min((first for first, stop in vertical if stop == depth), default=depth)
        ends = sorted({0, top, bottom, depth})
        return tuple(Band(self.layout, ends[i], ends[i + 1]) for i in range(len(ends) - 1))

    def start(self, *, transposed: bool = False) -> State:
        """At rest."""
        bands, depth = self.bands, self.layout.depth
        rest = jnp.zeros(self.layout.total, self.beta.dtype)
        memory = tuple(a.start(transposed=transposed) for a in self.absorbers)
        vertical = tuple(
            jnp.zeros(band.size, rest.dtype) if len(bands) > 1 and (band.start == 0 or band.stop == depth) else None
            for band in bands
        )
        across = rest.reshape(self.layout.rows, self.layout.row) if self.absorbers or self.periodic else None
        return State(rest, rest, rest, memory, vertical, across)

    def step(
        self, state: State, add: Callable[[jax.Array], jax.Array], after: Array, *, transposed: bool = False
    ) -> State:
        """The state one step later; `add` puts the sources into the new field. `after`: see `Layout.write`."""
        state = self.with_forces(state, transposed=transposed)
        new = state.spare
        for band, force in zip(self.bands, state.force_z, strict=True):
            new = self.layout.write(new, self.leapfrog(band, state, force), after, band.start)
        return state._replace(before=state.now, now=add(new), spare=state.before)

    def with_forces(self, state: State, *, transposed: bool = False) -> State:
        """The state with its memory one step later and the forces that belong to `now`."""
        bands, force_x = self.bands, state.force_x
        force_z = list(state.force_z)
        memory = []
        for absorber, before in zip(self.absorbers, state.memory, strict=True):
            act = absorber.transposed_force if transposed else absorber.force
            after, values = act(before, state.now)
            memory.append(after)
            if isinstance(absorber.block, Rows):
                at = 0 if absorber.block.start == 0 else -1
                force_z[at] = absorber.block.write(force_z[at], bands[at], values, 1)
            else:
                force_x = absorber.block.write(force_x, values, 1)
        if self.free_surface:
            force_z[0] = edges.free_surface(bands[0], self.second, state.now, force_z[0])
        if self.periodic:
            force_z[0], force_z[-1], force_x = edges.periodic(
                (bands[0], bands[-1]), self.second, state.now, (force_z[0], force_z[-1]), force_x
            )
        force_z, force_x = jax.lax.optimization_barrier((tuple(force_z), force_x))
        return state._replace(memory=tuple(memory), force_z=force_z, force_x=force_x)

    def bend(self, band: Band, state: State, force: jax.Array | None) -> jax.Array:
        """`[band.size]` `h^2` times the Laplacian of `now`, with zeros beyond the grid, the spring and the forces."""
        field, scalar = state.now, state.now.dtype.type
        total = scalar(2 * self.second[0]) * band.shifted(field, 0, 0)
        for j, c in enumerate(self.second[1:], start=1):
            total = total + scalar(c) * (
                band.shifted(field, 0, j)
                + band.shifted(field, 0, -j)
                + band.shifted(field, j, 0)
                + band.shifted(field, -j, 0)
            )
        if self.spring is not None:
            total = total - band.inner(self.spring) * band.shifted(field, 0, 0)
        if force is not None:
            total = total + force
        return total if state.force_x is None else total + band.shifted(state.force_x.reshape(-1), 0, 0)

    def leapfrog(self, band: Band, state: State, force: jax.Array | None) -> jax.Array:
        """`[band.size]` of `u+ = u- + alpha (u - u-) + beta (h^2 lap u + forces)`."""
        middle, old = band.shifted(state.now, 0, 0), band.shifted(state.before, 0, 0)
        carried = 2 * middle - old if self.alpha is None else old + band.inner(self.alpha) * (middle - old)
        return carried + band.inner(self.beta) * self.bend(band, state, force)

    def without_layers(self) -> "Medium":
        """The same ground with nothing that absorbs: what holds inside the model, forwards and backwards in time."""
        return dataclasses.replace(self, alpha=None, absorbers=(), periodic=False)


def layout_of(plan: Plan, lanes: int) -> Layout:
    """The layout of a plan's fields with that many lanes."""
    pad = pad_of(plan.grid, plan.boundary)
    return Layout(
        depth=plan.grid.depth_count + pad.top + pad.bottom,
        x=plan.grid.x_count + pad.left + pad.right,
        halo=plan.scheme.order // 2,
        right=pad.right,
        lanes=lanes,
    )


def medium_of(plan: Plan, alpha: Array | None, beta: Array, spring: Array | None) -> Medium:
    """The medium of coefficients `[lane, depth, x]` on the padded grid."""
    layout = layout_of(plan, beta.shape[0])
    order, coefficients = plan.scheme.order, plan.scheme.coefficients
    second = stencil.second_derivative(order, coefficients)
    return Medium(
        layout,
        second,
        None if alpha is None else layout.pack(alpha),
        layout.pack(beta),
        None if spring is None else layout.pack(spring),
        _absorbers(plan, layout, second) if plan.layer else (),
        plan.boundary.free_surface,
        plan.boundary.kind == "openfwi",
    )


def _absorbers(plan: Plan, layout: Layout, second: np.ndarray) -> tuple[Absorber, ...]:
    first = stencil.first_derivative(plan.scheme.order, plan.scheme.coefficients)
    between = np.zeros(layout.halo, plan.dtype)

    def spread(which: int) -> list[jax.Array]:
        """`a` (0) or `b` (1) along each block."""
        top, bottom, left, right = (jnp.asarray(side[which]) for side in plan.layer)
        rows = [side[:, None] for side in (top[::-1], bottom) if side.size]
        return [*rows, jnp.repeat(jnp.concatenate([right, between, left[::-1]]), layout.lanes)[None]]

    sizes = [side[0].size for side in plan.layer]
    return tuple(
        Absorber(block, a, b, first, second)
        for block, a, b in zip(blocks(layout, *sizes), spread(0), spread(1), strict=True)
    )

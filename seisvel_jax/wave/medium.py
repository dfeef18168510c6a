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
from seisvel_jax.wave.layout import Layout
from seisvel_jax.wave.plan import Plan


class State(NamedTuple):
    """The field at two times and what goes with it. Three buffers rotate: a step writes the one it does not read."""

    before: jax.Array
    now: jax.Array
    spare: jax.Array
    memory: tuple
    """The memory variables of each block of the PML."""
    force_z: Any
    """What the edges and the PML add to the Laplacian; 0 in most of the grid. Vertical and horizontal overlap in the
    corners, hence two. None where there is none."""
    force_x: Any
    """`[row, pitch * lanes]`: carried as it is written, or XLA copies it."""


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

    def start(self, *, transposed: bool = False) -> State:
        """At rest."""
        rest = jnp.zeros(self.layout.total, self.beta.dtype)
        has_z = bool(self.absorbers) or self.free_surface or self.periodic
        has_x = bool(self.absorbers) or self.periodic
        memory = tuple(a.start(transposed=transposed) for a in self.absorbers)
        across = rest.reshape(self.layout.rows, self.layout.row)
        return State(rest, rest, rest, memory, rest if has_z else None, across if has_x else None)

    def step(
        self, state: State, add: Callable[[jax.Array], jax.Array], after: Array, *, transposed: bool = False
    ) -> State:
        """The state one step later; `add` puts the sources into the new field. `after`: see `Layout.write`."""
        state = self.with_forces(state, transposed=transposed)
        new = self.layout.write(state.spare, self.leapfrog(state.before, state.now, *self.forces(state)), after)
        return state._replace(before=state.now, now=add(new), spare=state.before)

    def with_forces(self, state: State, *, transposed: bool = False) -> State:
        """The state with its memory one step later and the forces that belong to `now`."""
        force_z, force_x = state.force_z, state.force_x
        memory = []
        for absorber, before in zip(self.absorbers, state.memory, strict=True):
            act = absorber.transposed_force if transposed else absorber.force
            after, values = act(before, state.now)
            memory.append(after)
            if absorber.block.axis == 0:
                force_z = absorber.block.write(force_z, values, 1)
            else:
                force_x = absorber.block.write(force_x, values, 1)
        if self.free_surface:
            force_z = edges.free_surface(self.layout, self.second, state.now, force_z)
        if self.periodic:
            force_z, force_x = edges.periodic(self.layout, self.second, state.now, force_z, force_x)
        force_z, force_x = jax.lax.optimization_barrier((force_z, force_x))
        return state._replace(memory=tuple(memory), force_z=force_z, force_x=force_x)

    def forces(self, state: State) -> tuple[jax.Array, ...]:
        """`[size]` each."""
        return tuple(self.layout.inner(f.reshape(-1)) for f in (state.force_z, state.force_x) if f is not None)

    def laplacian(self, field: jax.Array) -> jax.Array:
        """`[size]` `h^2` times the Laplacian, with zeros beyond the grid, and the spring."""
        scalar, layout = field.dtype.type, self.layout
        total = scalar(2 * self.second[0]) * layout.inner(field)
        for j, c in enumerate(self.second[1:], start=1):
            total = total + scalar(c) * (
                layout.shifted(field, 0, j)
                + layout.shifted(field, 0, -j)
                + layout.shifted(field, j, 0)
                + layout.shifted(field, -j, 0)
            )
        return total if self.spring is None else total - self.spring * layout.inner(field)

    def leapfrog(self, before: jax.Array, now: jax.Array, *forces: jax.Array) -> jax.Array:
        """`[size]` of `u+ = u- + alpha (u - u-) + beta (h^2 lap u + forces)`."""
        middle, old = self.layout.inner(now), self.layout.inner(before)
        bend = self.laplacian(now)
        for force in forces:
            bend = bend + force
        carried = 2 * middle - old if self.alpha is None else old + self.alpha * (middle - old)
        return carried + self.beta * bend

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

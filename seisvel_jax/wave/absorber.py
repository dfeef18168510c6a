"""The convolutional perfectly matched layer: second-order equation, memory only in the layer.

Komatitsch & Martin (2007) with the second-order form of Pasalic & McGarry (2010), which Deepwave uses too. Along each
axis, D and L the stencils of the first and second derivative, memory variables psi and zeta at every node of the layer:

    psi' = b psi + a D u,        zeta' = b zeta + a (L u + D psi'),        f = D psi' + zeta'

and the step is `u+ = 2 u - u- + beta (L_z u + L_x u + f_z + f_x)`. Transposed (docs/physics.md), mu = beta * adjoint:

    A' = b A + a mu,             F' = b F - a D (mu + A'),                 f = L A' - D F'
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.wave.layout import Block, Layout, Rows, Sides

POWER = 2
"""Of the damping's growth into the layer."""


@dataclass(frozen=True)
class Absorber:
    """One block of the layer with its profile: `a` and `b`, broadcast over the block."""

    block: Block
    axis: int
    """Along which it absorbs: 0 depth, 1 x."""
    a: jax.Array
    b: jax.Array
    first: np.ndarray
    """`[halo]` weights of the first derivative."""
    second: np.ndarray
    """`[1 + halo]` weights of the second derivative."""

    def start(self) -> tuple[jax.Array, jax.Array]:
        """The two memory variables at rest."""
        rest = jnp.zeros(self.block.shape, self.a.dtype)
        return rest, rest

    def force(self, memory: tuple[jax.Array, jax.Array], field: jax.Array) -> tuple[tuple, jax.Array]:
        """The memory after a step, and `f` on the block."""
        psi, zeta = memory
        psi = _settle(self.b * psi + self.a * self._derivative(lambda j: self.block.read(field, j)))
        bend = self._curvature(lambda j: self.block.read(field, j))
        zeta = _settle(self.b * zeta + self.a * (bend + self._inside(psi)))
        return (psi, zeta), self._inside(psi) + zeta

    def transposed_force(self, memory: tuple[jax.Array, jax.Array], mu: jax.Array) -> tuple[tuple, jax.Array]:
        """The same for the transposed step."""
        stretched, flux = memory
        stretched = _settle(self.b * stretched + self.a * self.block.read(mu))
        slope = self._derivative(lambda j: self.block.read(mu, j)) + self._inside(stretched)
        flux = _settle(self.b * flux - self.a * slope)
        return (stretched, flux), self._curvature(lambda j: self.block.shift(stretched, j)) - self._inside(flux)

    def _inside(self, values: jax.Array) -> jax.Array:
        return self._derivative(lambda j: self.block.shift(values, j))

    def _derivative(self, at: object) -> jax.Array:
        return sum(self.a.dtype.type(d) * (at(j) - at(-j)) for j, d in enumerate(self.first, start=1))  # type: ignore

    def _curvature(self, at: object) -> jax.Array:
        scalar = self.a.dtype.type
        total = scalar(self.second[0]) * at(0)  # type: ignore[operator]
        for j, c in enumerate(self.second[1:], start=1):
            total = total + scalar(c) * (at(j) + at(-j))  # type: ignore[operator]
        return total


def _settle(values: jax.Array) -> jax.Array:
    """Compute these values once: without the barrier XLA works them out again for every neighbour that reads them."""
    return jax.lax.optimization_barrier(values)


def profile(
    cells: int, dt: float, spacing: float, max_velocity: float, frequency: float
) -> tuple[np.ndarray, np.ndarray]:
    """`(a, b)`, `[cells]` from the first node of the layer outwards.

    Damping `sigma_max (d / W)^2` with `sigma_max = -3 v ln(R) / (2 W)`, R = 1e-2, 1e-3, 1e-4 for 5, 10, 20 cells (Collino &
    Tsogka 2001); frequency shift `pi f (1 - d / W)` (Komatitsch & Martin 2007).
    """
    if cells == 0:
        return np.zeros(0), np.zeros(0)
    reflection = 10 ** -(3 + math.log2(cells / 10))
    depth = np.arange(1, cells + 1) / cells
    sigma = -(POWER + 1) * max_velocity * math.log(reflection) / (2 * cells * spacing) * depth**POWER
    shift = np.pi * frequency * (1 - depth)
    b = np.exp(-(sigma + shift) * dt)
    return sigma / (sigma + shift) * (b - 1), b


def blocks(layout: Layout, top: int, bottom: int, left: int, right: int) -> tuple[tuple[Block, int], ...]:
    """The blocks of the layer that have any nodes, with the axis along which each absorbs.

    Each is `halo` nodes wider than its layer on both sides: as far as a derivative of its memory reaches.
    """
    h = layout.halo
    found: list[tuple[Block, int]] = []
    if top:
        found.append((Rows(layout, -h, top + 2 * h), 0))
    if bottom:
        found.append((Rows(layout, layout.depth - bottom - h, bottom + 2 * h), 0))
    if left or right:
        found.append((Sides(layout, right + h, left + h), 1))
    return tuple(found)

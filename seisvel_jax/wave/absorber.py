"""The convolutional perfectly matched layer: second-order equation, memory only in the layer.

Komatitsch & Martin (2007) with the second-order form of Pasalic & McGarry (2010), which Deepwave uses too. Along each
axis, D and L the stencils of the first and second derivative, memory variables psi and zeta at every node of the layer:

    psi' = b psi + a D u,        zeta' = b zeta + a (L u + D psi'),        f = D psi' + zeta'

and the step is `u+ = 2 u - u- + beta (L_z u + L_x u + f_z + f_x)`. Transposed (docs/physics.md), mu = beta * adjoint:

    A' = b A + a mu,             F' = b F - a D (mu + A'),                 f = L A' - D F'
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.wave.layout import Block, Layout, Rows, Sides

POWER = 2
"""Of the damping's growth into the layer."""


Memory = tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
"""Two memory variables, three buffers each, the current one first. They rotate like those of the field."""
MARGINS = {False: (2, 1), True: (2, 2)}
"""Halos around the layer in the buffers of the two variables, forwards and transposed: always 0, so that every
neighbour is a slice."""


@dataclass(frozen=True)
class Absorber:
    """One block of the layer with its profile: `a` and `b`, broadcast over the block.

    Each variable is written into a buffer that the same loop does not read: without that XLA works it out again for
    every neighbour that needs it, or walks the buffer twice.
    """

    block: Block
    a: jax.Array
    b: jax.Array
    first: np.ndarray
    """`[halo]` weights of the first derivative."""
    second: np.ndarray
    """`[1 + halo]` weights of the second derivative."""

    def start(self, *, transposed: bool) -> Memory:
        """The memory at rest."""
        return tuple((jnp.zeros(self.block.shape(m), self.a.dtype),) * 3 for m in MARGINS[transposed])  # type: ignore

    def force(self, memory: Memory, field: jax.Array) -> tuple[Memory, jax.Array]:
        """The memory after a step, and `f` on the block with a margin of 1."""
        block, (psis, zetas) = self.block, memory
        values = self.b * block.inside(psis[0], 2, 0) + self.a * self._derivative(lambda j: block.read(field, 0, j))
        psi = block.put(psis[1], values, 2)
        bend = self._curvature(lambda j: block.read(field, 0, j))
        slope = self._derivative(lambda j: block.inside(psi, 2, 0, j))
        zeta = block.put(zetas[1], self.b * block.inside(zetas[0], 1, 0) + self.a * (bend + slope), 1)
        force = self._derivative(lambda j: block.inside(psi, 2, 1, j)) + zeta
        return ((psi, psis[2], psis[0]), (zeta, zetas[2], zetas[0])), force

    def transposed_force(self, memory: Memory, mu: jax.Array) -> tuple[Memory, jax.Array]:
        """The same for the transposed step."""
        block, (stretches, fluxes) = self.block, memory
        values = self.b * block.inside(stretches[0], 2, 0) + self.a * block.read(mu, 0)
        stretch = block.put(stretches[1], values, 2)
        slope = self._derivative(lambda j: block.read(mu, 0, j) + block.inside(stretch, 2, 0, j))
        flux = block.put(fluxes[1], self.b * block.inside(fluxes[0], 2, 0) - self.a * slope, 2)
        bend = self._curvature(lambda j: block.inside(stretch, 2, 1, j))
        force = bend - self._derivative(lambda j: block.inside(flux, 2, 1, j))
        return ((stretch, stretches[2], stretches[0]), (flux, fluxes[2], fluxes[0])), force

    def _derivative(self, at: Callable[[int], jax.Array]) -> jax.Array:
        scalar = self.a.dtype.type
        return sum(scalar(d) * (at(j) - at(-j)) for j, d in enumerate(self.first, start=1))  # type: ignore[return-value]

    def _curvature(self, at: Callable[[int], jax.Array]) -> jax.Array:
        scalar = self.a.dtype.type
        total = scalar(self.second[0]) * at(0)
        for j, c in enumerate(self.second[1:], start=1):
            total = total + scalar(c) * (at(j) + at(-j))
        return total


def profile(
    cells: int, dt: float, spacing: float, max_velocity: float, frequency: float
) -> tuple[np.ndarray, np.ndarray]:
    """`(a, b)`, `[cells]` from the first node of the layer outwards.

    Damping `sigma_max (d / W)^2` with `sigma_max = -3 v ln(R) / (2 W)`, R = 1e-2, 1e-3, 1e-4 for 5, 10, 20 cells
    (Collino & Tsogka 2001); frequency shift `pi f (1 - d / W)` (Komatitsch & Martin 2007).
    """
    if cells == 0:
        return np.zeros(0), np.zeros(0)
    reflection = 10 ** -(3 + math.log2(cells / 10))
    depth = np.arange(1, cells + 1) / cells
    sigma = -(POWER + 1) * max_velocity * math.log(reflection) / (2 * cells * spacing) * depth**POWER
    shift = np.pi * frequency * (1 - depth)
    b = np.exp(-(sigma + shift) * dt)
    return sigma / (sigma + shift) * (b - 1), b


def blocks(layout: Layout, top: int, bottom: int, left: int, right: int) -> tuple[Block, ...]:
    """The blocks of the layer that have any nodes."""
    found: list[Block] = []
    if top:
        found.append(Rows(layout, 0, top))
    if bottom:
        found.append(Rows(layout, layout.depth - bottom, bottom))
    if left or right:
        found.append(Sides(layout, right, left))
    return tuple(found)

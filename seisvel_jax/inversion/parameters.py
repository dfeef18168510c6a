"""In what an optimiser works: numbers of order 1 in place of m/s, between bounds, smoothed and scaled."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from seisvel_jax.arrays import Array as AnyArray
from seisvel_jax.inversion.config import Parameter


def from_velocity(velocity: AnyArray, parameter: Parameter) -> Array:
    """Velocity in m/s as km/s, s/km or the logarithm of km/s."""
    scaled = jnp.asarray(velocity) / 1000
    if parameter == "slowness":
        return 1 / scaled
    return jnp.log(scaled) if parameter == "log" else scaled


def to_velocity(value: Array, parameter: Parameter) -> Array:
    """The inverse of `from_velocity`, m/s."""
    if parameter == "slowness":
        return 1000 / value
    return 1000 * (jnp.exp(value) if parameter == "log" else jnp.asarray(value))


def slope(velocity: Array, parameter: Parameter) -> Array:
    """Derivative of the velocity by the parameter, m/s: what the chain rule multiplies a gradient by."""
    if parameter == "slowness":
        return -(velocity**2) / 1000
    return jnp.asarray(velocity) if parameter == "log" else jnp.full_like(velocity, 1000)


@partial(
    jax.tree_util.register_dataclass, data_fields=["low", "high", "weight", "depth", "x", "regions"], meta_fields=[]
)
@dataclass(frozen=True)
class Space:
    """Where the parameters may lie, and what makes a gradient a direction: `W S W`, symmetric and positive."""

    low: Array
    """`[batch, depth, x]`; where low and high are equal the cell is known."""
    high: Array
    weight: Array
    """W: `[batch, depth, x]`."""
    depth: Array
    """Smoothing along depth `[depth, depth]` and x: S is their product."""
    x: Array
    regions: Array | None = None
    """`[batch, depth, x]` labels, each below the number of cells: all steps are constant in each region."""

    def clip(self, value: Array) -> Array:
        """The nearest allowed parameters."""
        return jnp.clip(value, self.low, self.high)

    def free(self, value: Array, gradient: Array) -> Array:
        """1 where a step against the gradient stays within the bounds, else 0."""
        held = ((value <= self.low) & (gradient > 0)) | ((value >= self.high) & (gradient < 0))
        return jnp.where(held | (self.low >= self.high), 0, 1).astype(value.dtype)

    def precondition(self, gradient: Array) -> Array:
        """`W S W gradient`, or the mean of each region."""
        if self.regions is not None:
            return jax.vmap(_region_means)(gradient, self.regions)
        smoothed = jnp.einsum("zi,bij,jx->bzx", self.depth, self.weight * gradient, self.x, precision="highest")
        return self.weight * smoothed


def _region_means(values: Array, regions: Array) -> Array:
    """`[depth, x]`: the orthogonal projection onto what is constant in each region."""
    flat = regions.ravel()
    total = jax.ops.segment_sum(values.ravel(), flat, num_segments=values.size)
    count = jax.ops.segment_sum(jnp.ones_like(values).ravel(), flat, num_segments=values.size)
    return (total / jnp.maximum(count, 1))[regions]


def smoothing(count: int, sigma: float) -> np.ndarray:
    """A symmetric Gaussian average `[count, count]`, `D^-1/2 K D^-1/2` with K's row sums in D; 1 for sigma 0."""
    if sigma == 0:
        return np.eye(count, dtype=np.float32)
    places = np.arange(count)
    kernel = np.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))
    root = np.sqrt(kernel.sum(1))
    return (kernel / (root[:, None] * root)).astype(np.float32)


def make_space(
    start: AnyArray,
    parameter: Parameter,
    bounds: tuple[float, float],
    *,
    known: AnyArray | None = None,
    illumination: AnyArray | None = None,
    exponent: float = 0.0,
    smooth: float = 0.0,
) -> Space:
    """The space around a start `[batch, depth, x]` m/s within bounds; cells that are `known` keep the start's value.

    illumination `[batch, depth, x]`: W is its inverse relative to the largest, to the power of half the exponent.
    """
    start = jnp.asarray(start)
    low, high = (jnp.full_like(start, limit) for limit in bounds)
    if known is not None:
        low, high = jnp.where(known, start, low), jnp.where(known, start, high)
    low, high = from_velocity(low, parameter), from_velocity(high, parameter)
    weight = jnp.ones_like(start)
    if illumination is not None and exponent > 0:
        share = illumination / illumination.max((1, 2), keepdims=True)
        weight = (jnp.asarray(share, start.dtype) + 1e-3) ** (-exponent / 2)
        weight = weight / weight.mean((1, 2), keepdims=True)
    return Space(
        jnp.minimum(low, high),
        jnp.maximum(low, high),
        weight,
        jnp.asarray(smoothing(start.shape[1], smooth), start.dtype),
        jnp.asarray(smoothing(start.shape[2], smooth), start.dtype),
    )

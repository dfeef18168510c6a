"""Parts shared by the networks. Shapes end in the channel; masks and tables are static numpy, keys are explicit."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

EMPTY = nnx.initializers.zeros_init()


def linear(inputs: int, outputs: int, dtype: str, rngs: nnx.Rngs) -> nnx.Linear:
    """Dense layer computing in `dtype` on float32 parameters, which `draw_kernels` fills."""
    compute = jnp.dtype(dtype)
    return nnx.Linear(inputs, outputs, dtype=compute, param_dtype=jnp.float32, kernel_init=EMPTY, rngs=rngs)


def conv(inputs: int, outputs: int, kernel: tuple[int, int], dtype: str, rngs: nnx.Rngs, **options) -> nnx.Conv:
    """Convolution computing in `dtype` on float32 parameters, which `draw_kernels` fills."""
    options |= dict(dtype=jnp.dtype(dtype), param_dtype=jnp.float32, kernel_init=EMPTY, rngs=rngs)
    return nnx.Conv(inputs, outputs, kernel, **options)


def draw_kernels(module: nnx.Module, key: jax.Array, leave_zero: tuple[str, ...] = ()) -> None:
    """Fill every kernel of `module` with LeCun's truncated normal (standard deviation 1/sqrt(inputs)).

    `leave_zero` names direct children that start at zero. All kernels are cut from ONE draw: a draw each makes XLA
    compile the generator once a kernel, 20 s for a network that trains in two minutes.
    """
    state = nnx.state(module, nnx.Param)
    kernels = [
        (path, kernel[...])
        for path, kernel in nnx.to_flat_state(state)
        if path[-1] == "kernel" and path[0] not in leave_zero
    ]
    # 0.8796... is the standard deviation of a normal cut at two standard deviations.
    drawn = jax.random.truncated_normal(key, -2, 2, (sum(kernel.size for _, kernel in kernels),)) / 0.87962566
    filled, start = [], 0
    for path, kernel in kernels:
        scale = 1 / math.sqrt(math.prod(kernel.shape[:-1]))
        filled.append((path, scale * drawn[start : start + kernel.size].reshape(kernel.shape)))
        start += kernel.size
    for path, values in filled:
        child: Any = module
        for name in path:
            child = child[name] if isinstance(name, int) else getattr(child, str(name))
        child[...] = values


def layer_norm(channels: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the channel, in float32 whatever comes in."""
    return nnx.LayerNorm(channels, dtype=jnp.float32, param_dtype=jnp.float32, rngs=rngs)


def dropout(values: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero a fraction `rate` of the entries and rescale the rest; nothing where `key` is None."""
    if key is None or rate == 0.0:
        return values
    keep = jax.random.bernoulli(key, 1.0 - rate, values.shape)
    return jnp.where(keep, values / (1.0 - rate), jnp.zeros((), values.dtype))


def subkey(key: jax.Array | None, index: int) -> jax.Array | None:
    """Independent key number `index`; None stays None."""
    return None if key is None else jax.random.fold_in(key, index)


def sinusoids(values: jax.Array | np.ndarray, shortest: float, longest: float, count: int) -> jax.Array:
    """Sine and cosine of physical coordinates at `count` wavelengths, geometrically spaced. `[...] -> [..., 2 count]`.

    Wavelengths have the unit of `values`. Vaswani et al. (2017), with metres and seconds for the index.
    """
    wavelengths = np.geomspace(shortest, longest, count)
    numbers = (2 * np.pi / wavelengths).astype(np.float32).reshape((1,) * np.ndim(values) + (count,))
    angles = jnp.asarray(values, jnp.float32)[..., None] * numbers
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def pooling_matrix(length: int, windows: int, moments: int) -> np.ndarray:
    """Adaptive pooling `[windows * moments, length]`: cosine moments of `windows` equal parts of an axis of any length.

    Window w covers floor(w length / windows) .. ceil((w + 1) length / windows), as adaptive average pooling does.
    Moment m is the mean of sqrt(2) cos(pi m u), u in (0, 1) across the window; moment 0 is the plain mean.
    """
    matrix = np.zeros((windows, moments, length), np.float32)
    for window in range(windows):
        start, stop = window * length // windows, math.ceil((window + 1) * length / windows)
        across = (np.arange(stop - start) + 0.5) / (stop - start)
        for moment in range(moments):
            matrix[window, moment, start:stop] = np.cos(np.pi * moment * across) / (stop - start)
            matrix[window, moment] *= math.sqrt(2) if moment else 1
    return matrix.reshape(windows * moments, length)


def interpolate(values: jax.Array, at: np.ndarray, axis: int) -> jax.Array:
    """Linear interpolation along `axis` at fractional indices `at` (static), clamped to the ends."""
    length = values.shape[axis]
    at = np.clip(np.asarray(at, np.float64), 0, length - 1)
    if at.size == length and np.array_equal(at, np.arange(length)):
        return values
    below = np.floor(at).astype(np.int32)
    above = np.minimum(below + 1, length - 1)
    shape = [1] * values.ndim
    shape[axis] = at.size
    share = (at - below).astype(np.float32).reshape(shape)
    return jnp.take(values, below, axis=axis) * (1 - share) + jnp.take(values, above, axis=axis) * share


class Attention(nnx.Module):
    """Multi-head attention of `[batch, query, channel]` to `[batch, token, channel]`; softmax in float32."""

    def __init__(self, width: int, heads: int, dtype: str, *, rngs: nnx.Rngs):
        self.heads, self.dtype = heads, dtype
        self.queries = linear(width, width, dtype, rngs)
        self.keys_values = linear(width, 2 * width, dtype, rngs)
        self.out = linear(width, width, dtype, rngs)

    def __call__(self, queries: jax.Array, tokens: jax.Array) -> jax.Array:
        """Returns `[batch, query, channel]` in the compute dtype."""
        batch, count, width = queries.shape
        head = width // self.heads
        q = self.queries(queries).reshape(batch, count, self.heads, head)
        k, v = jnp.split(self.keys_values(tokens).reshape(batch, -1, 2 * self.heads, head), 2, axis=2)
        scores = jnp.einsum("bqhc,bthc->bhqt", q, k, preferred_element_type=jnp.float32)
        shares = jax.nn.softmax(scores * (1 / math.sqrt(head)), axis=-1).astype(v.dtype)
        mixed = jnp.einsum("bhqt,bthc->bqhc", shares, v)
        return self.out(mixed.reshape(batch, count, width))


class MLP(nnx.Module):
    """Dense, GELU, Dense."""

    def __init__(self, inputs: int, hidden: int, outputs: int, dtype: str, *, rngs: nnx.Rngs):
        self.inner = linear(inputs, hidden, dtype, rngs)
        self.outer = linear(hidden, outputs, dtype, rngs)

    def __call__(self, values: jax.Array) -> jax.Array:
        """`[..., inputs] -> [..., outputs]`."""
        return self.outer(jax.nn.gelu(self.inner(values)))


class MultiScaleBlock(nnx.Module):
    """Parallel 1x1, 3x3, 5x5 and 7x7 kernels, a quarter of the channels each, then norm, GELU, Dense; residual."""

    def __init__(self, channels: int, dtype: str, *, rngs: nnx.Rngs):
        part = channels // 4
        self.point = linear(part, part, dtype, rngs)
        self.kernels = nnx.List([conv(part, part, (size, size), dtype, rngs) for size in (3, 5, 7)])
        self.norm = layer_norm(channels, rngs)
        self.mix = linear(channels, channels, dtype, rngs)

    def __call__(self, values: jax.Array) -> jax.Array:
        """`[batch, time, receiver, channel]`, same out, float32."""
        parts = jnp.split(values, 4, axis=-1)
        scales = [self.point(parts[0])] + [kernel(part) for kernel, part in zip(self.kernels, parts[1:])]
        mixed = self.mix(jax.nn.gelu(self.norm(jnp.concatenate(scales, axis=-1))))
        return values + mixed.astype(jnp.float32)


class Halve(nnx.Module):
    """Two time steps by two receivers become one position: reshape and Dense."""

    def __init__(self, inputs: int, outputs: int, dtype: str, *, rngs: nnx.Rngs):
        self.norm = layer_norm(inputs, rngs)
        self.mix = linear(4 * inputs, outputs, dtype, rngs)

    def __call__(self, values: jax.Array) -> jax.Array:
        """`[batch, time, receiver, channel] -> [batch, ceil(time/2), ceil(receiver/2), outputs]` float32."""
        values = self.norm(values)
        batch, time, receiver, channels = values.shape
        values = jnp.pad(values, ((0, 0), (0, time % 2), (0, receiver % 2), (0, 0)))
        values = values.reshape(batch, -(-time // 2), 2, -(-receiver // 2), 2, channels).swapaxes(2, 3)
        return self.mix(values.reshape(*values.shape[:3], 4 * channels)).astype(jnp.float32)

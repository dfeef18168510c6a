"""DiffusionVel's networks, for comparison (Zhang et al. 2024, arXiv 2410.21776): one U-Net a source of information.

Faithful in layout: multipliers 1, 2, 4, 8, 8, two residual blocks a level, group norm, dropout 0.2, attention at the
coarsest levels, the clean model predicted; the seismic stem halves time until it is as long as the grid is deep and
lies beside the noisy model; wells and background are images of scaled velocity with 0 where nothing is known. `base` is
64 as published (about 98 million parameters); smaller ones are for a CPU.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from seisvel_jax.diffusion.condition import Condition
from seisvel_jax.models.layers import Attention, conv, draw_kernels, dropout, linear, sinusoids, subkey

Source = Literal["gathers", "wells", "background", "none"]
MULTIPLIERS = (1, 2, 4, 8, 8)
BLOCKS = 2
ATTENDED = 2
"""Of the coarsest levels."""
TIMES = 64
"""Features of t."""
KERNEL = (3, 3)


@dataclass(frozen=True)
class UNetConfig:
    """One network of the four."""

    source: Source
    """What it knows besides the noisy model."""
    shots: int = 5
    """Of the gathers: they are channels."""
    shape: tuple[int, int] = (70, 70)
    """Cells `(depth, x)`; as many receivers as cells in x."""
    base: int = 64
    dropout: float = 0.2
    heads: int = 8


class Residual(nnx.Module):
    """Norm, SiLU, convolution; shifted by the time; norm, SiLU, dropout, convolution; added to what came in."""

    def __init__(self, inputs: int, outputs: int, times: int, rate: float, *, rngs: nnx.Rngs):
        self.rate = rate
        self.first_norm, self.second_norm = group_norm(inputs, rngs), group_norm(outputs, rngs)
        self.first = conv(inputs, outputs, KERNEL, "float32", rngs)
        self.second = conv(outputs, outputs, KERNEL, "float32", rngs)
        self.time = linear(times, outputs, "float32", rngs)
        self.skip = linear(inputs, outputs, "float32", rngs) if inputs != outputs else None

    def __call__(self, values: jax.Array, time: jax.Array, key: jax.Array | None) -> jax.Array:
        """`[batch, depth, x, inputs] -> [batch, depth, x, outputs]`."""
        inner = self.first(jax.nn.silu(self.first_norm(values))) + self.time(jax.nn.silu(time))[:, None, None, :]
        inner = self.second(dropout(jax.nn.silu(self.second_norm(inner)), self.rate, key))
        return inner + (values if self.skip is None else self.skip(values))


class SelfAttention(nnx.Module):
    """Among all cells of a map, residual."""

    def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs):
        self.norm = group_norm(channels, rngs)
        self.attention = Attention(channels, heads, "float32", rngs=rngs)

    def __call__(self, values: jax.Array) -> jax.Array:
        """`[batch, depth, x, channel]`, same out."""
        flat = self.norm(values).reshape(values.shape[0], -1, values.shape[-1])
        return values + self.attention(flat, flat).reshape(values.shape)


class UNet(nnx.Module):
    """`Predict` of `diffusionvel.py`: `(noisy [batch, depth, x], t [batch], condition) -> clean [batch, depth, x]`."""

    def __init__(self, config: UNetConfig, times: int, *, rngs: nnx.Rngs):
        """`times`: samples of a trace."""
        self.config = config
        base, inside = config.base, 4 * config.base
        self.halvings = max(0, math.ceil(math.log2(times / config.shape[0])))
        counts = [5 * base // 2 ** (self.halvings - 1 - index) for index in range(self.halvings)]
        counts = [config.shots, *counts] if config.source == "gathers" else [0]
        self.stem = nnx.List(
            [
                conv(before, after, KERNEL, "float32", rngs, strides=(2, 1), padding=((1, 1), (1, 1)))
                for before, after in itertools.pairwise(counts)
            ]
        )
        inputs = 1 + {"gathers": counts[-1], "wells": 1, "background": 1, "none": 0}[config.source]
        self.time_in = linear(TIMES, inside, "float32", rngs)
        self.time_out = linear(inside, inside, "float32", rngs)
        self.look = conv(inputs, base, KERNEL, "float32", rngs)

        def residual(before: int, after: int) -> Residual:
            return Residual(before, after, inside, config.dropout, rngs=rngs)

        def attention(level: int, channels: int) -> SelfAttention | None:
            coarse = level >= len(MULTIPLIERS) - ATTENDED
            return SelfAttention(channels, config.heads, rngs=rngs) if coarse else None

        channels, kept = base, [base]
        self.down: Any = nnx.List([])
        self.down_attention: Any = nnx.List([])
        self.shrink: Any = nnx.List([])
        for level, factor in enumerate(MULTIPLIERS):
            for _ in range(BLOCKS):
                self.down.append(residual(channels, factor * base))
                channels = factor * base
                self.down_attention.append(attention(level, channels))
                kept.append(channels)
            if level < len(MULTIPLIERS) - 1:
                self.shrink.append(conv(channels, channels, KERNEL, "float32", rngs, strides=(2, 2)))
                kept.append(channels)
        self.middle = nnx.List([residual(channels, channels), residual(channels, channels)])
        self.middle_attention = SelfAttention(channels, config.heads, rngs=rngs)
        self.up: Any = nnx.List([])
        self.up_attention: Any = nnx.List([])
        self.grow: Any = nnx.List([])
        for level, factor in reversed(list(enumerate(MULTIPLIERS))):
            for _ in range(BLOCKS + 1):
                self.up.append(residual(channels + kept.pop(), factor * base))
                channels = factor * base
                self.up_attention.append(attention(level, channels))
            if level:
                self.grow.append(conv(channels, channels, KERNEL, "float32", rngs))
        self.norm = group_norm(channels, rngs)
        self.answer = conv(channels, 1, KERNEL, "float32", rngs)
        draw_kernels(self, rngs.params(), leave_zero=("answer",))

    def __call__(
        self, noisy: jax.Array, time: jax.Array, condition: Condition, key: jax.Array | None = None
    ) -> jax.Array:
        """The clean model; the sources of the condition that this network does not know are ignored."""
        seen = jnp.concatenate([noisy[..., None], *self._images(condition)], axis=-1)
        features = sinusoids(time.astype(jnp.float32), 2.0, 20_000.0, TIMES // 2)
        embedded = self.time_out(jax.nn.silu(self.time_in(features)))
        values = self.look(seen)
        kept, blocks, shrink = [values], iter(zip(self.down, self.down_attention)), iter(self.shrink)
        for level in range(len(MULTIPLIERS)):
            for index in range(BLOCKS):
                block, attend = next(blocks)
                values = block(values, embedded, subkey(key, 10 * level + index))
                values = values if attend is None else attend(values)
                kept.append(values)
            if level < len(MULTIPLIERS) - 1:
                values = next(shrink)(values)
                kept.append(values)
        values = self.middle[0](values, embedded, subkey(key, 100))
        values = self.middle[1](self.middle_attention(values), embedded, subkey(key, 101))
        blocks, grow = iter(zip(self.up, self.up_attention)), iter(self.grow)
        for level in reversed(range(len(MULTIPLIERS))):
            for index in range(BLOCKS + 1):
                block, attend = next(blocks)
                joined = jnp.concatenate([values, kept.pop()], axis=-1)
                values = block(joined, embedded, subkey(key, 200 + 10 * level + index))
                values = values if attend is None else attend(values)
            if level:
                values = next(grow)(_twice(values, kept[-1].shape[1:3]))
        return self.answer(jax.nn.silu(self.norm(values)))[..., 0]

    def _images(self, condition: Condition) -> list[jax.Array]:
        """What lies beside the noisy model, `[batch, depth, x, channel]`; no masks, as published."""
        if self.config.source == "wells":
            return [(condition.wells * condition.wells_known)[..., None]]
        if self.config.source == "background":
            known = condition.background_known[:, None, None]
            return [(condition.background * known)[..., None]]
        if self.config.source == "none":
            return []
        loud = jnp.sign(condition.gathers) * jnp.log1p(jnp.abs(condition.gathers))
        low, high = (limit(loud, axis=(1, 2, 3), keepdims=True) for limit in (jnp.min, jnp.max))
        span = jnp.maximum(high - low, 1e-6)
        values = jnp.moveaxis(2 * (loud - low) / span - 1, 1, -1)
        wanted = 2**self.halvings * (self.config.shape[0] - 1) + 1
        values = jnp.pad(values, ((0, 0), (0, max(0, wanted - values.shape[1])), (0, 0), (0, 0)))[:, :wanted]
        for layer in self.stem:
            values = jax.nn.silu(layer(values))
        return [values]


def group_norm(channels: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Group norm with 32 groups, or as many as divide the channels."""
    return nnx.GroupNorm(channels, num_groups=math.gcd(32, channels), rngs=rngs)


def _twice(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Each cell twice as high and wide, cut to `shape`: the level above may have had an odd number."""
    values = jnp.repeat(jnp.repeat(values, 2, axis=1), 2, axis=2)
    return values[:, : shape[0], : shape[1]]

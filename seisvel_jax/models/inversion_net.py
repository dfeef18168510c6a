"""InversionNet, the baseline of OpenFWI (Wu & Lin, IEEE Trans. Comput. Imaging 2019), with GroupNorm for ensembles.

The network is made for gathers `(5, 1000, 70)` and velocity `(70, 70)`. Any other survey's gathers are resized to
1000 x 70 (linear, end to end) and the result is resized from 70 x 70 to its grid: a baseline, no more.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seisvel_jax.errors import UserError
from seisvel_jax.models.config import InversionNetConfig
from seisvel_jax.models.layers import EMPTY, conv, draw_kernels, dropout, interpolate, linear
from seisvel_jax.survey import Survey

TIMES, RECEIVERS, SIDE = 1000, 70, 70
SYMMETRIC = ((1, 1), (1, 1))
TALL = ((1, 1), (0, 0))
ENCODER = (
    # channels, kernel, stride, padding (time, receiver), as in the published code
    (32, (7, 1), (2, 1), ((3, 3), (0, 0))),
    (64, (3, 1), (2, 1), TALL),
    (64, (3, 1), (1, 1), TALL),
    (64, (3, 1), (2, 1), TALL),
    (64, (3, 1), (1, 1), TALL),
    (128, (3, 1), (2, 1), TALL),
    (128, (3, 1), (1, 1), TALL),
    (128, (3, 3), (2, 2), SYMMETRIC),
    (128, (3, 3), (1, 1), SYMMETRIC),
    (256, (3, 3), (2, 2), SYMMETRIC),
    (256, (3, 3), (1, 1), SYMMETRIC),
    (256, (3, 3), (2, 2), SYMMETRIC),
    (256, (3, 3), (1, 1), SYMMETRIC),
    (512, (8, 9), (1, 1), "VALID"),
)
DECODER = (512, 256, 128, 64, 32)
"""Channels at 5, 10, 20, 40 and 80 pixels a side."""


class ConvBlock(nnx.Module):
    """Convolution, GroupNorm, LeakyReLU 0.2."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], dtype: str, *, rngs: nnx.Rngs, **options):
        self.conv = conv(inputs, outputs, kernel, dtype, rngs, **options)
        self.norm = group_norm(outputs, rngs)

    def __call__(self, values: jax.Array) -> jax.Array:
        """`[batch, height, width, inputs] -> [batch, height', width', outputs]` float32."""
        return jax.nn.leaky_relu(self.norm(self.conv(values)), 0.2)


class UpBlock(nnx.Module):
    """Enlarge by `factor` (transposed convolution, or Dense and pixel shuffle), GroupNorm, LeakyReLU 0.2."""

    def __init__(self, inputs: int, outputs: int, factor: int, kind: str, *, dtype: str, rngs: nnx.Rngs):
        self.factor, self.kind = factor, kind
        self.enlarge: nnx.ConvTranspose | nnx.Linear
        if kind == "transposed":
            # From 1x1 to 5x5 the kernel is the output; afterwards 4x4 with stride 2.
            kernel, padding = ((factor, factor), "VALID") if factor == 5 else ((4, 4), "SAME")
            options: dict[str, Any] = dict(dtype=jnp.dtype(dtype), kernel_init=EMPTY, rngs=rngs)
            self.enlarge = nnx.ConvTranspose(inputs, outputs, kernel, (factor, factor), padding=padding, **options)
        else:
            self.enlarge = linear(inputs, factor * factor * outputs, dtype, rngs)
        self.norm = group_norm(outputs, rngs)

    def __call__(self, values: jax.Array) -> jax.Array:
        """`[batch, height, width, inputs] -> [batch, factor height, factor width, outputs]` float32."""
        batch, height, width, _ = values.shape
        values = self.enlarge(values)
        if self.kind == "pixel_shuffle":
            values = values.reshape(batch, height, width, self.factor, self.factor, -1).swapaxes(2, 3)
            values = values.reshape(batch, height * self.factor, width * self.factor, -1)
        return jax.nn.leaky_relu(self.norm(values), 0.2)


class InversionNet(nnx.Module):
    """Gathers to velocity through one latent vector."""

    def __init__(self, config: InversionNetConfig, source_count: int, *, rngs: nnx.Rngs):
        self.config, self.source_count = config, source_count
        blocks, channels = [], source_count
        for full, kernel, stride, padding in ENCODER:
            outputs = scaled(full, config.width)
            blocks.append(
                ConvBlock(channels, outputs, kernel, config.dtype, strides=stride, padding=padding, rngs=rngs)
            )
            channels = outputs
        self.encoder = nnx.List(blocks)
        ups, smooths = [], []
        for index, full in enumerate(DECODER):
            outputs = scaled(full, config.width)
            ups.append(UpBlock(channels, outputs, 2 if index else 5, config.decoder, dtype=config.dtype, rngs=rngs))
            smooths.append(ConvBlock(outputs, outputs, (3, 3), config.dtype, padding=SYMMETRIC, rngs=rngs))
            channels = outputs
        self.ups, self.smooths = nnx.List(ups), nnx.List(smooths)
        self.out = conv(channels, 1, (3, 3), config.dtype, rngs, padding=SYMMETRIC)
        # One channel: the norm of the published last block is a scale and a shift of the whole map.
        self.out_norm = group_norm(1, rngs)
        draw_kernels(self, rngs.params())

    def __call__(self, gathers: jax.Array, survey: Survey, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Gathers `[batch, source, time, receiver]` to velocity `[batch, depth, x]` m/s float32 on `survey.grid`.

        Positions are not used. Raises UserError for another number of shots than the network was built for.
        """
        if gathers.shape[1] != self.source_count:
            raise UserError(
                f"gathers have {gathers.shape[1]} shots, this InversionNet reads {self.source_count}: "
                "train one for this survey, or use VelocityNet, which reads any number"
            )
        values = resize(resize(gathers.astype(jnp.float32), TIMES, 2), RECEIVERS, 3)
        values = compress(values, self.config.amplitude).transpose(0, 2, 3, 1)
        for block in self.encoder:
            values = block(values)
        values = dropout(values, self.config.dropout, dropout_key)
        for up, smooth in zip(self.ups, self.smooths):
            values = smooth(up(values))
        values = jnp.tanh(self.out_norm(self.out(values[:, 5:-5, 5:-5])))[..., 0].astype(jnp.float32)
        low, high = self.config.velocity_bounds
        velocity = low + (high - low) * (values + 1) / 2
        return resize(resize(velocity, survey.grid.depth_count, 1), survey.grid.x_count, 2)


def compress(gathers: jax.Array, amplitude: float) -> jax.Array:
    """Symmetric logarithm, about [-1, 1] for gathers of root mean square `amplitude` (largest about 36 times that)."""
    return jnp.sign(gathers) * jnp.log1p(jnp.abs(gathers) / amplitude) / math.log1p(36.0)


def resize(values: jax.Array, count: int, axis: int) -> jax.Array:
    """Linear resizing of one axis to `count` entries, first on first and last on last."""
    return interpolate(values, np.linspace(0, values.shape[axis] - 1, count), axis)


def scaled(channels: int, width: float) -> int:
    """Channels times the width factor, in eights."""
    return max(8, 8 * round(channels * width / 8))


def group_norm(channels: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """GroupNorm of eight groups, or one for a single channel, in float32."""
    groups = 8 if channels % 8 == 0 else 1
    return nnx.GroupNorm(channels, num_groups=groups, dtype=jnp.float32, param_dtype=jnp.float32, rngs=rngs)

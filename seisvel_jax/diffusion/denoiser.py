"""The denoiser's network: patches of the noisy model attend to each other and to the encoded gathers.

noisy, wells, mask, background, its mask -> 3x3 convolution -> patches -> tokens placed in metres
layers: attention among patches, attention to the gathers' tokens, MLP; each scaled, shifted and gated by the noise
level, the blur and the family (Peebles & Xie 2023, arXiv 2212.09748)
-> patches twice as large, faded into each other -> 3x3 convolutions beside the inputs
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seisvel_jax.diffusion.condition import Condition
from seisvel_jax.diffusion.config import DenoiserConfig
from seisvel_jax.errors import UserError
from seisvel_jax.models.config import VelocityNetConfig
from seisvel_jax.models.layers import MLP, Attention, conv, draw_kernels, dropout, layer_norm, linear, sinusoids, subkey
from seisvel_jax.models.velocity_net import FIRST_GUESS, WAVELENGTHS, VelocityNet, align, blended, of_lengths, of_times
from seisvel_jax.survey import Survey

LEVELS = 8
"""Wavelengths of the noise level's features."""
MAPS = 4
"""Wells, their mask, background, its mask."""


class Encoded(NamedTuple):
    """A condition as the network reads it, the same for all samples and noise levels: computed once."""

    tokens: jax.Array
    """`[batch, token, channel]` of all shots."""
    maps: jax.Array
    """`[batch, depth, x, MAPS]`."""
    vector: jax.Array
    """`[batch, feature]` of blur and family."""


class GatherEncoder(VelocityNet):
    """The ensemble's network without its decoder, told which shots are missing."""

    def __init__(self, config: VelocityNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        for part in ("query", "decoder", "decoder_norm", "head", "refine_in", "refine_out"):
            if hasattr(self, part):
                delattr(self, part)
        self.missing = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.width,)))

    def encode(self, gathers: jax.Array, shots: jax.Array, survey: Survey, key: jax.Array | None) -> jax.Array:
        """Gathers `[batch, source, time, receiver]`, shots `[batch, source]` to `[batch, token, channel]`.

        Raises UserError where the survey is not sampled at the network's `dt`.
        """
        if not math.isclose(survey.dt, self.config.dt, rel_tol=1e-3):
            raise UserError(
                f"gathers are sampled every {survey.dt:g} s, this denoiser reads {self.config.dt:g} s: give "
                "--data.dt or --denoiser.encoder.dt"
            )
        tokens = self.tokens(gathers * shots[:, :, None, None], survey)
        absent = (1 - shots)[:, :, None, None]
        tokens = tokens + absent * self.missing[...].reshape(1, 1, 1, -1)
        for index, layer in enumerate(self.encoder):
            one = subkey(key, index)
            tokens = self._block(lambda t, layer=layer, one=one: layer(t, one), tokens)
        return self.encoder_norm(tokens).reshape(tokens.shape[0], -1, tokens.shape[-1])


class DenoiserLayer(nnx.Module):
    """Attention among patches, attention to the gathers, MLP: each on a norm that is modulated, gated, residual."""

    def __init__(self, config: VelocityNetConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.rate = config.dropout
        self.norms = nnx.List([layer_norm(width, rngs) for _ in range(3)])
        self.self_attention = Attention(width, config.heads, dtype, rngs=rngs)
        self.cross_attention = Attention(width, config.heads, dtype, rngs=rngs)
        self.mlp = MLP(width, 4 * width, width, dtype, rngs=rngs)

    def __call__(
        self, patches: jax.Array, tokens: jax.Array, modulation: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """Patches `[batch, patch, channel]`, modulation `[batch, 9 channel]`; returns patches."""
        parts = jnp.split(modulation[:, None, :], 9, axis=-1)

        def add(patches: jax.Array, work: Callable, index: int) -> jax.Array:
            shift, scale, gate = parts[3 * index : 3 * index + 3]
            update = work(self.norms[index](patches) * (1 + scale) + shift).astype(jnp.float32)
            return patches + (1 + gate) * dropout(update, self.rate, subkey(key, index))

        patches = add(patches, lambda values: self.self_attention(values, values), 0)
        patches = add(patches, lambda values: self.cross_attention(values, tokens), 1)
        return add(patches, self.mlp, 2)


class Denoiser(nnx.Module):
    """`Network` of `edm.py` for any survey at the encoder's `dt`, on the grid of the survey."""

    def __init__(self, config: DenoiserConfig, *, rngs: nnx.Rngs):
        self.config = config
        encoder = config.encoder
        width, dtype, cells = encoder.width, encoder.dtype, math.prod(config.patch_shape)
        self.gathers = GatherEncoder(encoder, rngs=rngs)
        self.look = conv(1 + MAPS, config.channels, (3, 3), dtype, rngs)
        self.patch = linear(config.channels * cells, width, dtype, rngs)
        self.place = MLP(4 * WAVELENGTHS, width, width, dtype, rngs=rngs)
        self.level = MLP(2 * LEVELS + 1 + features(config), width, width, dtype, rngs=rngs)
        self.modulate = nnx.List([linear(width, 9 * width, dtype, rngs) for _ in range(config.layers)])
        self.layers = nnx.List([DenoiserLayer(encoder, rngs=rngs) for _ in range(config.layers)])
        self.norm = layer_norm(width, rngs)
        self.head = MLP(width, width, 4 * cells, dtype, rngs=rngs)
        self.refine_in = conv(2 + MAPS, config.channels, (3, 3), dtype, rngs)
        self.refine_out = conv(config.channels, 1, (3, 3), dtype, rngs)
        # At first the level and the labels change nothing, and the network says 0: the best linear guess alone.
        draw_kernels(self, rngs.params(), leave_zero=("modulate", "refine_out"))
        self.head.outer.kernel[...] = jnp.zeros_like(self.head.outer.kernel[...])
        for layer in self.layers:
            align(layer.cross_attention)

    def encode(self, condition: Condition, survey: Survey, key: jax.Array | None = None) -> Encoded:
        """What the network needs of a condition. Sampling many times from one, do this once."""
        known = jnp.broadcast_to(condition.background_known[:, None, None], condition.background.shape)
        maps = jnp.stack(
            [condition.wells * condition.wells_known, condition.wells_known, condition.background * known, known], -1
        )
        blur = jnp.log1p(condition.blur / survey.grid.spacing) * condition.background_known
        family = jax.nn.one_hot(condition.family, len(self.config.families) + 1)
        vector = jnp.concatenate([blur[:, None], condition.background_known[:, None], family], axis=-1)
        return Encoded(self.gathers.encode(condition.gathers, condition.shots, survey, key), maps, vector)

    def __call__(
        self,
        values: jax.Array,
        level: jax.Array,
        encoded: Encoded,
        survey: Survey,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Values `[batch, depth, x]` and level ln(sigma) / 4 `[batch]` to `[batch, depth, x]` float32."""
        config, (batch, depth, x) = self.config, values.shape
        high, wide = config.patch_shape
        rows, across = -(-depth // high), -(-x // wide)
        seen = jnp.concatenate([values[..., None], encoded.maps], axis=-1)
        fine = jax.nn.gelu(self.look(seen)).astype(jnp.float32)
        fine = jnp.pad(fine, ((0, 0), (0, rows * high - depth), (0, across * wide - x), (0, 0)))
        tiles = fine.reshape(batch, rows, high, across, wide, -1).swapaxes(2, 3)
        patches = self.patch(tiles.reshape(batch, rows * across, -1)).astype(jnp.float32)
        centres = [
            (np.arange(count) * side + (side - 1) / 2) * survey.grid.spacing
            for count, side in ((rows, high), (across, wide))
        ]
        places = np.stack([np.repeat(centres[0], across), np.tile(centres[1], rows)], axis=-1)
        placed = self.place(of_lengths(places).reshape(rows * across, -1)).astype(jnp.float32)
        echo = self.gathers.token_place.when(of_times(2 * places[:, 0] / FIRST_GUESS)).astype(jnp.float32)
        patches = patches + (placed + echo)[None]

        told = jnp.concatenate([sinusoids(level, 0.1, 10.0, LEVELS), level[:, None], encoded.vector], axis=-1)
        told = jax.nn.gelu(self.level(told)).astype(jnp.float32)
        for index, (layer, modulate) in enumerate(zip(self.layers, self.modulate)):
            modulation = modulate(told).astype(jnp.float32)
            patches = layer(patches, encoded.tokens, modulation, subkey(dropout_key, index))
        tiles = self.head(self.norm(patches)).astype(jnp.float32).reshape(batch, rows, across, 2 * high, 2 * wide)
        answer = blended(tiles)[:, :depth, :x]
        beside = jnp.concatenate([answer[..., None], seen], axis=-1)
        return answer + self.refine_out(jax.nn.gelu(self.refine_in(beside)))[..., 0].astype(jnp.float32)


def features(config: DenoiserConfig) -> int:
    """Length of `Encoded.vector`."""
    return 2 + len(config.families) + 1

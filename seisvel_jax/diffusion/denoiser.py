"""The denoiser's network: patches of the noisy model attend to each other and to the encoded gathers.

gathers -> the ensemble's network -> tokens, and its velocity: the guess
noisy, wells, mask, background, its mask, guess -> 3x3 convolutions -> patches -> tokens placed in metres
layers: attention among patches, attention to the gathers' tokens, MLP; each scaled, shifted and gated by the noise
level, the blur and the family (Peebles & Xie 2023, arXiv 2212.09748)
-> patches twice as large, faded into each other -> 3x3 convolutions beside the first ones

The guess is trained to be near the truth by a loss of its own (`guess_loss`; as the regression of CorrDiff, Mardani et
al. 2023, arXiv 2309.15214): a denoiser learns to read gathers from the few noise levels at which it needs them, and so
many times more slowly (docs/diffusion.md).
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
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.errors import UserError
from seisvel_jax.models.config import VelocityNetConfig
from seisvel_jax.models.layers import MLP, Attention, conv, draw_kernels, dropout, layer_norm, linear, sinusoids, subkey
from seisvel_jax.models.velocity_net import FIRST_GUESS, WAVELENGTHS, VelocityNet, align, blended, of_lengths, of_times
from seisvel_jax.survey import Survey

LEVELS = 8
"""Wavelengths of the noise level's features."""
MAPS = 5
"""Wells, their mask, background, its mask, the guess."""


class Heard(NamedTuple):
    """Gathers as the network reads them."""

    tokens: jax.Array
    """`[batch, token, channel]` of all shots."""
    guess: jax.Array
    """`[batch, depth, x]` scaled velocity; 0 where no shot is known."""
    share: jax.Array
    """`[batch]` of the shots that are known."""


class Encoded(NamedTuple):
    """A condition as the network reads it, the same for all samples and noise levels: computed once."""

    tokens: jax.Array
    """`[batch, token, channel]` of all shots."""
    maps: jax.Array
    """`[batch, depth, x, MAPS]`."""
    vector: jax.Array
    """`[batch, feature]` of shots, blur and family."""


class GatherEncoder(VelocityNet):
    """The ensemble's network, told which shots are missing."""

    def __init__(self, config: VelocityNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.missing = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.width,)))

    def read(
        self, gathers: jax.Array, shots: jax.Array, survey: Survey, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Gathers `[batch, source, time, receiver]`, shots `[batch, source]` to tokens `[batch, token, channel]` and
        velocity `[batch, depth, x]` m/s.

        Raises UserError where the survey is not sampled at the network's `dt`.
        """
        if not math.isclose(survey.dt, self.config.dt, rel_tol=1e-3):
            raise UserError(
                f"gathers are sampled every {survey.dt:g} s, this denoiser reads {self.config.dt:g} s: give "
                "--data.dt or --denoiser.encoder.dt"
            )
        tokens = self.tokens(gathers * shots[:, :, None, None], survey)
        absent = (1 - shots)[:, :, None, None]
        tokens = self.encode(tokens + absent * self.missing[...].reshape(1, 1, 1, -1), key)
        return tokens, self.decode(tokens, survey, key)


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


class DetailBlock(nnx.Module):
    """Norm, scaled and shifted by the noise level, 3x3 convolution, GELU, 3x3 convolution; residual."""

    def __init__(self, channels: int, dtype: str, *, rngs: nnx.Rngs):
        self.norm = layer_norm(channels, rngs)
        self.inner = conv(channels, channels, (3, 3), dtype, rngs)
        self.outer = conv(channels, channels, (3, 3), dtype, rngs)

    def __call__(self, fine: jax.Array, modulation: jax.Array) -> jax.Array:
        """`[batch, depth, x, channel]`, modulation `[batch, 2 channel]`; same out, float32."""
        shift, scale = jnp.split(modulation[:, None, None, :], 2, axis=-1)
        inner = jax.nn.gelu(self.inner(self.norm(fine) * (1 + scale) + shift))
        return fine + self.outer(inner).astype(jnp.float32)


class Denoiser(nnx.Module):
    """`Network` of `edm.py` for any survey at the encoder's `dt`, on the grid of the survey."""

    def __init__(self, config: DenoiserConfig, *, rngs: nnx.Rngs):
        self.config = config
        encoder = config.encoder
        width, dtype, cells = encoder.width, encoder.dtype, math.prod(config.patch_shape)
        self.gathers = GatherEncoder(encoder, rngs=rngs)
        channels = config.channels
        self.look = conv(1 + MAPS, channels, (3, 3), dtype, rngs)
        self.before = nnx.List([DetailBlock(channels, dtype, rngs=rngs) for _ in range(config.blocks)])
        self.patch = linear(config.channels * cells, width, dtype, rngs)
        self.place = MLP(4 * WAVELENGTHS, width, width, dtype, rngs=rngs)
        self.level = MLP(2 * LEVELS + 1 + features(config), width, width, dtype, rngs=rngs)
        self.modulate = nnx.List([linear(width, 9 * width, dtype, rngs) for _ in range(config.layers)])
        self.layers = nnx.List([DenoiserLayer(encoder, rngs=rngs) for _ in range(config.layers)])
        self.norm = layer_norm(width, rngs)
        self.head = MLP(width, width, 4 * cells, dtype, rngs=rngs)
        self.join = conv(channels + 1, channels, (3, 3), dtype, rngs)
        self.after = nnx.List([DetailBlock(channels, dtype, rngs=rngs) for _ in range(config.blocks)])
        self.modulate_detail = linear(width, 4 * config.blocks * channels, dtype, rngs)
        self.out = conv(channels, 1, (3, 3), dtype, rngs)
        # At first the level and the labels change nothing, and the network says 0: the best linear guess alone.
        draw_kernels(self, rngs.params(), leave_zero=("modulate", "modulate_detail", "out"))
        self.head.outer.kernel[...] = jnp.zeros_like(self.head.outer.kernel[...])
        for layer in self.layers:
            align(layer.cross_attention)

    def hear(self, gathers: jax.Array, shots: jax.Array, survey: Survey, key: jax.Array | None = None) -> Heard:
        """Gathers `[batch, source, time, receiver]` of which `shots` `[batch, source]` (1 or 0) are known."""
        tokens, velocity = self.gathers.read(gathers, shots, survey, key)
        known = jnp.max(shots, axis=1)[:, None, None]
        guess = jnp.asarray(Scale(self.config.bounds).to_unit(velocity)) * known
        return Heard(tokens, guess, jnp.mean(shots, axis=1))

    def encode(self, condition: Condition, survey: Survey, key: jax.Array | None = None) -> Encoded:
        """What the network needs of a condition. Sampling many times from one, do this once."""
        return self.told(condition, self.hear(condition.gathers, condition.shots, survey, key), survey)

    def told(self, condition: Condition, heard: Heard, survey: Survey) -> Encoded:
        """What the network needs of a condition whose gathers it has heard."""
        known = jnp.broadcast_to(condition.background_known[:, None, None], condition.background.shape)
        wells = condition.wells_known
        maps = jnp.stack([condition.wells * wells, wells, condition.background * known, known, heard.guess], -1)
        blur = jnp.log1p(condition.blur / survey.grid.spacing) * condition.background_known
        family = jax.nn.one_hot(condition.family, len(self.config.families) + 1)
        told = (heard.share[:, None], blur[:, None], condition.background_known[:, None], family)
        return Encoded(heard.tokens, maps, jnp.concatenate(told, axis=-1))

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
        told = jnp.concatenate([sinusoids(level, 0.1, 10.0, LEVELS), level[:, None], encoded.vector], axis=-1)
        told = jax.nn.gelu(self.level(told)).astype(jnp.float32)
        details = jnp.split(self.modulate_detail(told).astype(jnp.float32), 2 * config.blocks, axis=-1)
        fine = self.look(seen).astype(jnp.float32)
        for block, modulation in zip(self.before, details):
            fine = block(fine, modulation)
        padded = jnp.pad(fine, ((0, 0), (0, rows * high - depth), (0, across * wide - x), (0, 0)))
        tiles = padded.reshape(batch, rows, high, across, wide, -1).swapaxes(2, 3)
        patches = self.patch(tiles.reshape(batch, rows * across, -1)).astype(jnp.float32)
        centres = [
            (np.arange(count) * side + (side - 1) / 2) * survey.grid.spacing
            for count, side in ((rows, high), (across, wide))
        ]
        places = np.stack([np.repeat(centres[0], across), np.tile(centres[1], rows)], axis=-1)
        placed = self.place(of_lengths(places).reshape(rows * across, -1)).astype(jnp.float32)
        echo = self.gathers.token_place.when(of_times(2 * places[:, 0] / FIRST_GUESS)).astype(jnp.float32)
        patches = patches + (placed + echo)[None]
        for index, (layer, modulate) in enumerate(zip(self.layers, self.modulate)):
            modulation = modulate(told).astype(jnp.float32)
            patches = layer(patches, encoded.tokens, modulation, subkey(dropout_key, index))
        tiles = self.head(self.norm(patches)).astype(jnp.float32).reshape(batch, rows, across, 2 * high, 2 * wide)
        answer = blended(tiles)[:, :depth, :x]
        fine = self.join(jnp.concatenate([fine, answer[..., None]], axis=-1)).astype(jnp.float32)
        for block, modulation in zip(self.after, details[config.blocks :]):
            fine = block(fine, modulation)
        return answer + self.out(jax.nn.gelu(fine))[..., 0].astype(jnp.float32)


def guess_loss(heard: Heard, clean: jax.Array) -> jax.Array:
    """|guess - clean|, mean over cells, `[batch]`; 0 where there are no gathers to guess from."""
    known = (heard.share > 0).astype(jnp.float32)
    return known * jnp.mean(jnp.abs(heard.guess - clean), axis=(1, 2))


def features(config: DenoiserConfig) -> int:
    """Length of `Encoded.vector`."""
    return 3 + len(config.families) + 1

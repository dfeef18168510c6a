"""The attention network: multi-scale stem per shot, tokens, attention within and across shots, a decoder of patches.

docs/network.md draws it. Every position is physical (metres, seconds), so other numbers of shots, receivers and
samples, and other grids, run through the same weights.
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seisvel_jax.errors import UserError
from seisvel_jax.models.config import VelocityNetConfig
from seisvel_jax.models.layers import (
    MLP,
    Attention,
    Halve,
    MultiScaleBlock,
    conv,
    draw_kernels,
    dropout,
    interpolate,
    layer_norm,
    linear,
    pooling_matrix,
    sinusoids,
    subkey,
)
from seisvel_jax.survey import Survey

WAVELENGTHS = 12
FIRST_GUESS = 1800.0
"""m/s. A query starts out looking at the tokens of the two-way time 2 depth / FIRST_GUESS."""


def of_lengths(metres: jax.Array | np.ndarray) -> jax.Array:
    """Features `[..., 2 WAVELENGTHS]` of positions, from 20 m to 10 km."""
    return sinusoids(metres, 20.0, 10_000.0, WAVELENGTHS)


def of_times(seconds: jax.Array | np.ndarray) -> jax.Array:
    """Features `[..., 2 WAVELENGTHS]` of times, from 20 ms to 10 s."""
    return sinusoids(seconds, 0.02, 10.0, WAVELENGTHS)


class EncoderLayer(nnx.Module):
    """Attention within each shot, attention across shots at each token, MLP; each on a norm, each residual."""

    def __init__(self, config: VelocityNetConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.rate = config.dropout
        self.within_norm, self.across_norm, self.mlp_norm = (layer_norm(width, rngs) for _ in range(3))
        self.within = Attention(width, config.heads, dtype, rngs=rngs)
        self.across = Attention(width, config.heads, dtype, rngs=rngs)
        self.mlp = MLP(width, 4 * width, width, dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array, key: jax.Array | None) -> jax.Array:
        """`[batch, source, token, channel]`, same out."""
        batch, source, token, width = tokens.shape

        def add(tokens: jax.Array, update: jax.Array, index: int) -> jax.Array:
            return tokens + dropout(update, self.rate, subkey(key, index)).astype(jnp.float32)

        shots = self.within_norm(tokens).reshape(batch * source, token, width)
        tokens = add(tokens, self.within(shots, shots).reshape(tokens.shape), 0)
        columns = self.across_norm(tokens).swapaxes(1, 2).reshape(batch * token, source, width)
        across = self.across(columns, columns).reshape(batch, token, source, width).swapaxes(1, 2)
        tokens = add(tokens, across, 1)
        return add(tokens, self.mlp(self.mlp_norm(tokens)), 2)


class DecoderLayer(nnx.Module):
    """Queries attend to each other, then to the encoded tokens of all shots, then MLP."""

    def __init__(self, config: VelocityNetConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        self.rate = config.dropout
        self.self_norm, self.cross_norm, self.mlp_norm = (layer_norm(width, rngs) for _ in range(3))
        self.self_attention = Attention(width, config.heads, dtype, rngs=rngs)
        self.cross_attention = Attention(width, config.heads, dtype, rngs=rngs)
        self.mlp = MLP(width, 4 * width, width, dtype, rngs=rngs)

    def __call__(self, queries: jax.Array, tokens: jax.Array, key: jax.Array | None) -> jax.Array:
        """Queries `[batch, query, channel]`, tokens `[batch, token, channel]`; returns queries."""

        def add(queries: jax.Array, update: jax.Array, index: int) -> jax.Array:
            return queries + dropout(update, self.rate, subkey(key, index)).astype(jnp.float32)

        normed = self.self_norm(queries)
        queries = add(queries, self.self_attention(normed, normed), 0)
        queries = add(queries, self.cross_attention(self.cross_norm(queries), tokens), 1)
        return add(queries, self.mlp(self.mlp_norm(queries)), 2)


class VelocityNet(nnx.Module):
    """Gathers to velocity for any survey sampled at `config.dt`."""

    def __init__(self, config: VelocityNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype, channels = config.width, config.dtype, config.stem_channels
        self.second_stage = config.second_stage
        inputs = 2 if config.second_stage else 1  # the residual beside the gathers
        self.patch = linear(inputs * config.patch_samples * len(config.gains), channels[0], dtype, rngs)
        self.patch_place = Place(channels[0], dtype, rngs=rngs)
        self.stages = nnx.List(
            [
                nnx.List([MultiScaleBlock(count, dtype, rngs=rngs) for _ in range(blocks)])
                for count, blocks in zip(channels, config.stem_blocks)
            ]
        )
        self.halves = nnx.List([Halve(fine, coarse, dtype, rngs=rngs) for fine, coarse in itertools.pairwise(channels)])
        self.pool_norm = layer_norm(channels[-1], rngs)
        self.pool_mix = linear(channels[-1] * math.prod(config.moments), width, dtype, rngs)
        self.token_place = Place(width, dtype, rngs=rngs)
        self.encoder = nnx.List([EncoderLayer(config, rngs=rngs) for _ in range(config.encoder_layers)])
        self.encoder_norm = layer_norm(width, rngs)
        self.query = MLP(4 * WAVELENGTHS, width, width, dtype, rngs=rngs)
        if config.second_stage:
            self.start = linear(4 * math.prod(config.patch_shape), width, dtype, rngs)
        self.decoder = nnx.List([DecoderLayer(config, rngs=rngs) for _ in range(config.decoder_layers)])
        self.decoder_norm = layer_norm(width, rngs)
        self.head = MLP(width, width, 4 * math.prod(config.patch_shape), dtype, rngs=rngs)
        if config.refine_channels:
            self.refine_in = conv(1, config.refine_channels, (3, 3), dtype, rngs)
            self.refine_out = conv(config.refine_channels, 1, (3, 3), dtype, rngs)
        draw_kernels(self, rngs.params(), leave_zero=("refine_out",))
        for layer in self.decoder:
            align(layer.cross_attention)
        if config.second_stage:  # at first nothing is corrected
            self.head.outer.kernel[...] = jnp.zeros_like(self.head.outer.kernel[...])

    def __call__(
        self,
        gathers: jax.Array,
        survey: Survey,
        *,
        dropout_key: jax.Array | None = None,
        first: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Gathers `[batch, source, time, receiver]` to velocity `[batch, depth, x]` m/s float32 on `survey.grid`.

        `survey.sources` and `.receivers` are `[count, 2]` or `[batch, count, 2]`. Without `dropout_key` the result
        is deterministic. `first` is what a second stage corrects: `velocity` on the survey's grid, and the `gathers`
        simulated from it. Raises UserError where the survey is not sampled at the network's `dt` or `first` is missing.
        """
        config = self.config
        if (first is not None) != config.second_stage:
            raise UserError(
                f"network: second_stage {config.second_stage}, but a first stage's answer is "
                f"{'there' if first is not None else 'missing'}: give the run a first_stage, or leave out second_stage"
            )
        if not math.isclose(survey.dt, config.dt, rel_tol=1e-3):
            raise UserError(
                f"gathers are sampled every {survey.dt:g} s, this network reads {config.dt:g} s: "
                "resample them first (data.resample.resample_gathers)"
            )
        tokens = self.tokens(gathers, survey, None if first is None else gathers - first["gathers"])
        return self.decode(self.encode(tokens, dropout_key), survey, dropout_key, first)

    def encode(self, tokens: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Tokens `[batch, source, token, channel]` to what the decoder reads: `[batch, source token, channel]`."""
        for index, layer in enumerate(self.encoder):
            key = subkey(dropout_key, index)
            tokens = self._block(lambda t, layer=layer, key=key: layer(t, key), tokens)
        return self.encoder_norm(tokens).reshape(tokens.shape[0], -1, tokens.shape[-1])

    def decode(
        self,
        tokens: jax.Array,
        survey: Survey,
        dropout_key: jax.Array | None = None,
        first: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Encoded tokens `[batch, token, channel]` to velocity `[batch, depth, x]` m/s on `survey.grid`."""
        config, (batch, _, width) = self.config, tokens.shape
        depths, columns = patch_centres(config, survey)
        rows, across = depths.size, columns.size
        places = np.stack([np.repeat(depths, across), np.tile(columns, rows)], axis=-1)
        queries = self.query(of_lengths(places).reshape(rows * across, -1)).astype(jnp.float32)
        # The depth once more, as the time its reflection would come back at, in the tokens' own embedding of time.
        echo = of_times(2 * places[:, 0] / FIRST_GUESS)
        queries = queries + self.token_place.when(echo).astype(jnp.float32)
        queries = jnp.broadcast_to(queries[None], (batch, rows * across, width))
        if first is not None:
            known = native(first["velocity"], config, survey)
            low, upper = config.velocity_bounds
            patches = windows((known - low) / (upper - low) - 0.5, config.patch_shape, (rows, across))
            queries = queries + self.start(patches).astype(jnp.float32)
        for index, turn in enumerate(self.decoder):
            key = subkey(dropout_key, 1000 + index)
            queries = self._block(lambda q, turn=turn, key=key: turn(q, tokens, key), queries)
        pixels = self.head(self.decoder_norm(queries)).astype(jnp.float32)
        high, wide = config.patch_shape
        pixels = blended(pixels.reshape(batch, rows, across, 2 * high, 2 * wide))
        if config.refine_channels:
            pixels = pixels + self._block(self._refine, pixels)
        if first is not None:
            return corrected(first["velocity"], on_grid(pixels, config, survey), config)
        return on_grid(bounded(pixels, config), config, survey)

    def tokens(self, gathers: jax.Array, survey: Survey, residual: jax.Array | None = None) -> jax.Array:
        """Tokens `[batch, source, token, channel]` of the gathers (and residual) before the encoder, with positions."""
        config = self.config
        batch, source, time, receiver = gathers.shape
        sources, receivers = positions(survey.sources, batch), positions(survey.receivers, batch)
        length = config.patch_samples
        count = -(-time // length)
        channels = []
        for record in (gathers,) if residual is None else (gathers, residual):
            padded = jnp.pad(record.astype(jnp.float32), ((0, 0), (0, 0), (0, count * length - time), (0, 0)))
            patches = padded.reshape(batch * source, count, length, receiver).swapaxes(2, 3) / config.amplitude
            channels += [jnp.arcsinh(gain * patches) / math.asinh(gain) for gain in config.gains]
        patches = jnp.concatenate(channels, axis=-1)
        times = (np.arange(count) + 0.5) * length * config.dt
        values = self.patch(patches).astype(jnp.float32) + self.patch_place(times, sources, receivers)
        for stage, blocks in enumerate(self.stages):
            if stage:
                values = self._block(self.halves[stage - 1], values)
                receivers = halve_positions(receivers)
            for block in blocks:
                values = self._block(block, values)

        _, steps, lines, width = values.shape
        rows = min(steps, math.ceil(time * config.dt / config.token_duration))
        columns = min(lines, config.receiver_tokens)
        in_time = pooling_matrix(steps, rows, config.moments[0])
        in_line = pooling_matrix(lines, columns, config.moments[1])
        pooled = jnp.einsum("bthc,mt,nh->bmnc", self.pool_norm(values), in_time, in_line)
        pooled = pooled.reshape(batch * source, rows, config.moments[0], columns, config.moments[1], width)
        pooled = pooled.swapaxes(2, 3).reshape(batch * source, rows, columns, -1)
        stride = length * 2 ** (len(self.stages) - 1)
        times = pooling_matrix(steps, rows, 1) @ ((np.arange(steps) + 0.5) * stride * config.dt)
        receivers = jnp.einsum("nh,bhc->bnc", pooling_matrix(lines, columns, 1), receivers)
        tokens = self.pool_mix(pooled).astype(jnp.float32) + self.token_place(times, sources, receivers)
        return tokens.reshape(batch, source, rows * columns, -1)

    def _refine(self, pixels: jax.Array) -> jax.Array:
        return self.refine_out(jax.nn.gelu(self.refine_in(pixels[..., None])))[..., 0].astype(jnp.float32)

    def _block(self, function: Callable, values: jax.Array) -> jax.Array:
        return jax.checkpoint(function)(values) if self.config.remat else function(values)


class Place(nnx.Module):
    """Embedding of when (s) and where (m): time, source and receiver positions, and the offset between them."""

    def __init__(self, channels: int, dtype: str, *, rngs: nnx.Rngs):
        self.when = linear(2 * WAVELENGTHS, channels, dtype, rngs)
        self.where = linear(5 * 2 * WAVELENGTHS, channels, dtype, rngs)

    def __call__(self, times: np.ndarray, sources: jax.Array, receivers: jax.Array) -> jax.Array:
        """Times `[time]`, positions `[batch, count, 2]`; `[batch * source, time, receiver, channel]` float32 out."""
        batch, source, _ = sources.shape
        receiver = receivers.shape[1]
        shots = jnp.broadcast_to(sources[:, :, None], (batch, source, receiver, 2))
        lines = jnp.broadcast_to(receivers[:, None], (batch, source, receiver, 2))
        places = jnp.concatenate([shots, lines, lines[..., :1] - shots[..., :1]], axis=-1)
        features = of_lengths(places).reshape(batch * source, receiver, -1)
        where = self.where(features).astype(jnp.float32)[:, None]
        when = self.when(of_times(times)).astype(jnp.float32)[None, :, None]
        shape = (batch * source, len(times), receiver, where.shape[-1])
        return jnp.broadcast_to(where, shape) + jnp.broadcast_to(when, shape)


def align(attention: Attention) -> None:
    """Give queries the kernel of the keys, so that at first like attends to like: a depth to its own two-way time.

    Without it the network spends its first few hundred steps finding out when a depth is heard (docs/network.md).
    """
    both = attention.keys_values.kernel[...]
    width = both.shape[0]
    keys = 1.5 * both[:, :width]
    attention.queries.kernel[...] = keys
    attention.keys_values.kernel[...] = jnp.concatenate([keys, both[:, width:]], axis=1)


def positions(places: jax.Array | np.ndarray, batch: int) -> jax.Array:
    """Positions `[batch, count, 2]` from `[count, 2]` or `[batch, count, 2]`."""
    places = jnp.asarray(places, jnp.float32)
    return places if places.ndim == 3 else jnp.broadcast_to(places[None], (batch, *places.shape))


def halve_positions(receivers: jax.Array) -> jax.Array:
    """Positions `[batch, receiver, 2]` of neighbours taken two by two; a single one at the end keeps its place."""
    odd = receivers.shape[1] % 2
    pairs = jnp.concatenate([receivers, receivers[:, -1:]], axis=1) if odd else receivers
    return (pairs[:, ::2] + pairs[:, 1::2]) / 2


def pixel_counts(config: VelocityNetConfig, survey: Survey) -> tuple[int, int]:
    """Native pixels `(depth, x)` that reach the last node of the survey's grid."""
    ratio = survey.grid.spacing / config.spacing
    depth, x = (math.ceil((count - 1) * ratio - 1e-6) + 1 for count in survey.grid.shape)
    return depth, x


def patch_centres(config: VelocityNetConfig, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Depths `[row]` and x `[column]` in metres of the centres of the patches that tile the survey's grid."""
    centres = []
    for pixels, side in zip(pixel_counts(config, survey), config.patch_shape):
        centres.append((np.arange(-(-pixels // side)) * side + (side - 1) / 2) * config.spacing)
    return centres[0], centres[1]


def blended(patches: jax.Array) -> jax.Array:
    """Patches `[batch, row, column, 2 high, 2 wide]`, each twice as long and wide as its tile, as one map.

    Neighbours overlap by half and are faded into each other by a tent that sums to 1, so there are no seams. Returns
    `[batch, row * high, column * wide]`, where tile (0, 0) begins; at the rim the fewer patches there share the weight.
    """
    high, wide = patches.shape[3] // 2, patches.shape[4] // 2
    window = (tent(2 * high)[:, None] * tent(2 * wide)).astype(np.float32)
    total = _overlap_add(patches * window[None, None, None])
    weight = _overlap_add(jnp.broadcast_to(window, (1, *patches.shape[1:])))
    return total / jnp.broadcast_to(weight, total.shape)


def tent(length: int) -> np.ndarray:
    """Triangular window `[length]`; two of them half a length apart sum to 1."""
    return 1 - np.abs((np.arange(length) + 0.5) * (2 / length) - 1)


def _overlap_add(patches: jax.Array) -> jax.Array:
    batch, rows, columns, high, wide = (*patches.shape[:3], patches.shape[3] // 2, patches.shape[4] // 2)
    halves = patches.reshape(batch, rows, columns, 2, high, 2, wide)
    end, start = (0, 1), (1, 0)

    def shifted(part: jax.Array, axis: int, pad: tuple[int, int]) -> jax.Array:
        return jnp.pad(part, [pad if a == axis else (0, 0) for a in range(part.ndim)])

    blocks = shifted(halves[:, :, :, 0], 1, end) + shifted(halves[:, :, :, 1], 1, start)
    blocks = shifted(blocks[..., 0, :], 2, end) + shifted(blocks[..., 1, :], 2, start)
    joined = blocks.swapaxes(2, 3).reshape(batch, (rows + 1) * high, (columns + 1) * wide)
    return joined[:, high // 2 : high // 2 + rows * high, wide // 2 : wide // 2 + columns * wide]


def bounded(pixels: jax.Array, config: VelocityNetConfig) -> jax.Array:
    """Velocity in m/s of unbounded network outputs."""
    low, high = config.velocity_bounds
    if config.output == "sigmoid":
        return low + (high - low) * jax.nn.sigmoid(pixels)
    # Slope as the sigmoid's in the middle of the bounds, so that both learn at the same rates.
    return low + (high - low) / 2 * jax.nn.softplus(pixels)


def corrected(start: jax.Array, pixels: jax.Array, config: VelocityNetConfig) -> jax.Array:
    """The first stage's velocity plus a correction, within the bounds (the lower one alone for softplus)."""
    low, high = config.velocity_bounds
    velocity = start + (high - low) / 4 * pixels  # the sigmoid's slope in the middle of the bounds
    return jnp.clip(velocity, low, high if config.output == "sigmoid" else None)


def native(velocity: jax.Array, config: VelocityNetConfig, survey: Survey) -> jax.Array:
    """Velocity `[batch, depth, x]` of the survey's grid on the network's pixels; the last node continues beyond."""
    depth, x = pixel_counts(config, survey)
    ratio = config.spacing / survey.grid.spacing
    return interpolate(interpolate(velocity, np.arange(depth) * ratio, axis=1), np.arange(x) * ratio, axis=2)


def windows(field: jax.Array, patch_shape: tuple[int, int], counts: tuple[int, int]) -> jax.Array:
    """What each decoder query predicts of a field `[batch, depth, x]`: `[batch, query, 4 high wide]`."""
    (high, wide), (rows, across) = patch_shape, counts
    before, behind = (high // 2, wide // 2), (high - high // 2, wide - wide // 2)
    extra = [(b, c * n + a - size) for b, a, n, c, size in zip(before, behind, patch_shape, counts, field.shape[1:])]
    padded = jnp.pad(field, ((0, 0), *extra), mode="edge")
    down = np.arange(rows)[:, None] * high + np.arange(2 * high)
    right = np.arange(across)[:, None] * wide + np.arange(2 * wide)
    patches = jnp.take(jnp.take(padded, down, axis=1), right, axis=3)  # [batch, row, 2 high, column, 2 wide]
    return patches.swapaxes(2, 3).reshape(len(field), rows * across, 4 * high * wide)


def on_grid(velocity: jax.Array, config: VelocityNetConfig, survey: Survey) -> jax.Array:
    """Native pixels `[batch, depth, x]` cropped and, where its spacing differs, resampled to the survey's grid."""
    depth, x = pixel_counts(config, survey)
    velocity = velocity[:, :depth, :x]
    ratio = survey.grid.spacing / config.spacing
    velocity = interpolate(velocity, np.arange(survey.grid.depth_count) * ratio, axis=1)
    return interpolate(velocity, np.arange(survey.grid.x_count) * ratio, axis=2)

"""Augmentation of one batch on the device: every sample of every member draws its own, from its key.

All of it is physics or instrument: mirrored geometry, gain, noise, dead traces and shots, timing errors, gaps.
"""

import math
from dataclasses import replace as change

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from seisvel_jax.arrays import Array, Bool, Float, Gathers, PRNGKeyArray, Velocity, typed
from seisvel_jax.survey import Survey
from seisvel_jax.training.config import AugmentConfig


@typed
def augment(
    key: PRNGKeyArray, gathers: Gathers, velocity: Velocity, survey: Survey, config: AugmentConfig
) -> tuple[Gathers, Velocity, Survey]:
    """An augmented batch; the survey's positions get a leading batch axis where samples may be mirrored."""
    keys = iter(jax.random.split(key, 8))
    batch = gathers.shape[0]
    _, spectrum_key, amplitude_key, trace_key, shot_key, time_key, *_ = keys
    if config.mirror > 0:
        gathers, velocity, survey = mirror(mirrored_rows(key, batch, config), gathers, velocity, survey)
    if config.noise > 0 or config.shift > 0 or config.frequency_mask > 0:
        gathers = _in_spectrum(spectrum_key, gathers, survey.dt, config)
    if config.amplitude > 0:
        gain = jax.random.uniform(amplitude_key, (batch, 1, 1, 1), minval=-config.amplitude, maxval=config.amplitude)
        gathers = _times(gathers, jnp.exp(gain))
    if config.trace_dropout > 0:
        gathers = _times(gathers, _live_traces(trace_key, gathers.shape, config))
    if config.shot_dropout > 0:
        gathers = _times(gathers, _live_shots(shot_key, gathers.shape, config))
    if config.time_mask > 0:
        gathers = _times(gathers, _outside_gap(time_key, gathers.shape, survey.dt, config))
    return gathers, velocity, survey


def mirrored_rows(key: PRNGKeyArray, batch: int, config: AugmentConfig) -> Bool[Array, "batch"]:
    """Which samples `augment` with this key shows from behind."""
    return jax.random.bernoulli(jax.random.split(key, 8)[0], float(config.mirror), (batch,))


def mirror(
    flipped: Bool[Array, "batch"], gathers: Gathers, velocity: Velocity, survey: Survey
) -> tuple[Gathers, Velocity, Survey]:
    """The samples with `flipped` seen from behind: sources, receivers and x reversed, positions mirrored.

    Exact: simulating the mirrored model with the mirrored survey gives the mirrored gathers.
    """
    batch = gathers.shape[0]
    behind = survey.mirrored()

    def choose(there: Array, here: Array) -> Array:
        here = jnp.broadcast_to(jnp.asarray(here), (batch, *here.shape[-2:])) if here.ndim == 2 else jnp.asarray(here)
        there = jnp.broadcast_to(jnp.asarray(there), here.shape)
        return jnp.where(flipped.reshape(batch, *[1] * (here.ndim - 1)), there, here)

    return (
        choose(gathers[:, ::-1, :, ::-1], gathers),
        choose(velocity[:, :, ::-1], velocity),
        change(
            survey,
            sources=choose(behind.sources, survey.sources),
            receivers=choose(behind.receivers, survey.receivers),
        ),
    )


def _in_spectrum(key: PRNGKeyArray, gathers: Gathers, dt: float, config: AugmentConfig) -> Gathers:
    """Timing errors, a missing band and noise, all in one pass through the spectrum."""
    batch, source, nt, receiver = gathers.shape
    # Room behind the trace, so that what is shifted out at one end does not come in at the other.
    length = scipy.fft.next_fast_len(nt + 2 * int(np.ceil(config.shift_seconds / dt)) + 2, real=True)
    frequency = np.fft.rfftfreq(length, dt).astype(np.float32)[None, None, :, None]
    energy = jnp.mean(gathers**2, axis=(1, 2, 3), keepdims=True)
    spectrum = jnp.fft.rfft(gathers, length, axis=2)
    shift_key, which_shift, centre_key, width_key, which_mask, noise_key, snr_key, which_noise = jax.random.split(
        key, 8
    )

    if config.shift > 0:
        late = jax.random.uniform(shift_key, (batch, source, 1, 1), minval=-1.0) * config.shift_seconds
        late = _times(late, _chosen(which_shift, config.shift, batch))
        angle = _outer(late, frequency) * (-2 * np.pi)
        spectrum = _times(spectrum, jax.lax.complex(jnp.cos(angle), jnp.sin(angle)))
    if config.frequency_mask > 0:
        centre = jax.random.uniform(centre_key, (batch, 1, 1, 1), minval=0.0, maxval=config.noise_band[1])
        half = jax.random.uniform(width_key, (batch, 1, 1, 1)) * config.frequency_mask_width / 2
        half = half * _chosen(which_mask, config.frequency_mask, batch)
        distance = jnp.abs(jnp.broadcast_to(frequency, (batch, 1, frequency.shape[2], 1)) - centre)
        spectrum = _times(spectrum, (distance >= half).astype(jnp.complex64))
    out = jnp.fft.irfft(spectrum, length, axis=2)[:, :, :nt]
    if config.noise > 0:
        low, high = config.noise_snr_db
        snr = jax.random.uniform(snr_key, (batch, 1, 1, 1), minval=low, maxval=high)
        size = jnp.sqrt(energy * 10 ** (-snr / 10)) * _chosen(which_noise, config.noise, batch)
        out = out + _times(band_limited_noise(noise_key, (batch, source, nt, receiver), dt, config.noise_band), size)
    return out


def band_limited_noise(
    key: PRNGKeyArray, shape: tuple[int, int, int, int], dt: float, band: tuple[float, float]
) -> Gathers:
    """Gaussian noise of unit expected power, frequencies within `band` (Hz) only; `[batch, source, time, receiver]`."""
    batch, source, nt, receiver = shape
    length = scipy.fft.next_fast_len(nt, real=True)
    frequency = np.fft.rfftfreq(length, dt)
    first = int(np.clip(np.searchsorted(frequency, band[0]), 1, frequency.size - 2))
    last = int(np.clip(np.searchsorted(frequency, band[1], side="right"), first + 1, frequency.size - 1))
    # irfft of n independent pairs of unit variance has power 4 n / length^2.
    unit = length / (2 * math.sqrt(last - first))
    real, imaginary = jax.random.normal(key, (2, batch, source, last - first, receiver)) * unit
    inside = jax.lax.complex(real, imaginary)
    spectrum = jnp.pad(inside, ((0, 0), (0, 0), (first, frequency.size - last), (0, 0)))
    return jnp.fft.irfft(spectrum, length, axis=2)[:, :, :nt]


def _live_traces(
    key: PRNGKeyArray, shape: tuple[int, ...], config: AugmentConfig
) -> Float[Array, "batch source 1 receiver"]:
    batch, source, _, receiver = shape
    which_key, trace_key = jax.random.split(key)
    dead = jax.random.bernoulli(trace_key, config.trace_dropout_share, (batch, source, 1, receiver))
    return 1 - _times(dead.astype(jnp.float32), _chosen(which_key, config.trace_dropout, batch))


def _live_shots(key: PRNGKeyArray, shape: tuple[int, ...], config: AugmentConfig) -> Float[Array, "batch source 1 1"]:
    batch, source = shape[:2]
    which_key, shot_key = jax.random.split(key)
    shot = jax.random.randint(shot_key, (batch,), 0, source)
    dead = jax.nn.one_hot(shot, source)[:, :, None, None]
    return 1 - _times(dead, _chosen(which_key, config.shot_dropout if source > 1 else 0.0, batch))


def _outside_gap(
    key: PRNGKeyArray, shape: tuple[int, ...], dt: float, config: AugmentConfig
) -> Float[Array, "batch 1 time 1"]:
    batch, _, nt, _ = shape
    which_key, start_key, length_key = jax.random.split(key, 3)
    length = jax.random.uniform(length_key, (batch, 1, 1, 1)) * config.time_mask_seconds
    length = length * _chosen(which_key, config.time_mask, batch)
    start = jax.random.uniform(start_key, (batch, 1, 1, 1)) * ((nt - 1) * dt) - length / 2
    time = jnp.broadcast_to((jnp.arange(nt, dtype=jnp.float32) * dt)[None, None, :, None], (batch, 1, nt, 1))
    start, length = jnp.broadcast_to(start, time.shape), jnp.broadcast_to(length, time.shape)
    return 1 - ((time >= start) & (time < start + length)).astype(jnp.float32)


def _chosen(key: PRNGKeyArray, probability: float, batch: int) -> Float[Array, "batch 1 1 1"]:
    return jax.random.bernoulli(key, probability, (batch, 1, 1, 1)).astype(jnp.float32)


def _times(values: Array, factor: Array) -> jax.Array:
    return jnp.asarray(values) * jnp.broadcast_to(factor, values.shape)


def _outer(first: Array, second: Array) -> jax.Array:
    shape = np.broadcast_shapes(first.shape, second.shape)
    return jnp.broadcast_to(first, shape) * jnp.broadcast_to(second, shape)

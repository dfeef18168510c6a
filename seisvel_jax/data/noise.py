"""Noise as field records have it, keyed by (seed, index): white, band-limited, linear events, bad traces, jitter.

All levels are relative to the sample's own root-mean-square amplitude, so that they mean the same in every survey.
Plain numpy on the host: what is written on disk is the same on every machine and device.
"""

import zlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from seisvel_jax.errors import UserError

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey


@dataclass(frozen=True)
class Noise:
    """What is added to simulated gathers. Everything off by default."""

    white: float = 0.0
    """White noise: its RMS over that of the sample's gathers. Each sample draws its level from 0 up to this."""
    band: float = 0.0
    """Band-limited noise (traffic, swell): RMS over that of the gathers, up to this."""
    band_hz: tuple[float, float] = (2.0, 40.0)
    """Hz between which its spectrum is flat; no steeper than a cosine over an octave beyond."""
    linear: float = 0.0
    """Linear events such as ground roll: largest amplitude over the RMS of the gathers, up to this."""
    linear_speed: tuple[float, float] = (200.0, 800.0)
    """m/s of ground roll, drawn a sample; it leaves each source when its wavelet peaks, and decays as 1 / sqrt(r)."""
    linear_hz: tuple[float, float] = (4.0, 12.0)
    """Peak frequency of its Ricker wavelet, drawn a sample."""
    dead: float = 0.0
    """Probability of a trace to be dead (zeros)."""
    gain: float = 0.0
    """Standard deviation of the natural logarithm of each trace's amplification, the same for all shots: coupling."""
    shift: float = 0.0
    """Standard deviation in seconds of each trace's time shift, of its own in every shot: statics and triggers."""

    def __post_init__(self) -> None:
        """Refuse values without a meaning. Raises UserError naming the option."""
        for field in fields(self):
            value = getattr(self, field.name)
            option = f"--noise.{field.name.replace('_', '-')}"
            if isinstance(value, tuple):
                if not 0 < value[0] <= value[1] < float("inf"):
                    raise UserError(f"{option} {value[0]:g} {value[1]:g}, expected two numbers above 0, smaller first")
            elif not 0 <= value < float("inf") or (field.name == "dead" and value > 1):
                raise UserError(f"{option} {value:g}, expected 0 or more" + " and at most 1" * (field.name == "dead"))

    @property
    def silent(self) -> bool:
        """Whether nothing is added."""
        return not any(getattr(self, name) for name in ("white", "band", "linear", "dead", "gain", "shift"))


def draws(seed: int, index: int, stream: str) -> np.random.Generator:
    """Random numbers of sample `index` for one purpose, whatever else is drawn and whoever asks first."""
    return np.random.default_rng([seed % 2**64, index, zlib.crc32(stream.encode())])


def add_noise(gathers: np.ndarray, survey: "Survey", noise: Noise, seed: int, index: int) -> np.ndarray:
    """`gathers` `[source, time, receiver]` with the noise of sample `index`, float32; the given array is untouched.

    Depends on the arguments alone. Coupling and time shifts act on the signal, what is added comes on top, and dead
    traces lose all of it. A sample without signal stays as it is.
    """
    rms = float(np.sqrt(np.mean(np.square(gathers, dtype=np.float64))))
    if noise.silent or rms == 0:
        return gathers
    shots, _, receivers = gathers.shape
    noisy: np.ndarray = np.asarray(gathers, np.float32)
    if noise.shift:
        seconds = draws(seed, index, "shift").normal(0, noise.shift, (shots, 1, receivers))
        noisy = _shifted(noisy, survey.dt, seconds)
    if noise.gain:
        noisy = noisy * np.exp(draws(seed, index, "gain").normal(0, noise.gain, receivers)).astype(np.float32)
    if noise.white:
        draw = draws(seed, index, "white")
        level = rms * draw.uniform(0, noise.white)
        noisy = noisy + np.float32(level) * draw.standard_normal(gathers.shape, np.float32)
    if noise.band:
        draw = draws(seed, index, "band")
        level = rms * draw.uniform(0, noise.band)
        noisy = noisy + np.float32(level) * _band_limited(draw, gathers.shape, survey.dt, noise.band_hz)
    if noise.linear:
        noisy = noisy + np.float32(rms) * _linear_events(draws(seed, index, "linear"), survey, noise)
    if noise.dead:
        dead = draws(seed, index, "dead").random((shots, 1, receivers)) < noise.dead
        noisy = np.where(dead, np.float32(0), noisy)
    return noisy


def _shifted(gathers: np.ndarray, dt: float, seconds: np.ndarray) -> np.ndarray:
    """Each trace later by its seconds, by a phase in the spectrum; padded, so that nothing comes round again."""
    nt = gathers.shape[1]
    room = nt + 2 * int(np.ceil(np.abs(seconds).max() / dt)) + 2
    frequency = np.fft.rfftfreq(room, dt)[None, :, None]
    spectrum = np.fft.rfft(gathers, room, axis=1) * np.exp(-2j * np.pi * frequency * seconds)
    return np.fft.irfft(spectrum, room, axis=1)[:, :nt].astype(np.float32)


def _band_limited(
    draw: np.random.Generator, shape: tuple[int, ...], dt: float, band: tuple[float, float]
) -> np.ndarray:
    """Gaussian noise of unit RMS between two frequencies in Hz, with half a cosine over an octave on each side."""
    frequency = np.fft.rfftfreq(shape[1], dt)
    octaves = np.zeros_like(frequency)
    with np.errstate(divide="ignore"):
        octaves = np.maximum(np.log2(band[0]) - np.log2(frequency), np.log2(frequency) - np.log2(band[1])).clip(0, 1)
    weight = 0.5 * (1 + np.cos(np.pi * octaves))
    if not weight.any():
        raise UserError(
            f"--noise.band-hz {band[0]:g} {band[1]:g}: no frequency of a record of {shape[1]} samples at {dt:g} s, "
            "expected some: widen the band"
        )
    spectrum = np.fft.rfft(draw.standard_normal(shape), axis=1) * weight[None, :, None]
    values = np.fft.irfft(spectrum, shape[1], axis=1)
    return (values / np.sqrt(np.mean(np.square(values)))).astype(np.float32)


def _linear_events(draw: np.random.Generator, survey: "Survey", noise: Noise) -> np.ndarray:
    """Ground roll of every shot, `[source, time, receiver]`; its largest value is below `noise.linear`."""
    level, speed = draw.uniform(0, noise.linear), draw.uniform(*noise.linear_speed)
    hertz = draw.uniform(*noise.linear_hz)
    sources, receivers = np.asarray(survey.sources, np.float64), np.asarray(survey.receivers, np.float64)
    offset = np.abs(sources[:, None, 0] - receivers[None, :, 0])
    wavelet = np.abs(np.asarray(survey.wavelet).reshape(-1, np.shape(survey.wavelet)[-1]))
    fired = float(wavelet.argmax(-1).mean()) * survey.dt
    times = np.arange(survey.nt)[None, :, None] * survey.dt
    b = (np.pi * hertz * (times - fired - offset[:, None] / speed)) ** 2
    near = max(float(np.diff(np.sort(receivers[:, 0])).mean()) if len(receivers) > 1 else 1.0, 1e-6)
    decay = np.sqrt(near / np.maximum(offset, near))[:, None]
    return (level * decay * (1 - 2 * b) * np.exp(-b)).astype(np.float32)

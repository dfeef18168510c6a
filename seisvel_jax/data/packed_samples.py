"""One sample as a pack stores it, and what is measured of it on the way."""

import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.fft

from seisvel_jax.data.inspection import Moments
from seisvel_jax.data.packed_codec import (
    GATHER_STORED,
    VELOCITY_STORED,
    GatherDtype,
    VelocityDtype,
    decode_gathers,
    decode_velocity,
    encode_gathers,
    encode_velocity,
)
from seisvel_jax.data.packed_info import Shard
from seisvel_jax.survey import Survey

ENVELOPE_EVERY = 4
"""The envelope is taken of every so-many-th receiver."""
PERCENTILES = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9, 100.0)
_BITS = 18
"""Low bits of a float32 that the histogram of envelopes drops: 32 bins an octave."""


@dataclass(frozen=True)
class Format:
    """How samples are stored."""

    dtype: GatherDtype = "float16"
    velocity_dtype: VelocityDtype = "uint16"
    shard_size: int | None = None
    """Samples a shard; none: as many as fill 256 MiB of gathers."""
    skip_bad: bool = False
    """Leave samples out that cannot be read, instead of stopping."""


@dataclass(frozen=True)
class PackedSample:
    """A sample as it will be stored, and what was measured on the way."""

    name: str
    exponent: int
    arrays: dict[str, np.ndarray]
    checksums: dict[str, int]
    moments: dict[str, Moments]
    envelope: Counter[int]
    squared_error: float
    squared_norm: float
    velocity_error: float


def sample_bytes(survey: Survey, form: Format, has_velocity: bool) -> dict[str, int]:
    """Bytes of a stored sample's `gathers` and `velocity`."""
    counts = {"gathers": int(np.prod(survey.gather_shape)) * GATHER_STORED[form.dtype].itemsize}
    if has_velocity:
        counts["velocity"] = int(np.prod(survey.grid.shape)) * VELOCITY_STORED[form.velocity_dtype].itemsize
    return counts


def encode_sample(name: str, gathers: np.ndarray, velocity: np.ndarray | None, form: Format) -> PackedSample:
    """Gathers `[source, time, receiver]` and velocity `[depth, x]` m/s, float32, as `form` stores them.

    Raises UserError naming the sample where its values do not fit.
    """
    stored, exponent = encode_gathers(gathers, form.dtype, name)
    # Statistics are of what a reader of the pack will get.
    restored = decode_gathers(stored, form.dtype, exponent)
    exact = gathers.astype(np.float64)
    difference = restored - exact
    arrays, moments = {"gathers": stored}, {"gathers": Moments()}
    moments["gathers"].add(restored)
    velocity_error = 0.0
    if velocity is not None:
        arrays["velocity"] = encode_velocity(velocity, form.velocity_dtype, name)
        restored_velocity = decode_velocity(arrays["velocity"], form.velocity_dtype)
        moments["velocity"] = Moments()
        moments["velocity"].add(restored_velocity)
        velocity_error = float(np.abs(restored_velocity.astype(np.float64) - velocity).max())
    return PackedSample(
        name=name,
        exponent=exponent,
        arrays=arrays,
        checksums={what: zlib.crc32(array.data) for what, array in arrays.items()},
        moments=moments,
        envelope=_envelope_histogram(restored),
        squared_error=float(np.vdot(difference, difference)),
        squared_norm=float(np.vdot(exact, exact)),
        velocity_error=velocity_error,
    )


def _envelope_histogram(gathers: np.ndarray) -> Counter[int]:
    """How often the envelope (modulus of the analytic signal in time) lies in each of 32 bins an octave."""
    traces = gathers[..., ::ENVELOPE_EVERY]
    nt = traces.shape[-2]
    length = scipy.fft.next_fast_len(nt)
    spectrum = scipy.fft.fft(traces, length, axis=-2)
    spectrum[..., 1 : (length + 1) // 2, :] *= 2
    spectrum[..., length // 2 + 1 :, :] = 0
    envelope = np.abs(scipy.fft.ifft(spectrum, axis=-2))[..., :nt, :].astype(np.float32)
    bins, counts = np.unique(envelope.view(np.uint32) >> _BITS, return_counts=True)
    return Counter({int(one): int(count) for one, count in zip(bins, counts)})


def sums(kept: list[PackedSample], whats: list[str]) -> dict[str, Any]:
    """Sums over the samples of a shard."""
    envelope: Counter[int] = Counter()
    for sample in kept:
        envelope.update(sample.envelope)
    moments = {what: _merged([sample.moments[what] for sample in kept]) for what in whats}
    return {
        "moments": {what: asdict(one) for what, one in moments.items() if one.count},
        "envelope": {str(one): envelope[one] for one in sorted(envelope)},
        "squared_error": sum(sample.squared_error for sample in kept),
        "squared_norm": sum(sample.squared_norm for sample in kept),
        "worst_error": max((_relative(s.squared_error, s.squared_norm) for s in kept), default=0.0),
        "velocity_error": max((sample.velocity_error for sample in kept), default=0.0),
    }


def _merged(parts: list[Moments]) -> Moments:
    total = Moments()
    for part in parts:
        total.count += part.count
        total.total += part.total
        total.squares += part.squares
        total.smallest = min(total.smallest, part.smallest)
        total.largest = max(total.largest, part.largest)
    return total


def _relative(squared_error: float, squared_norm: float) -> float:
    return (squared_error / squared_norm) ** 0.5 if squared_norm > 0 else 0.0


def summarise(shards: list[Shard]) -> dict[str, Any]:
    """Statistics of the pack out of the sums of its shards; SI units, of the values as a reader gets them."""
    sums = [shard.statistics for shard in shards]
    envelope: Counter[int] = Counter()
    for one in sums:
        envelope.update({int(bin_): count for bin_, count in one["envelope"].items()})
    moments = {
        what: _merged([Moments(**one["moments"][what]) for one in sums if what in one["moments"]]).to_dict()
        for what in ("gathers", "velocity")
    }
    return {
        **{what: values for what, values in moments.items() if values},
        "envelope_percentiles": _percentiles(envelope),
        "storage_error": {
            # of the gathers' L2 norm; m/s
            "gathers": _relative(sum(one["squared_error"] for one in sums), sum(one["squared_norm"] for one in sums)),
            "gathers_worst_sample": max((one["worst_error"] for one in sums), default=0.0),
            "velocity": max((one["velocity_error"] for one in sums), default=0.0),
        },
        "left_out": sum(len(shard.left_out) for shard in shards),
    }


def _percentiles(histogram: Counter[int]) -> dict[str, float]:
    """Percentiles of the envelope to 1.6 %: the middle of the histogram's bin."""
    bins = np.array(sorted(histogram), np.uint32)
    counts = np.cumsum([histogram[int(one)] for one in bins])
    low, high = (bins << _BITS).view(np.float32), ((bins + 1) << _BITS).view(np.float32)
    middle = np.where(bins == 0, 0.0, (low.astype(np.float64) + high) / 2)
    where = [min(int(np.searchsorted(counts, counts[-1] * p / 100)), len(bins) - 1) for p in PERCENTILES]
    return {f"{p:g}": float(middle[k]) for p, k in zip(PERCENTILES, where)}

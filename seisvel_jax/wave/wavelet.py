"""What a source fires: `[time]` float32 arrays for `Survey.wavelet`. Any other array will do as well.

`ricker` of `seisvel_jax.survey` is the formula that Devito (`RickerSource`: peak at `1 / f0`), deepwave (`peak_time` of
your own) and OpenFWI (147 samples, peak at the sample of index 73) all use: whatever their documentation calls the
frequency (deepwave: central), it is that of the spectrum's peak.
"""

import math
from typing import Literal, get_args

import numpy as np

from seisvel_jax import survey
from seisvel_jax.errors import UserError

RickerFrequency = Literal["peak", "mean", "period"]
RATIO_TO_PEAK = {"peak": 1.0, "mean": 2 / math.sqrt(math.pi), "period": math.pi / math.sqrt(6)}
"""What each convention calls the frequency of a Ricker wavelet, over the peak of its amplitude spectrum
`f^2 exp(-(f / f_peak)^2)`: "mean" is the spectrum's centroid, "period" the reciprocal of the time between the two
troughs beside the peak, which is what one reads off a trace (Ricker's breadth; Sheriff's dominant frequency)."""


def ricker(frequency: float, dt: float, nt: int, delay: float, *, convention: RickerFrequency = "peak") -> np.ndarray:
    """Ricker wavelet `[nt]` float32 of height 1 at `delay` seconds, sampled every `dt` seconds. Ricker (1953).

    `frequency` in Hz is the peak of the spectrum, its mean or the reciprocal of the trough-to-trough time
    (`RATIO_TO_PEAK`). Raises UserError where `dt` cannot carry it.
    """
    if convention not in get_args(RickerFrequency):
        raise UserError(f"convention {convention!r}, expected one of {get_args(RickerFrequency)}: correct it")
    _check_axis(dt, nt, delay)
    peak = frequency / RATIO_TO_PEAK[convention] if math.isfinite(frequency) else math.nan
    _check_band(dt, ("frequency", peak), above=0.0)
    return survey.ricker(peak, dt, nt, delay)


def ormsby(  # noqa: PLR0917 - four corners in their order
    f1: float, f2: float, f3: float, f4: float, dt: float, nt: int, delay: float
) -> np.ndarray:
    """Ormsby wavelet `[nt]` float32 of height 1 at `delay` seconds, sampled every `dt` seconds. Ryan (1994).

    Its amplitude spectrum is a trapezoid: 0 up to `f1`, rising to `f2`, flat to `f3`, falling to 0 at `f4` Hz, with
    phase zero about `delay`. It dies out only as `1 / t^2`: where `delay` or the rest of the record is shorter than
    some `4 / (f2 - f1)`, cutting it off blurs the corners. Raises UserError unless
    `0 <= f1 < f2 <= f3 < f4 < 1 / (2 dt)`.
    """
    _check_axis(dt, nt, delay)
    if not (0 <= f1 < f2 <= f3 < f4):
        raise UserError(f"corners {f1}, {f2}, {f3}, {f4} Hz, expected 0 <= f1 < f2 <= f3 < f4: correct them")
    _check_band(dt, ("f4", f4), above=f3)
    time = np.arange(nt) * dt - delay

    def triangle(corner: float) -> np.ndarray:
        """The signal whose spectrum is `max(corner - |f|, 0)`."""
        return (corner * np.sinc(corner * time)) ** 2

    trapezoid = (triangle(f4) - triangle(f3)) / (f4 - f3) - (triangle(f2) - triangle(f1)) / (f2 - f1)
    return (trapezoid / (f4 + f3 - f2 - f1)).astype(np.float32)


def _check_axis(dt: float, nt: int, delay: float) -> None:
    if not 0 < dt < math.inf:
        raise UserError(f"dt {dt}, expected seconds above 0: correct it")
    if nt != int(nt) or nt < 1:
        raise UserError(f"nt {nt}, expected a whole number of samples: correct it")
    if not 0 <= delay <= (nt - 1) * dt:
        raise UserError(
            f"delay {delay} s, expected 0 to {(nt - 1) * dt:g} s, the length of the wavelet: correct it or raise nt"
        )


def _check_band(dt: float, named: tuple[str, float], *, above: float) -> None:
    name, frequency = named
    if not above < frequency < 0.5 / dt:
        raise UserError(
            f"{name} {frequency:g} Hz, expected above {above:g} and below the Nyquist frequency of {0.5 / dt:g} Hz "
            f"(dt {dt:g} s): lower it or shorten dt"
        )

"""Refuse what the grid cannot carry, with both numbers and what to change."""

import math

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey
from seisvel_jax.wave.stencil import courant_limit

SAFETY = 0.98
FEWEST_POINTS = {2: 6.0, 4: 3.0, 6: 2.7, 8: 2.5}
"""Nodes per shortest wavelength below which a stencil of that order is no longer worth its name."""
SLOWEST, FASTEST = 300.0, 9000.0


def substeps(survey: Survey, order: int, max_velocity: float) -> int:
    """Steps the solver takes per recorded sample, so that `v dt / h` stays below the Courant limit."""
    courant = max_velocity * survey.dt / survey.grid.spacing
    return max(1, math.ceil(courant / (SAFETY * courant_limit(order)) - 1e-9))


def check_velocity(velocity: np.ndarray, where: str = "velocity") -> None:
    """Raise UserError where a value is not finite or not a P-wave velocity in m/s."""
    velocity = np.asarray(velocity)
    if not np.isfinite(velocity).all():
        bad = int((~np.isfinite(velocity)).sum())
        raise UserError(f"{where}: {bad} values are NaN or infinite, expected finite m/s: repair the model")
    low, high = float(velocity.min()), float(velocity.max())
    if high < 20 and low > 0.3:
        raise UserError(
            f"{where}: values {low:g} to {high:g} look like km/s, expected m/s ({SLOWEST:g} to {FASTEST:g}): "
            "multiply by 1000"
        )
    if low < SLOWEST or high > FASTEST:
        raise UserError(
            f"{where}: values {low:g} to {high:g}, expected {SLOWEST:g} to {FASTEST:g} m/s: check units and file"
        )


def check_sampling(survey: Survey, order: int, min_velocity: float) -> None:
    """Raise UserError where the highest frequency of the wavelet is too short for the grid."""
    frequency = highest_frequency(np.asarray(survey.wavelet), survey.dt)
    if frequency * survey.dt > 0.2:
        raise UserError(
            f"dt of {survey.dt:g} s for a wavelet up to {frequency:.0f} Hz, expected {0.2 / frequency:.2g} s or less: "
            "use a shorter dt"
        )
    points = min_velocity / (frequency * survey.grid.spacing)
    if points < FEWEST_POINTS[order]:
        finest = min_velocity / (frequency * FEWEST_POINTS[order])
        raise UserError(
            f"{points:.1f} grid points per shortest wavelength ({min_velocity:g} m/s at {frequency:.0f} Hz on "
            f"{survey.grid.spacing:g} m), expected {FEWEST_POINTS[order]:g} or more: use a spacing of at most "
            f"{finest:.3g} m, or a wavelet of lower frequency"
        )


def highest_frequency(wavelet: np.ndarray, dt: float) -> float:
    """The frequency in Hz above which the amplitude spectrum stays below 5 % of its largest value."""
    spectrum = np.abs(np.fft.rfft(wavelet, 4 * wavelet.size))
    above = np.flatnonzero(spectrum > 0.05 * spectrum.max())
    return float(np.fft.rfftfreq(4 * wavelet.size, dt)[above[-1]])


def check_finite(gathers: np.ndarray, where: str = "gathers") -> None:
    """Raise UserError where a simulation blew up."""
    bad = np.flatnonzero(~np.isfinite(np.asarray(gathers)).all(axis=(1, 2, 3)))
    if bad.size:
        raise UserError(f"{where}: the simulation of sample {int(bad[0])} is not finite: check its velocity model")

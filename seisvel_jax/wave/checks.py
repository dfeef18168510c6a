"""Refuse what the grid cannot carry, and warn where it hardly can, with both numbers and what to change."""

import functools
import math
import warnings
from dataclasses import dataclass

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey
from seisvel_jax.wave.stencil import Coefficients, courant_limit, phase_error

SAFETY = 0.98
REFUSED = 0.08
"""Phase-velocity error at the wavelet's highest frequency above which a run is refused: half a period in 6
wavelengths."""
DOUBTFUL = 0.03
"""The same above which it is warned of: half a period in 17 wavelengths. OpenFWI's own scheme has 0.023 (order 4,
10 m, 1500 m/s, 36 Hz), which sets how much may pass without a word."""
SLOWEST, FASTEST = 300.0, 9000.0


class SamplingWarning(UserWarning):
    """The grid carries the wavelet, but with visible dispersion."""


@dataclass(frozen=True)
class Sampling:
    """How well a grid and a time step carry a wavelet; the numbers that the checks compare and a report may print."""

    frequency: float
    """Hz above which the wavelet's spectrum stays below 5 % of its largest value."""
    points: float
    """Nodes per wavelength at that frequency where waves are slowest."""
    fewest_points: float
    """Of these the stencil needs at least so many, or the run is refused."""
    phase_error: float
    """Relative phase-velocity error of the stencil there, time taken as exact."""
    courant: float
    """`v dt / h` of one step of the solver where waves are fastest."""
    courant_limit: float
    substeps: int
    """Steps a recorded sample."""

    def __str__(self) -> str:
        return (
            f"{self.points:.1f} grid points per shortest wavelength (at {self.frequency:.0f} Hz; phase velocity off by "
            f"{100 * self.phase_error:+.1f} %), Courant number {self.courant:.2f} of at most {self.courant_limit:.2f} "
            f"in {self.substeps} step{'s' * (self.substeps > 1)} a sample"
        )


def sampling(
    survey: Survey, order: int, min_velocity: float, max_velocity: float, *, coefficients: Coefficients = "taylor"
) -> Sampling:
    """The numbers for models between two velocities in m/s, whether they are good or not."""
    frequency = highest_frequency(np.asarray(survey.wavelet), survey.dt)
    points = min_velocity / (frequency * survey.grid.spacing) if frequency else math.inf
    steps = substeps(survey, order, max_velocity, coefficients=coefficients)
    return Sampling(
        frequency=frequency,
        points=points,
        fewest_points=fewest_points(order, coefficients),
        phase_error=phase_error(order, max(points, 2.0), coefficients),
        courant=max_velocity * survey.dt / (steps * survey.grid.spacing),
        courant_limit=courant_limit(order, coefficients),
        substeps=steps,
    )


def substeps(survey: Survey, order: int, max_velocity: float, *, coefficients: Coefficients = "taylor") -> int:
    """Steps the solver takes per recorded sample, so that `v dt / h` stays below the Courant limit."""
    courant = max_velocity * survey.dt / survey.grid.spacing
    return max(1, math.ceil(courant / (SAFETY * courant_limit(order, coefficients)) - 1e-9))


@functools.cache
def fewest_points(order: int, coefficients: Coefficients = "taylor", *, error: float = REFUSED) -> float:
    """Points per wavelength at which the stencil's phase velocity is off by `error` (1 % or more), by bisection."""
    few, many = 2.0, 100.0
    while many - few > 1e-6:
        middle = (few + many) / 2
        few, many = (middle, many) if -phase_error(order, middle, coefficients) > error else (few, middle)
    return many


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


def check_sampling(survey: Survey, order: int, min_velocity: float, *, coefficients: Coefficients = "taylor") -> None:
    """Raise UserError where the grid or dt is too coarse for the wavelet's highest frequency.

    Where the phase velocity is off by `DOUBTFUL` to `REFUSED`, a SamplingWarning instead.
    """
    if not np.isfinite(survey.wavelet).all():
        raise UserError("the survey's wavelet holds NaN or infinite values: correct it")
    frequency = highest_frequency(np.asarray(survey.wavelet), survey.dt)
    if frequency * survey.dt > 0.2:
        raise UserError(
            f"dt of {survey.dt:g} s for a wavelet up to {frequency:.0f} Hz, expected {0.2 / frequency:.2g} s or less: "
            "use a shorter dt"
        )
    if frequency == 0:
        return  # nothing but zeros, or a constant: no wavelength
    points = min_velocity / (frequency * survey.grid.spacing)

    def advice(needed: float) -> str:
        return (
            f"expected {needed:.1f} or more for order {order} ({coefficients}): use a spacing of at most "
            f"{min_velocity / (frequency * needed):.3g} m, a higher order or a wavelet of lower frequency"
        )

    least, plenty = fewest_points(order, coefficients), fewest_points(order, coefficients, error=DOUBTFUL)
    off = 100 * abs(phase_error(order, max(points, 2.0), coefficients))
    if not points >= least:
        raise UserError(
            f"{points:.1f} grid points per shortest wavelength ({min_velocity:g} m/s at {frequency:.0f} Hz on "
            f"{survey.grid.spacing:g} m; waves there travel {off:.0f} % too slowly), {advice(least)}"
        )
    if points < plenty:
        # Rounded, so that Python shows it once and not for each model of a set.
        warnings.warn(
            f"{points:.1f} grid points per shortest wavelength (slowest about {100 * round(min_velocity / 100)} m/s, "
            f"{frequency:.0f} Hz, {survey.grid.spacing:g} m): the highest frequencies travel about {off:.0f} % too "
            f"slowly; {advice(plenty)}",
            SamplingWarning,
            stacklevel=2,
        )


def check_courant(
    max_velocity: float, dt: float, spacing: float, order: int, *, coefficients: Coefficients = "taylor"
) -> None:
    """Raise UserError where a step of `dt` seconds on nodes `spacing` metres apart is unstable at `max_velocity`."""
    courant, limit = max_velocity * dt / spacing, courant_limit(order, coefficients)
    if not courant <= limit:
        raise UserError(
            f"Courant number {courant:.3f} ({max_velocity:g} m/s at {dt:g} s on {spacing:g} m), expected at most "
            f"{limit:.3f} for order {order} ({coefficients}): the run would blow up; use a step of at most "
            f"{SAFETY * limit * spacing / max_velocity:.3g} s, or give the model's highest velocity as max_velocity"
        )


def highest_frequency(wavelet: np.ndarray, dt: float) -> float:
    """The frequency in Hz above which the amplitude spectrum stays below 5 % of its largest value.

    wavelet `[..., time]`: the highest of all of them, each measured by its own spectrum. 0 where all are silent.
    """
    highest = 0.0
    for one in np.reshape(wavelet, (-1, np.shape(wavelet)[-1])):  # one by one: encoded shots have very many
        spectrum = np.abs(np.fft.rfft(one, 4 * one.size))
        above = np.flatnonzero(spectrum > 0.05 * spectrum.max())
        if above.size:
            highest = max(highest, float(np.fft.rfftfreq(4 * one.size, dt)[above[-1]]))
    return highest


def check_finite(gathers: np.ndarray, where: str = "gathers") -> None:
    """Raise UserError where a simulation `[batch, shot, time, receiver]` blew up: sample, shot and first time step."""
    broken = ~np.isfinite(np.asarray(gathers)).all(axis=-1)
    samples = np.flatnonzero(broken.any(axis=(1, 2)))
    if samples.size:
        first = int(samples[0])
        step, shot = (int(i) for i in np.argwhere(broken[first].T)[0])
        raise UserError(
            f"{where}: the simulation of sample {first} is not finite, from time sample {step} of shot {shot} on: "
            "check its velocity model"
        )

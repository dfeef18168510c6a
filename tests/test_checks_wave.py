"""What the grid carries: refused, warned of or passed, by the stencils' own dispersion."""

import dataclasses
import itertools

import numpy as np
import pytest

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey, from_arrays, openfwi, ricker, speed_and_structure
from seisvel_jax.wave import checks
from seisvel_jax.wave.stencil import ORDERS, courant_limit, phase_error


def survey_of(frequency=15.0, *, spacing=10.0, dt=1e-3, wavelet=None) -> Survey:
    return from_arrays(
        [[50, 20]],
        [[0, 10], [70, 10]],
        ricker(frequency, dt, round(1 / dt), 0.2) if wavelet is None else wavelet,
        dt=dt,
        shape=(11, 12),
        spacing=spacing,
    )


@pytest.mark.parametrize(
    ("survey", "order", "slowest"),
    [
        (openfwi(), 4, 1500.0),
        (openfwi(x_count=190), 4, 1500.0),
        (speed_and_structure(spacing=5, dt=1e-3), 8, 550.0),
        (speed_and_structure(spacing=10, dt=1e-3), 8, 1100.0),
        (speed_and_structure(dt=1e-3), 4, 300.0),
    ],
)
def test_published_schemes_pass_without_a_word(survey, order, slowest):
    checks.check_sampling(survey, order, slowest)  # warnings are errors in this suite


@pytest.mark.parametrize(("order", "coefficients"), list(itertools.product(ORDERS, ("taylor", "optimised"))))
def test_floors_are_where_the_stencil_is_that_wrong(order, coefficients):
    for error in (checks.REFUSED, checks.DOUBTFUL):
        points = checks.fewest_points(order, coefficients, error=error)
        assert phase_error(order, points, coefficients) == pytest.approx(-error, abs=1e-5)
    finer = np.linspace(checks.fewest_points(order, coefficients, error=checks.DOUBTFUL), 60, 500)
    assert max(abs(phase_error(order, p, coefficients)) for p in finer) < checks.DOUBTFUL + 1e-6


@pytest.mark.parametrize(("order", "coefficients"), list(itertools.product(ORDERS, ("taylor", "optimised"))))
def test_refused_warned_of_or_passed(order, coefficients):
    survey = survey_of()
    per_point = checks.highest_frequency(survey.wavelet, survey.dt) * survey.grid.spacing  # m/s a point per wavelength

    def check(points):
        checks.check_sampling(survey, order, points * per_point, coefficients=coefficients)

    least = checks.fewest_points(order, coefficients)
    plenty = checks.fewest_points(order, coefficients, error=checks.DOUBTFUL)
    with pytest.raises(UserError, match=f"expected {least:.1f} or more for order {order} .*spacing of at most"):
        check(0.99 * least)
    for points in (1.01 * least, 0.99 * plenty):
        with pytest.warns(checks.SamplingWarning, match=f"{points:.1f} grid points .*expected {plenty:.1f} or more"):
            check(points)
    check(1.01 * plenty)
    with pytest.raises(UserError, match="grid points per shortest wavelength"):
        check(float("nan"))


def test_the_cure_that_is_named_cures():
    with pytest.raises(UserError, match="spacing of at most") as caught:
        checks.check_sampling(survey_of(), 4, 900.0)
    spacing = float(str(caught.value).split("at most ")[1].split(" m")[0])
    with pytest.warns(checks.SamplingWarning, match="spacing of at most") as warned:
        checks.check_sampling(survey_of(spacing=0.999 * spacing), 4, 900.0)
    spacing = float(str(warned[0].message).split("at most ")[1].split(" m")[0])
    checks.check_sampling(survey_of(spacing=0.999 * spacing), 4, 900.0)


def test_highest_frequency_of_every_rank():
    low, high = ricker(10.0, 1e-3, 1000, 0.3), ricker(25.0, 1e-3, 1000, 0.3)
    # 5 % of the peak: x exp(1 - x) = 0.05 at x = 5.744 (Lambert's W), so at sqrt(5.744) = 2.397 peak frequencies.
    for wavelet, expected in (
        (low, 23.97),
        (np.stack([low, 1e-3 * high]), 59.92),  # each by its own spectrum, however weak
        (np.stack([high, low]), 59.92),
        (np.stack([[low, 0 * low], [0 * low, low]]), 23.97),
        (0 * low, 0.0),
    ):
        assert checks.highest_frequency(wavelet, 1e-3) == pytest.approx(expected, abs=0.3)


def test_silent_and_broken_wavelets():
    silent = dataclasses.replace(survey_of(), wavelet=np.zeros(1000, np.float32))
    checks.check_sampling(silent, 4, 300.0)
    assert checks.sampling(silent, 4, 1500.0, 4500.0).points == np.inf
    broken = dataclasses.replace(silent, wavelet=np.full(1000, np.nan, np.float32))
    with pytest.raises(UserError, match="NaN"):
        checks.check_sampling(broken, 4, 1500.0)


def test_dt_too_long_for_the_wavelet():
    with pytest.raises(UserError, match=r"dt of 0\.008 s for a wavelet up to 36 Hz, expected 0\.0056 s or less"):
        checks.check_sampling(survey_of(dt=8e-3), 4, 1500.0)


@pytest.mark.parametrize(("order", "coefficients"), list(itertools.product(ORDERS, ("taylor", "optimised"))))
def test_substeps_and_courant(order, coefficients):
    survey, limit = survey_of(), courant_limit(order, coefficients)
    for fastest in (1500.0, 6000.0, 0.981 * limit * 1e4, 0.979 * limit * 1e4, 20000.0):
        steps = checks.substeps(survey, order, fastest, coefficients=coefficients)
        courant = fastest * survey.dt / survey.grid.spacing
        assert courant / steps <= checks.SAFETY * limit + 1e-9
        assert steps == 1 or courant / (steps - 1) > checks.SAFETY * limit
        checks.check_courant(fastest, survey.dt / steps, 10.0, order, coefficients=coefficients)
        numbers = checks.sampling(survey, order, 1500.0, fastest, coefficients=coefficients)
        assert (numbers.substeps, numbers.courant) == (steps, pytest.approx(courant / steps))
    checks.check_courant(0.999 * limit * 1e4, 1e-3, 10.0, order, coefficients=coefficients)
    with pytest.raises(UserError, match=rf"expected at most {limit:.3f} for order {order}"):
        checks.check_courant(1.001 * limit * 1e4, 1e-3, 10.0, order, coefficients=coefficients)


def test_optimised_stencils_stand_a_shorter_step():
    # 5400 m/s on 10 m at 1 ms: Courant number 0.54, between the limits of the two sets of order 8.
    assert checks.substeps(survey_of(), 8, 5400.0) == 1
    assert checks.substeps(survey_of(), 8, 5400.0, coefficients="optimised") == 2


def test_sampling_reports_both_numbers():
    numbers = checks.sampling(openfwi(), 4, 1500.0, 4500.0)
    assert numbers.frequency == pytest.approx(15 * 2.397, abs=0.3)
    assert numbers.points == pytest.approx(1500 / (numbers.frequency * 10))
    assert numbers.phase_error == phase_error(4, numbers.points)
    assert (numbers.courant, numbers.substeps) == (pytest.approx(0.45), 1)
    assert "4.2 grid points" in str(numbers) and "Courant number 0.45 of at most 0.61" in str(numbers)


def test_the_first_value_that_is_not_finite_is_named():
    gathers = np.zeros((3, 2, 5, 4), np.float32)
    checks.check_finite(gathers)
    gathers[1, 0, 3, 2], gathers[1, 1, 2, 0], gathers[2, 0, 0, 0] = np.nan, np.inf, np.nan
    with pytest.raises(UserError, match=r"here: .*sample 1 is not finite, from time sample 2 of shot 1 on"):
        checks.check_finite(gathers, "here")

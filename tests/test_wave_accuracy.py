"""How well the discrete waves are waves: orders of convergence against closed forms, and echoes of the boundaries."""

import dataclasses

import numpy as np
import pytest
from scipy.special import hankel2

from seisvel_jax.survey import Boundary, from_arrays, ricker
from seisvel_jax.wave.plan import make_plan
from seisvel_jax.wave.propagate import propagate, run_plan
from seisvel_jax.wave.scheme import Scheme

pytestmark = pytest.mark.usefixtures("quickly", "double")


def green_2d(wavelet, dt, nt, distance, v, *, leapfrog=False):
    """Pressure of a line source: the wavelet through `-i/4 H0(omega r / v)`.

    With `leapfrog` omega is what two differences in time make of it, `(2 / dt) sin(omega dt / 2)`: then this is the
    exact answer of a scheme without error in space.
    """
    room = 128 * nt  # the tail of a wave in two dimensions is long, and must not come round again
    omega = 2 * np.pi * np.fft.rfftfreq(room, dt)
    seen = 2 / dt * np.sin(omega * dt / 2) if leapfrog else omega
    response = np.zeros(omega.size, complex)
    response[1:] = -0.25j * hankel2(0, seen[1:] * distance / v)
    return np.fft.irfft(np.fft.rfft(wavelet, room) * response, room)[:nt]


V = 2000.0
OFFSETS = np.asarray([(80.0, 0.0), (0.0, 120.0), (60.0, 80.0)])


def homogeneous(spacing, dt, nt=None, half=340.0, frequency=15.0):
    """A source in the middle, receivers on nodes around it, so far from the edges that no echo comes back."""
    count = round(2 * half / spacing) + 1
    nt = nt or round(0.28 / dt)
    t = np.arange(nt) * dt
    b = (np.pi * frequency * (t - 0.12)) ** 2
    survey = from_arrays(
        np.asarray([[half, half]], np.float32),
        (half + OFFSETS).astype(np.float32),
        np.zeros(nt, np.float32) + ricker(frequency, dt, nt, 0.12),
        dt=dt,
        shape=(count, count),
        spacing=spacing,
    )
    return survey, (1 - 2 * b) * np.exp(-b)


def error(spacing, dt, scheme, *, leapfrog):
    survey, wavelet = homogeneous(spacing, dt)
    plan = make_plan(survey, V, scheme)
    assert plan.substeps == 1
    steps = plan.wavelet.shape[-1]
    exact = np.pad(wavelet, (0, steps))[None, None, :steps] / spacing**2  # in double precision: errors go down to 1e-6
    plan = dataclasses.replace(plan, wavelet=exact)
    found = np.asarray(run_plan(np.full((1, *survey.grid.shape), V), plan))[0, 0]
    distance = np.hypot(*OFFSETS.T)
    expected = np.stack([green_2d(wavelet, dt, survey.nt, r, V, leapfrog=leapfrog) for r in distance], axis=-1)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("order", "coarse", "fine", "dt"),
    [(2, 10.0, 5.0, 1e-3), (4, 10.0, 5.0, 1e-3), (6, 10.0, 5.0, 1e-3), (8, 20 / 3, 10 / 3, 5e-4)],
)
def test_order_in_space(order, coarse, fine, dt):
    scheme = Scheme(order, precision="float64")
    errors = [error(h, dt, scheme, leapfrog=True) for h in (coarse, fine)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def test_order_in_time():
    scheme = Scheme(8, precision="float64")
    errors = [error(5.0, dt, scheme, leapfrog=False) for dt in (1e-3, 5e-4)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


def test_optimised_coefficients_do_better_on_a_coarse_grid_and_converge_at_second_order():
    taylor, optimised = (Scheme(8, kind, precision="float64") for kind in ("taylor", "optimised"))
    assert error(20.0, 1e-3, optimised, leapfrog=True) < 0.5 * error(20.0, 1e-3, taylor, leapfrog=True)
    assert error(5.0, 1e-3, optimised, leapfrog=True) > error(5.0, 1e-3, taylor, leapfrog=True)


def test_dispersion_correction_takes_time_out():
    survey, wavelet = homogeneous(5.0, 1e-3)
    distance = np.hypot(*OFFSETS.T)
    expected = np.stack([green_2d(wavelet, 1e-3, survey.nt, r, V) for r in distance], axis=-1)
    velocity = np.full((1, *survey.grid.shape), V)
    raw, corrected = (
        np.linalg.norm(
            propagate(velocity, survey, scheme=Scheme(8, correct_dispersion=on, precision="float64"))[0, 0] - expected
        )
        / np.linalg.norm(expected)
        for on in (False, True)
    )
    assert raw > 1e-3
    assert corrected < 1e-4


def test_free_surface_is_a_mirror_with_the_other_sign():
    """A source below it is that source and its negative image above it: the method of images, exact in a half space."""
    spacing, dt, nt, v = 5.0, 5e-4, 400, 2000.0
    sources, receivers = np.asarray([[300, 43.7]]), np.asarray([[300, 5], [380, 61.3], [230, 2.1]])
    survey = from_arrays(
        sources.astype(np.float32),
        receivers.astype(np.float32),
        ricker(15.0, dt, nt, 0.08),
        dt=dt,
        shape=(100, 121),
        spacing=spacing,
        free_surface=True,
    )
    found = np.asarray(propagate(np.full((1, 100, 121), v), survey, scheme=Scheme(8, precision="float64")))[0, 0]
    wavelet = np.asarray(survey.wavelet, np.float64)
    below, above = (np.hypot(300 - receivers[:, 0], s * 43.7 - receivers[:, 1]) for s in (1, -1))
    expected = np.stack(
        [green_2d(wavelet, dt, nt, b, v) - green_2d(wavelet, dt, nt, a, v) for b, a in zip(below, above, strict=True)],
        axis=-1,
    )
    for trace in range(3):
        scale = np.linalg.norm(expected[:, trace])
        assert np.linalg.norm(found[:, trace] - expected[:, trace]) < 6e-3 * scale


def echo(boundary, v, nt=520):
    """Largest difference from a domain without edges, in dB of the direct wave 200 m straight below the source.

    The source lies 100 m below the top edge, which the wave meets at normal incidence.
    """
    spacing, dt = 10.0, 1e-3

    def gathers(room, boundary):
        """A model of 400 m x 400 m with `room` more metres on each side."""
        survey = from_arrays(
            np.asarray([[200 + room, 100 + room]], np.float32),
            np.asarray([[200 + room, 300 + room]], np.float32),
            ricker(15.0, dt, nt, 0.08),
            dt=dt,
            shape=(41 + round(2 * room / spacing),) * 2,
            spacing=spacing,
        )
        last = tuple(spacing * (n - 1) for n in survey.grid.shape)
        survey = dataclasses.replace(survey, boundary=dataclasses.replace(boundary, start=last))
        velocity = np.full((1, *survey.grid.shape), v)
        return np.asarray(propagate(velocity, survey, scheme=Scheme(4, precision="float64")))

    without = gathers(500.0, Boundary("pml", 200.0, (0, 0)))
    found = gathers(0.0, boundary)
    return 20 * np.log10(np.abs(found - without).max() / np.abs(without).max())


def test_echoes_of_the_boundaries():
    assert echo(Boundary("pml", 200.0, (0, 0)), 2000.0) < -60
    assert echo(Boundary("pml", 100.0, (0, 0)), 2000.0) < -50
    assert -40 < echo(Boundary("devito", 400.0, (0, 0)), 2000.0) < -20

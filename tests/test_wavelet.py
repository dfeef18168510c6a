"""The wavelets against their closed-form spectra, and against what other codes fire."""

import numpy as np
import pytest

from seisvel_jax.errors import UserError
from seisvel_jax.survey import openfwi, speed_and_structure
from seisvel_jax.wave.wavelet import ormsby, ricker

DT, NT, DELAY = 1e-3, 2001, 1.0


def spectrum(wavelet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and the Fourier integral of a wavelet that is symmetric about DELAY: real."""
    frequency = np.fft.rfftfreq(wavelet.size, DT)
    shifted = np.fft.rfft(wavelet.astype(np.float64)) * np.exp(2j * np.pi * frequency * DELAY) * DT
    np.testing.assert_allclose(shifted.imag, 0, atol=1e-6)  # phase zero
    return frequency, shifted.real


def test_ricker_has_its_closed_form_spectrum():
    frequency, amplitude = spectrum(ricker(15.0, DT, NT, DELAY))
    exact = 2 / np.sqrt(np.pi) * frequency**2 / 15.0**3 * np.exp(-((frequency / 15.0) ** 2))
    np.testing.assert_allclose(amplitude, exact, atol=1e-7)
    assert frequency[np.argmax(amplitude)] == pytest.approx(15, abs=0.5)


def test_ricker_of_the_other_conventions():
    frequency, amplitude = spectrum(ricker(20.0, DT, NT, DELAY, convention="mean"))
    assert (frequency * amplitude).sum() / amplitude.sum() == pytest.approx(20, rel=1e-4)

    wavelet = ricker(20.0, DT / 20, 20 * NT, DELAY, convention="period")
    centre = round(20 * DELAY / DT)
    troughs = np.argmin(wavelet[:centre]), centre + np.argmin(wavelet[centre:])
    assert (troughs[1] - troughs[0]) * DT / 20 == pytest.approx(1 / 20, abs=DT / 10)


def test_ricker_is_what_other_codes_fire():
    # OpenFWI: 147 samples, b = ((73 - k) 15 dt pi)^2. Devito: r = pi f0 (t - 1 / f0), here in its ms and kHz.
    k = np.arange(147)
    b = ((73 - k) * 15 * 1e-3 * np.pi) ** 2
    np.testing.assert_allclose(ricker(15.0, 1e-3, 147, 0.073), (1 - 2 * b) * np.exp(-b), atol=1e-6)
    np.testing.assert_array_equal(100 * ricker(15.0, 1e-3, 147, 0.073), openfwi().wavelet[:147])
    r = np.pi * 0.015 * (np.arange(1001) - 1 / 0.015)
    devito = (1 - 2 * r**2) * np.exp(-(r**2))
    np.testing.assert_allclose(ricker(15.0, 1e-3, 1001, 1 / 15), devito, atol=1e-6)
    np.testing.assert_allclose(speed_and_structure(dt=1e-3).wavelet, devito, atol=1e-6)


@pytest.mark.parametrize("corners", [(5, 10, 40, 60), (0, 8, 8, 30), (2, 12, 45, 50)])
def test_ormsby_has_a_trapezoid_for_spectrum(corners):
    frequency, amplitude = spectrum(ormsby(*corners, DT, NT, DELAY))
    f1, f2, f3, f4 = corners
    trapezoid = np.interp(frequency, corners if f2 < f3 else (f1, f2, f4), (0, 1, 1, 0) if f2 < f3 else (0, 1, 0))
    # It dies out as 1 / t^2 only, so that a record of 2 s blurs the corners by about 1 %.
    np.testing.assert_allclose(amplitude * (f4 + f3 - f2 - f1), trapezoid, atol=0.03)
    smooth = np.abs(frequency[:, None] - np.asarray(corners)).min(axis=1) > 2
    np.testing.assert_allclose((amplitude * (f4 + f3 - f2 - f1))[smooth], trapezoid[smooth], atol=4e-3)
    wavelet = ormsby(*corners, DT, NT, DELAY)
    assert wavelet.dtype == np.float32 and np.argmax(wavelet) == round(DELAY / DT)
    assert wavelet.max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ricker(15.0, DT, NT, DELAY, convention="central"), "convention 'central'"),
        (lambda: ricker(-15.0, DT, NT, DELAY), "frequency -15 Hz"),
        (lambda: ricker(float("nan"), DT, NT, DELAY), "frequency nan Hz"),
        (lambda: ricker(600.0, DT, NT, DELAY), "Nyquist frequency of 500 Hz"),
        (lambda: ricker(15.0, 0.0, NT, DELAY), "dt 0.0"),
        (lambda: ricker(15.0, DT, 0, 0.0), "nt 0"),
        (lambda: ricker(15.0, DT, 100, 1 / 15 * 1000), "delay 66.6"),  # milliseconds
        (lambda: ormsby(5, 4, 40, 60, DT, NT, DELAY), "corners 5, 4, 40, 60"),
        (lambda: ormsby(5, 10, 40, 40, DT, NT, DELAY), "corners"),
        (lambda: ormsby(5, 10, 40, 500, DT, NT, DELAY), "f4 500 Hz"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()

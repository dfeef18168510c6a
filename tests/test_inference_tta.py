"""Mirror and noise at prediction time, against a prediction function whose mirror symmetry is exact by construction."""

import numpy as np
import pytest

from seisvel_jax.inference.tta import band_limited_noise, mirrored, with_mirror, with_noise
from seisvel_jax.survey import openfwi, speed_and_structure

SURVEY = speed_and_structure(spacing=20.0, dt=0.01)


def equivariant(gathers: np.ndarray, survey) -> np.ndarray:
    """Energy of each trace smeared about the positions of its source and receiver: mirrors when everything mirrors."""
    x = np.arange(survey.grid.x_count) * survey.grid.spacing
    about_source = np.exp(-(((x - survey.sources[:, None, 0]) / 60) ** 2))
    about_receiver = np.exp(-(((x - survey.receivers[:, None, 0]) / 40) ** 2))
    energy = np.square(gathers).mean(2)
    line = 2000 + 10 * np.einsum("bsr,sx,rx->bx", energy, about_source, about_receiver)
    return np.stack([line[:, None, :] + k * np.arange(survey.grid.depth_count)[:, None] for k in (1.0, 2.0)])


def gathers(batch: int = 3, survey=SURVEY) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, *survey.gather_shape)).astype(np.float32) * rng.uniform(
        0.1, 2, (batch, *survey.gather_shape[:1], 1, *survey.gather_shape[2:])
    ).astype(np.float32)


@pytest.mark.parametrize("survey", [SURVEY, openfwi()], ids=["challenge", "openfwi"])
def test_mirror_leaves_an_equivariant_prediction_alone(survey):
    data = gathers(2, survey)
    plain = equivariant(data, survey)
    np.testing.assert_allclose(with_mirror(equivariant)(data, survey), plain, rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g, s: (g[:, :, :, ::-1], s.mirrored()),  # shots not reversed
        lambda g, s: (g[:, ::-1], s.mirrored()),  # receivers not reversed
        lambda g, s: (g[:, ::-1, :, ::-1], s),  # positions of the straight survey
    ],
)
def test_a_half_done_mirror_is_noticed(wrong):
    data = gathers()
    plain = equivariant(data, SURVEY)
    mean = (plain + equivariant(*wrong(data, SURVEY))[..., ::-1]) / 2
    assert np.abs(mean - plain).max() > 0.1
    # and so is turning the depth axis back instead of the lateral one
    assert np.abs((plain + equivariant(*mirrored(data, SURVEY))[..., ::-1, :]) / 2 - plain).max() > 0.1


def test_mirror_averages_what_is_not_symmetric():
    def left(gathers, survey):
        return np.broadcast_to(np.arange(survey.grid.x_count, dtype=float), (1, len(gathers), *survey.grid.shape))

    np.testing.assert_allclose(with_mirror(left)(gathers(), SURVEY), (SURVEY.grid.x_count - 1) / 2)


def test_noise_is_keyed_by_the_sample_and_of_the_stated_strength():
    data = gathers(4)
    noise = band_limited_noise(data, SURVEY, draw=0, snr_db=20.0)
    ratio = np.square(data).mean((1, 2, 3)) / np.square(noise).mean((1, 2, 3))
    np.testing.assert_allclose(10 * np.log10(ratio), 20, atol=0.01)
    # Alone, or elsewhere in another batch: the same noise. Another draw or seed: other noise.
    np.testing.assert_array_equal(band_limited_noise(data[2:3], SURVEY, 0, 20.0)[0], noise[2])
    for other in (band_limited_noise(data, SURVEY, 1, 20.0), band_limited_noise(data, SURVEY, 0, 20.0, seed=1)):
        assert abs(np.corrcoef(other.ravel(), noise.ravel())[0, 1]) < 0.05


def test_noise_lies_in_the_band_of_the_wavelet():
    survey = speed_and_structure(spacing=20.0, dt=0.001)
    noise = band_limited_noise(gathers(1, survey), survey, 0)
    power = np.square(np.abs(np.fft.rfft(noise, axis=2))).mean((0, 1, 3))
    frequency = np.fft.rfftfreq(survey.nt, survey.dt)
    assert power[frequency > 60].sum() < 1e-4 * power.sum()
    assert 10 < frequency[power.argmax()] < 20


def test_noise_averages_over_the_straight_and_the_noisy():
    calls = []

    def count(gathers, survey):
        calls.append(gathers)
        return equivariant(gathers, survey)

    data = gathers()
    result = with_noise(with_mirror(count), 3, snr_db=60.0)(data, SURVEY)
    assert len(calls) == 8 and result.shape == equivariant(data, SURVEY).shape
    np.testing.assert_array_equal(calls[0], data)
    np.testing.assert_allclose(result, equivariant(data, SURVEY), rtol=1e-4)

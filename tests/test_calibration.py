"""Calibration measures against closed forms: Gaussian CRPS, uniform ranks, exact coverage, a known temperature."""

import numpy as np
import pytest

from seisvel_jax.calibration import (
    Calibration,
    coverage,
    crps,
    error_by_spread,
    fit_temperature,
    gaussian_crps,
    rank_histogram,
    spread,
    tempered,
)
from seisvel_jax.errors import UserError


def draws(count: int, cells: int = 40_000, *, width: float = 1.0, bias: float = 0.0, seed: int = 0):
    """Samples `width` times as wide as they should be about means that differ, and the truths."""
    rng = np.random.default_rng(seed)
    mean, deviation = 3000 + 500 * rng.normal(size=cells), np.exp(rng.normal(3, 0.7, size=cells))
    truth = mean + deviation * rng.normal(size=cells)
    return mean + bias * deviation + width * deviation * rng.normal(size=(count, cells)), truth, mean, deviation


@pytest.mark.parametrize("count", [4, 32])
def test_crps_is_the_gaussian_formula_however_few_samples(count):
    samples, truth, mean, deviation = draws(count)
    exact = gaussian_crps(mean, deviation, truth)
    # Of calibrated Gaussians the mean is deviation / sqrt(pi); the fair score has no bias in the number of samples.
    np.testing.assert_allclose(exact.mean(), deviation.mean() / np.sqrt(np.pi), rtol=0.02)
    np.testing.assert_allclose(crps(samples, truth).mean(), exact.mean(), rtol=0.01)


def test_crps_by_hand_and_of_one_sample():
    samples, truth = np.asarray([[0.0], [1.0], [3.0]]), np.asarray([1.0])
    pairs = (1 + 3 + 2) / 3
    np.testing.assert_allclose(crps(samples, truth), [(1 + 0 + 2) / 3 - pairs / 2])
    np.testing.assert_allclose(crps(samples[:1], truth), [1.0])


@pytest.mark.parametrize("count", [5, 16])
def test_ranks_of_calibrated_samples_are_uniform_and_cover_exactly(count):
    samples, truth, *_ = draws(count)
    histogram = rank_histogram(samples, truth)
    assert histogram.shape == (count + 1,) and histogram.sum() == pytest.approx(truth.size)
    expected = truth.size / (count + 1)
    # Chi square of count degrees of freedom: 5 deviations of it.
    assert ((histogram - expected) ** 2 / expected).sum() < count + 5 * np.sqrt(2 * count)
    for level in (0.5, 0.9):
        assert coverage(histogram, level) == pytest.approx(level, abs=0.01)


def test_ranks_tell_narrow_wide_and_biased_apart():
    narrow, wide, biased = (rank_histogram(*draws(9, width=w, bias=b)[:2]) for w, b in ((0.5, 0), (2, 0), (1, 1)))
    assert min(narrow[0], narrow[-1]) > 2 * narrow[5] and wide[5] > 2 * max(wide[0], wide[-1])
    assert biased[0] > 5 * biased[-1]  # the truth lies below samples that are too high
    assert coverage(narrow, 0.9) < 0.8 and coverage(wide, 0.9) > 0.95


def test_ties_share_their_ranks_and_known_water_counts_nothing():
    samples, truth = np.asarray([[1.0, 5.0], [2.0, 5.0], [2.0, 5.0]]), np.asarray([2.0, 5.0])
    np.testing.assert_allclose(rank_histogram(samples, truth), [0, 1 / 3, 1 / 3, 1 / 3])
    off = rank_histogram(samples, np.asarray([2.0, 4.0]))
    np.testing.assert_allclose(off, [1, 1 / 3, 1 / 3, 1 / 3])


def test_error_follows_spread_in_every_bin():
    samples, truth, *_ = draws(40)
    expected, error = error_by_spread(spread(samples), samples.mean(0) - truth, bins=8)
    assert expected[-1] > 5 * expected[0]
    np.testing.assert_allclose(error, expected, rtol=0.08)


@pytest.mark.parametrize("width", [0.4, 1.0, 2.5])
def test_temperature_undoes_a_wrong_spread(width):
    samples, truth, *_ = draws(50, width=width, cells=20_000)
    temperature = fit_temperature(samples, truth)
    # About the samples' mean, which is itself off by width / sqrt(50) deviations.
    assert temperature == pytest.approx(np.sqrt(1 + width**2 / 50) / width, rel=0.04)
    better = tempered(samples, temperature)
    np.testing.assert_allclose(better.mean(0), samples.mean(0))
    assert coverage(rank_histogram(better, truth), 0.9) == pytest.approx(0.9, abs=0.015)
    assert crps(better, truth).mean() <= crps(samples, truth).mean() + 1e-9


def test_summary_of_models_is_that_of_all_their_cells():
    samples, truth, *_ = draws(12, cells=2000)
    whole, parts = Calibration(1), Calibration(4)
    whole.add(samples, truth)
    for part in range(4):
        parts.add(samples[:, part::4], truth[part::4])
    one, four = whole.summary(), parts.summary()
    for name in ("crps", "spread", "rmse_of_mean", "temperature"):
        assert one[name] == pytest.approx(four[name], rel=1e-5)
    np.testing.assert_allclose(one["rank_histogram"], four["rank_histogram"])
    assert one["coverage"]["0.9"] == pytest.approx(0.9, abs=0.03)


def test_wrong_shapes_are_named():
    with pytest.raises(UserError, match=r"\(3, 4\), expected \(sample, \*\(5,\)\)"):
        crps(np.zeros((3, 4)), np.zeros(5))
    with pytest.raises(UserError, match="temperature 0"):
        tempered(np.zeros((3, 4)), 0.0)

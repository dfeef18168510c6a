"""Calibration measures against closed forms: Gaussian CRPS, uniform ranks, exact coverage, a known temperature."""

import numpy as np
import pytest

from seisvel_jax import calibration
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
from seisvel_jax.data.velocity_files import open_velocities
from seisvel_jax.data.writers import write_challenge_sample, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.evaluate import Evaluate, evaluate
from seisvel_jax.inference import pretrained
from seisvel_jax.inference.predictor import Ensemble, Predictor
from seisvel_jax.inference.sample_files import SampleFile
from seisvel_jax.predict import Predict, predict
from seisvel_jax.survey import speed_and_structure


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


@pytest.mark.parametrize(("count", "said"), [(1, 0.9), (8, 0.777), (16, 0.662), (100, 0.594)])
def test_few_samples_tell_less_of_a_spread_that_is_half_of_what_it_should_be(count, said):
    samples, truth, *_ = draws(count, width=0.5)
    assert coverage(rank_histogram(samples, truth), 0.9) == pytest.approx(said, abs=0.01)


def test_coverage_by_hand():
    """Of ranks 0..9 the outermost two stand for 0 to 10 % and 90 to 100 %: half of them is inside 5 to 95 %."""
    outside = np.asarray([3.0, 0, 0, 0, 0, 0, 0, 0, 0, 3.0])
    np.testing.assert_allclose([coverage(outside, level) for level in (0.8, 0.9, 1.0)], [0, 0.5, 1], atol=1e-12)


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
    # The mean of the samples is itself off by width / sqrt(50) deviations.
    assert temperature == pytest.approx(np.sqrt(1 + width**2 / 50) / (width * np.sqrt(1 + 1 / 50)), rel=0.02)
    assert spread(tempered(samples, temperature)).mean() == pytest.approx(
        np.sqrt(np.pi / 2) * np.abs(samples.mean(0) - truth).mean(), rel=0.03
    )
    better = tempered(samples, temperature)
    np.testing.assert_allclose(better.mean(0), samples.mean(0))
    assert coverage(rank_histogram(better, truth), 0.9) == pytest.approx(0.9, abs=0.015)
    assert crps(better, truth).mean() <= crps(samples, truth).mean() * 1.001


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


def test_what_is_kept_of_many_models_is_no_single_column(monkeypatch):
    """Only every 8th cell is kept of models 8 wide whose first column alone is wrong: an eighth of the errors."""
    monkeypatch.setattr(calibration, "CELLS", 4 * 64 * 40 // 8)
    found, truth = Calibration(40), np.zeros((8, 8))
    wrong = truth + 100.0 * (np.arange(8) == 0)
    for _ in range(40):
        found.add(np.stack([wrong] * 4), truth)
    assert found.summary()["rmse_of_mean"] == pytest.approx(100 * np.sqrt(1 / 8), rel=0.2)


def test_wrong_shapes_are_named():
    counted = Calibration(2)
    counted.add(np.zeros((3, 4)), np.ones(4))
    with pytest.raises(UserError, match="2 samples where others have 3"):
        counted.add(np.zeros((2, 4)), np.ones(4))
    with pytest.raises(UserError, match=r"\(3, 4\), expected \(sample, \*\(5,\)\)"):
        crps(np.zeros((3, 4)), np.zeros(5))
    with pytest.raises(UserError, match="temperature 0"):
        tempered(np.zeros((3, 4)), 0.0)


def test_an_ensemble_s_members_are_written_and_judged(tmp_path, monkeypatch):
    """predict --members, then evaluate: the members as they are, samples as `sample` writes them."""
    survey = speed_and_structure(spacing=20.0, dt=0.01)
    rng = np.random.default_rng(0)
    truths = {}
    for name in ("first", "second"):
        truths[name] = rng.uniform(1500, 4500, survey.grid.shape).astype(np.float32)
        gathers = rng.normal(size=survey.gather_shape).astype(np.float32)
        write_challenge_sample(tmp_path / "data", name, gathers, truths[name])
    write_survey(tmp_path / "data", survey)

    def answer(gathers, survey):
        rise = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
        return np.broadcast_to(3000 + 100 * rise + gathers[:, 0, 0, 0].reshape(-1, 1, 1), (4, 2, *survey.grid.shape))

    members = tuple(f"net/{index}" for index in range(4))
    ensemble = Ensemble(answer, survey, np.asarray([1.0, 0, 0, 0]), {}, members, "fake")
    monkeypatch.setattr(pretrained, "load", lambda paths: Predictor([ensemble]))
    output, told = tmp_path / "velocity.npz", tmp_path / "members.npz"
    predict(Predict((tmp_path,), tmp_path / "data", output, members=told, batch_size=2))
    samples, velocity = SampleFile(told), open_velocities(output)
    assert samples.names == ("first", "second") and samples.samples(1).shape == (4, *survey.grid.shape)
    for index in range(2):
        np.testing.assert_allclose(samples.samples(index)[0], velocity.velocity(index), rtol=1e-6)
        np.testing.assert_allclose(np.diff(samples.samples(index), axis=0), 100, rtol=1e-4)
    found = evaluate(Evaluate(told, tmp_path / "data"))["calibration"]
    assert found["samples"] == 4
    expected = np.mean([crps(samples.samples(i), truths[name]).mean() for i, name in enumerate(truths)])
    assert found["crps"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"an \.npz of its own"):
        predict(Predict((tmp_path,), tmp_path / "data", output, members=output))

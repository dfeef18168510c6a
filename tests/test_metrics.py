"""Metrics against values stored by others, direct formulas and closed forms."""

import numpy as np
import pytest

from seisvel_jax import metrics


def models(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1500, 4500, shape)


def ssim_directly(prediction: np.ndarray, truth: np.ndarray) -> float:
    """The definition, window by window: no separable filter, no shortcut."""
    a, b = ((np.pad(v, 5, constant_values=1500) - 1500) / 3000 for v in (prediction, truth))
    i, j = np.mgrid[-5:6, -5:6]
    window = np.exp(-(i**2 + j**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for row in range(truth.shape[0]):
        for column in range(truth.shape[1]):
            p, t = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
            mp, mt = (window * p).sum(), (window * t).sum()
            vp, vt, c = (window * p * p).sum() - mp**2, (window * t * t).sum() - mt**2, (window * p * t).sum() - mp * mt
            values.append((2 * mp * mt + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mt**2 + 1e-4) * (vp + vt + 9e-4)))
    return float(np.mean(values))


def test_ssim_is_the_definition():
    truth = models(0, 17, 13)
    prediction = truth + np.random.default_rng(1).normal(0, 200, truth.shape)
    assert metrics.ssim(prediction, truth) == pytest.approx(ssim_directly(prediction, truth), abs=1e-12)
    assert metrics.ssim(truth, truth) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ["marmousi", "curvefault_b_sample0"])
def test_mae_rmse_ssim_as_another_group_measured_them(shared_data, name):
    """RED-DiffEq's own arrays, computed by its authors with OpenFWI's code in units of [-1, 1] and [0, 1]."""
    theirs = np.load(shared_data / "openfwi" / f"red_diffeq_{name}_result.npz", allow_pickle=False)
    result = (theirs["result"].astype(np.float64) + 1) * 1500 + 1500
    truth = theirs["ground_truth"]
    assert metrics.mae(result, truth) == pytest.approx(1500 * theirs["mae"][-1], rel=1e-5)
    assert metrics.rmse(result, truth) == pytest.approx(1500 * theirs["rmse"][-1], rel=1e-5)
    assert metrics.ssim(result, truth) == pytest.approx(theirs["ssim"][-1], abs=1e-5)


def test_mape_is_the_challenges():
    """The published formula on the submission's own arrays: km/s, lateral first."""
    truth, prediction = models(2, 3, 20, 10), models(3, 3, 20, 10)
    t, p = (v.transpose(0, 2, 1) / 1000 for v in (truth, prediction))
    expected = np.mean(np.abs(t - p) / (np.abs(t) + 1e-8), axis=(1, 2))
    np.testing.assert_allclose(metrics.mape(prediction, truth), expected, rtol=1e-14)
    np.testing.assert_allclose(metrics.mape_by_depth(prediction, truth).mean(-1), expected, rtol=1e-14)


def test_by_depth_and_closed_forms():
    truth = np.full((2, 4, 5), 2000.0)
    prediction = truth + 100 * np.arange(4)[:, None]
    np.testing.assert_allclose(metrics.mae_by_depth(prediction, truth), [[0, 100, 200, 300]] * 2)
    np.testing.assert_allclose(metrics.mape_by_depth(prediction, truth), [[0, 0.05, 0.1, 0.15]] * 2, rtol=1e-8)
    np.testing.assert_allclose(metrics.mae(prediction, truth), 150)
    np.testing.assert_allclose(metrics.rmse(prediction, truth), 100 * np.sqrt(14 / 4))


def test_other_shapes_are_refused():
    for measure in (metrics.mape, metrics.mae, metrics.rmse, metrics.ssim):
        with pytest.raises(ValueError, match=r"\(4, 5\) against truth of shape \(1, 5\)"):
            measure(np.ones((4, 5)), np.ones((1, 5)))


def test_profile_baseline_is_the_best_profile():
    train = models(4, 6, 9, 7)
    best = metrics.profile_baseline(train)

    def score(profile):
        return metrics.mape(np.broadcast_to(profile[None, :, None], train.shape), train).mean()

    for depth in range(9):
        for value in np.linspace(1500, 4500, 301):
            other = best.copy()
            other[depth] = value
            assert score(best) <= score(other) + 1e-12


def test_water_bottom_and_hung_baseline():
    depth = np.arange(10)[:, None]
    sea = np.array([2, 5, 0, 10])
    truth = np.where(depth < sea, 1500.0, 2000.0 + 10 * (depth - sea))
    np.testing.assert_array_equal(metrics.water_bottom(truth), sea)
    # Every column is the same model hung from its seabed: the baseline recovers it exactly.
    np.testing.assert_allclose(metrics.hung_baseline(truth[None], truth[None])[0], truth)
    with pytest.raises(ValueError, match="water"):
        metrics.hung_baseline(np.full((1, 10, 4), 1500.0), truth[None])

"""Post-processing: never worse on the data it was fitted on, and right about what it changes."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, generic_filter

from seisvel_jax import metrics
from seisvel_jax.inference.postprocess import apply_postprocess, fit_postprocess, smooth, snap
from seisvel_jax.survey import Grid

GRID = Grid(63, 15, 20.0)


def earth(count: int, seed: int = 0, *, salt: bool = True) -> np.ndarray:
    """Water, layers, a block of salt: `[count, depth, x]`."""
    rng = np.random.default_rng(seed)
    depth = np.arange(63)[:, None]
    models = []
    for _ in range(count):
        sea = rng.integers(5, 15) + np.round(2 * np.sin(np.arange(15) / rng.uniform(2, 5)))
        layers = np.sort(rng.uniform(1800, 3900, 12))
        model = np.where(depth < sea, 1500.0, layers[np.clip((depth - sea) // 5, 0, 11).astype(int)])
        if salt:
            model[35:50, 4:9] = 4500.0
        models.append(model)
    return np.asarray(models, np.float32)


def score(prediction, truth) -> float:
    return float(metrics.mape(prediction, truth).mean())


def test_it_lowers_the_error_of_a_noisy_blurred_prediction():
    truth = earth(8)
    noise = np.random.default_rng(1).normal(0, 60, truth.shape)
    prediction = (gaussian_filter(truth, (0, 1, 1)) + noise).astype(np.float32)
    parameters = fit_postprocess(prediction, truth, GRID)
    assert {"smooth_x", "low", "high", "water_threshold", "salt_threshold"} <= parameters.keys()
    assert all(isinstance(value, float) for value in parameters.values())
    after = apply_postprocess(prediction, parameters, GRID)
    assert after.dtype == prediction.dtype
    assert score(after, truth) < 0.75 * score(prediction, truth)
    # What is exact is exact.
    assert set(np.unique(after[:, :3])) == {1500.0}
    assert (after[:, 40:45, 6] == 4500.0).all()


@pytest.mark.parametrize("seed", range(4))
def test_never_worse_on_the_data_it_was_fitted_on(seed):
    rng = np.random.default_rng(seed)
    truth = earth(4, seed, salt=bool(seed % 2)) if seed < 3 else rng.uniform(1500, 4500, (4, 63, 15)).astype(np.float32)
    prediction = (truth * rng.uniform(0.9, 1.1, truth.shape)).astype(np.float32)
    parameters = fit_postprocess(prediction, truth, GRID)
    assert score(apply_postprocess(prediction, parameters, GRID), truth) <= score(prediction, truth)


def test_nothing_is_done_where_nothing_helps():
    # Every cell on its own: the smallest window already takes away more truth than error.
    rng = np.random.default_rng(0)
    rough = (3000 + rng.normal(0, 100, (4, 63, 15))).astype(np.float32)
    assert fit_postprocess(rough + rng.normal(0, 60, rough.shape).astype(np.float32), rough, GRID) == {}
    truth = earth(4)
    assert fit_postprocess(truth, truth, GRID) == {}
    assert apply_postprocess(truth, {}, GRID) is truth


def test_the_median_is_a_median_of_the_window_in_metres():
    field = np.random.default_rng(0).uniform(1500, 4500, (63, 15))
    expected = generic_filter(field, np.median, size=(3, 5), mode="nearest")
    parameters = {"smooth_depth": 60.0, "smooth_x": 100.0}
    np.testing.assert_array_equal(smooth(field[None], parameters, GRID)[0], expected)
    # On a finer grid the window has as many metres, 60 m: stripes of 20 m vanish, stripes of 40 m stay.
    x = 10.0 * np.arange(40)
    for width, stays in ((20, False), (40, True)):
        stripe = np.where((x >= 200) & (x < 200 + width), 1.0, 0.0) * np.ones((9, 1))
        after = smooth(stripe, {"smooth_x": 60.0}, Grid(9, 40, 10.0))
        np.testing.assert_array_equal(after, stripe if stays else 0 * stripe)
    edge = np.where(np.arange(15) < 7, 2000.0, 3000.0) * np.ones((63, 1))
    np.testing.assert_array_equal(smooth(edge, parameters, GRID), edge)


def test_water_ends_at_the_seabed_that_the_prediction_shows():
    column = np.array([1490, 1510, 1505, 1700, 1520, 2000.0])[:, None]
    np.testing.assert_array_equal(snap(column, {"water_threshold": 1550.0})[:, 0], [1500, 1500, 1500, 1700, 1520, 2000])
    np.testing.assert_array_equal(snap(column, {"salt_threshold": 1990.0})[:, 0], [1490, 1510, 1505, 1700, 1520, 4500])
    np.testing.assert_array_equal(snap(column, {"low": 1500.0, "high": 1800.0})[[0, -1], 0], [1500, 1800])

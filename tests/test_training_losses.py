"""Each loss term against its closed form, and the gradient against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seisvel_jax.survey import Boundary, Grid, Survey, openfwi, speed_and_structure
from seisvel_jax.training.config import LossConfig
from seisvel_jax.training.losses import direct_times, loss_terms, weighted_sum

GRID = Grid(20, 16, 10.0)


def survey_of(sources, receivers):
    return Survey(
        sources=np.asarray(sources, np.float32),
        receivers=np.asarray(receivers, np.float32),
        wavelet=np.zeros(4, np.float32),
        dt=1e-3,
        nt=4,
        grid=GRID,
        boundary=Boundary("openfwi", 100.0, (190.0, 150.0)),
        record_start=0,
        name="test",
    )


SURVEY = survey_of([[0, 20], [150, 20]], [[10 * i, 10] for i in range(16)])


jitted = jax.jit(loss_terms, static_argnums=3)


def terms_of(prediction, truth, config=LossConfig(), survey=SURVEY):  # noqa: B008
    prediction, truth = (jnp.asarray(v, jnp.float32) for v in (prediction, truth))
    return jax.tree.map(np.asarray, jitted(prediction, truth, survey, config))


def test_perfect_prediction_costs_nothing():
    truth = np.random.default_rng(0).uniform(1600, 4400, (2, *GRID.shape))
    for name, value in terms_of(truth, truth).items():
        np.testing.assert_allclose(value, 0, atol=1e-6, err_msg=name)


def test_constant_relative_error():
    truth = np.full((2, *GRID.shape), 2000.0)
    prediction = truth * np.asarray([1.1, 0.95])[:, None, None]
    terms = terms_of(prediction, truth)
    np.testing.assert_allclose(terms["mape"], [0.1, 0.05], rtol=1e-5)
    np.testing.assert_allclose(terms["l2"], [0.2**2, 0.1**2], rtol=1e-5)
    np.testing.assert_allclose(terms["gradient"], 0, atol=1e-6)
    # The direct wave through v (1 + e) takes 1 / (1 + e) of the time; there is no water and no bound is broken.
    np.testing.assert_allclose(terms["physics"], [1 - 1 / 1.1, 1 / 0.95 - 1], rtol=1e-4)


def test_gradient_term_is_the_slope_error_on_any_grid():
    # An error of 2 m/s per metre of depth and 1 m/s per metre of x: 3 * 10 m / 1000 m/s.
    truth = np.full((1, *GRID.shape), 3000.0)
    depth, x = np.meshgrid(np.arange(20) * 10.0, np.arange(16) * 10.0, indexing="ij")
    np.testing.assert_allclose(terms_of(truth + 2 * depth - x, truth)["gradient"], 0.03, rtol=1e-4)


def test_bounds_and_water():
    truth = np.full((1, *GRID.shape), 3000.0)
    truth[:, :5] = 1500.0
    deep = truth.copy()
    deep[0, 10] = 5000.0  # one of 20 rows, 500 m/s too fast
    np.testing.assert_allclose(terms_of(deep, truth)["physics"], 0.5 / 20, rtol=1e-4)
    # 1530 in the two lowest water rows: 2 % of two rows of five; no source, receiver or path lies there.
    wet = truth.copy()
    wet[0, 3:5] = 1530.0
    np.testing.assert_allclose(terms_of(wet, truth)["physics"], 0.02 * 2 / 5, rtol=1e-4)
    # 1500 m/s below rock is no water.
    below = truth.copy()
    below[0, 0] = 3000.0
    wrong = below.copy()
    wrong[0, 3:5] = 1530.0
    np.testing.assert_allclose(terms_of(wrong, below)["physics"], 0, atol=1e-6)


def test_direct_time_of_a_linear_slowness():
    # Slowness linear in x and depth: the straight path's time is its length times the slowness at the middle.
    depth, x = np.meshgrid(np.arange(20) * 10.0, np.arange(16) * 10.0, indexing="ij")
    slowness = 1 / 2000 + 1e-7 * x + 3e-7 * depth
    times = np.asarray(direct_times(jnp.asarray(1 / slowness[None], jnp.float32), SURVEY))[0]
    for s, source in enumerate(SURVEY.sources):
        for r, receiver in enumerate(SURVEY.receivers):
            middle = (source + receiver) / 2
            want = np.linalg.norm(source - receiver) * (1 / 2000 + 1e-7 * middle[0] + 3e-7 * middle[1])
            np.testing.assert_allclose(times[s, r], want, rtol=1e-4)


def test_direct_times_of_the_challenge_match_the_published_peaks():
    # Near- and far-offset direct waves of the challenge peak at 79.1 and 273.6 ms: their distance is the difference of
    # the two paths through water, 10 and 299.2 m (the peak's shape changes by under 2 ms with distance).
    survey = speed_and_structure(spacing=5, dt=1e-3)
    water = jnp.full((1, *survey.grid.shape), 1500.0, jnp.float32)
    times = np.asarray(direct_times(water, survey))[0]
    assert times[0, 30] - times[0, 0] == pytest.approx(0.2736 - 0.0791, abs=2e-3)


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(mape=0, l2=0, gradient=0, physics=1)])
def test_gradient_against_finite_differences(config):
    # Along error directions of one sign at each cell, where the sum does not cancel and float32 differences are exact.
    rng = np.random.default_rng(1)
    truth = jnp.asarray(rng.uniform(2000, 3000, (1, *GRID.shape)), jnp.float32)
    prediction = truth + jnp.asarray(rng.uniform(100, 200, truth.shape), jnp.float32)
    direction = jnp.asarray(rng.uniform(0.5, 1, truth.shape), jnp.float32)

    def loss(v):
        return jnp.sum(weighted_sum(loss_terms(v, truth, SURVEY, config), config))

    exact = jnp.vdot(jax.grad(loss)(prediction), direction)
    step = 4.0
    numeric = (loss(prediction + step * direction) - loss(prediction - step * direction)) / (2 * step)
    np.testing.assert_allclose(exact, numeric, rtol=0.01)


def test_positions_may_differ_between_samples():
    rng = np.random.default_rng(2)
    velocity = jnp.asarray(rng.uniform(2000, 3000, (2, *GRID.shape)), jnp.float32)
    other = SURVEY.mirrored()
    both = survey_of(np.stack([SURVEY.sources, other.sources]), np.stack([SURVEY.receivers, other.receivers]))
    times = direct_times(velocity, both)
    np.testing.assert_allclose(times[0], direct_times(velocity[:1], SURVEY)[0], rtol=1e-6)
    np.testing.assert_allclose(times[1], direct_times(velocity[1:], other)[0], rtol=1e-6)
    # Mirroring everything mirrors the times.
    np.testing.assert_allclose(
        direct_times(velocity[:, :, ::-1], other)[:, ::-1, ::-1], direct_times(velocity, SURVEY), rtol=1e-5
    )


def test_openfwi_zero_offset_traces_are_finite():
    survey = openfwi()
    velocity = jnp.full((1, *survey.grid.shape), 2000.0, jnp.float32)
    gradient = jax.grad(lambda v: jnp.sum(loss_terms(v, velocity + 50, survey, LossConfig())["physics"]))(velocity)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_weights():
    terms = {name: jnp.asarray([1.0, 2.0]) for name in ("mape", "l2", "gradient", "physics")}
    np.testing.assert_allclose(weighted_sum(terms, LossConfig()), [2.0, 4.0], rtol=1e-6)

"""Inversion: misfits against finite differences, priors against closed forms, optimisers, stages, ties, wavelets."""

import dataclasses
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_support import quick_compilation

from seisvel_jax.errors import UserError
from seisvel_jax.inversion import adam, lbfgs, priors
from seisvel_jax.inversion.cheaper import corrected, with_pml
from seisvel_jax.inversion.config import InversionConfig
from seisvel_jax.inversion.invert import invert, stages_of
from seisvel_jax.inversion.misfits import MISFITS, hilbert, low_pass, low_pass_response
from seisvel_jax.inversion.parameters import from_velocity, make_space, slope, to_velocity
from seisvel_jax.inversion.regions import segment, tied
from seisvel_jax.inversion.wavelet import amplitude, apply_filter, estimate_wavelet, filter_spectrum
from seisvel_jax.survey import Boundary, from_arrays, ricker
from seisvel_jax.wave.propagate import propagate

BOUNDS = (1500.0, 3000.0)


def toy_survey(shots: int = 2):
    dt, nt = 2e-3, 150
    return from_arrays(
        np.stack([np.linspace(40, 200, shots), np.full(shots, 20.0)], -1),
        np.stack([np.arange(0, 240.0, 10), np.full(24, 10.0)], -1),
        ricker(12.0, dt, nt, 0.1),
        dt=dt,
        shape=(16, 24),
        spacing=10.0,
    )


@pytest.fixture(scope="module", autouse=True)
def quickly(tmp_path_factory):
    with quick_compilation(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def toy(quickly):
    survey = toy_survey()
    velocity = np.full((2, 16, 24), 1800, np.float32)
    velocity[0, 7:], velocity[1, 10:] = 2300, 2000
    return survey, velocity, np.asarray(propagate(velocity, survey, max_velocity=BOUNDS[1]))


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def random_gathers(seed, shape=(2, 2, 40, 3)):
    draw = np.random.default_rng(seed)
    return draw.normal(size=shape).cumsum(2) / 3


@pytest.mark.parametrize("name", MISFITS)
def test_gradient_of_misfit_against_finite_differences(name, double):
    predicted, observed = random_gathers(0), random_gathers(1)
    mask = np.ones((2, 1, 40, 3))
    mask[1, :, :, 1], mask[0, :, 30:] = 0, 0
    change = np.random.default_rng(2).normal(size=predicted.shape)

    @jax.jit
    def value(p):
        return jnp.sum(MISFITS[name](p, jnp.asarray(observed), jnp.asarray(mask)))

    gradient = jax.grad(value)(jnp.asarray(predicted))
    h = 1e-6
    finite = (value(predicted + h * change) - value(predicted - h * change)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(gradient * change), finite, rtol=2e-6)
    assert not np.asarray(gradient)[np.broadcast_to(mask == 0, gradient.shape)].any()
    assert float(value(observed)) == pytest.approx(0, abs=1e-20)
    unreduced = MISFITS[name](jnp.asarray(predicted), jnp.asarray(observed), jnp.asarray(mask))
    assert unreduced.shape == predicted.shape and float(unreduced.min()) >= 0
    silent = np.broadcast_to(mask == 0 if name != "wasserstein" else ~mask.any(2, keepdims=True), unreduced.shape)
    assert not np.asarray(unreduced)[silent].any()


def test_misfits_of_known_gathers(double):
    time = np.arange(200)
    trace = jnp.asarray(np.exp(-(((time - 60) / 8) ** 2)) * np.cos((time - 60) / 3))[None, None, :, None]
    one = jnp.ones((1, 1, 1, 1))
    assert float(MISFITS["l2"](3 * one, one, one)[0, 0, 0, 0]) == 2
    assert float(MISFITS["l1"](3 * one, one, one)[0, 0, 0, 0]) == 2
    assert float(MISFITS["huber"](3 * one, one, one)[0, 0, 0, 0]) == pytest.approx(1.5)
    mean = {name: lambda p, name=name: float(MISFITS[name](p, trace, one).mean()) for name in MISFITS}
    assert mean["correlation"](5 * trace) == pytest.approx(0, abs=1e-4)
    assert mean["correlation"](-trace) == pytest.approx(2, abs=1e-2)
    assert mean["envelope"](-trace) == pytest.approx(0, abs=1e-12)
    # What a shift costs: least squares stop seeing it after a quarter of a period, the others go on rising.
    shifted = [jnp.roll(trace, s, 2) for s in (6, 12, 18, 24)]
    for name in ("envelope", "wasserstein"):
        costs = [mean[name](s) for s in shifted]
        assert all(a < b for a, b in itertools.pairwise(costs)), name


def test_the_envelope_is_that_of_a_modulated_tone(double):
    """The Hilbert transform of a slow Gaussian times a cosine is the Gaussian times the sine (Bedrosian)."""
    times = np.arange(400.0)[:, None]
    slow, phase = np.exp(-(((times - 200) / 40) ** 2) / 2), 2 * np.pi * 0.1 * times
    np.testing.assert_allclose(hilbert(jnp.asarray(slow * np.cos(phase))), slow * np.sin(phase), atol=1e-5)
    other = 0.5 * slow
    pair = [jnp.asarray(one * np.cos(phase + turn))[None, None] for one, turn in ((slow, 0.3), (other, 1.1))]
    found = MISFITS["envelope"](*pair, jnp.ones((1, 1, 1, 1)))[0, 0]
    np.testing.assert_allclose(found, 0.5 * (slow - other) ** 2, atol=1e-5)


def test_wasserstein_is_the_square_of_the_distance_between_the_quantiles(double):
    predicted, observed = random_gathers(3, (1, 1, 300, 1)), random_gathers(4, (1, 1, 300, 1))
    found = MISFITS["wasserstein"](jnp.asarray(predicted), jnp.asarray(observed), jnp.ones((1, 1, 1, 1))).mean()
    quantiles = []
    for gathers in (predicted, observed):
        positive = np.log1p(np.exp(3 * gathers[0, 0, :, 0] / np.abs(observed).max()))
        distribution = np.concatenate([[0], np.cumsum(positive / positive.sum())])
        quantiles.append(np.interp((np.arange(100000) + 0.5) / 100000, distribution, np.arange(301) / 300))
    assert float(found) == pytest.approx(np.mean((quantiles[0] - quantiles[1]) ** 2), rel=5e-3)


def test_low_pass_keeps_what_is_low_and_has_no_phase(double):
    time = np.arange(1000) * 1e-3
    window = np.exp(-(((time - 0.5) / 0.1) ** 2))
    low, high = (window * np.cos(2 * np.pi * f * (time - 0.5)) for f in (5.0, 40.0))
    response = low_pass_response(15.0, 1000, 1e-3)
    out = np.asarray(low_pass(jnp.asarray(low + high)[None, None, :, None], jnp.asarray(response)))[0, 0, :, 0]
    np.testing.assert_allclose(out, low, atol=4e-3)
    assert low_pass_response(np.inf, 1000, 1e-3).min() == 1


def test_priors_against_closed_forms(double):
    step = np.full((1, 20, 30), 2000.0)
    step[:, 8:] += 300  # 30 edges of 300 m/s
    corner = priors.CORNER
    edge = (np.hypot(300, corner) - corner) / 1000 * 30 / 600
    assert float(priors.total_variation(jnp.asarray(step))[0]) == pytest.approx(edge, rel=1e-12)
    assert float(priors.total_variation_in_depth(jnp.asarray(step))[0]) == pytest.approx(edge, rel=1e-12)
    sideways = jnp.asarray(step).swapaxes(1, 2)
    assert float(priors.total_variation(sideways)[0]) == pytest.approx(edge, rel=1e-12)
    assert float(priors.total_variation_in_depth(sideways)[0]) == pytest.approx(30 * edge, rel=1e-12)
    ramp = jnp.asarray(1500 + 40.0 * np.arange(20)[None, :, None] + np.zeros((1, 20, 30)))
    gradient = jax.grad(lambda v: priors.total_variation(v).sum())(ramp)
    pull = 40 / np.hypot(40, corner) / 1000 / 600  # on the ends; nothing in between
    expected = np.zeros((20, 30))
    expected[0], expected[-1] = -pull, pull
    np.testing.assert_allclose(gradient[0], expected, atol=1e-15)

    velocity, reference = (1800 + 100 * np.random.default_rng(i).normal(size=(1, 6, 7)) for i in (0, 1))
    distance = (velocity - reference).ravel()
    tikhonov = priors.tikhonov(jnp.asarray(velocity), jnp.asarray(reference), sigma=50.0)
    assert float(tikhonov[0]) == pytest.approx(distance @ distance / 2500 / 2 / 42, rel=1e-12)
    places = np.stack(np.meshgrid(np.arange(6), np.arange(7), indexing="ij"), -1).reshape(-1, 2)
    squared = ((places[:, None] - places) ** 2).sum(-1)
    covariance = 80.0**2 * (np.exp(-squared / (2 * 2.5**2)) + priors.NUGGET * np.eye(42))
    factors = priors.gaussian_factors((6, 7), 2.5, 80.0)

    def process(v):
        return priors.gaussian(v, jnp.asarray(reference), factors).sum()

    solved = np.linalg.solve(covariance, distance)
    assert float(process(jnp.asarray(velocity))) == pytest.approx(distance @ solved / 2 / 42, rel=1e-9)
    np.testing.assert_allclose(jax.grad(process)(jnp.asarray(velocity))[0].ravel(), solved / 42, rtol=1e-8)


@pytest.mark.parametrize("parameter", ["velocity", "slowness", "log"])
def test_parameters_return_and_their_slope(parameter, double):
    velocity = jnp.asarray(np.linspace(1500, 4500, 24).reshape(1, 4, 6))
    value = from_velocity(velocity, parameter)
    np.testing.assert_allclose(to_velocity(value, parameter), velocity, rtol=1e-14)
    ahead, back = (to_velocity(value + h, parameter) for h in (1e-6, -1e-6))
    np.testing.assert_allclose(slope(velocity, parameter), (ahead - back) / 2e-6, rtol=1e-8)
    space = make_space(velocity, parameter, (2000.0, 4000.0))
    limited = to_velocity(space.clip(value), parameter)
    np.testing.assert_allclose(limited, np.clip(velocity, 2000, 4000), rtol=1e-14)


def quadratic(batch=3, shape=(4, 5)):
    """Curvatures that differ by 1000 in one model and less in others; the minimum is known."""
    draw = np.random.default_rng(5)
    curvature = jnp.asarray(10 ** (draw.uniform(0, 1, (batch, *shape)) * np.arange(batch)[:, None, None]))
    goal = jnp.asarray(draw.uniform(2.0, 3.0, (batch, *shape)))

    def look(point):
        gradient = curvature * (point - goal)
        return 0.5 * jnp.sum(gradient * (point - goal), (1, 2)), gradient

    return look, goal


def test_lbfgs_finds_minima_of_a_batch_each_model_on_its_own(double):
    look, goal = quadratic()
    start = jnp.full(goal.shape, 2.5)
    space = make_space(1000 * start, "velocity", (1000.0, 5000.0), smooth=0.0)

    def run(models):
        state = lbfgs.begin(start[models], 8)
        for _ in range(80):
            value, gradient = (full[models] for full in look(jnp.zeros_like(goal).at[models].set(state.trial)))
            state = lbfgs.update(state, value, gradient, dataclasses.replace(space, low=space.low[models]), 0.05)
        return state

    space = dataclasses.replace(space, low=space.low, high=space.high[:1], weight=space.weight[:1])
    together = run(slice(0, 3))
    np.testing.assert_allclose(together.point, goal, atol=1e-6)
    np.testing.assert_allclose(run(slice(1, 2)).point, together.point[1:2], atol=1e-9)


def test_lbfgs_stays_within_bounds_and_finds_the_best_there(double):
    look, goal = quadratic(1)
    limits = (2200.0, 2600.0)
    space = make_space(jnp.full(goal.shape, 2500.0), "velocity", limits)
    state = lbfgs.begin(jnp.full(goal.shape, 2.5), 8)
    for _ in range(60):
        state = lbfgs.update(state, *look(state.trial), space, 0.05)
        assert float(state.trial.min()) >= 2.2 and float(state.trial.max()) <= 2.6
    np.testing.assert_allclose(state.point, np.clip(goal, 2.2, 2.6), atol=1e-5)


def test_lbfgs_goes_on_only_from_what_falls_and_keeps_only_what_is_curved(double):
    space = make_space(jnp.full((1, 1, 2), 2500.0), "velocity", (2000.0, 3000.0), smooth=0.0)

    def tell(state, value, *gradient):
        return lbfgs.update(state, jnp.asarray([value]), jnp.asarray([[gradient]]), space, 0.05)

    first = tell(lbfgs.begin(jnp.full((1, 1, 2), 2.5), 4), 1.0, 1.0, 0.5)
    np.testing.assert_allclose(first.trial, [[[2.45, 2.475]]])
    for bad in (1.5, np.nan):
        refused = tell(first, bad, 3.0, 3.0)
        np.testing.assert_array_equal(refused.point, first.point)
        assert 2.45 < float(refused.trial[0, 0, 0]) < 2.5, "a shorter step in the same direction"
    lower = tell(first, 0.9, 0.5, 0.25)
    np.testing.assert_allclose(lower.inverse[-1], 1 / (-0.05 * -0.5 - 0.025 * -0.25))
    np.testing.assert_array_equal(lower.inverse[:-1], 0)
    bent_down = tell(first, 0.5, 2.0, 1.0)  # it falls, ever more steeply: no curvature to remember
    np.testing.assert_array_equal(bent_down.point, first.trial)
    np.testing.assert_array_equal(bent_down.inverse, 0)

    failed = lower
    for _ in range(lbfgs.MOST_TRIES):
        failed = tell(failed, 2.0, 1.0, 1.0)
    np.testing.assert_array_equal(failed.inverse, 0)
    np.testing.assert_array_equal(failed.point, lower.point)

    # At its bound, and drawn beyond it, a cell does not move.
    held = lower._replace(trial=jnp.asarray([[[2.0, 2.4]]]), point=jnp.asarray([[[2.0, 2.45]]]))
    held = tell(held, 0.1, 7.0, 0.1)
    assert float(held.direction[0, 0, 0]) == 0


def test_directions_are_made_by_a_symmetric_positive_operator_that_evens_out_illumination(double):
    draw = np.random.default_rng(3)
    lit = draw.uniform(0.1, 4.0, (1, 5, 7))
    space = make_space(np.full((1, 5, 7), 2500.0), "velocity", BOUNDS, illumination=lit, exponent=1.0, smooth=1.5)
    one, other = (jnp.asarray(draw.normal(size=(1, 5, 7))) for _ in range(2))
    np.testing.assert_allclose(
        jnp.vdot(one, space.precondition(other)), jnp.vdot(space.precondition(one), other), rtol=1e-5
    )
    assert float(jnp.vdot(one, space.precondition(one))) > 0
    plain = make_space(np.full((1, 5, 7), 2500.0), "velocity", BOUNDS, illumination=lit, exponent=1.0)
    np.testing.assert_allclose(np.ptp(plain.precondition(one) * (lit / lit.max() + 1e-3) / one), 0, atol=1e-5)


def test_adam_takes_the_published_first_steps(double):
    space = make_space(jnp.full((1, 2, 2), 2000.0), "velocity", (1000.0, 3000.0))
    state = adam.begin(jnp.full((1, 2, 2), 2.0))
    gradients = [np.array([[[1.0, -2.0], [0.5, 4.0]]]), np.array([[[2.0, 1.0], [-1.0, 0.0]]])]
    expected, mean, square = np.full((1, 2, 2), 2.0), 0, 0
    for i, gradient in enumerate(gradients, 1):
        state = adam.update(state, jnp.asarray(gradient), space, 0.01)
        mean = adam.FIRST * mean + (1 - adam.FIRST) * gradient
        square = adam.SECOND * square + (1 - adam.SECOND) * gradient**2
        unbiased = mean / (1 - adam.FIRST**i), np.sqrt(square / (1 - adam.SECOND**i))
        expected = expected - 0.01 * unbiased[0] / (unbiased[1] + adam.SMALL)
    np.testing.assert_allclose(state.trial, expected, rtol=1e-12)


def test_wavelet_and_amplitude_in_closed_form(double):
    draw = np.random.default_rng(6)
    nt = 120
    predicted = np.zeros((1, 2, nt, 3))
    predicted[:, :, 10:60] = draw.normal(size=(1, 2, 50, 3))
    mask = jnp.ones((1, 1, 1, 1))
    assert float(amplitude(jnp.asarray(predicted), jnp.asarray(-2.5 * predicted), mask)[0]) == pytest.approx(-2.5)
    spoiled, half = predicted * np.array([-2.5, 7.0]).reshape(1, 2, 1, 1), jnp.asarray([1.0, 0.0]).reshape(1, 2, 1, 1)
    assert float(amplitude(jnp.asarray(predicted), jnp.asarray(spoiled), half)[0]) == pytest.approx(-2.5)
    kernel = np.array([0.5, -1.0, 0.25])
    observed = np.apply_along_axis(lambda t: np.convolve(t, kernel)[:nt], 2, predicted)
    spectrum = filter_spectrum(jnp.asarray(predicted), jnp.asarray(observed), mask)
    np.testing.assert_allclose(apply_filter(jnp.asarray(predicted), spectrum), observed, atol=1e-2)
    garbled = observed + 9 * np.array([0, 1]).reshape(1, 2, 1, 1) * predicted
    alone = filter_spectrum(jnp.asarray(predicted), jnp.asarray(garbled), half)
    np.testing.assert_allclose(apply_filter(jnp.asarray(predicted), alone), observed, atol=2e-2)
    wavelet = np.zeros(nt)
    wavelet[20:40] = np.hanning(20)
    found = estimate_wavelet(jnp.asarray(wavelet), jnp.asarray(predicted), jnp.asarray(observed), mask)
    np.testing.assert_allclose(found[0], np.convolve(wavelet, kernel)[:nt], atol=1e-2)


def test_segment_finds_the_layers_and_ties_them():
    velocity = np.full((20, 30), 2000.0, np.float32)
    velocity[6:], velocity[13:, 12:] = 2500, 3100
    soft = velocity.copy()
    soft[6] = 2300  # a soft edge, and noise
    soft += np.random.default_rng(0).normal(0, 8, soft.shape).astype(np.float32)
    labels = segment(soft, contrast=100.0)
    assert labels.max() == 2
    found = tied(soft, labels)
    assert np.abs(found - velocity).mean() < 15 and len(np.unique(found)) == 3
    assert np.array_equal(tied(soft, labels, whole=True), np.round(found))


def test_inversion_lowers_the_misfit_keeps_the_best_and_goes_on_where_it_was_stopped(toy):
    survey, velocity, observed = toy
    start = np.full_like(velocity, 1900)
    water = np.zeros(start.shape, bool)
    water[:, :3] = True
    start[:, :3] = 1800
    config = InversionConfig(iterations=14, bounds=BOUNDS, frequencies=(8.0,), prior="tv", prior_weight=1e-3)
    whole = invert(observed, start, survey, config, water=water)
    assert (whole.misfit_after < 0.1 * whole.misfit_before).all()
    assert whole.evaluations == 14 and whole.history["misfit"].shape == (14, 2)
    assert np.array_equal(np.asarray(whole.velocity)[water], start[water])
    assert float(whole.velocity.min()) >= BOUNDS[0] and float(whole.velocity.max()) <= BOUNDS[1]
    assert (np.diff(whole.history["best"], axis=0)[7:] <= 0).all() or config.prior_weight > 0
    stopped = invert(observed, start, survey, config, water=water, on_step=lambda step: step.evaluation == 9)
    assert stopped.evaluations == 9
    rest = invert(observed, start, survey, config, water=water, state=stopped.state)
    np.testing.assert_array_equal(rest.velocity, whole.velocity)
    np.testing.assert_array_equal(rest.history["objective"], whole.history["objective"])


def test_dead_traces_do_not_count(toy):
    survey, velocity, observed = toy
    mask = np.ones((1, *survey.gather_shape), np.float32)
    mask[:, :, :, 5], mask[:, 1, :, 20:] = 0, 0
    config = InversionConfig(iterations=2, bounds=BOUNDS, frequencies=(8.0,), prior="tv", prior_weight=1e-3)
    broken = np.where(mask > 0, observed, 1e3).astype(np.float32)
    start = np.full_like(velocity, 1900)
    clean, dirty = (invert(d, start, survey, config, mask=mask) for d in (observed, broken))
    np.testing.assert_allclose(clean.velocity, dirty.velocity, rtol=1e-5)


def test_tied_and_whole_numbers_only_where_they_lower_the_misfit(toy):
    survey, velocity, observed = toy
    near = velocity.copy()
    near[0, 7:] += 30.0
    near[1, 10:] -= 20.0
    near += np.random.default_rng(1).normal(0, 3, near.shape).astype(np.float32)
    config = InversionConfig(iterations=40, bounds=BOUNDS, tie="integers", tie_iterations=39)
    found = invert(observed, near, survey, config)
    assert (found.misfit_after < found.misfit_before / 100).all()
    assert np.array_equal(np.asarray(found.velocity), np.round(found.velocity))
    np.testing.assert_allclose(found.velocity, velocity, atol=1.0)
    # Where the model is right as it is, no tied one is better.
    right = invert(observed, velocity, survey, dataclasses.replace(config, iterations=8, tie_iterations=7))
    np.testing.assert_array_equal(right.velocity, velocity)


def test_adam_draws_shots_and_learned_priors_pull(toy):
    survey, velocity, observed = toy
    start = np.full_like(velocity, 1900)
    config = InversionConfig(iterations=12, bounds=BOUNDS, optimizer="adam", shots_per_step=1)
    found = invert(observed, start, survey, config)
    assert (found.misfit_after < 0.7 * found.misfit_before).all()

    def to_2100(v):
        return jnp.mean((v - 2100) ** 2, (1, 2)), 2 * (v - 2100) / v[0].size

    plain = dataclasses.replace(config, shots_per_step=0)
    pulled = invert(np.zeros_like(observed), start, survey, plain, prior=to_2100, prior_weight=1e3)
    assert np.abs(np.asarray(pulled.state.optimizer.trial) * 1000 - 2100).mean() < 80
    held = invert(observed, start, survey, plain, proximal=lambda v: jnp.full_like(v, 1900.0))
    np.testing.assert_allclose(held.velocity, 1900, rtol=1e-6)


def test_stages_share_the_evaluations():
    config = InversionConfig(frequencies=(3.0, 6.0), prior="tv", prior_weight=1e-2, prior_weight_end=1e-4)
    stages = stages_of(config, 10)
    assert [s.evaluations for s in stages] == [3, 3, 4]
    assert [s.frequency for s in stages] == [3, 6, np.inf]
    np.testing.assert_allclose([s.weight for s in stages], [1e-2, 1e-3, 1e-4])
    assert sum(s.evaluations for s in stages_of(config, 2)) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"misfit": "l3"},
        {"bounds": (3000.0, 1500.0)},
        {"frequencies": (8.0, 4.0)},
        {"iterations": 0},
        {"shots_per_step": 2},
        {"prior_weight": float("nan")},
    ],
)
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(UserError, match=f"inversion {next(iter(wrong))} .*expected"):
        InversionConfig(**wrong)


def test_what_does_not_fit_is_refused(toy):
    survey, velocity, observed = toy
    config = InversionConfig(iterations=1, bounds=BOUNDS)
    with pytest.raises(UserError, match="observed gathers of shape"):
        invert(observed[..., :-1], velocity, survey, config)
    with pytest.raises(UserError, match="start of shape"):
        invert(observed, velocity[:, :-1], survey, config)
    with pytest.raises(UserError, match="NaN or infinite"):
        invert(observed * np.float32(np.nan), velocity, survey, config)
    with pytest.raises(UserError, match="mask of shape"):
        invert(observed, velocity, survey, config, mask=np.ones((3, 3)))
    with pytest.raises(UserError, match="km/s"):
        invert(observed, velocity / 1000, survey, config)
    with pytest.raises(UserError, match="proximal"):
        invert(observed, velocity, survey, config, proximal=lambda v: v)


def test_the_code_of_the_page_runs():
    page = (Path(__file__).resolve().parents[1] / "docs" / "inversion.md").read_text()
    names: dict = {}
    with quick_compilation():
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(compile(block, "docs/inversion.md", "exec"), names)
    assert names["closer"].evaluations == 20 and names["closer"].velocity.shape == (1, 16, 24)
    assert (names["found"].misfit_after < 0.1 * names["found"].misfit_before).all()


def test_data_corrected_at_the_truth_are_those_of_the_pml(toy):
    survey, velocity, _ = toy
    damped = dataclasses.replace(survey, boundary=Boundary("devito", 300.0, survey.boundary.start))
    recorded = propagate(velocity, damped, max_velocity=BOUNDS[1])
    gathers, own = corrected(recorded, velocity, damped, max_velocity=BOUNDS[1])
    np.testing.assert_array_equal(own, recorded)
    inside = propagate(velocity, with_pml(damped), max_velocity=BOUNDS[1])
    np.testing.assert_allclose(gathers, inside, atol=1e-6 * float(np.abs(inside).max()))
    assert np.abs(gathers - recorded).max() > 1e-3 * np.abs(recorded).max()

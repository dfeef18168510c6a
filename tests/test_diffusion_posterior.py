"""Composition, guidance, hard data and the learned prior against exact posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_support import CELLS, SHAPE, Gaussian, draw, gap, gaussian, mixture, moments

from seisvel_jax.diffusion import diffusionvel
from seisvel_jax.diffusion.compose import guided, independent, subsets, weighted_mean
from seisvel_jax.diffusion.daps import DAPSConfig, daps
from seisvel_jax.diffusion.guidance import conjugate_gradients, dps, known, moment_matching, sda
from seisvel_jax.diffusion.learned_prior import proximal, red_diffeq
from seisvel_jax.diffusion.likelihood import Likelihood, of_gathers
from seisvel_jax.diffusion.sampler import SamplerConfig, sample
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.errors import UserError
from seisvel_jax.inversion.config import InversionConfig
from seisvel_jax.inversion.invert import invert
from seisvel_jax.survey import Boundary, Grid, Survey, ricker
from seisvel_jax.wave.plan import make_plan
from seisvel_jax.wave.propagate import run_plan

pytestmark = pytest.mark.usefixtures("programs")
PRIOR = gaussian()
FIRST = np.zeros((2, CELLS))
FIRST[0, [0, 4]], FIRST[1, [2, 3]] = (1, -0.5), (0.7, 1)
SECOND = np.zeros((2, CELLS))
SECOND[0, [1, 4]], SECOND[1, [2, 5]] = (1, 0.5), (0.7, -1)
SAW_FIRST, SAW_SECOND, DEVIATION = np.asarray([0.5, -0.2]), np.asarray([0.1, 0.3]), 0.2
A, B = PRIOR.given(FIRST, SAW_FIRST, DEVIATION), PRIOR.given(SECOND, SAW_SECOND, DEVIATION)
BOTH = PRIOR.given(np.concatenate([FIRST, SECOND]), np.concatenate([SAW_FIRST, SAW_SECOND]), DEVIATION)
PLAIN, CORRECTED = SamplerConfig("dpm", 48), SamplerConfig("heun", 24, corrections=6, sigma_min=0.01)


def likelihood(deviation: float = DEVIATION) -> Likelihood:
    matrix = jnp.asarray(FIRST.T, jnp.float32)
    return Likelihood(
        lambda clean: clean.reshape(-1, CELLS) @ matrix, jnp.asarray(SAW_FIRST[None], jnp.float32), deviation
    )


# ---- several sources --------------------------------------------------------------------------------------------


def test_independent_sources_make_the_exact_posterior():
    joined = independent(PRIOR.denoise, [A.denoise, B.denoise])
    off, wide = gap(draw(joined, CORRECTED, (None, None, None)), BOTH)
    assert off < 0.07 and wide < 0.08
    # Without corrections the right rule is still off, as its docstring says: the reason they are there.
    assert gap(draw(joined, PLAIN, (None, None, None)), BOTH)[0] > 0.2


def test_the_weighted_mean_is_too_wide():
    """Two independent sources in one weighted mean: the posterior's variance is missed by a quarter at least."""
    joined = weighted_mean([A.denoise, B.denoise], [0.5, 0.5])
    for samples in (
        draw(joined, CORRECTED, (None, None)),
        jax.jit(
            lambda key: diffusionvel.ddim(
                [diffusionvel.as_predict(A.denoise), diffusionvel.as_predict(B.denoise)],
                (None, None),
                (1, *SHAPE),
                key,
                weights=[0.5, 0.5],
                steps=100,
                samples=4000,
                clamp=False,
            )
        )(jax.random.key(0)),
    ):
        off, _ = gap(samples, BOTH)
        ratio = np.diag(moments(samples)[1]) / np.diag(BOTH.covariance)
        assert off > 0.2 and ratio.mean() > 1.25


def test_ddim_of_one_network_is_its_distribution():
    predict = diffusionvel.as_predict(PRIOR.denoise)
    run = jax.jit(
        lambda key: diffusionvel.ddim(
            [predict], (None,), (1, *SHAPE), key, weights=[1.0], steps=250, samples=6000, clamp=False
        )
    )
    off, wide = gap(run(jax.random.key(0)), PRIOR)
    assert off < 0.06 and wide < 0.08
    shares = diffusionvel.kept_shares()
    assert len(shares) == 1000 and shares[0] > 0.9999 and shares[-1] < 1e-6
    np.testing.assert_allclose(shares[499], np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2, rtol=1e-3)


def test_one_network_with_subsets_is_the_same_as_separate_ones():
    """The condition is (whether the first is known, whether the second is): guidance and subsets by hand."""

    def one(noisy, sigma, condition):
        first, second = condition
        found = A if first and not second else B if second and not first else BOTH if first else PRIOR
        return found.denoise(noisy, sigma)

    noisy, sigma = jax.random.normal(jax.random.key(0), (1, *SHAPE)), jnp.asarray([0.4])
    answers = {name: p.denoise(noisy, sigma) for name, p in (("", PRIOR), ("a", A), ("b", B), ("ab", BOTH))}
    apart = subsets(one, [lambda c: (False, False), lambda c: (c[0], False), lambda c: (False, c[1])])
    exact = answers["a"] + answers["b"] - answers[""]
    np.testing.assert_allclose(apart(noisy, sigma, (True, True)), exact, atol=1e-5)
    more = guided(one, lambda c: (c[0], False), 2.0)(noisy, sigma, (True, True))
    np.testing.assert_allclose(more, 2 * answers["ab"] - answers["a"], atol=1e-5)
    half = independent(PRIOR.denoise, [A.denoise], [0.5])(noisy, sigma, (None, None))
    np.testing.assert_allclose(half, (answers["a"] + answers[""]) / 2, atol=1e-5)


def test_compositions_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="1 sources and 2 weights"):
        independent(PRIOR.denoise, [A.denoise], [1.0, 1.0])
    with pytest.raises(UserError, match="expected a sum of 1"):
        weighted_mean([A.denoise, B.denoise], [1.0, 1.0])
    with pytest.raises(UserError, match="0 steps"):
        diffusionvel.ddim([A.denoise], (None,), (1, *SHAPE), jax.random.key(0), weights=[1.0], steps=0)


# ---- hard data --------------------------------------------------------------------------------------------------


def test_wells_are_exact_and_their_neighbours_follow():
    """Cells 0 and 4 known: samples hold them to the digit, the others have the exact conditional Gaussian."""
    select, values = np.eye(CELLS)[[0, 4]], np.asarray([0.5, -0.6])
    exact = PRIOR.given(select, values, 0.0)
    mask = select.sum(0).reshape(1, *SHAPE)
    field = (values @ select).reshape(1, *SHAPE)
    held = known(PRIOR.denoise, field, mask, iterations=3)
    samples = draw(held, PLAIN, count=3000)
    np.testing.assert_array_equal(samples[:, 0][:, mask[0] > 0], np.broadcast_to(np.float32(values), (len(samples), 2)))
    off, wide = gap(*others(samples, exact))
    assert off < 0.06 and wide < 0.08
    # Replacement alone holds the wells as exactly, and misses beside them; corrections bring it nearer.
    replaced = known(PRIOR.denoise, field, mask, iterations=0)
    alone = gap(*others(draw(replaced, PLAIN, count=1000), exact))[0]
    corrected = gap(*others(draw(replaced, CORRECTED, count=3000), exact))[0]
    assert alone > 0.3 and corrected < alone / 2


def others(samples, exact) -> tuple:
    """Samples, and the exact Gaussian, with the known cells made trivially right: unit noise of no interest."""
    free = [1, 2, 3, 5]
    flat = np.array(samples).reshape(-1, CELLS)
    rng = np.random.default_rng(0)
    mean, covariance = np.array(exact.mean), np.array(exact.covariance)
    for cell in (0, 4):
        flat[:, cell] = mean[cell] + 0.01 * rng.normal(size=len(flat))
        covariance[cell, cell] = 1e-4
    assert len(free) == CELLS - 2
    return flat, Gaussian(mean, covariance)


def test_water_where_the_prior_is_certain_already():
    """A known cell of no prior variance leaves a singular system: no infinities, and the value still holds."""
    covariance = np.array(PRIOR.covariance)
    covariance[0], covariance[:, 0] = 0, 0
    certain = Gaussian(PRIOR.mean, covariance)
    mask = np.eye(CELLS)[0].reshape(1, *SHAPE)
    samples = draw(known(certain.denoise, mask * PRIOR.mean[0], mask), SamplerConfig("dpm", 12), count=50)
    assert np.isfinite(samples).all()
    np.testing.assert_array_equal(samples[:, 0, 0, 0], np.float32(PRIOR.mean[0]))


# ---- likelihoods ------------------------------------------------------------------------------------------------


def test_moment_matching_is_exact_for_a_gaussian():
    for deviation in (DEVIATION, 0.02):
        exact = PRIOR.given(FIRST, SAW_FIRST, deviation)
        denoise = jax.jit(moment_matching(PRIOR.denoise, likelihood(deviation), iterations=4, floor=0.0))
        noisy, sigma = jax.random.normal(jax.random.key(0), (3, *SHAPE)), jnp.asarray([0.05, 0.5, 5.0])
        np.testing.assert_allclose(denoise(noisy, sigma, None), exact.denoise(noisy, sigma), atol=2e-3)
    off, wide = gap(draw(moment_matching(PRIOR.denoise, likelihood(), iterations=3), PLAIN, count=4000), A)
    assert off < 0.06 and wide < 0.08


def test_a_mixture_keeps_both_geologies_where_the_data_suit_both():
    """Measured across the line between the two means, so that the data leave the choice open and sharpen each part.

    Where the data decide, guidance by one Gaussian gets the parts' shares only roughly: docs/diffusion.md has how far.
    """
    prior = mixture()
    between = prior.parts[1].mean - prior.parts[0].mean
    rows = FIRST - np.outer(FIRST @ between, between) / (between @ between)
    seen = rows @ prior.parts[0].mean + 0.2
    matrix = jnp.asarray(rows.T, jnp.float32)
    measured = Likelihood(
        lambda clean: clean.reshape(-1, CELLS) @ matrix, jnp.asarray(seen[None], jnp.float32), DEVIATION
    )
    exact = prior.given(rows, seen, DEVIATION)
    assert 0.1 < exact.weights[0] < 0.9
    samples = draw(moment_matching(prior.denoise, measured, iterations=3), CORRECTED, count=2000)
    off, wide = gap(samples, exact)
    assert off < 0.15 and wide < 0.15
    assert gap(samples, prior)[0] > 0.3


def test_sda_is_exact_for_an_isotropic_prior_and_dps_only_pulls():
    """With A A^T = g 1 and a prior s^2 1 the widened variance is the true one."""
    iso = Gaussian(PRIOR.mean, 0.25 * np.eye(CELLS))
    exact = iso.given(FIRST, SAW_FIRST, DEVIATION)
    rows = FIRST @ FIRST.T
    np.testing.assert_allclose(rows, np.diag(np.diag(rows)))
    scaled = likelihood()
    weights = jnp.asarray(1 / np.sqrt(np.diag(rows)), jnp.float32)
    noisy, sigma = jax.random.normal(jax.random.key(0), (1, *SHAPE)), jnp.asarray([0.4])
    unit = Likelihood(lambda c: scaled.operator(c) * weights[None], scaled.observed * weights[None], DEVIATION)
    normal = iso.given(FIRST * np.asarray(weights)[:, None], SAW_FIRST * np.asarray(weights), DEVIATION)
    # The gain measured along the residual is the operator's where all its directions have the same.
    for gamma in (1.0, None):
        found = jax.jit(sda(iso.denoise, unit, gamma=gamma))(noisy, sigma, None)
        np.testing.assert_allclose(found, normal.denoise(noisy, sigma), atol=1e-5)
    pulled = jax.jit(dps(iso.denoise, scaled, strength=0.1))(noisy, sigma, None)
    before = np.linalg.norm(scaled.residual(iso.denoise(noisy, sigma)))
    assert np.linalg.norm(scaled.residual(pulled)) < before
    assert exact.covariance.shape == (CELLS, CELLS)


@pytest.mark.slow
def test_daps_is_exact_for_an_isotropic_prior():
    iso = Gaussian(PRIOR.mean, 0.25 * np.eye(CELLS))
    config = DAPSConfig(levels=30, langevin_steps=20, sigma_max=20.0)
    run = jax.jit(lambda key: daps(iso.denoise, likelihood(), None, (1, *SHAPE), key, config=config, samples=2000))
    off, wide = gap(run(jax.random.key(0)), iso.given(FIRST, SAW_FIRST, DEVIATION))
    assert off < 0.08 and wide < 0.12


def test_daps_holds_what_is_known_while_it_explores():
    """Cell 0 known: held to the digit, and the others have the posterior given it and the data."""
    iso = Gaussian(PRIOR.mean, 0.25 * np.eye(CELLS))
    mask = jnp.asarray(np.eye(CELLS)[0].reshape(1, *SHAPE), jnp.float32)
    held = known(iso.denoise, 0.7 * mask, mask, iterations=1)
    config = DAPSConfig(levels=20, langevin_steps=15, sigma_max=20.0)
    run = jax.jit(
        lambda key: daps(
            held, likelihood(), None, (1, *SHAPE), key, config=config, samples=1500, known=(0.7 * mask, mask)
        )
    )
    samples = np.asarray(run(jax.random.key(0)))
    np.testing.assert_array_equal(samples[:, 0, 0, 0], np.float32(0.7))
    both = np.concatenate([FIRST, np.eye(CELLS)[:1]])
    exact = iso.given(both * np.asarray([[1], [1], [1e3]]), np.asarray([*SAW_FIRST, 700.0]), DEVIATION)
    mean, covariance = moments(samples)
    free = list(range(1, CELLS))
    deviations = np.sqrt(np.diag(exact.covariance))[free]
    assert np.max(np.abs(mean - exact.mean)[free] / deviations) < 0.1
    np.testing.assert_allclose(np.sqrt(np.diag(covariance))[free], deviations, rtol=0.1)


def test_a_pull_is_shortened_and_never_infinite():
    far = Likelihood(lambda clean: clean, jnp.full((2, *SHAPE), 1e3).at[1].set(jnp.inf), 0.01)
    noisy, sigma = jnp.zeros((2, *SHAPE)), jnp.asarray([0.5, 0.5])
    plain = PRIOR.denoise(noisy, sigma)
    moved = jax.jit(sda(PRIOR.denoise, far, reach=1.0))(noisy, sigma, None) - plain
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(moved[0] ** 2)), 0.5 * 0.5 / np.sqrt(0.5), rtol=1e-4)
    np.testing.assert_array_equal(moved[1], 0)


def test_what_was_not_measured_does_not_matter():
    seen = likelihood()
    mask = jnp.asarray([[1.0, 0.0]])
    half = Likelihood(seen.operator, jnp.asarray([[SAW_FIRST[0], 1e6]], jnp.float32), DEVIATION, mask)
    exact = PRIOR.given(FIRST[:1], SAW_FIRST[:1], DEVIATION)
    noisy, sigma = jax.random.normal(jax.random.key(0), (1, *SHAPE)), jnp.asarray([0.5])
    found = jax.jit(moment_matching(PRIOR.denoise, half, iterations=3, floor=0.0))(noisy, sigma, None)
    np.testing.assert_allclose(found, exact.denoise(noisy, sigma), atol=1e-4)


def test_conjugate_gradients_solve_each_row():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(3, 5, 5))
    matrices = jnp.asarray(roots @ roots.swapaxes(1, 2) + np.eye(5), jnp.float32)
    right = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    solved = jax.jit(lambda r: conjugate_gradients(lambda v: jnp.einsum("bij,bj->bi", matrices, v), r, 8))(right)
    np.testing.assert_allclose(solved, np.linalg.solve(matrices, right[..., None])[..., 0], atol=1e-3)


# ---- the prior in an inversion ----------------------------------------------------------------------------------


def test_red_diffeq_is_a_gaussian_prior_s_quadratic():
    """Of N(mean, C): gradient sum_s s (C + s^2)^-1 (m - mean) / count per cell, value its potential, in m/s."""
    scale, sigmas = Scale(), (0.2, 0.8)
    prior = red_diffeq(PRIOR.denoise, None, jax.random.key(0), scale, sigmas=sigmas)
    velocity = scale.to_velocity(jax.random.normal(jax.random.key(1), (2, *SHAPE)) * 0.4)
    matrix = sum(s * np.linalg.inv(PRIOR.covariance + s**2 * np.eye(CELLS)) for s in sigmas) / len(sigmas)
    apart = np.asarray(scale.to_unit(velocity)).reshape(2, CELLS) - PRIOR.mean
    value, gradient = jax.jit(prior)(velocity)
    np.testing.assert_allclose(
        np.asarray(gradient).reshape(2, CELLS), apart @ matrix / (CELLS * 1500), rtol=1e-3, atol=1e-7
    )
    np.testing.assert_allclose(value, np.einsum("bi,ij,bj->b", apart, matrix, apart) / (2 * CELLS), rtol=1e-3)


def test_the_proximal_prior_is_its_gradient_s_potential():
    scale = Scale()
    start = scale.to_velocity(jax.random.normal(jax.random.key(1), (2, *SHAPE)) * 0.4)
    prior = proximal(PRIOR.denoise, None, start, scale, sigma=0.3)
    velocity = start + 50
    value, gradient = prior(velocity)
    np.testing.assert_allclose(jax.grad(lambda v: prior(v)[0].sum())(velocity), gradient, rtol=1e-4)
    anchor = scale.to_velocity(PRIOR.denoise(scale.to_unit(start), jnp.full(2, 0.3)))
    np.testing.assert_allclose(prior(anchor)[0], 0, atol=1e-7)
    assert (np.asarray(value) > 0).all()


# ---- the wave solver as operator --------------------------------------------------------------------------------


@pytest.mark.slow
def test_gathers_through_the_wave_solver_pull_a_sample_to_the_truth():
    """A smooth Gaussian prior over 12 x 12 cells, noise-free gathers of three shots: guided samples fit and are near.

    Both the linearised (Born and adjoint) and the plain gradient's way; without the gathers the samples are far off.
    """
    survey = Survey(
        sources=np.asarray([[0, 10], [60, 10], [110, 10]], np.float32),
        receivers=np.asarray([[10 * i, 10] for i in range(12)], np.float32),
        wavelet=ricker(20.0, 2e-3, 100, 0.06),
        dt=2e-3,
        nt=100,
        grid=Grid(12, 12, 10.0),
        boundary=Boundary("openfwi", 100.0, (110.0, 110.0)),
        record_start=1,
        name="little",
    )
    cells = np.stack(np.meshgrid(np.arange(12), np.arange(12), indexing="ij"), -1).reshape(144, 2)
    covariance = 0.2**2 * np.exp(-((cells[:, None] - cells[None]) ** 2).sum(-1) / (2 * 3.0**2))
    sizes, axes = np.linalg.eigh(covariance)
    sizes, axes = jnp.asarray(np.maximum(sizes, 1e-8), jnp.float32), jnp.asarray(axes, jnp.float32)

    def denoise(noisy, sigma, condition):
        along = noisy.reshape(len(noisy), 144) @ axes
        level = jnp.broadcast_to(sigma[:, None] ** 2, along.shape)
        kept = jnp.broadcast_to(sizes[None], along.shape)
        return ((along * kept / (kept + level)) @ axes.T).reshape(noisy.shape)

    truth = (jnp.sqrt(sizes)[None] * jax.random.normal(jax.random.key(5), (1, 144))) @ axes.T
    truth = truth.reshape(1, 12, 12)
    plan = make_plan(survey, 4500.0)
    observed = of_gathers(np.zeros((1, *survey.gather_shape), np.float32), plan, Scale(), 1.0).operator(truth)
    deviation = 0.02 * float(jnp.std(observed))
    seen = of_gathers(observed, plan, Scale(), deviation)
    config = SamplerConfig("dpm", 10, sigma_max=10.0, sigma_min=0.01, one_by_one=True)

    def distance(denoise):
        run = jax.jit(lambda key: sample(denoise, None, (1, 12, 12), key, config))
        found = run(jax.random.key(0))[0]
        return float(jnp.sqrt(jnp.mean((found - truth) ** 2))), float(jnp.std(seen.residual(found)) / jnp.std(observed))

    far, misfit = distance(denoise)
    near, fitted = distance(moment_matching(denoise, seen, iterations=6, prior_deviation=0.2))
    assert near < far / 3 and fitted < 0.1 * misfit
    gain = (
        float(jnp.mean(jax.vjp(seen.predict, truth)[1](observed)[0] ** 2) / jnp.mean(observed**2))
        * observed[0].size
        / 144
    )
    between, closer = distance(sda(denoise, seen, gamma=gain, prior_deviation=0.2))
    assert between < far and closer < misfit


@pytest.mark.slow
def test_an_inversion_takes_the_learned_priors():
    """Gathers that say little (weight of the prior large): the inversion ends at the prior's mean, misfit not above."""
    survey = Survey(
        sources=np.asarray([[0, 10], [70, 10]], np.float32),
        receivers=np.asarray([[10 * i, 10] for i in range(8)], np.float32),
        wavelet=ricker(15.0, 4e-3, 32, 0.05),
        dt=4e-3,
        nt=32,
        grid=Grid(8, 8, 10.0),
        boundary=Boundary("openfwi", 100.0, (70.0, 70.0)),
        record_start=1,
        name="tiny",
    )
    scale = Scale()

    def denoise(noisy, sigma, condition):
        """Of N(0.1, 0.3^2) in every cell: 3150 m/s."""
        return 0.1 + (noisy - 0.1) * (0.09 / (0.09 + sigma**2))[:, None, None]

    truth, start = np.full((1, 8, 8), 3150, np.float32), np.full((1, 8, 8), 2900, np.float32)
    observed = run_plan(jnp.asarray(truth), make_plan(survey, 4500.0))
    for prior in (
        red_diffeq(denoise, None, jax.random.key(0), scale),
        proximal(denoise, None, start, scale, sigma=1.0),
    ):
        config = InversionConfig(iterations=12, optimizer="adam", learning_rate=60.0)
        found = invert(np.asarray(observed), start, survey, config, prior=prior, prior_weight=100.0)
        assert (np.asarray(found.misfit_after) <= np.asarray(found.misfit_before)).all()
        assert np.abs(np.asarray(found.velocity) - truth).mean() < 0.5 * np.abs(start - truth).mean()

"""Samplers and denoisers against closed forms: Gaussian and mixture priors whose denoisers are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_support import CELLS, SHAPE, Gaussian, draw, gap, gaussian, mixture, moments

from seisvel_jax.diffusion.edm import EDM, over
from seisvel_jax.diffusion.flow import Flow
from seisvel_jax.diffusion.sampler import SamplerConfig, integrate, sample, sigma_levels
from seisvel_jax.errors import UserError

EDM_GRID = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
PRIORS = {"gaussian": gaussian(), "mixture": mixture()}


def test_levels_are_those_of_edm():
    config = SamplerConfig(steps=5, **EDM_GRID)
    np.testing.assert_allclose(config.sigmas[[0, -2, -1]], [80, 0.002, 0], rtol=1e-5)
    np.testing.assert_allclose(
        np.diff(config.sigmas[:-1] ** (1 / 7)), np.diff(config.sigmas[:2] ** (1 / 7))[0], rtol=1e-4
    )
    assert SamplerConfig("heun", 18).evaluations == 35 and SamplerConfig("dpm", 18).evaluations == 18


@pytest.mark.parametrize("method", ["heun", "dpm"])
def test_samplers_are_of_second_order(method):
    """The flow of a Gaussian is known: each axis shrinks by sqrt((c + sigma^2) / (c + sigma0^2))."""
    prior = PRIORS["gaussian"]
    noisy = jax.random.normal(jax.random.key(0), (2, 1, *SHAPE)) * 10
    sizes, axes = np.linalg.eigh(prior.covariance)
    along = (np.asarray(noisy).reshape(2, CELLS) - prior.mean) @ axes
    exact = prior.mean + (along * np.sqrt((sizes + 0.1**2) / (sizes + 10**2))) @ axes.T
    errors = []
    for steps in (32, 64, 128):
        levels = sigma_levels(steps + 1, 10.0, 0.1, 7.0)
        run = jax.jit(
            lambda n, levels=levels: integrate(
                prior.denoise, n, None, levels, jax.random.key(1), config=SamplerConfig(method)
            )
        )
        errors.append(np.abs(np.asarray(run(noisy)).reshape(2, CELLS) - exact).max())
    orders = np.log2(np.asarray(errors[:-1]) / errors[1:])
    assert errors[0] < 0.02
    np.testing.assert_allclose(orders, 2, atol=0.25)


def test_sixteen_evaluations_of_dpm_are_enough_on_the_usual_grid():
    """Variance right within 6 % whatever the prior's width; EDM's grid is off by 17 % and more."""
    widths = np.repeat([0.05, 0.2, 0.5], 2)
    prior = Gaussian(np.zeros(CELLS), np.diag(widths**2))
    for config, low, high in ((SamplerConfig(), 0.94, 1.06), (SamplerConfig(**EDM_GRID), 1.15, 1.22)):
        unit = jnp.full((1, 1, *SHAPE), config.sigma_max)
        run = jax.jit(lambda n, c=config: integrate(prior.denoise, n, None, c.sigmas, jax.random.key(0), config=c))
        ratios = (np.asarray(run(unit)).reshape(CELLS) / widths) ** 2
        assert (low < ratios).all() and (ratios < high).all()


def test_heun_has_the_spread_it_is_known_to_have():
    """From sigma 80 with 8, 16, 32, 64 levels the samples of N(mean, 0.3^2) are 0.439 ... 0.3008 wide."""
    prior = Gaussian(np.zeros(CELLS), 0.3**2 * np.eye(CELLS))
    unit = jnp.full((1, 1, *SHAPE), 80.0)
    for steps, width in ((8, 0.439), (16, 0.325), (32, 0.305), (64, 0.3008)):
        config = SamplerConfig("heun", steps, **EDM_GRID)
        clean = jax.jit(lambda n, c=config: integrate(prior.denoise, n, None, c.sigmas, jax.random.key(0), config=c))(
            unit
        )
        np.testing.assert_allclose(clean, width, rtol=3e-3)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gaussian", SamplerConfig("dpm", 48)),
        ("mixture", SamplerConfig("dpm", 48)),
        ("mixture", SamplerConfig("heun", 48)),
        ("mixture", SamplerConfig("dpm", 96, stochastic=1.0)),
        ("gaussian", SamplerConfig("heun", 96, stochastic=1.0)),
        ("gaussian", SamplerConfig("heun", 16, corrections=4)),
    ],
    ids=["dpm", "dpm-mixture", "heun-mixture", "dpm-stochastic-mixture", "heun-stochastic", "heun-corrected"],
)
def test_samples_have_the_prior_s_mean_and_covariance(name, config):
    off, wide = gap(draw(PRIORS[name].denoise, config), PRIORS[name])
    assert off < 0.05 and wide < 0.07


def test_samples_of_a_batch_follow_their_own_conditions():
    """Two models a batch with conditions of their own; more samples, the same first ones' law; no mixing of rows."""
    prior = PRIORS["gaussian"]

    def shifted(noisy, sigma, condition):
        shift = over(condition, noisy)
        return prior.denoise(noisy - shift, sigma) + shift

    condition = jnp.asarray([0.0, 0.5])
    run = jax.jit(lambda key: sample(shifted, condition, (2, *SHAPE), key, SamplerConfig("dpm", 48), samples=2000))
    found = run(jax.random.key(3))
    assert found.shape == (2000, 2, *SHAPE)
    for row in range(2):
        off, wide = gap(found[:, row : row + 1] - condition[row], prior)
        assert off < 0.1 and wide < 0.14
    across = np.corrcoef(np.asarray(found).reshape(2000, 2, CELLS)[:, :, 0].T)[0, 1]
    assert abs(across) < 0.1


def test_preconditioning_gives_the_denoiser_back():
    """The networks that make EDM and Flow exact, worked out by hand, make them the exact denoiser."""
    prior, edm, flow = PRIORS["mixture"], EDM(), Flow()
    noisy = jax.random.normal(jax.random.key(0), (4, *SHAPE))
    sigma = jnp.asarray([0.01, 0.3, 2.0, 40.0])
    exact = prior.denoise(noisy, sigma)

    def for_edm(values, log_sigma, condition):
        s = jnp.exp(4 * log_sigma)
        total = jnp.sqrt(s**2 + 0.25)
        noisy = values * over(total, values)
        return (prior.denoise(noisy, s) - noisy * over(0.25 / total**2, values)) / over(s * 0.5 / total, values)

    def for_flow(values, log_sigma, condition):
        s = jnp.exp(4 * log_sigma)
        t = s / (1 + s)
        return (values - prior.denoise(values / over(1 - t, values), s)) / over(t, values)

    np.testing.assert_allclose(edm.denoise(for_edm, noisy, sigma, None), exact, atol=2e-4)
    np.testing.assert_allclose(flow.denoise(for_flow, noisy, sigma, None), exact, atol=2e-4)


def test_losses_of_a_network_that_says_nothing():
    """EDM's skip alone is the best linear guess: loss 1 at every sigma. Flow: |n - clean|^2 = 1 + 0.5^2."""
    clean = 0.5 * jax.random.normal(jax.random.key(0), (4000, *SHAPE))

    def silent(values, log_sigma, condition):
        return jnp.zeros_like(values)

    loss = EDM().loss(silent, clean, None, jax.random.key(1))
    assert loss.shape == (4000,)
    np.testing.assert_allclose(loss.mean(), 1, rtol=0.02)
    np.testing.assert_allclose(Flow().loss(silent, clean, None, jax.random.key(1)).mean(), 1.25, rtol=0.02)


def test_the_exact_network_has_the_least_loss():
    prior, flow = PRIORS["gaussian"], Flow()
    root = np.linalg.cholesky(prior.covariance)
    clean = prior.mean + np.random.default_rng(0).normal(size=(4000, CELLS)) @ root.T
    clean = jnp.asarray(clean.reshape(4000, *SHAPE), jnp.float32)

    def network(share, values, log_sigma, condition):
        s = jnp.exp(4 * log_sigma)
        t = s / (1 + s)
        return share * (values - prior.denoise(values / over(1 - t, values), s)) / over(t, values)

    def loss(share):
        return float(flow.loss(lambda *a: network(share, *a), clean, None, jax.random.key(1)).mean())

    assert loss(1.0) < min(loss(0.9), loss(1.1))


def test_a_step_in_t_is_a_step_in_sigma():
    """Euler on the flow's z in t, and on noisy in sigma, by the same denoiser: the same model."""
    prior = PRIORS["gaussian"]
    noisy, now, then = jax.random.normal(jax.random.key(0), (1, *SHAPE)) * 2, 1.5, 0.7
    clean = prior.denoise(noisy, jnp.asarray([now]))
    in_sigma = noisy + (then - now) * (noisy - clean) / now
    t, after = now / (1 + now), then / (1 + then)
    velocity = ((1 - t) * noisy - clean) / t
    in_t = ((1 - t) * noisy + (after - t) * velocity) / (1 - after)
    np.testing.assert_allclose(in_t, in_sigma, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps 0"),
        ({"sigma_min": 0.0}, "expected falling"),
        ({"stochastic": 2.0}, "stochastic 2.0"),
        ({"corrections": 3}, "expected heun"),
    ],
)
def test_wrong_samplers_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        SamplerConfig(**options)


def test_moments_of_the_support_s_own_draws():
    """The mixture's stated mean and covariance are those of draws from it, so the tests above mean something."""
    prior, rng = PRIORS["mixture"], np.random.default_rng(0)
    which = rng.random(20000) < prior.weights[0]
    drawn = np.where(
        which[:, None],
        *(rng.multivariate_normal(part.mean, part.covariance, 20000) for part in prior.parts),
    )
    mean, covariance = moments(drawn.reshape(20000, 1, *SHAPE))
    np.testing.assert_allclose(mean, prior.mean, atol=0.03)
    np.testing.assert_allclose(covariance, prior.covariance, atol=0.03)

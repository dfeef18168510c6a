import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_models import SURVEY, TINY, gathers_for

from seisvel_jax.errors import UserError
from seisvel_jax.models.config import GroupConfig, InversionNetConfig
from seisvel_jax.models.ensemble import (
    apply_member,
    graphdefs,
    init_ensemble,
    init_member,
    init_params,
    member_key,
    member_names,
    over_members,
    predict_members,
)
from seisvel_jax.models.weights import combine, fit_weights, median

SMALL = dataclasses.replace(TINY, stem_channels=(8,), stem_blocks=(0,), refine_channels=0, dropout=0.0)
OTHER = dataclasses.replace(SMALL, width=8)
GROUPS = (GroupConfig(SMALL, 2), GroupConfig(OTHER, 1))
KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def ensemble():
    return init_ensemble(GROUPS, SURVEY, KEY)


def member(params, k):
    return jax.tree.map(lambda leaf: leaf[k], params)


def equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_member_is_the_lone_network_of_its_key(ensemble):
    _, params = ensemble
    for k in range(2):
        lone = jax.jit(lambda key: init_member(GROUPS[0], SURVEY, key)[1])(member_key(KEY, 0, k))
        equal(member(params[0], k), lone)
    assert np.abs(params[0]["patch"]["kernel"][0] - params[0]["patch"]["kernel"][1]).max() > 0.01


def test_more_members_leave_the_others_alone(ensemble):
    _, params = ensemble
    more = jax.jit(lambda key: init_params((GroupConfig(SMALL, 3), GroupConfig(OTHER, 2)), SURVEY, key))(KEY)
    equal(jax.tree.map(lambda leaf: leaf[:2], more[0]), params[0])
    equal(jax.tree.map(lambda leaf: leaf[:1], more[1]), params[1])


def test_prediction_is_that_of_each_member_in_order(ensemble):
    structures, params = ensemble
    gathers = gathers_for(SURVEY, 2)
    together = jax.jit(predict_members, static_argnums=0)(structures, params, gathers, SURVEY)
    assert together.shape == (3, 2, 70, 70)
    apply = jax.jit(apply_member, static_argnums=0)
    np.testing.assert_allclose(together[1], apply(structures[0], member(params[0], 1), gathers, SURVEY), rtol=1e-5)
    np.testing.assert_allclose(together[2], apply(structures[1], member(params[1], 0), gathers, SURVEY), rtol=1e-5)


def test_a_step_of_the_stack_is_the_step_of_each_member(ensemble):
    structures, params = ensemble
    gathers = gathers_for(SURVEY)
    optimizer = optax.sgd(1.0)
    moments = optimizer.init(member(params[0], 0))

    def step(one, rate):
        gradient = jax.grad(lambda p: apply_member(structures[0], p, gathers, SURVEY).mean() / 1e3)(one)
        return jax.tree.map(lambda leaf, update: leaf + rate * update, one, optimizer.update(gradient, moments)[0])

    stacked = jax.jit(over_members(step))(params[0], jnp.asarray([1.0, 0.0]))
    lone = jax.jit(step)(member(params[0], 0), 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-6), stacked, lone)
    equal(member(stacked, 1), member(params[0], 1))  # a member whose rate is 0 is not touched by the others
    assert np.abs(stacked["patch"]["kernel"][0] - params[0]["patch"]["kernel"][0]).max() > 0


def test_structures_and_parameters_are_plain(ensemble):
    structures, params = ensemble
    assert hash(structures) == hash(graphdefs(GROUPS, SURVEY))
    abstract = jax.eval_shape(lambda key: init_params(GROUPS, SURVEY, key), KEY)
    assert jax.tree.structure(abstract) == jax.tree.structure(params)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(*map(jax.tree.leaves, (abstract, params))))
    assert isinstance(params[0], dict)


@pytest.mark.parametrize("count", [1, 3])
def test_over_members_equals_vmap(count):
    stacked = {"a": np.arange(2.0 * count, dtype=np.float32).reshape(count, 2)}, np.ones(count, np.float32)

    def function(one, scale):
        return {"sum": one["a"].sum() * scale}, scale

    jax.tree.map(np.testing.assert_allclose, over_members(function)(*stacked), jax.vmap(function)(*stacked))


def test_names_and_bad_counts():
    groups = (GroupConfig(SMALL, 2), GroupConfig(InversionNetConfig(), 1), GroupConfig(OTHER, 1))
    assert member_names(groups) == ("velocity_net/0", "velocity_net/1", "inversion_net/0", "velocity_net_2/0")
    with pytest.raises(UserError, match="members 0"):
        GroupConfig(SMALL, 0)


def noisy_members(spread, seed=0):
    random = np.random.default_rng(seed)
    truth = random.uniform(1500, 4500, (3, 20, 15)).astype(np.float32)
    members = [truth + random.normal(bias, deviation, truth.shape) for deviation, bias in spread]
    return np.stack(members).astype(np.float32), truth


def mape(velocity, truth):
    return (np.abs(velocity - truth) / np.abs(truth)).mean()


@pytest.mark.parametrize(
    "spread",
    [
        [(100, 50), (150, -80), (400, 0)],
        [(100, 0), (100, 0), (100, 0)],
        [(20, 0), (900, 300), (500, 0)],
        [(200, 300), (200, 500), (300, 600)],
    ],
)
def test_weights_are_those_of_a_brute_force_search(spread):
    velocity, truth = noisy_members(spread)
    weights = fit_weights(velocity, truth)
    assert weights.sum() == pytest.approx(1, abs=1e-5) and weights.min() >= 0
    side = np.linspace(0, 1, 51, dtype=np.float32)
    grid = [np.asarray([a, b, 1 - a - b], np.float32) for a in side for b in side if a + b <= 1 + 1e-6]
    best = min(mape(combine(velocity, one), truth) for one in grid)
    fitted = mape(combine(velocity, weights), truth)
    assert fitted <= best * (1 + 1e-3)
    assert fitted <= mape(velocity.mean(0), truth) * (1 + 1e-6)


def test_two_members_and_one():
    velocity, truth = noisy_members([(100, 40), (200, -150)])
    share = np.linspace(0, 1, 1001, dtype=np.float32)
    best = min(mape(combine(velocity, np.asarray([a, 1 - a], np.float32)), truth) for a in share)
    assert mape(combine(velocity, fit_weights(velocity, truth)), truth) <= best * (1 + 1e-4)
    np.testing.assert_array_equal(fit_weights(velocity[:1], truth), [1])


def test_median_ignores_one_bad_member():
    velocity, truth = noisy_members([(1, 0), (1, 0), (1, 1000)])
    assert np.abs(median(velocity) - truth).max() < 10

"""The denoiser's network and its training step: what is masked is not seen, members are their own, it learns."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_support import MODEL, SURVEY, arrays, quick_compilation

from seisvel_jax.config import DiffusionConfig
from seisvel_jax.diffusion.condition import SOURCES, blurred, check, drop, nothing, of_training, only
from seisvel_jax.diffusion.config import ConditionConfig, DenoiserConfig, Members
from seisvel_jax.diffusion.denoiser import guess_loss
from seisvel_jax.diffusion.processes import process_of
from seisvel_jax.diffusion.sampler import SamplerConfig, sample
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.diffusion.unet import UNet, UNetConfig
from seisvel_jax.errors import UserError
from seisvel_jax.models.ensemble import init_member, member_key
from seisvel_jax.training.config import AugmentConfig, OptimConfig
from seisvel_jax.training.diffusion_step import make_diffusion_step
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.state import abstract_params, init_state

CONFIG = DenoiserConfig(
    encoder=replace(MODEL, dropout=0.0),
    layers=1,
    channels=4,
    blocks=1,
    patch_shape=(4, 3),  # does not divide the 8 columns
    families=("flat", "curved"),
)
TOLD = ConditionConfig(wells=3, blur=(10.0, 40.0))
GRID = SURVEY.grid.shape


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with quick_compilation(tmp_path_factory.mktemp("programs")):
        yield


@cache
def condition(batch: int = 2):
    gathers, velocity = arrays(batch)
    clean = jnp.asarray(Scale().to_unit(velocity))
    key = jax.random.key(0)
    return of_training(jnp.asarray(gathers), clean, jnp.asarray([1, 2] * (batch // 2)), key, spacing=10.0, config=TOLD)


def answering(scatter: float):
    """A new network as a function of condition, values and level; scattered, none of its parts is silent."""
    graph = abstract_params((Members(CONFIG),), SURVEY)[0][0]

    @jax.jit
    def parameters():
        params = nnx.to_pure_dict(nnx.split(CONFIG.build(SURVEY, nnx.Rngs(0)))[1])
        keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
        return jax.tree.map(lambda leaf: leaf + scatter * jax.random.normal(next(keys), leaf.shape), params)

    params = parameters()

    @jax.jit
    def answer(told, values, level):
        network = nnx.merge(graph, params)
        return network(values, level, network.encode(told, SURVEY), SURVEY)

    return answer


@pytest.fixture(scope="module")
def awake():
    return answering(0.1)


VALUES, LEVEL = jax.random.normal(jax.random.key(2), (2, *GRID)), jnp.asarray([-0.5, 0.3])


def test_a_new_network_says_nothing_and_edm_makes_the_best_linear_guess_of_it():
    np.testing.assert_array_equal(answering(0.0)(condition(), VALUES, LEVEL), 0)


def test_every_source_and_the_level_are_heard(awake):
    told = condition()
    whole = awake(told, VALUES, LEVEL)
    assert whole.shape == (2, *GRID)
    for source in SOURCES:
        others = [name for name in SOURCES if name != source]
        assert float(jnp.abs(awake(only(told, *others), VALUES, LEVEL) - whole).max()) > 1e-5, source
    assert float(jnp.abs(awake(told, VALUES, LEVEL + 0.2) - whole).max()) > 1e-4
    # Each row by itself.
    other = awake(told, VALUES.at[1].add(1.0), LEVEL)
    np.testing.assert_allclose(other[0], whole[0], atol=1e-6)


def test_what_is_masked_is_not_seen(awake):
    """With a mask of 0 the values beneath may be anything: the answer is the prior's, or that of the shots left."""
    told = condition()
    prior = awake(only(told), VALUES, LEVEL)
    np.testing.assert_allclose(awake(nothing(2, SURVEY), VALUES, LEVEL), prior, atol=1e-6)
    noise = replace(
        only(told), gathers=told.gathers + 5, wells=told.wells + 3, background=told.background - 2, blur=told.blur + 7
    )
    np.testing.assert_allclose(awake(noise, VALUES, LEVEL), prior, atol=1e-6)
    # A silent recorded shot is not a missing one, and a well at 3000 m/s (0 when scaled) is not no well.
    silent = replace(told, gathers=0 * told.gathers)
    assert (
        float(jnp.abs(awake(silent, VALUES, LEVEL) - awake(replace(silent, shots=0 * told.shots), VALUES, LEVEL)).max())
        > 1e-5
    )
    known = replace(only(told), wells_known=told.wells_known)
    assert float(jnp.abs(awake(known, VALUES, LEVEL) - prior).max()) > 1e-5


def test_the_guess_is_of_the_gathers_alone_and_its_error_counts_where_there_are_any():
    told = condition(4)
    told = replace(told, shots=told.shots.at[1].set(0).at[2, 0].set(0))
    network = CONFIG.build(SURVEY, nnx.Rngs(0))
    heard = nnx.jit(lambda network, told: network.hear(told.gathers, told.shots, SURVEY))(network, told)
    np.testing.assert_array_equal(heard.guess[1], 0)
    np.testing.assert_allclose(heard.share, [1, 0, 1 - 1 / told.shots.shape[1], 1])
    # It is the ensemble's network: the same answer where every shot is there.
    velocity = nnx.jit(lambda network, gathers: network(gathers, SURVEY))(network.gathers, told.gathers)
    np.testing.assert_allclose(Scale(CONFIG.bounds).to_velocity(heard.guess[0]), velocity[0], rtol=1e-5)
    truth = jnp.asarray(Scale().to_unit(arrays(4)[1]))
    expected = np.abs(np.asarray(heard.guess) - np.asarray(truth)).mean((1, 2))
    expected[1] = 0
    np.testing.assert_allclose(guess_loss(heard, truth), expected, rtol=1e-5)


def test_conditions_of_training_models():
    told = condition(64)
    columns = np.asarray(told.wells_known).sum(1)
    assert set(np.unique(columns)) == {0, 8}  # whole columns
    counts = (columns > 0).sum(1)
    assert counts.min() == 1 and counts.max() == 3
    _, velocity = arrays(64)
    clean = Scale().to_unit(velocity)
    np.testing.assert_allclose(told.wells, clean * np.asarray(told.wells_known), atol=1e-6)
    assert float(told.blur.min()) >= 10 and float(told.blur.max()) <= 40
    spike = jnp.zeros((41, 31)).at[20, 15].set(1.0)
    exact = np.exp(-((np.arange(41)[:, None] - 20) ** 2 + (np.arange(31) - 15) ** 2) / (2 * 2.0**2)) / (2 * np.pi * 4)
    np.testing.assert_allclose(blurred(spike, jnp.asarray(2.0)), exact, atol=1e-5)
    np.testing.assert_allclose(blurred(jnp.full((9, 9), 3.0), jnp.asarray(4.0)), 3, rtol=1e-5)
    check(told, SURVEY)


def test_sources_are_dropped_as_often_as_asked():
    config = ConditionConfig(drop_gathers=0.2, drop_shot=0.25, drop_wells=0.5, drop_background=0.3, drop_family=0.4)
    told = drop(condition(2000), jax.random.key(5), config)
    shots = np.asarray(told.shots)
    np.testing.assert_allclose(shots.mean(), 0.8 * 0.75, atol=0.04)
    np.testing.assert_allclose((shots.sum(1) == 0).mean(), 0.2 + 0.8 * 0.25**2, atol=0.04)
    np.testing.assert_allclose((np.asarray(told.wells_known).sum((1, 2)) == 0).mean(), 0.5, atol=0.04)
    np.testing.assert_allclose(told.background_known.mean(), 0.7, atol=0.04)
    np.testing.assert_allclose((told.family == 0).mean(), 0.4, atol=0.04)
    assert float(jnp.abs(told.gathers[told.shots == 0]).max()) == 0
    unknown = told.background_known == 0
    assert float(jnp.abs(told.background[unknown]).max()) == 0 and float(told.blur[unknown].max()) == 0
    assert float(jnp.abs(told.wells[told.wells_known == 0]).max()) == 0


@pytest.mark.parametrize("name", ["edm", pytest.param("flow", marks=pytest.mark.slow)])
def test_two_members_learn_and_are_their_own(name):
    """Two layers whose depth the gathers tell: the loss falls; each member is the lone one of its key; EMA lags."""
    group, process = Members(CONFIG, 2), process_of(name)
    optimizer = make_optimizer(OptimConfig(learning_rate=5e-3, warmup_steps=2), 60)
    graphdef = abstract_params((group,), SURVEY)[0][0]
    state = init_state((group,), SURVEY, optimizer, jax.random.key(0))
    lone = jax.jit(lambda key: init_member(group, SURVEY, member_key(key, 0, 1))[1])(jax.random.key(0))
    for mine, its in zip(jax.tree.leaves(lone), jax.tree.leaves(state.params[0])):
        np.testing.assert_allclose(mine, its[1], rtol=1e-5, atol=1e-7)
    config = DiffusionConfig(
        name="two",
        denoiser=CONFIG,
        members=2,
        condition=TOLD,
        process=name,
        augment=replace(AugmentConfig.off(), mirror=0.5),
        ema_decay=0.9,
    )
    step = make_diffusion_step(config, graphdef, optimizer, SURVEY)
    gathers, velocity = arrays(16)
    batch = {"gathers": gathers, "velocity": velocity, "family": np.ones(16, np.int32)}
    losses: list[np.ndarray] = []
    guesses: list[np.ndarray] = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(np.asarray(metrics["loss"]))
        guesses.append(np.asarray(metrics["guess"]))
    losses, guesses = np.asarray(losses), np.asarray(guesses)
    assert (guesses[-20:].mean(0) < 0.85 * guesses[:5].mean(0)).all()
    assert losses.shape == (60, 2) and np.isfinite(losses).all() and (losses[:, 0] != losses[:, 1]).all()
    assert (losses[-20:].mean(0) < 0.7 * losses[:5].mean(0)).all()
    apart = [jnp.abs(a - b).max() for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema))]
    assert max(float(one) for one in apart) > 0

    params = jax.tree.map(lambda leaf: leaf[0], state.ema[0])
    told = condition()

    @jax.jit
    def draw(key):
        network = nnx.merge(graphdef, params)

        def denoise(noisy, sigma, encoded):
            return process.denoise(lambda *a: network(*a, SURVEY), noisy, sigma, encoded)

        return sample(denoise, network.encode(told, SURVEY), (2, *GRID), key, SamplerConfig("dpm", 6), samples=3)

    samples = draw(jax.random.key(9))
    assert samples.shape == (3, 2, *GRID) and bool(jnp.isfinite(samples).all())
    assert float(jnp.abs(samples).mean()) < 2


UNKNOWN = {"gathers": ("wells", "background"), "wells": ("gathers", "background"), "none": ("gathers", "wells")}


def test_the_networks_of_diffusionvel_are_of_the_published_size():
    def built(source, base, times):
        return nnx.eval_shape(lambda: UNet(UNetConfig(source, base=base), times, rngs=nnx.Rngs(0)))

    network = built("gathers", 64, 1000)  # "about 98 million"
    assert [conv.kernel.shape[-1] for conv in network.stem] == [40, 80, 160, 320]
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network))) == pytest.approx(98e6, rel=0.1)
    graph, params = nnx.split(built("gathers", 4, 1000))
    told = replace(nothing(2, SURVEY), gathers=jnp.zeros((2, 5, 1000, 70)))
    values, time = jnp.zeros((2, 70, 70)), jnp.zeros(2, jnp.int32)
    out = jax.eval_shape(lambda p: nnx.merge(graph, p)(values, time, told, jax.random.key(0)), params)
    assert out.shape == (2, 70, 70)


@pytest.mark.slow
@pytest.mark.parametrize("source", UNKNOWN)
def test_a_network_of_diffusionvel_sees_its_own_source_alone(source):
    config = UNetConfig(source, shots=2, shape=GRID, base=4, heads=2)
    network = UNet(config, SURVEY.gather_shape[1], rngs=nnx.Rngs(0))
    network.answer.kernel[...] = jnp.ones_like(network.answer.kernel[...])
    told, time = condition(), jnp.asarray([3, 900])
    answer = nnx.jit(lambda network, told: network(VALUES, time, told))
    whole = answer(network, told)
    np.testing.assert_array_equal(answer(network, only(told, *([] if source == "none" else [source]))), whole)
    if source != "none":
        assert float(jnp.abs(answer(network, only(told, *UNKNOWN[source])) - whole).max()) > 1e-5
    other = nnx.jit(lambda network: network(VALUES, time + 50, told))(network)
    assert float(jnp.abs(other - whole).max()) > 1e-6


def test_wrong_configs_and_conditions_are_named():
    with pytest.raises(UserError, match="family 'salt', expected one that this network was trained with: flat, curved"):
        CONFIG.family("salt")
    assert CONFIG.family(None) == 0 and CONFIG.family("curved") == 2
    with pytest.raises(UserError, match="layers 0"):
        replace(CONFIG, layers=0)
    with pytest.raises(UserError, match=r"drop_wells = 2.0"):
        ConditionConfig(drop_wells=2.0)
    with pytest.raises(UserError, match=r"\['rumours'\], expected some of gathers"):
        only(condition(), "rumours")
    with pytest.raises(UserError, match="wells of shape"):
        check(replace(condition(), wells=jnp.zeros((2, 3, 3))), SURVEY)
    with pytest.raises(UserError, match="background holds values that are not finite"):
        check(replace(condition(), background=jnp.full((2, *GRID), jnp.nan)), SURVEY)

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seisvel_jax.errors import UserError
from seisvel_jax.models.config import GroupConfig, InversionNetConfig, VelocityNetConfig
from seisvel_jax.models.ensemble import apply_member, graphdefs, init_member, init_params
from seisvel_jax.models.layers import draw_kernels, interpolate, linear, pooling_matrix
from seisvel_jax.models.velocity_net import blended, tent
from seisvel_jax.survey import Grid, openfwi, speed_and_structure

TINY = VelocityNetConfig(
    width=16,
    heads=2,
    encoder_layers=1,
    decoder_layers=1,
    stem_channels=(8, 12),
    stem_blocks=(1, 0),
    patch_duration=0.05,
    token_duration=0.25,
    receiver_tokens=2,
    moments=(1, 2),
    patch_shape=(16, 20),
    refine_channels=2,
    dropout=0.5,
    spacing=10.0,
    amplitude=1.0,
)
SURVEY = dataclasses.replace(
    openfwi(), sources=np.stack([openfwi().sources] * 2), receivers=np.stack([openfwi().receivers] * 2)
)
ORDER = np.asarray([3, 0, 4, 1, 2])


@functools.cache
def built(config):
    """Structure, parameters and a jitted call; every test shares them, for compiling is what costs here."""
    graphdef = graphdefs((GroupConfig(config),), SURVEY)[0]
    params = jax.jit(lambda key: init_member(GroupConfig(config), SURVEY, key)[1])(jax.random.key(3))
    # Biases and the last convolution start at zero: give them values, so that the tests see those paths too.
    leaves, structure = jax.tree.flatten(params)
    leaves = [leaf + 0.1 * np.sin(np.arange(leaf.size, dtype=np.float32)).reshape(leaf.shape) for leaf in leaves]
    return jax.jit(functools.partial(apply_member, graphdef)), jax.tree.unflatten(structure, leaves)


def gathers_for(survey, batch=2, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *survey.gather_shape)).astype(np.float32)


def test_any_survey_runs_through_the_same_weights():
    call, params = built(TINY)
    odd = dataclasses.replace(
        SURVEY,
        sources=np.asarray([[30, 5], [250, 5], [400, 12]], np.float32),
        receivers=np.stack([np.linspace(0, 610, 17), np.full(17, 3)], -1).astype(np.float32),
        nt=437,
        grid=Grid(43, 31, 15.0),
    )
    velocity = call(params, gathers_for(odd, 1), odd)
    assert velocity.shape == (1, 43, 31) and velocity.dtype == jnp.float32
    assert 1500 <= velocity.min() < velocity.max() <= 4500


def test_grids_resample_the_same_prediction():
    call, params = built(TINY)
    gathers = gathers_for(SURVEY)
    native = call(params, gathers, SURVEY)
    coarse = call(params, gathers, dataclasses.replace(SURVEY, grid=Grid(35, 35, 20.0)))
    # Patches and nodes stay where they are in metres, so a grid of twice the spacing has every second node.
    np.testing.assert_allclose(coarse, native[:, ::2, ::2], rtol=1e-5)


def test_shots_are_a_set_of_gathers_with_positions_and_amplitudes():
    call, params = built(TINY)
    gathers = gathers_for(SURVEY)[[0, 0]]
    velocity = call(params, gathers, SURVEY)[0]
    # One compiled call throughout: the second sample is the first one changed, positions are given for each sample.
    gathers[1] = gathers[1, ORDER]
    moved = dataclasses.replace(SURVEY, sources=np.stack([SURVEY.sources[0], SURVEY.sources[1, ORDER]]))
    np.testing.assert_allclose(call(params, gathers, moved)[1], velocity, rtol=1e-4)
    assert np.abs(call(params, gathers, SURVEY)[1] - velocity).max() > 1e-3 * np.ptp(velocity)
    gathers[1] = gathers[0] * np.asarray([1, 1, 2, 1, 1], np.float32)[:, None, None]
    assert np.abs(call(params, gathers, SURVEY)[1] - velocity).max() > 1
    # All shots of a sample, and all samples of the batch, twice as strong: neither is divided out again.
    gathers[1] = 2 * gathers[0]
    once, twice = call(params, gathers, SURVEY), call(params, 2 * gathers, SURVEY)
    assert np.abs(once[1] - once[0]).max() > 1
    assert np.abs(twice - once).max() > 1


def test_dropout_is_keyed_and_absent_without_a_key():
    call, params = built(TINY)
    gathers = gathers_for(SURVEY)
    one, other = jax.random.split(jax.random.key(0))
    first = call(params, gathers, SURVEY, one)
    np.testing.assert_array_equal(first, call(params, gathers, SURVEY, one))
    assert np.abs(first - call(params, gathers, SURVEY, other)).max() > 1
    assert np.abs(first - call(params, gathers, SURVEY)).max() > 1


def test_bfloat16_is_close_and_keeps_softmax_and_norms_in_float32():
    config = dataclasses.replace(TINY, dtype="bfloat16")
    call, params = built(TINY)
    graphdef = graphdefs((GroupConfig(config),), SURVEY)[0]
    gathers = gathers_for(SURVEY)
    low = jax.jit(functools.partial(apply_member, graphdef))(params, gathers, SURVEY)
    exact = call(params, gathers, SURVEY)
    assert low.dtype == jnp.float32
    assert 0 < np.abs(low - exact).max() < 0.05 * np.ptp(exact)
    text = str(jax.make_jaxpr(functools.partial(apply_member, graphdef))(params, gathers, SURVEY))
    assert ":bf16" in text
    for line in text.splitlines():
        if any(f"= {name}" in line for name in ("exp ", "exp[", "rsqrt", "reduce_max")):
            assert "bf16" not in line, line
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_remat_gives_the_same_gradients():
    call, params = built(TINY)
    graphdef = graphdefs((GroupConfig(dataclasses.replace(TINY, remat=True)),), SURVEY)[0]
    gathers = gathers_for(SURVEY)

    def gradient(function):
        return jax.jit(jax.grad(lambda p: function(p, gathers, SURVEY, jax.random.key(1)).std()))

    plain, again = gradient(call)(params), gradient(functools.partial(apply_member, graphdef))(params)
    assert "remat" in str(jax.make_jaxpr(functools.partial(apply_member, graphdef))(params, gathers, SURVEY))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, again)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain))


def test_softplus_is_open_upwards():
    graphdef = graphdefs((GroupConfig(dataclasses.replace(TINY, output="softplus")),), SURVEY)[0]
    _, params = built(TINY)
    params = jax.tree.map(lambda leaf: leaf, params)
    params["head"]["outer"]["bias"] = params["head"]["outer"]["bias"] + 5
    velocity = jax.jit(functools.partial(apply_member, graphdef))(params, gathers_for(SURVEY), SURVEY)
    assert velocity.max() > 4500 and velocity.min() >= 1500


def test_other_sampling_is_refused():
    call, params = built(TINY)
    survey = speed_and_structure(spacing=10)
    with pytest.raises(UserError, match=r"1e-04|0\.0001"):
        jax.eval_shape(call, params, jax.ShapeDtypeStruct((1, 5, 100, 31), jnp.float32), survey)


@pytest.mark.parametrize("change", [{"width": 30, "heads": 4}, {"stem_channels": (6, 8)}, {"stem_blocks": (1,)}])
def test_impossible_configs_are_refused(change):
    with pytest.raises(UserError, match="expected"):
        dataclasses.replace(TINY, **change)


def count(config, survey):
    params = jax.eval_shape(lambda: init_params((GroupConfig(config),), survey, jax.random.key(0))[0])
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_default_network_has_the_documented_size_and_shape():
    survey = speed_and_structure(dt=1e-3)
    assert count(VelocityNetConfig(), survey) == 54_125_809  # docs/network.md
    groups = (GroupConfig(VelocityNetConfig()),)
    params = jax.eval_shape(lambda: init_member(groups[0], survey, jax.random.key(0))[1])
    gathers = jax.ShapeDtypeStruct((1, *survey.gather_shape), jnp.float32)
    velocity = jax.eval_shape(functools.partial(apply_member, graphdefs(groups, survey)[0]), params, gathers, survey)
    assert velocity.shape == (1, 1259, 300)


def test_inversion_net_has_the_published_number_of_parameters():
    assert count(InversionNetConfig(), SURVEY) == 24_409_123


@pytest.mark.parametrize("decoder", ["transposed", "pixel_shuffle"])
def test_inversion_net_shapes(decoder):
    config = InversionNetConfig(width=0.03, decoder=decoder)
    call, params = built(config)
    velocity = call(params, gathers_for(SURVEY), SURVEY)
    assert velocity.shape == (2, 70, 70) and 1500 < velocity.min() < velocity.max() < 4500
    other = speed_and_structure(spacing=25, dt=4e-3)
    assert jax.eval_shape(call, params, gathers_for(other), other).shape == (2, 51, 12)
    with pytest.raises(UserError, match="3 shots"):
        jax.eval_shape(call, params, gathers_for(SURVEY)[:, :3], SURVEY)


def test_pooling_is_adaptive_average_pooling_with_moments():
    # torch.nn.functional.adaptive_avg_pool1d(arange(7), 3) is [1, 3, 5]: windows 0-2, 2-4, 4-6.
    np.testing.assert_allclose(pooling_matrix(7, 3, 1) @ np.arange(7), [1, 3, 5], rtol=1e-6)
    # With as many moments as a window has entries nothing is lost: the rows are orthogonal.
    basis = pooling_matrix(12, 3, 4) * 2
    np.testing.assert_allclose(basis @ basis.T, np.eye(12), atol=1e-6)


def test_interpolation_is_linear_and_clamped():
    values = np.linspace(3, 8, 6, dtype=np.float32)[None]
    at = interpolate(jnp.asarray(values), np.asarray([-1, 0.25, 4.5, 7]), 1)
    np.testing.assert_allclose(at, [[3, 3.25, 7.5, 8]], rtol=1e-6)


def test_kernels_are_drawn_at_lecuns_scale():
    from flax import nnx

    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.first = linear(400, 50, "float32", rngs)
            self.second = linear(50, 400, "float32", rngs)
            draw_kernels(self, rngs.params())

    pair = Pair(nnx.Rngs(0))
    assert np.std(pair.first.kernel[...]) == pytest.approx(400**-0.5, rel=0.03)
    assert np.std(pair.second.kernel[...]) == pytest.approx(50**-0.5, rel=0.03)
    assert abs(np.corrcoef(pair.first.kernel[...].ravel(), pair.second.kernel[...].ravel())[0, 1]) < 0.03


def test_overlapping_patches_join_without_seams():
    """Patches cut out of a plane give that plane back; a patch alone shows as a tent over its own neighbourhood."""
    rows, columns, high, wide = 3, 4, 6, 5
    depth, x = np.meshgrid(np.arange(-3, 22) - 0.0, np.arange(-3, 26) - 0.0, indexing="ij")
    plane = (2 * depth - 3 * x).astype(np.float32)
    patches = np.stack(
        [
            np.stack([plane[r * high : (r + 2) * high, c * wide : (c + 2) * wide] for c in range(columns)])
            for r in range(rows)
        ]
    )
    joined = blended(jnp.asarray(patches)[None])[0]
    start = (high // 2, wide // 2)
    want = plane[start[0] : start[0] + rows * high, start[1] : start[1] + columns * wide]
    np.testing.assert_allclose(joined, want, atol=1e-4)
    alone = np.zeros((1, rows, columns, 2 * high, 2 * wide), np.float32)
    alone[0, 1, 1] = 1
    shown = np.asarray(blended(jnp.asarray(alone)))[0]
    np.testing.assert_allclose(shown[high - 3 : 3 * high - 3, wide - 2 : 3 * wide - 2], np.outer(tent(12), tent(10)))
    assert shown.sum() == pytest.approx(high * wide)

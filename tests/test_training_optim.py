"""The schedule against its formula, and one member's update against the algorithm written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seisvel_jax.errors import UserError
from seisvel_jax.training.config import OptimConfig
from seisvel_jax.training.optim import decayed, learning_rate, make_optimizer, matrices

PARAMS = {
    "encoder": {"0": {"mlp": {"kernel": np.ones((3, 4), np.float32), "bias": np.ones(4, np.float32)}}},
    "norm": {"scale": np.ones(3, np.float32)},
    "conv": {"kernel": np.ones((3, 3, 2, 5), np.float32)},
    "head": {"kernel": np.ones((4, 6), np.float32)},
}


def test_warm_up_then_cosine_with_restarts():
    config = OptimConfig(learning_rate=1.0, warmup_steps=4, cycle_steps=10, cycle_growth=2.0, final_fraction=0.1)
    rate = np.asarray([learning_rate(config, 100)(step) for step in range(80)])
    np.testing.assert_allclose(rate[:4], [0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    for start, length in ((4, 10), (14, 20), (34, 40)):
        phase = np.arange(length) / length
        want = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * phase))
        np.testing.assert_allclose(rate[start : start + length], want, rtol=1e-5)
    assert rate[14] == rate[34] == 1.0


def test_one_cycle_over_the_run_ends_at_the_final_fraction():
    rate = learning_rate(OptimConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.05), 110)
    assert float(rate(110)) == pytest.approx(0.1)
    assert float(rate(60)) == pytest.approx(2 * (0.05 + 0.95 / 2))
    assert float(rate(10_000)) == pytest.approx(0.1)


def test_schedule_does_not_depend_on_steps_where_cycles_are_given():
    config = OptimConfig(cycle_steps=10, cycle_growth=1.5, warmup_steps=5)
    short, long = (np.asarray([learning_rate(config, n)(s) for s in range(0, 60, 7)]) for n in (60, 600))
    np.testing.assert_array_equal(short, long)


def test_weight_decay_is_for_kernels_only():
    mask = jax.tree.leaves_with_path(decayed(PARAMS))
    for path, wanted in mask:
        assert wanted == ("kernel" in jax.tree_util.keystr(path))


def test_adamw_step_is_the_published_one():
    config = OptimConfig(learning_rate=0.1, warmup_steps=0, clip_norm=1e9, weight_decay=0.5, final_fraction=1.0)
    params = {"kernel": jnp.asarray([[2.0, -1.0]]), "bias": jnp.asarray([3.0])}
    gradient = {"kernel": jnp.asarray([[0.3, -0.2]]), "bias": jnp.asarray([0.1])}
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    # First step of Adam: sign of the gradient (bias-corrected moments), plus decay on the kernel alone.
    np.testing.assert_allclose(updates["kernel"], [[-0.1 * (1 + 0.5 * 2), -0.1 * (-1 - 0.5)]], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [-0.1], rtol=1e-5)


def test_clipping_limits_the_norm():
    config = OptimConfig(clip_norm=0.5)
    optimizer = make_optimizer(config, 10)
    params = {"kernel": jnp.zeros((2, 2))}
    big, bigger = ({"kernel": jnp.full((2, 2), size)} for size in (10.0, 1000.0))
    state = optimizer.init(params)
    _, one = optimizer.update(big, state, params)
    _, other = optimizer.update(bigger, state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, other)


def test_muon_orthogonalises_hidden_kernels_only():
    specification = matrices(PARAMS)
    assert specification["head"]["kernel"] is None and specification["norm"]["scale"] is None
    assert specification["conv"]["kernel"].reduction_axis == (0, 1, 2)
    config = OptimConfig(kind="muon", learning_rate=1.0, warmup_steps=0, weight_decay=0.0, clip_norm=1e9)
    rng = np.random.default_rng(0)
    params = {"hidden": {"kernel": jnp.zeros((16, 16))}, "head": {"kernel": jnp.zeros((4, 4))}}
    gradient = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
    optimizer = make_optimizer(config, 10)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    # Newton-Schulz brings all singular values near 1, times 0.2 sqrt(16) for the size of AdamW's updates.
    values = np.linalg.svd(np.asarray(updates["hidden"]["kernel"]), compute_uv=False) / (0.2 * 4)
    assert values.min() > 0.3 and values.max() < 1.4
    raw = np.linalg.svd(np.asarray(gradient["hidden"]["kernel"]), compute_uv=False)
    assert raw.max() / raw.min() > 2 * values.max() / values.min()
    # The head is AdamW's: its first update (with Nesterov momentum) has the same size everywhere.
    assert np.ptp(np.abs(updates["head"]["kernel"])) < 1e-4


def test_accumulation_updates_with_the_mean_gradient():
    config = OptimConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.0, final_fraction=1.0, clip_norm=1e9)
    params = {"kernel": jnp.asarray([[1.0, 2.0]])}
    gradients = [{"kernel": jnp.asarray([[0.4, -0.2]])}, {"kernel": jnp.asarray([[-0.1, -0.6]])}]
    twice = make_optimizer(OptimConfig(**{**vars(config), "accumulate": 2}), 10)
    state = twice.init(params)
    first, state = twice.update(gradients[0], state, params)
    np.testing.assert_array_equal(first["kernel"], 0)
    second, _ = twice.update(gradients[1], state, params)
    once = make_optimizer(config, 10)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    want, _ = once.update(mean, once.init(params), params)
    np.testing.assert_allclose(second["kernel"], want["kernel"], rtol=1e-5)


@pytest.mark.parametrize(
    "values", [{"accumulate": 0}, {"learning_rate": 0.0}, {"cycle_growth": 0.5}, {"clip_norm": -1}]
)
def test_nonsense_is_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        OptimConfig(**values)

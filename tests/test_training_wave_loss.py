"""The wave-equation loss: its gradient, its shots, its schedule; training without labels and with some."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_support import LIGHT, SURVEY, arrays, quick_compilation

from seisvel_jax.config import Config
from seisvel_jax.config import replace as change
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.data.writers import write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.models.ensemble import graphdefs
from seisvel_jax.survey import Grid
from seisvel_jax.train import train
from seisvel_jax.training.config import AugmentConfig, LossConfig, WaveLossConfig
from seisvel_jax.training.mesh import one_device
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.records import read_records
from seisvel_jax.training.source import open_source
from seisvel_jax.training.state import init_state
from seisvel_jax.training.step import make_step
from seisvel_jax.training.wave_loss import WaveLoss
from seisvel_jax.wave.propagate import propagate

BOUNDS = (1500.0, 4500.0)
ALL = jnp.arange(2, dtype=jnp.int32)
WAVE = WaveLossConfig(weight=1.0, rows=1)
ALONE = LossConfig(mape=0.0, l2=0.0, gradient=0.0, physics=0.0, wave=WAVE)


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    with quick_compilation(tmp_path_factory.mktemp("xla")):
        yield


@pytest.fixture(scope="module")
def observed():
    velocity = arrays(2)[1]
    return np.array(propagate(velocity, SURVEY, max_velocity=4500.0))


def smooth(seed=0, count=2):
    return np.random.default_rng(seed).uniform(1900, 3000, (count, 8, 8)).astype(np.float32)


def test_its_gradient_is_that_of_the_relative_misfit(observed):
    """Against JAX's own derivative of the plain formula, and against finite differences of it."""
    loss, velocity = WaveLoss(WAVE, SURVEY, BOUNDS), smooth()

    def plain(velocity):
        residual = (propagate(velocity, SURVEY, max_velocity=4500.0) - observed)[:, :, :-1]  # OpenFWI's last row
        return jnp.sum(residual**2, axis=(1, 2, 3)) / jnp.sum(observed**2, axis=(1, 2, 3))

    def summed(function):
        return jax.jit(jax.value_and_grad(lambda v: jnp.sum(function(v) * jnp.asarray([1.0, 3.0]))))

    value, gradient = summed(lambda v: loss(v, observed, ALL))(velocity)
    expected, its_gradient = summed(plain)(velocity)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, its_gradient, atol=1e-5 * np.abs(its_gradient).max())
    assert np.abs(gradient).max(axis=(1, 2)).min() > 0
    # Uphill, where the change is well above rounding.
    direction = np.asarray(gradient / np.abs(gradient).max())
    ahead, behind = (
        jnp.sum(jax.jit(lambda v: loss(v, observed, ALL))(velocity + s * direction) * jnp.asarray([1.0, 3.0]))
        for s in (1.0, -1.0)  # the sponge follows the slowest node: not smooth over more
    )
    np.testing.assert_allclose((ahead - behind) / 2, np.sum(gradient * direction), rtol=1e-2)


def test_rows_members_and_shots_change_only_what_they_should(observed):
    velocity = np.stack([smooth(1), smooth(2)])  # [member, batch, depth, x]
    one = WaveLoss(WAVE, SURVEY, BOUNDS)
    two = WaveLoss(replace(WAVE, rows=2, memory="full"), SURVEY, BOUNDS)

    def slopes(loss, shots):
        return jax.value_and_grad(lambda v: jnp.sum(loss(v, observed, shots)))

    alone = [jax.jit(slopes(one, ALL))(v) for v in velocity]
    together = jax.jit(jax.vmap(slopes(two, ALL)))(velocity)
    for k in range(2):
        np.testing.assert_allclose(together[0][k], alone[k][0], rtol=1e-5)
        np.testing.assert_allclose(together[1][k], alone[k][1], atol=1e-5 * np.abs(alone[k][1]).max())

    single = WaveLoss(replace(WAVE, shots=1), SURVEY, BOUNDS)
    drawn = {int(single.shots(jax.random.key(n))[0]) for n in range(8)}
    assert drawn == {0, 1} and single.shots(jax.random.key(0)).shape == (1,)
    shot = jax.jit(lambda v, s: single(v, observed, s))(velocity[0], ALL[1:])
    residual = (np.asarray(propagate(velocity[0], SURVEY, max_velocity=4500.0)) - observed)[:, 1, :-1]
    expected = (residual**2).sum((1, 2)) / (observed[:, 1] ** 2).sum((1, 2))
    np.testing.assert_allclose(shot, expected, rtol=1e-5)


def test_the_weight_grows_from_begin_to_full():
    loss = WaveLoss(WaveLossConfig(weight=2.0, begin=10, full=13), SURVEY, BOUNDS)
    assert [float(loss.weight(step)) for step in (0, 9, 10, 11, 12, 13, 99)] == [0, 0, 0.5, 1, 1.5, 2, 2]
    assert float(WaveLoss(WAVE, SURVEY, BOUNDS).weight(0)) == 1
    with pytest.raises(UserError, match=r"loss\.wave\.rows"):
        WaveLossConfig(rows=0)
    with pytest.raises(UserError, match=r"spacing|grid"):
        WaveLoss(WAVE, replace(SURVEY, grid=Grid(8, 8, 60.0)), BOUNDS)


def one_step(config: Config, batch):
    optimizer = make_optimizer(config.optim, config.steps)
    state = init_state(config.groups, SURVEY, optimizer, jax.random.key(0))
    step = make_step(config, graphdefs(config.groups, SURVEY), optimizer, SURVEY)
    state, metrics = step(state, batch)
    return jax.tree.map(np.asarray, (state.params, metrics))


def test_labels_count_only_where_they_are(observed):
    model = replace(LIGHT.groups[0].model, dropout=0.0)
    config = replace(
        LIGHT,
        groups=(replace(LIGHT.groups[0], model=model),),
        augment=AugmentConfig.off(),
        loss=LossConfig(wave=WAVE),
    )
    velocity = arrays(2)[1]
    mask = np.asarray([1.0, 0.0], np.float32)
    batch = {"gathers": observed, "velocity": velocity, "labelled": mask}
    params, metrics = one_step(config, batch)
    wrong = {**batch, "velocity": np.stack([velocity[0], np.full((8, 8), 4321.0, np.float32)])}
    for one, other in zip(jax.tree.leaves((params, metrics)), jax.tree.leaves(one_step(config, wrong))):
        np.testing.assert_array_equal(one, other)
    twice = {"gathers": observed[[0, 0]], "velocity": velocity[[0, 0]], "labelled": np.ones(2, np.float32)}
    expected = one_step(config, twice)[1]
    np.testing.assert_allclose(metrics["mape"], expected["mape"], rtol=1e-5)
    assert abs(metrics["wave"] - expected["wave"]) > 1e-3, "the misfit is of both rows"
    np.testing.assert_allclose(metrics["loss"], metrics["wave"] + supervised(config.loss, metrics), rtol=1e-5)
    _, none = one_step(config, {**batch, "labelled": np.zeros(2, np.float32)})
    np.testing.assert_allclose(none["loss"], none["wave"], rtol=1e-6)


def supervised(loss, metrics):
    return sum(getattr(loss, name) * metrics[name] for name in ("mape", "l2", "gradient", "physics"))


def test_a_mirrored_row_is_compared_as_it_was_recorded():
    velocity = np.full((2, 8, 8), 1600.0, np.float32)
    velocity[:, :, 5:] = 4000.0  # another model from behind
    observed = np.array(propagate(velocity, SURVEY, max_velocity=4500.0))
    model = replace(LIGHT.groups[0].model, dropout=0.0)
    config = replace(LIGHT, groups=(replace(LIGHT.groups[0], model=model),), loss=ALONE)
    batch = {"gathers": observed, "velocity": velocity}
    # The tiny survey is its own mirror image: the network sees one model and its reflection.
    seen = [
        one_step(replace(config, augment=replace(AugmentConfig.off(), mirror=m)), b)
        for m, b in (
            (1.0, batch),
            (0.0, {**batch, "gathers": np.ascontiguousarray(observed[:, ::-1, :, ::-1])}),
        )
    ]
    np.testing.assert_allclose(seen[0][1]["wave"], seen[1][1]["wave"], rtol=1e-4)


ON_A_MESH = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from training_support import SURVEY, arrays, quick_compilation
from seisvel_jax.models.ensemble import over_members
from seisvel_jax.training.config import WaveLossConfig
from seisvel_jax.training.mesh import over_data
from seisvel_jax.training.wave_loss import WaveLoss

gathers, velocity = arrays(4)
members = jnp.asarray([0.0, 40.0])
found = []
with quick_compilation():
    for shape in ((1, 1), (4, 1), (2, 2)):
        mesh = Mesh(np.asarray(jax.devices()[: shape[0] * shape[1]]).reshape(shape), ("data", "member"))
        loss = WaveLoss(WaveLossConfig(weight=1.0, rows=1, shots=1), SURVEY, (1500.0, 4500.0), mesh)

        def misfits(velocity, gathers, loss=loss, mesh=mesh):
            shots = jnp.zeros(1, jnp.int32)
            one = lambda more: jax.value_and_grad(lambda v: loss(v + more, gathers, shots).sum())(velocity)
            return over_members(one, mesh)(members)

        rows = over_data(mesh)
        program = jax.jit(misfits, in_shardings=(rows, rows)).lower(velocity, gathers).compile()
        text = program.as_text()
        assert "all-gather" not in text, (shape, "a device simulates rows of another")
        values = program(jax.device_put(velocity, rows), jax.device_put(gathers, rows))
        found.append([np.asarray(part) for part in values])
for other in found[1:]:
    for one, two in zip(found[0], other):
        assert np.isfinite(two).all() and abs(one).max() > 0
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6 * abs(one).max())
"""


def test_every_device_simulates_its_own_rows():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", ON_A_MESH], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_training_without_labels_lowers_the_misfit(tmp_path):
    velocity = arrays(6)[1]
    gathers = np.array(propagate(velocity, SURVEY, max_velocity=4500.0))
    gathers[:, :, -1] = 0
    write_openfwi(tmp_path / "data", 1, gathers, velocity)
    for path in (tmp_path / "data").rglob("model*.npy"):
        path.unlink()
    write_survey(tmp_path / "data", SURVEY)
    model = replace(LIGHT.groups[0].model, dropout=0.0, amplitude=float(gathers.std()))
    config = replace(
        LIGHT,
        groups=(replace(LIGHT.groups[0], model=model),),
        data=DataConfig(str(tmp_path / "data"), read_threads=1),
        augment=AugmentConfig.off(),
        loss=ALONE,
        steps=40,
        eval_every=40,
        ema_decay=0.5,
    )
    assert open_source(config, one_device()).training == 6
    assert train(config, tmp_path / "run") == {"step": 40}
    misfits = [record["wave"][0] for record in read_records(tmp_path / "run" / "metrics.jsonl")]
    assert np.mean(misfits[-6:]) < 0.8 * np.mean(misfits[:6])
    with pytest.raises(UserError, match="without velocity models"):
        open_source(change(config, loss__wave=WaveLossConfig()), one_device())

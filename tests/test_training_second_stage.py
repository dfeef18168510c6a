"""The second stage: corrects a frozen first one from the residual of its simulated gathers; the same in predict."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from training_support import LIGHT, SURVEY, arrays, quick_compilation

from seisvel_jax.config import from_dict, to_dict
from seisvel_jax.data.writers import write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.inference.pretrained import load
from seisvel_jax.models.config import GroupConfig
from seisvel_jax.models.velocity_net import VelocityNet, blended, corrected, native, windows
from seisvel_jax.survey import Grid
from seisvel_jax.train import train
from seisvel_jax.training.config import AugmentConfig, FirstStageConfig
from seisvel_jax.training.mesh import one_device
from seisvel_jax.training.source import open_source
from seisvel_jax.wave.propagate import propagate

MODEL = replace(LIGHT.groups[0].model, dropout=0.0, amplitude=0.1)
SECOND = replace(MODEL, second_stage=True)


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    with quick_compilation(tmp_path_factory.mktemp("xla")):
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A first stage of two members, and a second stage trained upon it."""
    folder = tmp_path_factory.mktemp("stages")
    velocity = arrays(8)[1]
    gathers = np.array(propagate(velocity, SURVEY, max_velocity=4500.0))
    gathers[:, :, -1] = 0
    for index in range(4):
        write_openfwi(folder / "data", index + 1, gathers[2 * index :][:2], velocity[2 * index :][:2])
    write_survey(folder / "data", SURVEY)
    data = replace(LIGHT.data, path=str(folder / "data"), validation_fraction=0.5)
    first = replace(LIGHT, data=data, groups=(GroupConfig(MODEL, members=2),), augment=AugmentConfig.off())
    first = replace(first, steps=4, eval_every=4)
    train(first, folder / "first")
    second = replace(
        first,
        groups=(GroupConfig(SECOND), GroupConfig(MODEL)),
        first_stage=FirstStageConfig(str(folder / "first")),
        augment=replace(AugmentConfig.off(), mirror=0.5),
    )
    return folder, gathers, second, train(second, folder / "second")


def test_at_first_nothing_is_corrected_and_then_something_is(runs):
    folder, gathers, second, result = runs
    first = load(folder / "first").predict(gathers)
    at_zero = load(folder / "second" / "checkpoints" / "0").predict_members(gathers)
    np.testing.assert_allclose(at_zero[0], first, rtol=1e-5)
    trained = load(folder / "second" / "checkpoints" / "4").predict_members(gathers)
    assert np.abs(trained[0] - first).mean() > 0.5
    # The same numbers by hand: first stage, simulation, second stage; and in the validation of training.
    batch = next(open_source(second, one_device()).from_step(0))
    answer = load(folder / "first").predict(np.asarray(batch["gathers"]))
    np.testing.assert_allclose(batch["first"]["velocity"], answer, rtol=1e-5)
    simulated = np.array(propagate(answer, SURVEY, max_velocity=4500.0))
    simulated[:, :, -1] = 0
    np.testing.assert_allclose(batch["first"]["gathers"], simulated, atol=1e-4 * np.abs(simulated).max())
    source = open_source(second, one_device())
    truth = np.stack([source.samples.velocity(i) for i in source.held_out])
    held = np.stack([source.samples.gathers(i) for i in source.held_out])
    members = load(folder / "second" / "checkpoints" / "4").predict_members(held)
    mape = (np.abs(members - truth) / truth).mean((1, 2, 3))
    np.testing.assert_allclose(result["mape_members"], mape, rtol=1e-4)


def test_a_continued_run_wants_the_same_first_stage(runs, tmp_path):
    folder, _, second, result = runs
    assert train(second, folder / "second") == result
    saved = load_config(folder / "second")
    assert len(saved.first_stage.digest) == 16 and from_dict(to_dict(saved)) == saved
    wrong = replace(second, first_stage=FirstStageConfig(str(folder / "first"), digest="0" * 16))
    with pytest.raises(UserError, match="expected 0000"):
        train(wrong, tmp_path / "run")
    other = replace(second, first_stage=FirstStageConfig(str(folder / "first" / "checkpoints" / "0")))
    if load_config(folder / "second").first_stage.digest != digest(other):
        with pytest.raises(UserError, match=r"first_stage\.digest"):
            train(other, folder / "second")


def load_config(run):
    from seisvel_jax.training.checkpoint import load_run

    return load_run(run).config


def digest(config):
    from seisvel_jax.training.first_stage import resolved

    return resolved(config).first_stage.digest


def test_mistakes_are_named(runs, tmp_path):
    folder, _, second, _ = runs
    for broken, words in (
        (replace(second, first_stage=None), "first_stage is missing"),
        (replace(second, groups=(GroupConfig(MODEL),)), "0 groups have second_stage"),
        (replace(second, first_stage=FirstStageConfig(str(folder / "second"))), "itself a second stage"),
        (replace(second, first_stage=FirstStageConfig(str(tmp_path / "absent"))), "absent"),
    ):
        with pytest.raises(UserError, match=words):
            train(broken, tmp_path / "run")


def test_a_query_sees_the_very_window_it_predicts():
    """`windows` is undone by `blended`, on a grid that the patches overhang, and at another spacing."""
    model = replace(MODEL, patch_shape=(4, 6), spacing=20.0)
    survey = replace(SURVEY, grid=Grid(23, 31, 10.0))
    field = np.random.default_rng(0).uniform(1500, 4500, (2, 23, 31)).astype(np.float32)
    pixels = native(jax.numpy.asarray(field), model, survey)
    np.testing.assert_array_equal(pixels[:, :12, :16], field[:, ::2, ::2])
    patches = windows(pixels, (4, 6), (3, 3))
    again = blended(patches.reshape(2, 3, 3, 8, 12))
    np.testing.assert_allclose(again[:, : pixels.shape[1], : pixels.shape[2]], pixels, rtol=1e-5)
    assert float(corrected(field, 0 * field, model).min()) == field.min()
    with pytest.raises(UserError, match="answer is missing"):
        jax.eval_shape(
            lambda key, g: VelocityNet(SECOND, rngs=nnx.Rngs(key))(g, SURVEY),
            jax.random.key(0),
            np.zeros((1, *SURVEY.gather_shape), np.float32),
        )

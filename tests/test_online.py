"""Online data: a pure function of seed, stream, step and row; resuming is exact; mixing, meshes and mistakes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from training_support import LIGHT, SURVEY, quick_compilation, write_data

from seisvel_jax.config import replace as change
from seisvel_jax.data.online import OnlineConfig, Simulated
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Boundary, openfwi
from seisvel_jax.train import train
from seisvel_jax.training.checkpoint import Checkpoints, read_metadata, step_folders
from seisvel_jax.training.dry_run import dry_run
from seisvel_jax.training.mesh import one_device
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.records import read_records
from seisvel_jax.training.source import open_source
from seisvel_jax.training.state import abstract_state
from seisvel_jax.wave.propagate import propagate

TESTS = Path(__file__).resolve().parent
ONLINE = OnlineConfig(family="flatvel-a")


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xla")
    with quick_compilation(folder):
        yield folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("survey") / "tiny.json"
    path.write_text(json.dumps(SURVEY.to_dict()))
    return change(LIGHT, data__online=replace(ONLINE, survey=str(path)))


def test_rows_depend_on_seed_stream_step_and_row_alone():
    simulated = Simulated(ONLINE, SURVEY, 3, one_device())
    batch = jax.tree.map(np.asarray, simulated("training", 5, 2))
    again = Simulated(ONLINE, SURVEY, 3, one_device())("training", 5, 2)
    more = simulated("training", 5, 3)
    for what in ("gathers", "velocity"):
        np.testing.assert_array_equal(batch[what], again[what])
        np.testing.assert_array_equal(batch[what], more[what][:2], err_msg="a row knows nothing of the others")
    others = [
        simulated("validation", 5, 2),
        simulated("training", 6, 2),
        Simulated(ONLINE, SURVEY, 4, one_device())("training", 5, 2),
    ]
    models = np.concatenate([batch["velocity"], *(np.asarray(other["velocity"]) for other in others)])
    assert len(np.unique(models.reshape(len(models), -1), axis=0)) == len(models) == 8
    expected = np.array(propagate(batch["velocity"], SURVEY, max_velocity=4500.0))
    expected[:, :, -1] = 0  # as OpenFWI's files have it
    np.testing.assert_allclose(batch["gathers"], expected, atol=1e-5 * np.abs(expected).max())


def test_sponges_take_turns_and_the_fixed_set_is_fixed():
    survey = replace(SURVEY, boundary=Boundary("devito", 40.0, (70.0, 70.0)))
    simulated = Simulated(replace(ONLINE, sponge_widths=(40.0, 60.0)), survey, 0, one_device())
    fixed = simulated.samples("validation", 3, 2)
    assert len(fixed) == 3 and fixed.names[2] == "validation_000002"
    for index, width in ((0, 40.0), (2, 60.0)):
        own = replace(survey, boundary=replace(survey.boundary, width=width))
        expected = propagate(fixed.velocity(index)[None], own, max_velocity=4500.0)
        np.testing.assert_allclose(
            fixed.gathers(index)[:, :-1], expected[0, :, :-1], atol=1e-5 * np.abs(expected).max()
        )


def test_a_matched_layer_takes_the_place_of_the_sponge_and_the_scheme_stays():
    """OpenFWI's sponge of 1200 m against a layer of 100 m: the same gathers but for the sponge's own faint echo."""
    survey = openfwi()
    quick = Simulated(OnlineConfig(family="curvefault-b", pml=100.0), survey, 0, one_device())
    assert "a 100 m layer for its sponge" in quick.words
    batch = jax.tree.map(np.asarray, quick("training", 0, 1))
    expected = np.array(propagate(batch["velocity"], survey, max_velocity=4500.0))
    expected[:, :, -1] = 0
    # Solved at order 8 and without the leapfrog's dispersion, as ground and not as OpenFWI's, it would be 0.027.
    assert np.linalg.norm(batch["gathers"] - expected) < 0.01 * np.linalg.norm(expected)


def test_every_so_many_th_step_keeps_the_sponge():
    def drawn(**options):
        return Simulated(replace(ONLINE, **options), SURVEY, 0, one_device())

    mixed, layer, sponge = drawn(pml=50.0, sponge_every=3), drawn(pml=50.0), drawn()
    assert mixed.turns == {0: pytest.approx(2 / 3), 2: pytest.approx(1 / 3)} and layer.turns == {0: 1.0}
    assert "a 50 m layer for its sponge in 2 of 3 steps" in mixed.words
    for step, alike, other in ((0, layer, sponge), (1, layer, sponge), (2, sponge, layer), (3, layer, sponge)):
        gathers, same, not_same = (np.asarray(one("training", step, 1)["gathers"]) for one in (mixed, alike, other))
        np.testing.assert_array_equal(gathers, same)
        assert np.abs(gathers - not_same).max() > 1e-4 * np.abs(gathers).max()
    assert drawn(pml=50.0, sponge_every=1).words == sponge.words


def test_a_run_is_validated_behind_the_sponge_whatever_it_is_trained_behind(config):
    behind_a_layer = replace(config.data.online, pml=50.0)
    without = open_source(config, one_device())
    for online in (behind_a_layer, replace(behind_a_layer, pool=2)):
        source = open_source(change(config, data__online=online), one_device())
        for index in map(int, without.held_out):
            np.testing.assert_array_equal(source.samples.gathers(index), without.samples.gathers(index))


def state_of(run, config):
    optimizer = make_optimizer(config.optim, config.steps)
    folder = step_folders(run)[-1]
    found, _ = Checkpoints(run).resume(abstract_state(config.groups, SURVEY, optimizer), read_metadata(folder))
    return jax.tree.map(np.asarray, found)


def comparable(run):
    return [{k: v for k, v in record.items() if k != "time"} for record in read_records(run / "metrics.jsonl")]


def killed_and_resumed(config, run):
    calls = []

    def die():
        calls.append(1)
        if len(calls) == 2:  # after the checkpoint of step 2
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        train(config, run, on_commit=die)
    assert step_folders(run)[-1].name == "2"
    return train(config, run)


def test_killed_and_resumed_is_the_straight_run(config, tmp_path, capsys):
    result = train(config, tmp_path / "straight")
    assert "2 of 2 samples a step: flatvel-a" in capsys.readouterr().err
    assert killed_and_resumed(config, tmp_path / "killed") == result
    one, other = (state_of(tmp_path / name, config) for name in ("straight", "killed"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert comparable(tmp_path / "straight") == comparable(tmp_path / "killed")
    losses = [record["loss"] for record in comparable(tmp_path / "straight") if record["kind"] == "train"]
    assert len(losses) == len(np.unique(losses)) == 6


def test_mixed_with_data_on_disk(config, tmp_path):
    data = write_data(tmp_path / "data", count=8)
    mixed = change(config, data__path=str(data), data__online=replace(ONLINE, share=0.5))
    source = open_source(mixed, one_device())
    assert (source.training, source.validation) == (6, 2)
    batch = next(source.from_step(4))
    assert batch["gathers"].shape == (2, *SURVEY.gather_shape)
    drawn = Simulated(ONLINE, SURVEY, mixed.data.seed, one_device())("training", 4, 1)
    np.testing.assert_array_equal(batch["velocity"][:1], drawn["velocity"])
    stored = np.stack([source.samples.velocity(index) for index in range(8)])
    assert (np.asarray(batch["velocity"][1]) == stored).all((1, 2)).any()
    stream = source.from_step(0)
    jumped = [next(stream) for _ in range(5)][4]
    jax.tree.map(np.testing.assert_array_equal, batch, jumped)
    # All rows online: whatever is stored validates.
    source = open_source(change(mixed, data__online=ONLINE), one_device())
    assert (source.training, source.validation, len(source.held_out)) == (0, 8, 3)


def test_mistakes_are_named(config, tmp_path):
    data = write_data(tmp_path / "data", count=8)
    for broken, words in (
        (change(config, data__online=ONLINE), "--data.online.survey ''"),
        (change(config, data__path=str(data)), "leave one of them out"),
        (change(config, data__online=replace(config.data.online, share=0.5)), "--data.path"),
        (change(config, data__online=replace(config.data.online, family="flatvel-z")), "flatvel-z"),
        (change(config, data__online=replace(config.data.online, sponge_widths=(300.0,))), "sponge"),
    ):
        with pytest.raises(UserError, match=words):
            open_source(broken, one_device())
    for values in (
        {"share": 0.0},
        {"sponge_widths": (-1.0,)},
        {"pml": -1.0},
        {"pml": 90.0, "sponge_widths": (90.0,)},
        {"sponge_every": 4},
        {"pml": 90.0, "sponge_every": -1},
    ):
        with pytest.raises(UserError, match=r"data\.online"):
            OnlineConfig(**values)


def test_dry_run_times_the_simulation(config, capsys):
    result = dry_run(config)
    assert result["online_samples_a_second"] > 0
    assert "drawn and simulated, measured: flatvel-a" in capsys.readouterr().err


FOUR = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from training_support import LIGHT, SURVEY
from seisvel_jax.data.online import OnlineConfig, Simulated
from seisvel_jax.training.mesh import _mesh, one_device
found = {}
for data, member in ((1, 1), (2, 2), (4, 1)):
    mesh = _mesh(np.asarray(jax.devices()[: data * member]).reshape(data, member))
    batch = Simulated(OnlineConfig(family="flatvel-a"), SURVEY, 3, mesh)("training", 5, 4)
    assert batch["gathers"].sharding.shard_shape(batch["gathers"].shape)[0] == 4 // data
    found |= {f"{what}{data}{member}": np.asarray(batch[what]) for what in batch}
np.savez(sys.argv[1], **found)
"""


@pytest.mark.slow
def test_the_same_numbers_on_any_mesh(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    line = [sys.executable, "-c", FOUR, str(tmp_path / "found.npz")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        for what in ("gathers", "velocity"):
            for mesh in ("22", "41"):
                np.testing.assert_array_equal(found[what + "11"], found[what + mesh])

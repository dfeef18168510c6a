"""Training a diffusion model: resuming is exact, runs are told apart, labels are right, mistakes are one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import jax
import numpy as np
import pytest
from training_support import CONFIG, MODEL, SURVEY, arrays, write_data

from seisvel_jax import train_diffusion as module
from seisvel_jax.config import DiffusionConfig, from_dict, load_config_file, to_dict
from seisvel_jax.config import replace as change
from seisvel_jax.data.labels import stored_families
from seisvel_jax.data.online import OnlineConfig
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.data.writers import write_survey
from seisvel_jax.diffusion.condition import SOURCES
from seisvel_jax.diffusion.config import ConditionConfig, DenoiserConfig
from seisvel_jax.earth.families import random_model
from seisvel_jax.errors import UserError
from seisvel_jax.inference.diffusion_validation import make_judge
from seisvel_jax.train import train
from seisvel_jax.train_diffusion import train_diffusion
from seisvel_jax.training.checkpoint import step_folders
from seisvel_jax.training.config import AugmentConfig, OptimConfig
from seisvel_jax.training.mesh import one_device
from seisvel_jax.training.records import read_records
from seisvel_jax.training.runs import load_diffusion, load_run
from seisvel_jax.training.signals import Interrupted
from seisvel_jax.training.source import open_source
from seisvel_jax.training.state import abstract_params

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("programs")

DIFFUSION = DiffusionConfig(
    name="tiny",
    denoiser=DenoiserConfig(
        replace(MODEL, encoder_layers=0, dropout=0.0),
        layers=1,
        channels=4,
        patch_shape=(4, 4),
        families=("flatvel-a", "curvefault-b"),
    ),
    condition=ConditionConfig(wells=2, blur=(10.0, 40.0)),
    data=DataConfig(split_by="none", validation_fraction=0.25, read_threads=1),
    optim=OptimConfig(learning_rate=5e-3, warmup_steps=2),
    augment=replace(AugmentConfig.off(), mirror=0.5),
    batch_size=4,
    steps=30,
    eval_every=10,
    log_every=5,
    ema_decay=0.9,
    validation_samples=3,
    validation_draws=4,
    validation_steps=3,
    figures=0,
    tensorboard=False,
)


@pytest.fixture(scope="module")
def config(data):
    return change(DIFFUSION, data__path=str(data))


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion")
    return folder, train_diffusion(config, folder)


def comparable(folder):
    return [{k: v for k, v in record.items() if k != "time"} for record in read_records(folder / "metrics.jsonl")]


def assert_same_run(one, other):
    """The same bits at the end, and the same numbers on the way."""
    loaded = [load_diffusion(step_folders(folder)[-1]) for folder in (one, other)]
    jax.tree.map(np.testing.assert_array_equal, loaded[0].params, loaded[1].params)
    assert loaded[0].metrics == loaded[1].metrics and loaded[0].step == loaded[1].step
    assert comparable(one) == comparable(other)


def test_a_run_learns_and_leaves_what_it_promises(run, config):
    folder, result = run
    records = comparable(folder)
    assert [r["step"] for r in records if r["kind"] == "train"] == [5, 10, 15, 20, 25, 30]
    judged = [r for r in records if r["kind"] == "validation"]
    assert [r["step"] for r in judged] == [0, 10, 20, 30]
    assert judged[-1]["loss"][0] < 0.8 * judged[0]["loss"][0]
    assert result["step"] == 30 and result["crps"] == judged[-1]["crps"]
    loaded = load_diffusion(folder)
    assert loaded.config == config and loaded.survey.gather_shape == SURVEY.gather_shape
    assert all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(loaded.params))
    best = min(judged[1:], key=lambda r: r["crps"])  # of those that were kept: the latest two and the best
    assert loaded.metrics["crps"] == min(best["crps"], judged[0]["crps"])
    assert loaded.temperature("gathers") == loaded.metrics["temperature"] > 0


def test_every_member_is_validated_with_noise_of_its_own(config):
    """Two members of the same parameters: their samples are drawn apart, as `sample` draws them, and no copies."""
    two = replace(config, members=2, validation_steps=1, validation_draws=2, batch_size=1)
    graphdef = abstract_params(two.groups, SURVEY)[0][0]
    params = abstract_params(two.groups, SURVEY)[1][0]
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, np.float32), params)
    judge = make_judge(two, graphdef, SURVEY, one_device())
    gathers, velocity = arrays(1)
    batch = {"gathers": gathers, "velocity": velocity, "family": np.zeros(1, np.int32)}
    loss, drawn = judge(params, batch, 0, np.asarray([1.0, 0.0, 0.0, 0.0], np.float32))
    assert drawn.shape == (2, 2, 1, 8, 8) and loss[0] == loss[1]
    assert np.abs(drawn[0] - drawn[1]).mean() > 1


def test_the_last_step_has_a_temperature_of_every_subset(run, config):
    last, before = (load_diffusion(folder) for folder in step_folders(run[0])[:-3:-1])
    names = {
        " + ".join(some) for count in range(1, 4) for some in combinations(("gathers", "wells", "background"), count)
    }
    assert set(last.temperatures) == {"nothing", *names} and len(set(last.temperatures.values())) == 8
    assert set(before.temperatures) == {"gathers"}
    assert last.temperature("family", "wells", "gathers") == last.temperatures["gathers + wells"]
    assert before.temperature("wells") == before.temperatures["gathers"]
    assert last.temperature("family") == last.temperatures["nothing"]


def test_samples_are_judged_given_what_is_told(config):
    """Gathers, wells and background are heard where they are told and only there, the family by every other model."""
    told = replace(config, validation_steps=1, validation_draws=2, batch_size=2)
    (graphdef,), (params,) = abstract_params(told.groups, SURVEY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (0.2 * rng.normal(size=leaf.shape)).astype(np.float32), params)
    judge = make_judge(told, graphdef, SURVEY, one_device())
    gathers, velocity = arrays(2)
    batch = {"gathers": gathers, "velocity": velocity, "family": np.ones(2, np.int32)}

    def drawn(changes, *given):
        given = np.asarray([float(source in given) for source in SOURCES], np.float32)
        return np.asarray(judge(params, {**batch, **changes}, 0, given)[1])

    for source, changes in (
        ("gathers", {"gathers": 2 * gathers}),
        ("wells", {"velocity": velocity + 100}),
        ("background", {"velocity": velocity + 100}),
    ):
        np.testing.assert_array_equal(drawn({}), drawn(changes))
        assert (drawn({}, source) != drawn(changes, source)).any(axis=(0, 1, 3, 4)).all()
    different = (drawn({}, "family") != drawn({"family": np.full(2, 2, np.int32)}, "family")).any(axis=(0, 1, 3, 4))
    np.testing.assert_array_equal(different, [False, True])


def test_killed_and_resumed_is_the_straight_run(run, config, tmp_path):
    calls = []

    def die():
        calls.append(1)
        if len(calls) == 2:  # after the checkpoint of step 10
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        train_diffusion(config, tmp_path, on_commit=die)
    with open(tmp_path / "metrics.jsonl", "a") as file:  # what a run killed later would have left behind
        file.write(json.dumps({"kind": "train", "step": 15, "loss": [9.0]}) + '\n{"kind": "tra')
    assert train_diffusion(config, tmp_path) == run[1]
    assert_same_run(run[0], tmp_path)


@pytest.mark.slow
def test_a_signal_saves_and_going_on_is_exact(run, config, tmp_path, monkeypatch):
    log = module.log_step

    def interrupt(records, pending, *rest, **named):
        if pending[0] == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return log(records, pending, *rest, **named)

    monkeypatch.setattr(module, "log_step", interrupt)
    with pytest.raises(Interrupted) as stopped:
        train_diffusion(config, tmp_path)
    monkeypatch.undo()
    assert stopped.value.exit_code == 143
    assert step_folders(tmp_path)[-1].name == "14"
    train_diffusion(config, tmp_path)
    assert_same_run(run[0], tmp_path)


def test_runs_are_told_apart_and_mistakes_are_one_line(run, config, data, tmp_path, capsys):
    folder = run[0]
    with pytest.raises(UserError, match=r"holds a diffusion model, .*python -m seisvel_jax\.sample"):
        load_run(folder)
    with pytest.raises(UserError, match=r"holds a diffusion model, .*seisvel_jax\.train_diffusion"):
        train(change(CONFIG, data__path=str(data)), folder)
    (tmp_path / "c.py").write_text("from training_support import CONFIG as config\n")
    with pytest.raises(UserError, match=r"c\.py: an ensemble's config: give it to python -m seisvel_jax\.train"):
        load_config_file(tmp_path / "c.py", DiffusionConfig)
    with pytest.raises(UserError, match=r"config\.json: a diffusion model's config: .*seisvel_jax\.train_diffusion"):
        load_config_file(folder / "config.json")
    assert load_config_file(folder / "config.json", DiffusionConfig) == config
    assert from_dict(to_dict(config), kind=DiffusionConfig) == config
    shutil.copytree(folder, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / str(load_diffusion(folder).step)
    (best / "ema" / "more").write_text("x")
    assert load_diffusion(tmp_path / "run").step != int(best.name)
    assert "ema/more is not of it" in capsys.readouterr().err
    for broken, words in (
        (replace(config, seed=1), "seed: 0 -> 1"),
        (replace(config, process="flow"), "process: edm -> flow"),
        (replace(config, steps=40), "steps: 30 -> 40"),
        (replace(config, batch_size=100), "--batch-size 100"),
        (change(config, data__dt=8e-3), r"--data\.dt|--denoiser\.encoder\.dt"),
    ):
        with pytest.raises(UserError, match=words):
            train_diffusion(broken, folder)
    for values in (
        {"members": 0},
        {"ema_decay": 1.0},
        {"validation_draws": 1},
        {"log_levels": (0.0, 0.0)},
        {"data": DataConfig(skip_bad=True)},
    ):
        with pytest.raises(UserError, match="config: "):
            DiffusionConfig("wrong", **values)


@pytest.mark.slow
def test_not_finite_stops_with_the_samples_and_is_not_saved(config, tmp_path):
    broken = change(config, optim__learning_rate=1e30, optim__warmup_steps=0)
    with pytest.raises(
        UserError, match=r"step \d+: the loss or gradient of denoiser/0 is not finite.*Its samples: data"
    ):
        train_diffusion(replace(broken, eval_every=100), tmp_path)
    assert [p.name for p in step_folders(tmp_path)] == ["0"]


def online(tmp_path, **values):
    """Two families in turn, of which the network knows one, as its second label."""
    own = OnlineConfig(survey=str(write_survey(tmp_path, SURVEY)), family="curvefault-b, flatvel-a", **values)
    labels = replace(DIFFUSION.denoiser, families=("style-a", "flatvel-a"))
    return change(DIFFUSION, data__online=own, denoiser=labels)


def test_families_take_turns_and_every_row_knows_its_own(tmp_path):
    config = online(tmp_path)
    source = open_source(config, one_device())
    assert source.families.tolist() == [0, 2, 0]
    batch = next(source.from_step(5))
    # Row r of step 5 is of family (r + 5) % 2.
    assert np.asarray(batch["family"]).tolist() == [2, 0, 2, 0]
    drawn = jax.jit(random_model, static_argnums=(0, 2))
    for row, family in ((0, "flatvel-a"), (1, "curvefault-b")):  # a row is what it is where its family is the only one
        key = jax.random.key(0)
        for part in (zlib.crc32(b"training"), 5, row):
            key = jax.random.fold_in(key, np.uint32(part))
        np.testing.assert_allclose(batch["velocity"][row], drawn(family, key, SURVEY.grid), rtol=1e-5)
    with pytest.raises(UserError, match="marble"):
        open_source(change(config, data__online=replace(config.data.online, family="flatvel-a,marble")), one_device())
    with pytest.raises(UserError, match=r"--data\.dt 0\.006: OpenFWI's gathers drawn at every step"):
        open_source(change(config, data__dt=6e-3), one_device())


def test_a_pool_is_drawn_once_kept_and_mended(tmp_path, capsys):
    config = online(tmp_path, pool=8)
    source = open_source(config, one_device(), tmp_path / "pool")
    assert (source.training, source.validation) == (8, 3)
    first = next(source.from_step(2))
    capsys.readouterr()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "pool").iterdir()}
    again = next(open_source(config, one_device(), tmp_path / "pool").from_step(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "pool").iterdir()} == before
    stored = [np.load(tmp_path / "pool" / f"{name}.npy") for name in ("velocity", "family")]
    for velocity, family in zip(np.asarray(first["velocity"]), np.asarray(first["family"])):
        (row,) = np.flatnonzero((stored[0] == velocity).all((1, 2)))
        assert stored[1][row] == family == [0, 2][(row // 4 + row % 4) % 2]
    np.save(tmp_path / "pool" / "family.npy", 0 * stored[1])
    mended = next(open_source(config, one_device(), tmp_path / "pool").from_step(2))
    assert "family.npy: damaged or missing: the samples are drawn again" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, first, mended)
    with pytest.raises(UserError, match="pool 8"):
        open_source(change(config, data__path="DATA"), one_device())
    with pytest.raises(UserError, match=r"pool 8 with share 0\.5"):
        OnlineConfig(pool=8, share=0.5)


def test_labels_of_stored_samples(tmp_path):
    class Named:
        names = ("curvefault-b-1_000003", "data1_0", "plain", "flatvel-a-curvefault-b")

        def __len__(self):
            return 4

        def origin(self, index):
            return Path("DATA/FlatVel_A/data1.npy") if index == 1 else Path("DATA")

    assert stored_families(Named(), ("flatvel-a", "curvefault-b")).tolist() == [2, 1, 0, 0]
    folder = write_data(tmp_path / "FlatVel_A", count=8)
    source = open_source(change(DIFFUSION, data__path=str(folder)), one_device())
    assert np.asarray(next(source.from_step(0))["family"]).tolist() == [1] * 4
    assert source.families.tolist() == [1, 1] and len(arrays(1)) == 2


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--help"], "--workdir RUN", 0),
        (["absent.py"], "absent.py: no such config", 2),
        ([str(ROOT / "configs/demo.py"), "--workdir", "x"], "an ensemble's config: give it to python -m", 2),
        ([str(ROOT / "configs/diffusion_demo.py"), "--help"], "--condition.drop-gathers", 0),
    ],
)
def test_first_words(words, said, code):
    line = [sys.executable, "-m", "seisvel_jax.train_diffusion", *words]
    done = subprocess.run(line, capture_output=True, check=False, text=True)
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.returncode == code

"""The train command: resuming is exact, signals save, mistakes are one line."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_support import CONFIG, assert_same_state, quick_environment

from seisvel_jax.config import replace as change
from seisvel_jax.errors import UserError
from seisvel_jax.train import _warn_of_amplitudes, train
from seisvel_jax.training.checkpoint import load_run, step_folders
from seisvel_jax.training.records import read_records
from seisvel_jax.training.signals import Interrupted

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("programs")


def comparable(run):
    return [{k: v for k, v in record.items() if k != "time"} for record in read_records(run / "metrics.jsonl")]


def assert_same_run(one, other):
    assert_same_state(one, other)
    assert comparable(one) == comparable(other)


def test_a_run_leaves_what_it_promises(straight):
    run, result = straight
    assert result["step"] == 6 and 0 < result["mape"] < 1
    assert json.loads((run / "config.json").read_text())["config"]["name"] == "tiny"
    records = comparable(run)
    assert [r["step"] for r in records if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if r["kind"] == "validation"] == [0, 2, 4, 6]
    assert all(len(r["loss"]) == 2 for r in records if r["kind"] == "train")
    loaded = load_run(run)
    assert loaded.weights.sum() == pytest.approx(1) and loaded.metrics["mape"] <= records[-1]["mape"]


def test_killed_and_resumed_is_the_straight_run(straight, data, tmp_path):
    """Killed in the middle of an interval, after steps that no checkpoint knows of."""
    calls = []

    def die():
        calls.append(1)
        if len(calls) == 3:  # after the checkpoint of step 4
            raise RuntimeError("killed")

    config = change(CONFIG, data__path=str(data))
    with pytest.raises(RuntimeError):
        train(config, tmp_path, on_commit=die)
    with open(tmp_path / "metrics.jsonl", "a") as file:  # what a run killed later would have left behind
        file.write(json.dumps({"kind": "train", "step": 5, "loss": [9.0, 9.0]}) + '\n{"kind": "tra')
    train(config, tmp_path)
    assert_same_run(straight.run, tmp_path)


def interrupted(config, run, *, step, by):
    """Train until the signal `by` comes while `step` is written down; the exit code."""
    from seisvel_jax import train as module

    original = module.log_step

    def log(records, pending, *rest, **named):
        if pending[0] == step:
            os.kill(os.getpid(), by)
        return original(records, pending, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "log_step", log)
        with pytest.raises(Interrupted) as stopped:
            train(config, run)
    return stopped.value.exit_code


def test_a_signal_saves_and_going_on_is_exact(straight, data, tmp_path):
    config = change(CONFIG, data__path=str(data))
    assert interrupted(config, tmp_path, step=3, by=signal.SIGTERM) == 143
    assert step_folders(tmp_path)[-1].name == "4"
    train(config, tmp_path)
    assert_same_run(straight.run, tmp_path)


@pytest.mark.slow
def test_a_signal_between_validations_is_saved_without_a_score(data, tmp_path, straight):
    config = change(CONFIG, data__path=str(data))
    assert interrupted(replace(config, eval_every=5), tmp_path, step=2, by=signal.SIGINT) == 130
    assert [p.name for p in step_folders(tmp_path)] == ["0", "3"]
    train(replace(config, eval_every=5), tmp_path)
    assert_same_state(straight.run, tmp_path)


def test_a_finished_run_stays_as_it_is(straight, data):
    run, result = straight
    before = (run / "metrics.jsonl").read_text()
    assert train(change(CONFIG, data__path=str(data)), run) == result
    assert (run / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_not_finite_stops_with_step_and_member_and_is_not_saved(data, tmp_path):
    config = change(CONFIG, data__path=str(data), optim__learning_rate=1e30, optim__warmup_steps=0)
    with pytest.raises(UserError, match=r"velocity_net/[01].*not finite|not finite.*velocity_net/[01]") as error:
        train(replace(config, eval_every=100), tmp_path)
    assert "step" in str(error.value)
    assert [p.name for p in step_folders(tmp_path)] == ["0"]


def test_mistakes_are_user_errors(data, straight, tmp_path):
    config = change(CONFIG, data__path=str(data))
    (tmp_path / "file").write_text("x")
    for broken, run, words in (
        (CONFIG, tmp_path, "--data.path"),
        (change(config, data__path=str(tmp_path / "absent")), tmp_path, "absent"),
        (replace(config, batch_size=100), tmp_path, "--batch-size 100"),
        (config, tmp_path / "file", "file stands"),
        (replace(config, seed=1), straight.run, "seed: 0 -> 1"),
        (change(config, data__dt=8e-3), tmp_path, r"dt|sampled"),
    ):
        with pytest.raises(UserError, match=words):
            train(broken, run)
    assert load_run(straight.run).config.seed == 0


@pytest.mark.slow
def test_without_validation_the_latest_counts(data, tmp_path):
    config = change(CONFIG, data__path=str(data), data__validation_fraction=0.0)
    assert train(replace(config, steps=1), tmp_path) == {"step": 1}
    assert load_run(tmp_path).step == 1


@pytest.mark.slow
def test_training_off_the_main_thread(data, tmp_path):
    found = []
    config = change(CONFIG, data__path=str(data))
    thread = threading.Thread(target=lambda: found.append(train(replace(config, steps=1), tmp_path)))
    thread.start()
    thread.join()
    assert found[0]["step"] == 1


CONFIG_FILE = """
from training_support import CONFIG
from dataclasses import replace
config = replace(CONFIG, tensorboard=True, figures=1)
"""


def command(*words, programs=None):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}"}
    if programs is not None:
        environment |= quick_environment(programs)
    return [sys.executable, "-m", "seisvel_jax.train", *map(str, words)], {"env": environment, "text": True}


def test_command_line(data, tmp_path, programs, straight):
    (tmp_path / "c.py").write_text(CONFIG_FILE)
    words, options = command(
        tmp_path / "c.py",
        "--data.path",
        data,
        "--workdir",
        tmp_path / "run",
        "--steps",
        2,
        "--log-every",
        2,
        programs=programs,
    )
    done = subprocess.run(words, capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 2
    for words in ("device", "members", "parameters", "9 to train on", "3 to validate", "steps", str(tmp_path / "run")):
        assert words in done.stderr
    assert load_run(tmp_path / "run").config.log_every == 2
    assert (tmp_path / "run" / "figures" / "validation_0.png").is_file()
    assert (tmp_path / "run" / "figures" / "history.png").is_file()
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_interrupting_the_command(data, tmp_path, programs, straight):
    (tmp_path / "c.py").write_text(CONFIG_FILE)
    words, options = command(
        tmp_path / "c.py",
        "--data.path",
        data,
        "--workdir",
        tmp_path / "run",
        "--steps",
        900,
        "--eval-every",
        900,
        programs=programs,
    )
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    deadline = time.monotonic() + 120
    records = tmp_path / "run" / "metrics.jsonl"
    while not any(r["kind"] == "train" for r in read_records(records)) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert int(step_folders(tmp_path / "run")[-1].name) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "--workdir RUN"),
        (["absent.py"], "absent.py: no such config"),
        (["--workdir", "x"], "config file first"),
    ],
)
def test_first_words(words, said):
    line, options = command(*words)
    done = subprocess.run(line, capture_output=True, check=False, **options)
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode == 0) == (words == ["--help"])


def test_amplitudes_far_from_the_config_are_named(capsys):
    gathers = np.full((2, 32, 8), 50.0, np.float32)
    _warn_of_amplitudes(CONFIG, gathers)
    assert "root mean square is 50" in capsys.readouterr().err
    _warn_of_amplitudes(CONFIG, gathers / 50)
    assert capsys.readouterr().err == ""

"""Several processes as one over gloo: the same losses as one process; one of them killed; bad environments."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from training_support import LIGHT, quick_environment

from seisvel_jax.config import replace as change
from seisvel_jax.errors import UserError
from seisvel_jax.train import train
from seisvel_jax.training.checkpoint import step_folders
from seisvel_jax.training.distributed import LOST, Agreement, lost_peer, together
from seisvel_jax.training.mesh import one_device
from seisvel_jax.training.records import read_records

ROOT = Path(__file__).resolve().parents[1]
CONFIG_FILE = "from training_support import LIGHT as config\n"


@pytest.fixture(scope="module")
def alone(data, programs, tmp_path_factory):
    """The records of one process that takes the steps of LIGHT."""
    run = tmp_path_factory.mktemp("alone")
    train(change(LIGHT, data__path=str(data)), run)
    return run


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(programs, *words, count=2):
    """`count` processes of the train command, joined over gloo on this machine."""
    port = free_port()
    found = []
    for index in range(count):
        environment = {
            **os.environ,
            **quick_environment(programs),
            "PYTHONPATH": f"{ROOT / 'tests'}",
            "SEISVEL_COORDINATOR": f"127.0.0.1:{port}",
            "SEISVEL_PROCESS_COUNT": str(count),
            "SEISVEL_PROCESS_INDEX": str(index),
        }
        line = [sys.executable, "-m", "seisvel_jax.train", *map(str, words)]
        pipe = subprocess.PIPE
        found.append(subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True))
    return found


def trained(run):
    return {record["step"]: record for record in read_records(run / "metrics.jsonl") if record["kind"] == "train"}


def assert_same_losses(run, other, steps):
    ours, theirs = trained(run), trained(other)
    for step in steps:
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(ours[step][name], theirs[step][name], rtol=1e-5, err_msg=f"{name} {step}")


def wait_until(done, processes, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "took too long"
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.1)


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_two_processes_are_one_and_one_killed_ends_the_other(victim, alone, data, programs, tmp_path):
    """The losses are those of one process; killed, the run ends at once with a clear line; then it goes on exactly."""
    (tmp_path / "c.py").write_text(CONFIG_FILE)
    run = tmp_path / "run"
    words = (tmp_path / "c.py", "--data.path", data, "--workdir", run, "--eval-every", 4, "--steps", 2000)
    processes = start(programs, *words)
    wait_until(lambda: max(trained(run), default=0) >= 6, processes)
    processes[victim].send_signal(signal.SIGKILL)
    said, errors = processes[1 - victim].communicate(timeout=300)
    assert processes[1 - victim].returncode == 2, errors
    assert LOST in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors and "{" not in said
    processes[victim].communicate()
    if victim == 1:
        assert "2 x cpu" in errors and "2 processes" in errors and "data 2 x member 1" in errors
    assert_same_losses(run, alone, range(1, 7))

    saved = int(step_folders(run)[-1].name)
    assert saved >= 4 and len(trained(run)) == max(trained(run))
    result = train(change(LIGHT, data__path=str(data), steps=saved + 2, eval_every=4), run)
    assert result["step"] == saved + 2 and set(trained(run)) == set(range(1, saved + 3))


@pytest.mark.slow
def test_two_processes_end_as_one_does(alone, data, programs, tmp_path):
    """A finished run; then one that a signal to ONE process stops, saved by both, and gone on with exactly."""
    (tmp_path / "c.py").write_text(CONFIG_FILE)
    words = (tmp_path / "c.py", "--data.path", data, "--workdir", tmp_path / "run")
    processes = start(programs, *words)
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert json.loads(results[0][0].splitlines()[-1])["step"] == 6 and "{" not in results[1][0]
    assert "steps" in results[0][1] and "steps" not in results[1][1]
    assert_same_losses(tmp_path / "run", alone, range(1, 7))
    validations = [
        [record["mape"] for record in read_records(run / "metrics.jsonl") if record["kind"] == "validation"]
        for run in (tmp_path / "run", alone)
    ]
    np.testing.assert_allclose(*validations, rtol=1e-4)

    run = tmp_path / "stopped"
    words = (tmp_path / "c.py", "--data.path", data, "--workdir", run, "--eval-every", 2000, "--steps", 2000)
    processes = start(programs, *words)
    wait_until(lambda: max(trained(run), default=0) >= 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [143, 143], results
    saved = int(step_folders(run)[-1].name)
    assert saved == max(trained(run))


def test_environments_that_make_no_sense(monkeypatch):
    for values, words in (
        ({"COORDINATOR": "here", "PROCESS_COUNT": "2", "PROCESS_INDEX": "0"}, "HOST:PORT"),
        ({"COORDINATOR": "h:1", "PROCESS_COUNT": "two", "PROCESS_INDEX": "0"}, "SEISVEL_PROCESS_COUNT=two"),
        ({"COORDINATOR": "h:1", "PROCESS_COUNT": "2", "PROCESS_INDEX": "2"}, "expected 0 to 1"),
        ({"COORDINATOR": "h:1", "PROCESS_COUNT": "2"}, "SEISVEL_PROCESS_INDEX=:"),
    ):
        with monkeypatch.context() as patch:
            for name, value in values.items():
                patch.setenv(f"SEISVEL_{name}", value)
            with pytest.raises(UserError, match=words), together():
                pass


def test_a_single_process_needs_nothing():
    with together():
        assert jax.process_count() == 1
    agree = Agreement(one_device())
    assert agree(0) == 0 and agree(15) == 15


def test_errors_of_a_lost_process_are_told_from_others():
    assert lost_peer(ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"))
    wrapped = UserError("the checkpoint cannot be written")
    wrapped.__cause__ = RuntimeError("Barrier: coordination service")
    assert lost_peer(wrapped)
    assert not lost_peer(UserError("sample 3 holds NaN")) and not lost_peer(OSError(5, "gloo"))

"""What the functions of modal_train.py do in their containers, in this process and in others."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from modal_support import MARKS, ROOT, modal, modal_train
from sample_support import RUN
from training_support import CONFIG, SURVEY, assert_same_state, quick_environment

from seisvel_jax.config import replace as change
from seisvel_jax.config import to_dict
from seisvel_jax.training.checkpoint import step_folders

pytestmark = MARKS

BODY = """
import json, os, signal, sys, threading, time
import modal_train

class Runs:
    commits = 0
    def commit(self):
        self.commits += 1
        if self.commits == 2 and {stop!r} == "signal":
            print("second commit", flush=True)
            time.sleep(1)
        if self.commits == 2 and {stop!r} == "time":
            next(t for t in threading.enumerate() if isinstance(t, threading.Timer)).function()

class Next:
    object_id = "fc-next"

spawned = []
class Function:
    def spawn(self, *arguments):
        spawned.append(arguments)
        return Next

if __name__ == "__main__":
    modal_train.runs = Runs()
    modal_train.with_gpu = lambda function, gpu: Function()
    arguments = json.loads(sys.argv[1])
    answer = modal_train.run_train.local(*arguments)
    while spawned:
        print("continued", answer, flush=True)
        again = spawned.pop()
        assert list(again) == arguments and answer == "fc-next", (again, answer)
        answer = modal_train.run_train.local(*again)
    print("answer", answer, modal_train.runs.commits, flush=True)
"""


def start_body(tmp_path, programs, data, stop):
    (tmp_path / "body.py").write_text(BODY.format(stop=stop))
    arguments = [to_dict(change(CONFIG, data__path=str(data))), str(tmp_path / "run"), None, None, False]
    environment = {**os.environ, **quick_environment(programs), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.Popen(
        [sys.executable, tmp_path / "body.py", json.dumps(arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_preempted_in_the_middle_it_resumes_to_the_same_bits(tmp_path, programs, data, straight):
    """The function as Modal runs it, with a fake commit: SIGINT saves, commits and is raised; again, it finishes."""
    first = start_body(tmp_path, programs, data, "signal")
    for line in first.stdout:
        if line.startswith("second commit"):
            first.send_signal(signal.SIGINT)
            break
    out, errors = first.communicate(timeout=600)
    assert first.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors and "answer" not in out, errors
    saved = [int(step.name) for step in step_folders(tmp_path / "run")]
    assert saved[-1] < CONFIG.steps
    second = start_body(tmp_path, programs, data, "no")
    out, errors = second.communicate(timeout=600)
    assert second.returncode == 0 and "answer 0" in out, errors
    assert f"from step {saved[-1]}" in errors
    assert_same_state(straight.run, tmp_path / "run")


@pytest.mark.slow
def test_when_the_day_is_over_the_next_call_goes_on_to_the_same_bits(tmp_path, programs, data, straight):
    body = start_body(tmp_path, programs, data, "time")
    out, errors = body.communicate(timeout=600)
    assert body.returncode == 0, errors
    assert "continued fc-next" in out and re.search(r"answer 0 \d", out), out + errors
    assert_same_state(straight.run, tmp_path / "run")


def test_a_users_mistake_is_an_answer_and_is_not_retried(tmp_path, capsys):
    config = to_dict(change(CONFIG, data__path=str(tmp_path / "absent")))
    assert modal_train.run_train.local(config, str(tmp_path / "run")) == 2
    assert modal_train.run_inspect.local([str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        modal_train.exit_code(lambda: (_ for _ in ()).throw(RuntimeError("CUDA")))


def test_a_diffusion_config_is_trained_by_its_own_command(monkeypatch, tmp_path, capsys):
    """With the volume's commit; told without it; preempted, it leaves as an interruption that Modal starts anew."""
    from seisvel_jax.training.signals import Interrupted

    volume, trained = Committed(), []
    monkeypatch.setattr(modal_train, "runs", volume)

    def train(config, workdir, *, on_commit):
        trained.append((config, workdir))
        on_commit()
        if len(trained) == 2:
            raise Interrupted(signal.SIGINT)
        return {"step": 7}

    monkeypatch.setattr("seisvel_jax.train_diffusion.train_diffusion", train)
    monkeypatch.setattr("seisvel_jax.training.dry_run.dry_run_diffusion", lambda config: {"told": config.name})
    arguments = (to_dict(RUN), str(tmp_path), None, None)
    assert modal_train.run_train.local(*arguments) == 0 and volume.commits == 2
    assert json.loads(capsys.readouterr().out) == {"step": 7}
    with pytest.raises(KeyboardInterrupt):
        modal_train.run_train.local(*arguments)
    assert trained == [(RUN, tmp_path)] * 2 and volume.commits == 3
    assert modal_train.run_train.local(*arguments, True) == 0 and len(trained) == 2
    assert json.loads(capsys.readouterr().out) == {"told": "tiny"}


def test_a_chain_of_calls_is_followed_to_its_end(monkeypatch, capsys):
    class Call:
        def __init__(self, answer):
            self.answer = answer

        def get(self):
            return self.answer

    class First(Call):
        object_id = "fc-1"  # a call by its id does not have one before it has been asked

    monkeypatch.setattr(modal.FunctionCall, "from_id", lambda name: {"fc-2": Call("fc-3"), "fc-3": Call(1)}[name])
    assert modal_train.wait(First("fc-2")) == 1
    assert re.findall("fc-.", capsys.readouterr().err) == ["fc-1", "fc-2", "fc-3"]


def test_a_timer_that_is_not_needed_any_more_is_gone():
    before = threading.active_count()
    with modal_train.interrupted_after(3600) as up:
        assert not up.is_set() and threading.active_count() == before + 1
    assert threading.active_count() == before


class Committed:
    """A volume that counts."""

    commits = reloads = 0

    def commit(self):
        self.commits += 1

    def reload(self):
        self.reloads += 1


class Local:
    """A function whose containers are this process."""

    def __init__(self, function):
        self.function = function

    def starmap(self, arguments):
        return [self.function.local(*one) for one in arguments]


@pytest.mark.parametrize("layout", ["openfwi", "packed"])
def test_shards_of_a_simulation_fill_one_folder(layout, tmp_path, monkeypatch, capsys):
    """With what a single command writes; a pack is finished by the last look, after all shards are there."""
    from seisvel_jax.simulate import main

    (tmp_path / "survey.json").write_text(json.dumps(SURVEY.to_dict()))
    rng = np.random.default_rng(0)
    np.save(tmp_path / "models.npy", rng.integers(1500, 2500, (5, 1, 8, 8)).astype(np.float32))
    volume = Committed()
    monkeypatch.setattr(modal_train, "data", volume)
    monkeypatch.setattr(modal_train, "run_simulate_shard", Local(modal_train.run_simulate_shard))
    words = ["--survey", tmp_path / "survey.json", "--models", tmp_path / "models.npy", "--layout", layout]
    words = [str(word) for word in [*words, "--file-size", "2", "--batch-size", "2", "--output"]]
    assert modal_train.run_simulate.local([*words, str(tmp_path / "many")], 3) == 0
    assert volume.commits == 4 and volume.reloads == 1
    done = re.findall(r"(\d) samples simulated in shard (\d) of 3", capsys.readouterr().err)
    assert done == [("2", "0"), ("2", "1"), ("1", "2")]
    monkeypatch.setattr(sys, "argv", ["simulate", *words, str(tmp_path / "one")])
    assert modal_train.exit_code(main) == 0
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) >= 5
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes(), file
    # A shard that fails is the whole's answer, and nobody looks.
    assert modal_train.run_simulate.local([*words, str(tmp_path / "survey.json")], 2) == 2 and volume.reloads == 1


def test_shards_of_a_prediction_become_one_file(tmp_path, monkeypatch, straight, data, capsys):
    from seisvel_jax.predict import Predict, predict

    volume = Committed()
    monkeypatch.setattr(modal_train, "results", volume)
    monkeypatch.setattr(modal_train, "run_divided_shard", Local(modal_train.run_divided_shard))
    words = ["--checkpoint", straight.run, "--data", data, "--output", tmp_path / "many.npy", "--batch-size", "2"]
    assert modal_train.run_divided.local("predict", [str(word) for word in words], 4) == 0
    assert volume.commits == 5 and volume.reloads == 1
    done = re.findall(r"(\d) of 12 samples, shard (\d) of 4", capsys.readouterr().err)
    assert done == [("4", "0"), ("4", "1"), ("2", "2"), ("2", "3")]
    predict(Predict(checkpoint=(straight.run,), data=data, output=tmp_path / "one.npy", batch_size=2))
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "many.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.npy", "one.npy"]
    # A shard that fails is the whole's answer, and nothing is put together.
    words[1] = tmp_path / "absent"
    assert modal_train.run_divided.local("predict", [str(word) for word in words], 2) == 2 and volume.reloads == 1


@pytest.mark.parametrize("name", ["predict", "refine", "sample"])
def test_a_divided_command_is_asked_by_its_name_and_looked_at_in_the_end(name, monkeypatch):
    asked = []
    monkeypatch.setattr(modal_train, "command", lambda name, words, volume: asked.append((name, *words)) or 0)
    monkeypatch.setattr(modal_train, "results", Committed())
    monkeypatch.setattr(modal_train, "run_divided_shard", Local(modal_train.run_divided_shard))
    assert modal_train.run_divided.local(name, ["--data", "d"], 2) == 0
    words = (name, "--data", "d")
    assert asked == [(*words, "--shard", "0", "2"), (*words, "--shard", "1", "2"), words]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what TensorBoard carries with it
def test_tensorboard_serves_what_lies_on_the_volume(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="TensorBoard is in the image, not needed here")
    volume = Committed()
    monkeypatch.setattr(modal_train, "RUNS", str(tmp_path))
    monkeypatch.setattr(modal_train, "runs", volume)
    pages = modal_train.board.local()
    answers = []
    body = pages({"PATH_INFO": "/", "REQUEST_METHOD": "GET", "QUERY_STRING": ""}, lambda *words: answers.append(words))
    assert answers[0][0].startswith("200") and b"TensorBoard" in b"".join(body) and volume.reloads == 1

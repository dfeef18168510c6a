"""Whole runs of modal_train.py through the genuine client and container entry point, against a stand-in for Modal."""

import json
import re

import numpy as np
import pytest
from modal_support import MARKS, TINY_CONFIG, Service, containers
from training_support import SURVEY, assert_same_state, quick_environment, write_data

from seisvel_jax.training.checkpoint import step_folders

pytestmark = MARKS


@pytest.fixture
def config_file(tmp_path):
    (tmp_path / "c.py").write_text(TINY_CONFIG)
    return tmp_path / "c.py"


@pytest.fixture
def fresh(tmp_path, programs):
    """A service of its own, with the samples on the data volume."""
    with Service(tmp_path / "modal", quick_environment(programs)) as service:
        write_data(service.named("seisvel-data") / "train")
        yield service


@pytest.mark.slow
@containers
def test_modal_run_train_preempted_in_its_container_resumes_to_the_same_bits(fresh, config_file, straight):
    """Nothing that was not committed survives the container; the call is started again with the same input."""

    def preempt(container, volume):
        if volume == "seisvel-runs" and fresh.commits[volume] == 2:
            container.preempt()

    fresh.on_commit = preempt
    words = ["--data.path", "/data/train", "--workdir", "/runs/first", "--gpu", "h100:2"]
    done = fresh.modal("run", "--detach", "modal_train.py::app.train", config_file, *words)
    logs = [container.log for container in fresh.containers]
    assert done.returncode == 0, (done.stderr, logs)
    assert len(logs) == 2 and "from step 0" in logs[0] and re.search("from step [1-9]", logs[1]), logs
    assert "stopping: the step is finished and saved first" in logs[0]
    assert fresh.answers == [("run_train", 1)]
    function = fresh.containers[0].one["function"]
    assert fresh.gpus[function] == ["H100:2"] and fresh.options[function].resources.milli_cpu == 8000
    assert_same_state(straight.run, fresh.named("seisvel-runs") / "first")
    assert not any((fresh.named("seisvel-data") / name).exists() for name in ("checkpoints", "config.json"))


@pytest.mark.slow
@containers
def test_modal_run_main_and_submissions_of_a_run(fresh, config_file, straight, tmp_path):
    """Inspected, trained, predicted in shards by containers that containers start; then again from what is there."""
    from seisvel_jax.predict import Predict, predict

    write_data(fresh.named("seisvel-data") / "test", seed=1)
    words = [
        "--data.path",
        "/data/train",
        "--workdir",
        "/runs/first",
        "--output",
        "/results/first.npy",
        "--shards",
        "2",
    ]
    done = fresh.modal("run", "modal_train.py", config_file, *words)
    logs = "".join(container.log for container in fresh.containers)
    assert done.returncode == 0, (done.stderr, logs)
    called = [name for name, _ in fresh.answers]
    assert called[:2] == ["run_inspect", "run_train"] and called[-1] == "run_divided" and len(called) == 5, called
    run, test = fresh.named("seisvel-runs") / "first", fresh.named("seisvel-data") / "test"
    assert_same_state(straight.run, run)
    options = {"tta": True, "post_process": True}
    predict(Predict(checkpoint=(run,), data=test, output=tmp_path / "one.npy", **options))
    assert (fresh.named("seisvel-results") / "first.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
    assert sorted(p.name for p in fresh.named("seisvel-results").iterdir()) == ["first.npy"]

    # The same command again without its config: all is done, and the run's own config is read from the volume.
    again = fresh.modal("run", "modal_train.py::app.resume", "--workdir", "/runs/first", "--data.path", "/data/train")
    assert again.returncode == 0, again.stderr
    assert "all 6 steps are done" in fresh.containers[-1].log
    step = step_folders(run)[0].name
    words = ["--workdir", "/runs/first", "--step", step, "--output", "/results/early.npy", "--shards", "1"]
    early = fresh.modal("run", "modal_train.py::app.submit", *words, "--batch-size", "4")
    assert early.returncode == 0, early.stderr
    predict(
        Predict(checkpoint=(run / "checkpoints" / step,), data=test, output=tmp_path / "e.npy", batch_size=4, **options)
    )
    assert (fresh.named("seisvel-results") / "early.npy").read_bytes() == (tmp_path / "e.npy").read_bytes()


@pytest.mark.slow
@containers
def test_modal_run_simulate_and_pack(fresh, tmp_path):
    """Shards that see nothing of each other fill one folder of the volume; it is then packed there."""
    place = fresh.named("seisvel-data")
    (place / "survey.json").write_text(json.dumps(SURVEY.to_dict()))
    np.save(place / "models.npy", np.random.default_rng(0).integers(1500, 2500, (5, 1, 8, 8)).astype(np.float32))
    words = ["--survey", "/data/survey.json", "--models", "/data/models.npy", "--layout", "openfwi", "--file-size", "2"]
    done = fresh.modal("run", "modal_train.py::app.simulate", *words, "--output", "/data/made", "--shards", "3")
    logs = "".join(container.log for container in fresh.containers)
    assert done.returncode == 0, (done.stderr, logs)
    assert sorted(p.name for p in (place / "made" / "data").iterdir()) == ["data1.npy", "data2.npy", "data3.npy"]
    packed = fresh.modal("run", "modal_train.py::app.pack", "--data", "/data/made", "--output", "/data/packed")
    assert packed.returncode == 0, (packed.stderr, fresh.containers[-1].log)
    words[words.index("openfwi")] = "packed"
    direct = fresh.modal("run", "modal_train.py::app.simulate", *words, "--output", "/data/direct", "--shards", "2")
    assert direct.returncode == 0, (direct.stderr, fresh.containers[-1].log)
    assert len(list((place / "direct").glob("pack.json"))) == 1
    found = fresh.modal("run", "modal_train.py::app.inspect", "/data/packed")
    assert found.returncode == 0 and "usable: 5 good samples" in fresh.containers[-1].log

"""modal_train.py: what it asks Modal for, what it refuses, and real runs against Modal's protocol on this machine."""

import ast
import importlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
from training_support import CONFIG, QUICK, SURVEY, quick_compilation, write_data

from seisvel_jax.config import replace as change
from seisvel_jax.config import to_dict
from seisvel_jax.train import train
from seisvel_jax.training.checkpoint import Checkpoints, read_metadata, step_folders
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.state import abstract_state

modal = pytest.importorskip("modal", reason="the client of Modal is not installed: pip install -e '.[modal]'")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
modal_train = importlib.import_module("modal_train")
modal_service = importlib.import_module("modal_service")
containers = pytest.mark.skipif(
    not modal_service.can_make_containers(), reason="no user namespaces here: unshare -rm is refused"
)
# Modal says so whenever `.local()` runs a function that has volumes.
pytestmark = pytest.mark.filterwarnings("ignore:The .* function is executing locally:UserWarning")


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xla")
    with quick_compilation(folder):
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("straight")
    train(change(CONFIG, data__path=str(data)), run)
    return run


@pytest.fixture(autouse=True)
def own_argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["modal"])


def quick_environment(programs):
    return {name.upper(): str(value) for name, value in QUICK.items()} | {"JAX_COMPILATION_CACHE_DIR": str(programs)}


def state_of(run: Path):
    """The last checkpoint of a run, as training goes on from it."""
    folder = step_folders(run)[-1]
    assert int(folder.name) == CONFIG.steps
    abstract = abstract_state(CONFIG.groups, SURVEY, make_optimizer(CONFIG.optim, CONFIG.steps))
    found, _ = Checkpoints(run).resume(abstract, read_metadata(folder))
    return jax.tree.map(np.asarray, found)


def assert_same_run(one: Path, other: Path) -> None:
    jax.tree.map(np.testing.assert_array_equal, state_of(one), state_of(other))


# ---- what it is ----


def test_it_imports_without_a_token_and_without_jax(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    environment |= {"HOME": str(tmp_path), "MODAL_CONFIG_PATH": str(tmp_path / "absent.toml")}
    code = "import sys, modal_train; assert not {'jax', 'flax', 'orbax', 'grain'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


PARTS = ["inspect", "pack", "simulate", "train", "resume", "predict", "submit", "tensorboard"]


@pytest.mark.parametrize(
    ("reference", "found"),
    [("", "main"), ("::main", "main"), *((f"::app.{part}", part) for part in PARTS)],
)
def test_modal_run_finds_the_entry_points(reference, found, cli):
    assert cli(f"modal_train.py{reference}") == found


@pytest.fixture(scope="module")
def cli():
    """What `modal run REFERENCE` would run."""
    code = """
import sys
from modal.cli.import_refs import import_and_filter, parse_import_ref
for line in sys.stdin:
    reference = parse_import_ref(line.strip(), use_module_mode=False, command="modal run")
    words = {"base_cmd": "modal run", "accept_local_entrypoint": True, "accept_webhook": False}
    runnable, _, _ = import_and_filter(reference, **words)
    print(runnable.info.raw_f.__name__ if runnable else "nothing", flush=True)
    sys.modules.pop("modal_train", None)
"""
    environment = {**os.environ, "MODAL_CONFIG_PATH": os.devnull}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, **pipes) as process:

        def ask(reference: str) -> str:
            process.stdin.write(reference + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield ask
        process.stdin.close()


def test_every_dependency_is_pinned_within_what_the_package_allows():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {Requirement(text).name: Requirement(text) for text in modal_train.PACKAGES}
    for text in project["dependencies"]:
        wanted = Requirement(text)
        (pin,) = pins[wanted.name].specifier
        assert pin.operator == "==" and wanted.specifier.contains(pin.version), f"{wanted} and {pins[wanted.name]}"
    assert pins["jax"].extras == {"cuda12"}
    assert f">={modal_train.PYTHON}" >= project["requires-python"]


@pytest.fixture(scope="module")
def service(tmp_path_factory, programs):
    with modal_service.Service(tmp_path_factory.mktemp("modal"), quick_environment(programs)) as service:
        write_data(service.named("seisvel-data") / "train")
        yield service


@pytest.fixture(scope="module")
def inspected(service):
    if not modal_service.can_make_containers():
        pytest.skip("no user namespaces here: unshare -rm is refused")
    done = service.modal("run", "modal_train.py::app.inspect", "/data/train")
    assert done.returncode == 0, done.stdout + done.stderr
    return service


def test_a_real_run_uploads_calls_and_answers(inspected):
    (container,) = inspected.containers
    assert container.name == "run_inspect" and inspected.answers == [("run_inspect", 1)]
    assert "usable: 12 good samples" in container.log and "/data/train (openfwi layout)" in container.log
    uploads = {name for mount in container.definition.mount_ids for name in inspected.mounts[mount]}
    assert "/root/modal_train.py" in uploads and "/root/seisvel_jax/__init__.py" in uploads


def by_name(service):
    return {service.functions[i]["name"]: (service.definitions[i], service.gpus[i]) for i in service.definitions}


def test_functions_ask_for_what_they_need(inspected):
    functions = by_name(inspected)
    writable = {
        "run_inspect": set(),
        "run_pack": {"/data"},
        "run_simulate": set(),
        "run_simulate_shard": {"/data"},
        "run_train": {"/runs"},
        "run_predict": {"/results"},
        "run_predict_shard": {"/results"},
        "board": set(),
    }
    assert functions.keys() == writable.keys()
    for name, (definition, gpus) in functions.items():
        mounts = {m.mount_path: inspected.volumes[m.volume_id] for m in definition.volume_mounts}
        assert mounts == {"/data": "seisvel-data", "/runs": "seisvel-runs", "/results": "seisvel-results"}
        assert {m.mount_path for m in definition.volume_mounts if not m.read_only} == writable[name], name
        if name != "board":
            assert definition.timeout_secs == 24 * 3600 and definition.single_use_containers
            assert definition.retry_policy.retries == 10 and definition.retry_policy.initial_delay_ms == 0
        has_gpu = name in ("run_train", "run_simulate_shard", "run_predict_shard")
        assert (len(gpus) > 1) == has_gpu and (gpus == [""]) != has_gpu
    assert functions["run_train"][1][0] == "A100-80GB"
    assert functions["board"][0].webhook_config.type and functions["board"][0].max_concurrent_inputs == 100
    assert 0 < modal_train.DAY - modal_train.STOP_AFTER < 2 * 3600


def test_the_image_has_the_pinned_packages(inspected):
    commands = "\n".join(line for image in inspected.images.values() for line in image.dockerfile_commands)
    assert f"python:{modal_train.PYTHON}" in commands
    for package in modal_train.PACKAGES:
        assert re.search(rf"(?<!\S)['\"]?{re.escape(package)}['\"]?(?!\S)", commands), package


def test_everything_imported_is_shipped(inspected):
    """Every import of every uploaded file, lazy ones too, is an uploaded file or of a pinned package or its needs."""
    from packaging.requirements import Requirement

    (container,) = inspected.containers[:1]
    uploads = {
        name.removeprefix("/root/"): inspected.files[digest].decode()
        for mount in container.definition.mount_ids
        for name, (digest, _) in inspected.mounts[mount].items()
    }
    pinned = {re.split(r"[=\[]", package)[0].lower() for package in modal_train.PACKAGES}
    for name in sorted(pinned - {"tensorboard"}):
        needs = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        pinned |= {need.name.lower() for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})}
    pinned = {name.replace("_", "-") for name in pinned}
    provided = {"modal", "tensorboard"}
    provided |= {"beartype"}  # imported only under SEISVEL_TYPECHECK, which the image does not set
    for module, distributions in importlib.metadata.packages_distributions().items():
        if {name.lower().replace("_", "-") for name in distributions} & pinned:
            provided.add(module)
    modules = {name.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".") for name in uploads}
    looked_at = 0
    for name, text in uploads.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                wanted = [str(node.module)]
            else:
                continue
            for module in wanted:
                looked_at += 1
                top = module.split(".")[0]
                if top in ("seisvel_jax", "modal_train"):
                    assert module in modules, f"{name} imports {module}, which is not uploaded"
                else:
                    assert top in sys.stdlib_module_names | provided, f"{name} imports {module}: in no pinned package"
    assert looked_at > 300
    assert {f"seisvel_jax.{p.stem}" for p in (ROOT / "seisvel_jax").glob("[a-z]*.py")} <= modules


# ---- what it refuses before anything is spawned ----


class Listing:
    """A volume with some names on it."""

    def __init__(self, *names):
        self.names = names

    def listdir(self, path):
        if path.strip("/") not in self.names:
            raise modal.exception.NotFoundError("No such file or directory")
        return [path]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Volumes that are lists, and functions that may not be called; the config file's path."""
    volumes = {"/data": Listing("train", "test"), "/runs": Listing("first"), "/results": Listing()}
    monkeypatch.setattr(modal_train, "VOLUMES", volumes)
    monkeypatch.setattr(modal_train, "wait", lambda call: pytest.fail("spawned"))
    (tmp_path / "c.py").write_text("from training_support import CONFIG as config\n")
    return str(tmp_path / "c.py")


TRAIN = ["--data.path", "/data/train", "--workdir", "/runs/first"]


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("train", ["CONFIG", *TRAIN, "--gpu", "H1000"], "--gpu H1000"),
        ("train", ["CONFIG", *TRAIN, "--gpu", "H100:9"], "--gpu H100:9"),
        ("train", ["CONFIG", *TRAIN, "--gpu", "H100:"], "--gpu H100:"),
        ("train", ["CONFIG", "--data.path", "/data/absent", "--workdir", "/runs/first"], "modal volume put"),
        ("train", ["CONFIG", "--data.path", "/home/me", "--workdir", "/runs/first"], "under /data"),
        ("train", ["CONFIG", "--workdir", "/runs/first"], "under /data"),
        ("train", ["CONFIG", "--data.path", "/data/train", "--workdir", "here"], "under /runs"),
        ("train", ["CONFIG", "--data.path", "/data/train", "--workdir", "/runs/../data"], "under /runs"),
        ("train", ["CONFIG", *TRAIN, "--batch-size", "0"], "batch_size"),
        ("train", ["CONFIG", *TRAIN, "--no-such-field", "1"], "no-such-field"),
        ("train", ["absent.py", *TRAIN], "absent.py: no such config"),
        ("train", TRAIN, "config file first"),
        ("resume", ["--workdir", "/runs/other"], "/runs/other/config.json"),
        ("resume", ["CONFIG", "--workdir", "/runs/first"], "own config"),
        ("main", ["CONFIG", *TRAIN, "--test", "/data/hidden"], "/data/hidden"),
        ("main", ["CONFIG", *TRAIN, "--output", "/results/x.zip"], "x.zip"),
        ("main", ["CONFIG", *TRAIN, "--shards", "0"], "--shards 0"),
        ("train", ["CONFIG", *TRAIN, "--distributed"], "--distributed"),
        ("inspect", ["/data/absent"], "/data/absent"),
        ("pack", ["--data", "/data/absent", "--output", "/data/p"], "/data/absent"),
        ("pack", ["--data", "/data/train", "--output", "/results/p"], "under /data"),
        ("simulate", ["--survey", "openfwi", "--count", "3", "--output", "/tmp/x"], "under /data"),
        ("simulate", ["--survey", "openfwi", "--models", "/data/m.npy", "--output", "/data/x"], "/data/m.npy"),
        ("simulate", ["--count", "3", "--output", "/data/x"], "survey"),
        ("predict", ["--checkpoint", "/runs/no", "--data", "/data/test", "--output", "/results/a.npz"], "/runs/no"),
        ("predict", ["--checkpoint", "/runs/first", "--data", "/data/test", "--output", "a.npz"], "under /results"),
        ("predict", ["--checkpoint", "/runs/first", "--data", "/data/test", "--combine", "all"], "combine"),
        ("submit", ["--workdir", "/runs/first", "--step", "7"], "/runs/first/checkpoints/7"),
    ],
)
def test_mistakes_are_found_before_anything_is_spawned(offline, name, words, said, capsys):
    words = [offline if word == "CONFIG" else word for word in words]
    with pytest.raises(SystemExit) as left:
        entrypoint = getattr(modal_train, name)
        (entrypoint.info.raw_f if name == "main" else entrypoint)(*words)
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert said in printed.err + printed.out


def test_words_reach_the_call_as_the_local_command_reads_them(offline, monkeypatch):
    from seisvel_jax.config import from_dict

    spawned = []

    class Recorder:
        def __init__(self, gpu=None):
            self.gpu = gpu

        def with_options(self, gpu, cpu):
            assert cpu == 8  # the client sends all resources or none
            return Recorder(gpu)

        def spawn(self, *arguments):
            spawned.append((self.gpu, arguments))

    monkeypatch.setattr(modal_train, "run_train", Recorder())
    monkeypatch.setattr(modal_train, "run_inspect", Recorder())
    monkeypatch.setattr(modal_train, "wait", lambda call: 0)
    with pytest.raises(SystemExit) as left:
        modal_train.main.info.raw_f(offline, *TRAIN, "--optim.learning-rate", "0.5", "--gpu", "h200:2", "--shards", "3")
    assert left.value.code == 0
    assert spawned[0] == (None, (["/data/train"],))
    gpu, (config, workdir, again, then, dry_run) = spawned[1]
    assert not dry_run
    assert gpu == again == "h200:2" and workdir == "/runs/first"
    assert from_dict(config) == change(CONFIG, data__path="/data/train", optim__learning_rate=0.5)
    wanted = "--checkpoint /runs/first --data /data/test --output /results/first.npz --tta --post-process"
    assert then == (wanted.split(), 3)
    assert json.loads(json.dumps(config)) == config


# ---- the bodies, in this process and in others ----

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
    out, errors = first.communicate(timeout=120)
    assert first.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors and "answer" not in out, errors
    saved = [int(step.name) for step in step_folders(tmp_path / "run")]
    assert saved[-1] < CONFIG.steps
    second = start_body(tmp_path, programs, data, "no")
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0 and "answer 0" in out, errors
    assert f"from step {saved[-1]}" in errors
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.slow
def test_when_the_day_is_over_the_next_call_goes_on_to_the_same_bits(tmp_path, programs, data, straight):
    body = start_body(tmp_path, programs, data, "time")
    out, errors = body.communicate(timeout=120)
    assert body.returncode == 0, errors
    assert "continued fc-next" in out and re.search(r"answer 0 \d", out), out + errors
    assert_same_run(straight, tmp_path / "run")


def test_a_users_mistake_is_an_answer_and_is_not_retried(tmp_path, capsys):
    config = to_dict(change(CONFIG, data__path=str(tmp_path / "absent")))
    assert modal_train.run_train.local(config, str(tmp_path / "run")) == 2
    assert modal_train.run_inspect.local([str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        modal_train.exit_code(lambda: (_ for _ in ()).throw(RuntimeError("CUDA")))


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


def test_shards_of_a_simulation_fill_one_folder(tmp_path, monkeypatch, capsys):
    from seisvel_jax.simulate import Simulate, simulate

    (tmp_path / "survey.json").write_text(json.dumps(SURVEY.to_dict()))
    rng = np.random.default_rng(0)
    np.save(tmp_path / "models.npy", rng.integers(1500, 2500, (5, 1, 8, 8)).astype(np.float32))
    volume = Committed()
    monkeypatch.setattr(modal_train, "data", volume)
    monkeypatch.setattr(modal_train, "run_simulate_shard", Local(modal_train.run_simulate_shard))
    words = ["--survey", tmp_path / "survey.json", "--models", tmp_path / "models.npy", "--layout", "openfwi"]
    words = [str(word) for word in [*words, "--file-size", "2", "--batch-size", "2", "--output", tmp_path / "many"]]
    assert modal_train.run_simulate.local(words, 3) == 0 and volume.commits == 3
    assert re.findall(r"(\d) samples simulated in shard (\d) of 3", capsys.readouterr().err) == [
        ("2", "0"),
        ("2", "1"),
        ("1", "2"),
    ]
    options = {"layout": "openfwi", "file_size": 2, "batch_size": 2, "models": tmp_path / "models.npy"}
    simulate(Simulate(survey=str(tmp_path / "survey.json"), output=tmp_path / "one", **options))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.npy"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes(), file


def test_shards_of_a_prediction_become_one_file(tmp_path, monkeypatch, straight, data, capsys):
    from seisvel_jax.predict import Predict, predict

    volume = Committed()
    monkeypatch.setattr(modal_train, "results", volume)
    monkeypatch.setattr(modal_train, "run_predict_shard", Local(modal_train.run_predict_shard))
    words = ["--checkpoint", straight, "--data", data, "--output", tmp_path / "many.npy", "--batch-size", "2"]
    assert modal_train.run_predict.local([str(word) for word in words], 4) == 0
    assert volume.commits == 5 and volume.reloads == 1
    done = re.findall(r"(\d) of 12 samples, shard (\d) of 4", capsys.readouterr().err)
    assert done == [("4", "0"), ("4", "1"), ("2", "2"), ("2", "3")]
    predict(Predict(checkpoint=(straight,), data=data, output=tmp_path / "one.npy", batch_size=2))
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "many.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.npy", "one.npy"]
    # A shard that fails is the whole's answer, and nothing is put together.
    words[1] = tmp_path / "absent"
    assert modal_train.run_predict.local([str(word) for word in words], 2) == 2 and volume.reloads == 1


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


# ---- whole runs through the genuine client and container entry point ----


@pytest.fixture
def config_file(tmp_path):
    (tmp_path / "c.py").write_text("from training_support import CONFIG as config\n")
    return tmp_path / "c.py"


@pytest.fixture
def fresh(tmp_path, programs):
    """A service of its own, with the samples on the data volume."""
    with modal_service.Service(tmp_path / "modal", quick_environment(programs)) as service:
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
    assert_same_run(straight, fresh.named("seisvel-runs") / "first")
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
    assert called[:2] == ["run_inspect", "run_train"] and called[-1] == "run_predict" and len(called) == 5, called
    run, test = fresh.named("seisvel-runs") / "first", fresh.named("seisvel-data") / "test"
    assert_same_run(straight, run)
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
    found = fresh.modal("run", "modal_train.py::app.inspect", "/data/packed")
    assert found.returncode == 0 and "usable: 5 good samples" in fresh.containers[-1].log

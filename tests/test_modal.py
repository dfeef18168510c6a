"""modal_train.py: what it asks Modal for, and what it refuses."""

import ast
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from modal_support import MARKS, ROOT, SOURCE, TINY_CONFIG, Service, can_make_containers, modal, modal_train
from sample_support import RUN
from training_support import CONFIG, quick_environment, write_data

from seisvel_jax.config import DiffusionConfig, to_dict
from seisvel_jax.config import replace as change
from seisvel_jax.data.online import OnlineConfig

pytestmark = MARKS


def test_it_imports_without_a_token_and_without_jax(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    environment |= {"HOME": str(tmp_path), "MODAL_CONFIG_PATH": str(tmp_path / "absent.toml")}
    code = "import sys, modal_train; assert not {'jax', 'flax', 'orbax', 'grain'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


PARTS = ["inspect", "pack", "simulate", "train", "resume", "predict", "refine", "sample", "submit", "tensorboard"]


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
    with Service(tmp_path_factory.mktemp("modal"), quick_environment(programs)) as service:
        write_data(service.named("seisvel-data") / "train")
        yield service


@pytest.fixture(scope="module")
def inspected(service):
    if not can_make_containers():
        pytest.skip("no user namespaces here: unshare -rm is refused")
    done = service.modal("run", "modal_train.py::app.inspect", "/data/train")
    assert done.returncode == 0, done.stdout + done.stderr
    return service


def test_a_real_run_uploads_calls_and_answers(inspected):
    (container,) = inspected.containers
    assert container.name == "run_inspect" and inspected.answers == [("run_inspect", 1)]
    assert "usable: 12 good samples" in container.log and "/data/train (openfwi layout)" in container.log
    uploads = {name for mount in container.definition.mount_ids for name in inspected.mounts[mount]}
    assert f"{SOURCE}/modal_train.py" in uploads and f"{SOURCE}/seisvel_jax/__init__.py" in uploads


def by_name(service):
    return {service.functions[i]["name"]: (service.definitions[i], service.gpus[i]) for i in service.definitions}


def test_functions_ask_for_what_they_need(inspected):
    functions = by_name(inspected)
    writable = {
        "run_inspect": set(),
        "run_pack": {"/data"},
        "run_simulate": {"/data"},
        "run_simulate_shard": {"/data"},
        "run_train": {"/runs"},
        "run_divided": {"/results"},
        "run_divided_shard": {"/results"},
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
        has_gpu = name in ("run_train", "run_simulate_shard", "run_divided_shard")
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
        name.removeprefix(f"{SOURCE}/"): inspected.files[digest].decode()
        for mount in container.definition.mount_ids
        for name, (digest, _) in inspected.mounts[mount].items()
    }
    pinned = {re.split(r"[=\[]", package)[0].lower() for package in modal_train.PACKAGES}
    for name in sorted(pinned - {"tensorboard", "segyio"}):
        needs = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        pinned |= {need.name.lower() for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})}
    pinned = {name.replace("_", "-") for name in pinned}
    optional = {"tensorboard", "segyio"}  # no dependencies of the package: not installed everywhere
    assert optional <= pinned
    provided = {"modal", *optional}
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

    def read_file(self, path):
        assert path == "/first/config.json"
        yield json.dumps({"config": to_dict(RUN)}).encode()

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
    (tmp_path / "c.py").write_text(TINY_CONFIG)
    return str(tmp_path / "c.py")


ONLINE_CONFIG = """
from training_support import CONFIG
from seisvel_jax.config import replace
from seisvel_jax.data.online import OnlineConfig
config = replace(CONFIG, data__online=OnlineConfig(survey="openfwi"))
"""
DIFFUSION_CONFIG = "from sample_support import RUN as config\n"
TRAIN = ["--data.path", "/data/train", "--workdir", "/runs/first"]
PREDICT = ["--checkpoint", "/runs/first", "--data", "/data/test", "--output", "/results/a.npz"]
REFINE = ["--data", "/data/test", "--output", "/results/a.npz"]


def refused(name, words, capsys):
    """What is said."""
    with pytest.raises(SystemExit) as left:
        entrypoint = getattr(modal_train, name)
        (entrypoint.info.raw_f if name == "main" else entrypoint)(*words)
    assert left.value.code == 2
    printed = capsys.readouterr()
    return printed.err + printed.out


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
        ("predict", [*PREDICT, "--members", "/runs/first/m.npz"], "--members /runs/first/m.npz"),
        ("refine", [*REFINE, "--start", "/runs/other"], "/runs/other"),
        ("refine", [*REFINE, "--start", "/results/first.npz"], "/results/first.npz"),
        ("refine", [*REFINE, "--start", "here.npz"], "under /data"),
        ("refine", [*REFINE, "--start", "/runs/first", "--figures", "figures"], "--figures figures"),
        ("refine", [*REFINE, "--start", "/runs/first", "--network", "/runs/no"], "/runs/no"),
        ("refine", [*REFINE, "--start", "/runs/first", "--strength", "2"], "--strength"),
        ("sample", [*PREDICT, "--wells", "/data/logs.csv"], "/data/logs.csv"),
        ("sample", [*PREDICT, "--background", "smooth.npy"], "--background smooth.npy"),
        ("sample", [*PREDICT[:4], "--output", "/data/a.npz"], "under /results"),
        ("submit", ["--workdir", "/runs/first", "--step", "7"], "/runs/first/checkpoints/7"),
    ],
)
def test_mistakes_are_found_before_anything_is_spawned(offline, name, words, said, capsys):
    assert said in refused(name, [offline if word == "CONFIG" else word for word in words], capsys)


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
    assert then == ("predict", wanted.split(), 3)
    assert json.loads(json.dumps(config)) == config
    # Data that are made while training need no folder, and nothing is inspected.
    spawned.clear()
    Path(offline).write_text(ONLINE_CONFIG)
    for start in (modal_train.train, modal_train.main.info.raw_f):
        with pytest.raises(SystemExit) as left:
            start(offline, "--workdir", "/runs/first")
        assert left.value.code == 0
        ((_, (config, *_)),) = spawned
        assert from_dict(config) == change(CONFIG, data__online=OnlineConfig(survey="openfwi"))
        spawned.clear()
    # Refined and sampled in shards, too: the words as they are.
    monkeypatch.setattr(modal_train, "run_divided", Recorder())
    words = {"refine": [*REFINE, "--start", "/runs/first", "--iterations", "9"], "sample": [*PREDICT, "--wells", "0,9"]}
    for name, given in words.items():
        with pytest.raises(SystemExit) as left:
            getattr(modal_train, name)(*given, "--gpu", "L4", "--shards", "5")
        assert left.value.code == 0
        assert spawned.pop() == (None, (name, given, 5, "L4")) and not spawned


class Spawned(list):
    """A function that keeps what it is called with."""

    def spawn(self, *arguments):
        self.append(arguments)


def test_a_diffusion_config_is_trained_resumed_and_submitted_like_any_other(offline, monkeypatch):
    """By main, by train, from a run's config.json given as the config file, and from the one on the volume."""
    from seisvel_jax.config import from_dict

    trained, inspected = Spawned(), Spawned()
    monkeypatch.setattr(modal_train, "run_train", trained)
    monkeypatch.setattr(modal_train, "run_inspect", inspected)
    monkeypatch.setattr(modal_train, "wait", lambda call: 0)
    volume = Listing("first", "first/config.json")
    monkeypatch.setattr(modal_train, "runs", volume)
    monkeypatch.setitem(modal_train.VOLUMES, "/runs", volume)
    saved = Path(offline).with_name("config.json")
    saved.write_text(json.dumps({"config": to_dict(RUN)}))
    Path(offline).write_text(DIFFUSION_CONFIG)
    starts = (
        (modal_train.main.info.raw_f, [offline]),
        (modal_train.train, [offline, "--dry-run"]),
        (modal_train.train, [str(saved)]),
        (modal_train.resume, []),
    )
    for start, words in starts:
        with pytest.raises(SystemExit) as left:
            start(*words, *TRAIN, "--condition.drop-shot", "0.5")
        assert left.value.code == 0
    submitted = "--checkpoint /runs/first --data /data/test --output /results/first.npz --tta --post-process"
    assert [call[3] for call in trained] == [("predict", submitted.split(), 8), None, None, None]
    assert [call[4] for call in trained] == [False, True, False, False] and inspected == [(["/data/train"],)]
    for config, workdir, *_ in trained:
        assert workdir == "/runs/first"
        wanted = change(RUN, data__path="/data/train", condition__drop_shot=0.5)
        assert from_dict(config, kind=DiffusionConfig) == wanted


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("main", [*TRAIN, "--test", "/data/hidden"], "/data/hidden"),
        ("main", [*TRAIN, "--first-stage.checkpoint", "/runs/first"], "first-stage"),
        ("train", [*TRAIN, "--denoiser.layers", "0"], "layers"),
        ("train", [*TRAIN[:1], "/data/absent", *TRAIN[2:]], "modal volume put"),
        ("train", [*TRAIN, "--distributed"], "--distributed"),
    ],
)
def test_mistakes_with_a_diffusion_config_are_found_before_anything_is_spawned(offline, name, words, said, capsys):
    Path(offline).write_text(DIFFUSION_CONFIG)
    assert said in refused(name, [offline, *words], capsys)


@pytest.mark.parametrize("text", ["config = 1", "1 / 0", None])
def test_a_file_that_is_no_config_is_refused_by_its_name(offline, text, capsys):
    Path(offline).unlink()
    if text is not None:
        Path(offline).write_text(text)
    assert f"{offline}: " in refused("train", [offline, *TRAIN], capsys)
    path = Path(offline).with_suffix(".json")
    path.write_text('{"config": {"denoiser": {"layers": "many"}}}')
    assert "not a config of this version" in refused("train", [str(path), *TRAIN], capsys)

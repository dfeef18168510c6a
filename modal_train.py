"""seisvel_jax on Modal: the commands of this package with a GPU, volumes and retries around them (docs/modal.md).

    modal run --detach modal_train.py configs/speed_and_structure.py --data.path /data/train --workdir /runs/first
    modal run --detach modal_train.py::app.train CONFIG --data.path /data/train --workdir /runs/first --gpu H100
    modal run modal_train.py::app.{inspect,pack,simulate,train,resume,predict,refine,sample,submit,tensorboard} WORDS

WORDS are those of `python -m seisvel_jax.NAME` (train_diffusion where CONFIG is for it), with the volumes at /data,
/runs and /results, and besides --gpu NAME[:COUNT] and --shards N (containers that simulate, predict, refine or sample).
What is computed is theirs.
"""

import contextlib
import functools
import importlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modal
import tyro

from seisvel_jax.errors import UserError, run_command
from seisvel_jax.logging import say

DAY = 24 * 3600
"""Seconds that Modal lets one call run at most. Work that takes longer goes on in a call of its own."""
STOP_AFTER = DAY - 1800
"""Seconds after which training saves and is handed to the next call: time enough for a validation and a checkpoint."""
TRAINING_GPUS = ["A100-80GB", "H100", "H200"]
"""What training runs on without --gpu: the first that is free. All have 80 GB: none fails where another ran."""
SMALL_GPUS = ["L40S", "A10", "L4", "A100"]
"""The same for simulating, predicting, refining and sampling."""
KNOWN_GPUS: tuple[str, ...] = ("T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000")
KNOWN_GPUS += ("H100", "H100!", "H200", "B200", "B200+")
"""Of modal.com/docs/guide/gpu: the client itself takes any name, and Modal refuses it only after all is uploaded."""
CORES = 8.0
"""Processor cores beside a GPU, which read and prepare samples."""
RETRIES = modal.Retries(max_retries=10, initial_delay=0.0)
"""Each attempt goes on where the one before it stopped. Mistakes of the user are answers, not failures: not retried."""

PYTHON = "3.12"
PACKAGES = (
    "jax[cuda12]==0.10.2",
    "flax==0.12.8",
    "optax==0.2.8",
    "orbax-checkpoint==0.12.8",
    "grain==0.2.18",
    "numpy==2.4.6",
    "ml_dtypes==0.6.0",
    "scipy==1.17.1",
    "jaxtyping==0.3.11",
    "tyro==1.0.17",
    "cattrs==26.2.1",
    "tqdm==4.70.1",
    "tensorboardX==2.6.5",
    "matplotlib==3.11.2",
    "tensorboard==2.21.0",
    "segyio==1.9.14",
)
"""The dependencies of pyproject.toml at the versions that the test suite runs with, the viewer, a reader of SEG-Y."""

image = (
    modal.Image.debian_slim(PYTHON)
    .uv_pip_install(*PACKAGES)
    .env({"PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"})
    .add_local_python_source("seisvel_jax")
)
DATA, RUNS, RESULTS = "/data", "/runs", "/results"
NAMES = {DATA: "seisvel-data", RUNS: "seisvel-runs", RESULTS: "seisvel-results"}
data, runs, results = (modal.Volume.from_name(name, create_if_missing=True, version=2) for name in NAMES.values())
VOLUMES = {DATA: data, RUNS: runs, RESULTS: results}


def mounted(*writable: str) -> dict[Any, Any]:
    """All volumes at their places, read-only but for `writable`."""
    return {place: v if place in writable else v.with_mount_options(read_only=True) for place, v in VOLUMES.items()}


app = modal.App("seisvel-jax")
LONG: dict[str, Any] = {"image": image, "timeout": DAY, "retries": RETRIES, "single_use_containers": True}


# ---- in the container: the commands themselves, each answering with its exit code ----


def exit_code(main: Callable[[], int | None]) -> int:
    """Run `main` as a command line does; its exit code. An interruption stays one: Modal then starts the call anew."""
    try:
        run_command(main)
    except SystemExit as done:
        if done.code == 130:
            raise KeyboardInterrupt from None
        return int(done.code or 0)
    return 0


def command(name: str, words: Sequence[str], volume: modal.Volume | None = None) -> int:
    """`python -m seisvel_jax.NAME WORDS` in this process; what it wrote is committed to `volume` however it ended."""
    sys.argv = [f"seisvel_jax.{name}", *words]
    try:
        return exit_code(importlib.import_module(f"seisvel_jax.{name}").main)
    finally:
        if volume is not None:
            volume.commit()


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[threading.Event]:
    """The signal of a preemption after `seconds`; the event that is given tells one from the other."""
    time_is_up = threading.Event()

    def interrupt() -> None:
        time_is_up.set()
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield time_is_up
    finally:
        timer.cancel()
        timer.join()


def with_gpu(function: modal.Function, gpu: str | None) -> modal.Function:
    """`function` on its own GPUs, or on the one asked for."""
    # Resources are replaced as a whole: the cores have to be asked for again.
    return function if gpu is None else function.with_options(gpu=gpu, cpu=CORES)


@app.function(**LONG, volumes=mounted())
def run_inspect(words: list[str]) -> int:
    """The inspect command."""
    return command("inspect", words)


@app.function(**LONG, volumes=mounted(DATA), cpu=4.0)
def run_pack(words: list[str]) -> int:
    """The pack command."""
    return command("pack", words, data)


@app.function(**LONG, volumes=mounted(DATA), gpu=SMALL_GPUS, cpu=CORES)
def run_simulate_shard(words: list[str], shard: int, shards: int) -> int:
    """One container's share of a simulation."""
    return command("simulate", [*words, "--shard", str(shard), str(shards)], data)


@app.function(**LONG, volumes=mounted(DATA), cpu=4.0)
def run_simulate(words: list[str], shards: int, gpu: str | None = None) -> int:
    """The simulate command: its shards side by side, then a look at all of them, which a pack needs to be finished."""
    code = max(with_gpu(run_simulate_shard, gpu).starmap([(words, shard, shards) for shard in range(shards)]))
    if code:
        return code
    data.reload()
    return command("simulate", words, data)


@app.function(**LONG, volumes=mounted(RUNS), gpu=TRAINING_GPUS, cpu=CORES)
def run_train(
    config: dict[str, Any], workdir: str, gpu: str | None = None, then: tuple | None = None, dry_run: bool = False
) -> int | str:
    """Train, or go on; the exit code, or the id of the call that goes on: with training, or with the submission `then`.

    `config` is that of an ensemble or of a diffusion model. SIGINT (a preemption) saves, commits and is raised again,
    upon which Modal starts this same call elsewhere.
    """
    from seisvel_jax import config as configs
    from seisvel_jax.train import train
    from seisvel_jax.train_diffusion import train_diffusion
    from seisvel_jax.training import dry_run as tell

    def main() -> None:
        kind, run, say_needs = configs.Config, train, tell.dry_run
        if configs.is_diffusion(config):
            kind, run, say_needs = configs.DiffusionConfig, train_diffusion, tell.dry_run_diffusion
        values = configs.from_dict(config, kind=kind)
        print(json.dumps(say_needs(values) if dry_run else run(values, Path(workdir), on_commit=runs.commit)))

    with interrupted_after(STOP_AFTER) as time_is_up:
        try:
            code = exit_code(main)
        except KeyboardInterrupt:
            if not time_is_up.is_set():
                raise
            return with_gpu(run_train, gpu).spawn(config, workdir, gpu, then, dry_run).object_id
    if code:
        return code
    runs.commit()
    return 0 if then is None else run_divided.spawn(*then).object_id


@app.function(**LONG, volumes=mounted(RESULTS), gpu=SMALL_GPUS, cpu=CORES)
def run_divided_shard(name: str, words: list[str], shard: int, shards: int) -> int:
    """One container's share of a prediction, a refinement or samples."""
    return command(name, [*words, "--shard", str(shard), str(shards)], results)


@app.function(**LONG, volumes=mounted(RESULTS), cpu=4.0)
def run_divided(name: str, words: list[str], shards: int, gpu: str | None = None) -> int:
    """The predict, refine or sample command: its shards side by side, then one file of what they did."""
    code = max(with_gpu(run_divided_shard, gpu).starmap([(name, words, shard, shards) for shard in range(shards)]))
    if code:
        return code
    results.reload()
    return command(name, words, results)


@app.function(image=image, volumes=mounted(), max_containers=1)
@modal.concurrent(max_inputs=100)
@modal.wsgi_app()
def board() -> Callable:
    """TensorBoard of all runs; each look at its page takes up what was committed since."""
    from tensorboard import program
    from tensorboard.backend import application

    viewer = program.TensorBoard()
    viewer.configure(logdir=RUNS, load_fast="false", reload_interval=30)
    provider, multiplexer = viewer._make_data_provider()
    pages = application.TensorBoardWSGIApp(
        viewer.flags, viewer.plugin_loaders, provider, viewer.assets_zip_provider, multiplexer
    )

    def fresh_pages(environ: dict, start_response: Callable) -> Any:
        if environ.get("PATH_INFO") in ("/", "/data/plugins_listing"):
            with contextlib.suppress(Exception):  # a file is just being read: next time
                runs.reload()
        return pages(environ, start_response)

    return fresh_pages


# ---- on the user's machine: everything that can be wrong is found before anything is spawned ----


@dataclass(frozen=True)
class OnModal:
    """What the local commands do not have."""

    gpu: str | None = None
    """T4, L4, A10, L40S, A100-40GB, A100-80GB, H100, H200, B200, with :N for several."""
    shards: int = 8
    """Containers that simulate, predict, refine or sample at the same time."""


@dataclass(frozen=True)
class Submission:
    """What is predicted, and where to."""

    test: Path = Path(DATA) / "test"
    """The samples to predict."""
    output: Path | None = None
    """Default: /results/NAME.npz, or NAME-STEP.npz."""
    step: int | None = None
    """One of the run's checkpoints (default: the best)."""

    def words(self, workdir: Path) -> list[str]:
        """Of the predict command, for the run `workdir`."""
        checkpoint = workdir if self.step is None else workdir / "checkpoints" / str(self.step)
        name = workdir.name if self.step is None else f"{workdir.name}-{self.step}"
        output = self.output or Path(RESULTS) / f"{name}.npz"
        chosen = ("--checkpoint", checkpoint, "--data", self.test, "--output", output, "--tta", "--post-process")
        return [str(word) for word in chosen]


@dataclass(frozen=True)
class Run:
    """The run meant."""

    workdir: Path
    """/runs/NAME."""


def take(kind: type, words: Sequence[str]) -> tuple[Any, list[str]]:
    """The fields of `kind` out of a command line, and the words left over."""
    return tyro.cli(kind, args=list(words), return_unknown_args=True, add_help=False)


def check_modal(options: OnModal) -> None:
    """Raises UserError for a GPU or a number of shards that cannot be."""
    if options.gpu is not None:
        name, _, count = options.gpu.upper().partition(":")
        if name not in KNOWN_GPUS or not re.fullmatch("[1-8]?", count) or options.gpu.endswith(":"):
            raise UserError(
                f"--gpu {options.gpu}: expected NAME or NAME:COUNT (1 to 8), one of {', '.join(KNOWN_GPUS)}"
            )
    if not 1 <= options.shards <= 1000:
        raise UserError(f"--shards {options.shards}: expected 1 to 1000")


def check_under(path: Path | str | None, place: str, option: str) -> str:
    """`path` as text. Raises UserError where it does not lie on the volume at `place`, or leads out of it."""
    text = str(path)
    if not text.startswith(f"{place}/") or ".." in Path(text).parts:
        raise UserError(f"{option} {text}: expected a path under {place}, where the volume {NAMES[place]} is")
    return text


def check_there(path: Path | str | None, place: str, option: str) -> str:
    """`path` as text. Raises UserError where the volume at `place` does not have it."""
    inner = "/" if str(path) == place else check_under(path, place, option).removeprefix(place)
    try:
        found = VOLUMES[place].listdir(inner)
    except (modal.exception.NotFoundError, modal.exception.InvalidError):
        found = []
    if not found:
        raise UserError(
            f"{option} {path}: not on the volume {NAMES[place]}: put it there with "
            f"modal volume put {NAMES[place]} LOCAL {inner}, or look with modal volume ls {NAMES[place]}"
        )
    return str(path)


def check_made(output: Path | None, source: Path | None, option: str) -> None:
    """Raises UserError where data cannot be made at `output` (if any) from `source` (if any)."""
    if source is not None:
        check_there(source, DATA, option)
    if output is not None:
        check_under(output, DATA, "--output")


def check_prediction(words: Sequence[str], *, made_later: bool = False) -> None:
    """Raises UserError for predict words that cannot end well. `made_later`: its run is still to be trained."""
    from seisvel_jax.predict import Predict

    options = tyro.cli(Predict, args=list(words))
    for checkpoint in options.checkpoint:
        (check_under if made_later else check_there)(checkpoint, RUNS, "--checkpoint")
    check_there(options.data, DATA, "--data")
    check_results(options)


def check_refinement(words: Sequence[str]) -> None:
    """Raises UserError for refine words that cannot end well."""
    from seisvel_jax.refine import Refine, settings_of

    options = tyro.cli(Refine, args=list(words))
    settings_of(options)
    check_anywhere(options.start, "--start")
    if options.network is not None:
        check_there(options.network, RUNS, "--network")
    check_there(options.data, DATA, "--data")
    check_results(options)


def check_sampling(words: Sequence[str]) -> None:
    """Raises UserError for sample words that cannot end well."""
    from seisvel_jax.sample import Sample

    options = tyro.cli(Sample, args=list(words))
    check_there(options.checkpoint, RUNS, "--checkpoint")
    check_there(options.data, DATA, "--data")
    if options.wells is not None and options.wells.endswith(".csv"):
        check_anywhere(options.wells, "--wells")
    if options.background is not None:
        check_anywhere(options.background, "--background")
    check_results(options)


def check_anywhere(path: Path | str, option: str) -> None:
    """Raises UserError where no volume has `path`."""
    check_there(path, next((place for place in VOLUMES if str(path).startswith(f"{place}/")), DATA), option)


def check_results(options: Any) -> None:
    """Raises UserError for files to write that do not lie on the volume for them, or are of no known kind."""
    from seisvel_jax.inference.submission import FORMATS

    for name in ("output", "deviation", "members", "figures"):
        if name == "output" or getattr(options, name, None) is not None:
            check_under(getattr(options, name), RESULTS, f"--{name}")
    if options.output.suffix not in FORMATS:
        raise UserError(f"--output {options.output}: expected a name ending in one of {', '.join(FORMATS)}")


def wait(call: modal.FunctionCall) -> int:
    """Follow a call, and those it is followed by, to the end; the exit code."""
    name = call.object_id
    while True:
        say(f"{name}: running; it goes on without this terminal if started with --detach")
        answer = call.get()
        if not isinstance(answer, str):
            return answer
        name, call = answer, modal.FunctionCall.from_id(answer)


def parse_training(words: list[str]) -> Any:
    """The options of the command that the config file in front is for: train, or train_diffusion."""
    from seisvel_jax import train, train_diffusion
    from seisvel_jax.config import DiffusionConfig, is_diffusion, load_config_file

    command = train  # which refuses what is no config
    with contextlib.suppress(UserError, OSError, ValueError, KeyError, TypeError):
        if words[0].endswith(".json"):
            command = (train, train_diffusion)[is_diffusion(json.loads(Path(words[0]).read_bytes())["config"])]
        elif load_config_file(words[0], DiffusionConfig):
            command = train_diffusion
    return command.parse(words)


def training_options(words: Sequence[str]) -> Any:
    """The training command's options. Without a config file they are those that the run in --workdir began with."""
    if words and not words[0].startswith("-"):
        options = parse_training(list(words))
    else:
        workdir = take(Run, words)[0].workdir
        inner = check_there(workdir / "config.json", RUNS, "--workdir").removeprefix(RUNS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            path.write_bytes(b"".join(runs.read_file(inner)))
            options = parse_training([str(path), *words])
    if options.distributed:
        raise UserError("--distributed: a call has one container; several GPUs of it are used together: --gpu H100:4")
    check_under(options.workdir, RUNS, "--workdir")
    folder, online = options.config.data.path, options.config.data.online
    if folder or online is None:
        check_there(folder, DATA, "--data.path")
    if online is not None and online.survey.endswith(".json"):
        check_there(online.survey, DATA, "--data.online.survey")
    if getattr(options.config, "first_stage", None):  # a diffusion model has none
        check_there(options.config.first_stage.checkpoint, RUNS, "--first-stage.checkpoint")
    return options


def start_training(options: Any, own: OnModal, then: tuple | None = None) -> int:
    """Train, and follow it to the end."""
    from seisvel_jax.config import to_dict

    arguments = (to_dict(options.config), str(options.workdir), own.gpu, then, options.dry_run)
    return wait(with_gpu(run_train, own.gpu).spawn(*arguments))


def checked(body: Callable[[OnModal, list[str]], int]) -> Callable[..., None]:
    """`body`, which gets the words of a local command, as a function of any words that leaves with its exit code."""

    @functools.wraps(body, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def start(*words: str) -> None:
        def run() -> int:
            own, rest = take(OnModal, words)
            check_modal(own)
            return body(own, rest)

        run_command(run)

    del start.__wrapped__  # Modal reads the signature: any words
    return start


def part(body: Callable[[OnModal, list[str]], int]) -> Callable[..., None]:
    """Something to start with `modal run modal_train.py::app.NAME`.

    Not bound as an entry point in this module: `main` is the only one, so that `modal run modal_train.py` takes it.
    """
    start = checked(body)
    app.local_entrypoint()(start)
    return start


@app.local_entrypoint()
@checked
def main(own: OnModal, words: list[str]) -> int:
    """Inspect the data, train or go on, submit: [CONFIG] --data.path D --workdir W [--test T] [--output O]."""
    submission, words = take(Submission, words)
    options = training_options(words)
    if options.dry_run:
        return start_training(options, own)
    prediction = submission.words(options.workdir)
    check_prediction(prediction, made_later=True)
    # Without a folder the data are made while training: there is nothing to inspect.
    unusable = wait(run_inspect.spawn([options.config.data.path])) if options.config.data.path else 0
    # Training itself starts the submission: with --detach nothing here is needed any more once it runs.
    return unusable or start_training(options, own, ("predict", prediction, own.shards))


@part
def train(own: OnModal, words: list[str]) -> int:
    """Train what CONFIG is of, or go on: CONFIG --data.path /data/D --workdir /runs/W and any field of the config."""
    if not words or words[0].startswith("-"):
        raise UserError("expected the config file first, e.g. configs/speed_and_structure.py; resume goes without")
    return start_training(training_options(words), own)


@part
def resume(own: OnModal, words: list[str]) -> int:
    """Go on with the config that a run began with: --workdir /runs/W and fields that may change."""
    if words and not words[0].startswith("-"):
        raise UserError(f"{words[0]}: resume takes the run's own config: give --workdir /runs/W")
    return start_training(training_options(words), own)


@part
def inspect(own: OnModal, words: list[str]) -> int:
    """Look at data: the words of the inspect command."""
    from seisvel_jax.inspect import Inspect

    check_there(tyro.cli(Inspect, args=words).data, DATA, "inspect")
    return wait(run_inspect.spawn(words))


@part
def pack(own: OnModal, words: list[str]) -> int:
    """Pack data into large files: the words of the pack command."""
    from seisvel_jax.pack import Pack

    options = tyro.cli(Pack, args=words)
    check_made(options.output, options.data, "--data")
    return wait(run_pack.spawn(words))


@part
def simulate(own: OnModal, words: list[str]) -> int:
    """Simulate data in --shards containers: the words of the simulate command."""
    from seisvel_jax.simulate import Simulate

    options = tyro.cli(Simulate, args=words)
    check_made(options.output, options.models, "--models")
    return wait(run_simulate.spawn(words, own.shards, own.gpu))


@part
def predict(own: OnModal, words: list[str]) -> int:
    """Predict in --shards containers, into one file: the words of the predict command."""
    check_prediction(words)
    return wait(run_divided.spawn("predict", words, own.shards, own.gpu))


@part
def refine(own: OnModal, words: list[str]) -> int:
    """Refine in --shards containers, into one file: the words of the refine command."""
    check_refinement(words)
    return wait(run_divided.spawn("refine", words, own.shards, own.gpu))


@part
def sample(own: OnModal, words: list[str]) -> int:
    """Draw models in --shards containers, into one file: the words of the sample command."""
    check_sampling(words)
    return wait(run_divided.spawn("sample", words, own.shards, own.gpu))


@part
def submit(own: OnModal, words: list[str]) -> int:
    """The submission of a run, or of one of its checkpoints: --workdir /runs/W [--step S] [--test T] [--output O]."""
    run, words = take(Run, words)
    submission, words = take(Submission, words)
    prediction = [*submission.words(run.workdir), *words]
    check_prediction(prediction)
    return wait(run_divided.spawn("predict", prediction, own.shards, own.gpu))


@part
def tensorboard(own: OnModal, words: list[str]) -> int:
    """TensorBoard of all runs, until Ctrl-C."""
    print(board.get_web_url())
    threading.Event().wait()
    return 0

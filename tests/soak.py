"""Kill every long command again and again, at random and at delicate moments, and compare what it leaves in the end.

    python tests/soak.py --kills 40 [--seed 0] [--only train predict] [--folder DIR]

Each task is run straight through once. Then it is started, killed (SIGKILL, SIGTERM, SIGINT, or SIGINT twice) after a
random time or just when a file is being written, and started again, until the kills are used up; then it may finish.
Bytes, records and states must be those of the straight run, and nothing else may lie there. Exit code 0: so it was.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0
"""Seconds that a command may take to leave after a signal."""
FULL_RUN = 600.0
"""Seconds that a command may take when nobody kills it."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Task:
    """One command, started with its output as the last word, and what must come out of it."""

    name: str
    words: tuple[str, ...]
    """After `python -m seisvel_jax.`, without the output."""
    output_option: str
    output_name: str
    contents: Callable[[Path], dict]
    """What lies at the output, comparable."""


SHARES = {
    "train": 2,
    "simulate": 2,
    "simulate-openfwi": 2,
    "simulate-packed": 2,
    "predict": 2,
    "sample": 2,
    "refine": 2,
    "pack": 3,
}
"""Of the kills: packing starts fastest."""


@dataclass
class Report:
    """What was done and what was found."""

    kills: Counter = field(default_factory=Counter)
    """Under (task, signal, moment)."""
    rounds: Counter = field(default_factory=Counter)
    """Completed outputs compared with the straight run's, by task."""
    finished_first: int = 0
    """Starts that were through before their kill."""
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A few lines for people."""
        tasks = sorted({key[0] for key in self.kills} | set(self.rounds))
        lines = [f"{self.kills.total()} kills, {self.finished_first} starts that were through before their kill"]
        for task in tasks:
            of_task = {key[1:]: count for key, count in sorted(self.kills.items()) if key[0] == task}
            kinds = ", ".join(f"{count} {' '.join(key)}" for key, count in of_task.items())
            lines.append(f"  {task:17s} {sum(of_task.values()):3d} kills ({kinds}); {self.rounds[task]} outputs equal")
        return "\n".join(lines + ([f"PROBLEM {problem}" for problem in self.problems] or ["no problem"]))


def make_tasks(folder: Path) -> list[Task]:
    """The data and settings of all tasks, in `folder`. They depend on each other: train before predict."""
    import numpy as np
    from sample_support import write_run
    from training_support import SURVEY, write_data

    data = write_data(folder / "data", count=24)
    survey = folder / "survey.json"
    survey.write_text(json.dumps(SURVEY.to_dict()))
    config = folder / "config.py"
    config.write_text(
        "from dataclasses import replace\nfrom training_support import CONFIG\n"
        "config = replace(CONFIG, steps=24, eval_every=3)\n"
    )
    models = folder / "models.npy"
    np.save(models, np.full((24, 1, 8, 8), 2000, np.float32))
    run = str(folder / "straight-train" / "run")
    sample = ("sample", "--checkpoint", str(write_run(folder / "diffusion")), "--data", str(data))
    simulate = ("simulate", "--survey", str(survey), "--count", "60", "--batch-size", "3")
    tasks = [
        Task("train", ("train", str(config), "--data.path", str(data)), "--workdir", "run", run_contents),
        Task("simulate", (*simulate, "--layout", "challenge"), "--output", "set", file_contents),
        Task(
            "simulate-openfwi",
            (*simulate, "--layout", "openfwi", "--file-size", "3"),
            "--output",
            "set",
            file_contents,
        ),
        Task(
            "simulate-packed", (*simulate, "--layout", "packed", "--file-size", "3"), "--output", "set", file_contents
        ),
        Task(
            "predict",
            ("predict", "--checkpoint", run, "--data", str(data), "--batch-size", "1"),
            "--output",
            "submission.npz",
            file_contents,
        ),
        Task(
            "sample",
            (*sample, "--samples", "2", "--steps", "2", "--batch-size", "1"),
            "--output",
            "samples.npz",
            file_contents,
        ),
        Task(
            "refine",
            ("refine", "--data", str(data), "--start", str(models), "--iterations", "6", "--batch-size", "2"),
            "--output",
            "refined.npy",
            file_contents,
        ),
        Task("pack", ("pack", "--data", str(data), "--shard-size", "1"), "--output", "packed", file_contents),
    ]
    return tasks


def file_contents(output: Path) -> dict:
    """Every file by its name and bytes; hidden ones too: nothing may be left over."""
    if output.is_file():
        beside = sorted(path.name for path in output.parent.iterdir())
        return {"": output.read_bytes(), "beside": beside}
    return {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*")) if p.is_file()}


def run_contents(run: Path) -> dict:
    """The last state, what is predicted with, and every record but its time of day."""
    import jax
    import numpy as np

    from seisvel_jax.config import from_dict
    from seisvel_jax.survey import Survey
    from seisvel_jax.training.checkpoint import Checkpoints, load_run, read_metadata, step_folders
    from seisvel_jax.training.optim import make_optimizer
    from seisvel_jax.training.records import read_records
    from seisvel_jax.training.state import abstract_state

    last = step_folders(run)[-1]
    values = read_metadata(last)
    config, survey = from_dict(values["config"]), Survey.from_dict(values["survey"])
    checkpoints = Checkpoints(run)
    found = checkpoints.resume(
        abstract_state(config.groups, survey, make_optimizer(config.optim, config.steps)), values
    )
    checkpoints.close()
    assert found is not None
    best = load_run(run)
    return {
        "state": [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found[0])],
        "best": [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(best.params)],
        "best step": best.step,
        "metadata": {name: found[1][name] for name in ("weights", "postprocess", "validation", "samples")},
        "records": [{k: v for k, v in record.items() if k != "time"} for record in read_records(run / "metrics.jsonl")],
        "left over": [p.name for p in run.rglob(".*")] + [p.name for p in run.glob("damaged-*")],
    }


def environment(folder: Path) -> dict[str, str]:
    """Of the commands: compiled programs are shared, and compiled with little optimisation."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "MPLBACKEND": "agg",
    }


def start(task: Task, place: Path, folder: Path) -> subprocess.Popen:
    """The command, writing to `place`; what it says goes to a file beside it."""
    place.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", f"seisvel_jax.{task.words[0]}", *task.words[1:]]
    with open(place.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [*words, task.output_option, str(place / task.output_name)],
            cwd=folder,
            env=environment(folder),
            stdout=log,
            stderr=log,
        )


def unfinished(place: Path) -> set[str]:
    """Names of what is being written below `place`."""
    found = set()
    for folder, folders, files in os.walk(place, onerror=lambda error: None):
        found |= {os.path.join(folder, name) for name in (*folders, *files) if name.startswith(".") and ".part" in name}
    return found


def kill_once(task: Task, place: Path, folder: Path, *, rng: random.Random, duration: float, report: Report) -> bool:
    """Start and kill; whether the command was through before that."""
    moment = rng.choice(("any time", "writing"))
    number = rng.choice(SIGNALS)
    twice = number == signal.SIGINT and rng.random() < 0.3
    log = place.with_suffix(".log")
    said = log.stat().st_size if log.exists() else 0
    before = unfinished(place)
    process = start(task, place, folder)
    begun = time.monotonic()
    if moment == "any time":
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.0, 0.8 * duration))  # the straight run compiled, this one need not
    else:
        skip = rng.randrange(4)  # not always the first file
        while process.poll() is None and time.monotonic() - begun < FULL_RUN:
            new = unfinished(place) - before
            if new:
                before |= new
                skip -= 1
                if skip < 0:
                    break
            time.sleep(0.0005)
        if process.poll() is None:
            time.sleep(rng.uniform(0.0, 0.02))
    through = process.poll() is not None
    if not through:
        process.send_signal(number)
        if twice:
            time.sleep(rng.uniform(0.0, 0.5))
            process.send_signal(number)
        report.kills[task.name, signal.Signals(number).name + (" twice" if twice else ""), moment] += 1
    else:
        report.finished_first += 1
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        report.problems.append(f"{task.name}: did not leave within {PATIENCE:g} s of {signal.Signals(number).name}")
        return False
    words = log.read_bytes()[said:].decode(errors="replace")
    expected = {0} if through else {0, 130, 143, -number}
    if code not in expected:
        report.problems.append(f"{task.name}: left with {code}, expected one of {sorted(expected)}: {words[-2000:]}")
    # Ctrl-C while Python is still importing is answered by Python itself.
    if "Traceback" in words and "importlib" not in words and "import " not in words:
        report.problems.append(f"{task.name}: a traceback: {words[-3000:]}")
    return code == 0


def compare(task: Task, straight: dict, place: Path, report: Report) -> None:
    """Whether a finished output is the straight run's."""
    try:
        found = task.contents(place / task.output_name)
    except Exception as error:
        report.problems.append(f"{task.name}: {place}: cannot be read: {type(error).__name__}: {error}")
        return
    wrong = sorted(key for key in straight.keys() | found.keys() if straight.get(key) != found.get(key))
    if wrong:
        report.problems.append(f"{task.name}: {place}: differs from the straight run in {wrong[:10]}")
    else:
        report.rounds[task.name] += 1


def soak(folder: Path, kills: int, seed: int, only: list[str] | None = None, say: Callable = print) -> Report:
    """Do it; `kills` in all, shared out among the tasks."""
    rng, report = random.Random(seed), Report()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background jobs; commands would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    tasks = make_tasks(folder)
    chosen = [task for task in tasks if not only or task.name in only]
    straights: dict[str, tuple[dict, float]] = {}
    for task in tasks:
        if task not in chosen and not (task.name == "train" and any(t.name == "predict" for t in chosen)):
            continue
        place = folder / f"straight-{task.name}"
        begun = time.monotonic()
        code = start(task, place, folder).wait(FULL_RUN)
        duration = time.monotonic() - begun
        if code:
            raise SystemExit(f"{task.name}: the straight run left with {code}: {place.with_suffix('.log').read_text()}")
        straights[task.name] = task.contents(place / task.output_name), duration
        say(f"{task.name}: straight through in {duration:.1f} s", flush=True)
    share = kills / sum(SHARES[task.name] for task in chosen)
    ends = [round(share * sum(SHARES[task.name] for task in chosen[: n + 1])) for n in range(len(chosen))]
    for task, first, end in zip(chosen, [0, *ends], ends, strict=False):
        straight, duration = straights[task.name]
        wanted = end - first
        turn = 0
        known = len(report.problems)
        while sum(count for key, count in report.kills.items() if key[0] == task.name) < wanted:
            if len(report.problems) > known:
                break
            place = folder / f"killed-{task.name}-{turn}"
            if kill_once(task, place, folder, rng=rng, duration=duration, report=report):
                compare(task, straight, place, report)
                turn += 1
        place = folder / f"killed-{task.name}-{turn}"
        code = start(task, place, folder).wait(FULL_RUN)
        if code:
            said = place.with_suffix(".log").read_text(errors="replace")
            report.problems.append(f"{task.name}: cannot be continued, exit code {code}: {said[-2000:]}")
        else:
            compare(task, straight, place, report)
        say(f"{task.name}: done, {len(report.problems)} problems", flush=True)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--folder", type=Path, help="keep everything here instead of in a temporary folder")
    options = parser.parse_args()
    os.environ.update({key: value for key, value in environment(Path(".")).items() if key.startswith("JAX_PLATFORMS")})
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    folder = Path(options.folder or tempfile.mkdtemp(prefix="soak-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    report = soak(folder, options.kills, options.seed, options.only)
    print(f"seed {options.seed}, {time.monotonic() - begun:.0f} s")
    print(report.text())
    if options.folder is None and not report.problems:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())

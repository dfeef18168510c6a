"""`python -m seisvel_jax.demo`: the whole road on a laptop, from random ground to a scored submission.

Every stage is one of the package's own commands, printed before it runs, so each can be repeated by hand. Each
stage resumes, so an interrupted demo goes on where it stopped.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from seisvel_jax.errors import UserError, run_command

REPOSITORY = Path(__file__).resolve().parents[1]
LOOK_ALIKES = REPOSITORY.parent / "shared" / "data" / "challenge_like" / "full"


@dataclass(frozen=True)
class Demo:
    """Simulate a small challenge-like data set, train a small ensemble, predict, score and draw."""

    workdir: Path = Path("demo")
    """Where everything goes; remove it to start afresh."""
    train_samples: int = 480
    """Simulated training samples (about 5 a second on two cores)."""
    test_samples: int = 24
    """Simulated held-out samples."""
    look_alikes: Path = LOOK_ALIKES
    """Full-size challenge samples made by other tools, predicted too where this folder exists."""


VARIANTS = {
    "ensemble": (),
    "+ TTA": ("--tta",),
    "+ TTA + post-processing": ("--tta", "--post-process"),
}


def demo(options: Demo) -> None:
    """Run all stages and print the table of scores."""
    began = time.monotonic()
    work = options.workdir
    config = REPOSITORY / "configs" / "demo.py"
    if not config.is_file():
        raise UserError(f"{config}: not found; the demo runs from a clone of the repository: make demo")
    run, test = work / "run", work / "test"

    survey = ("--survey", "speed-and-structure", "--layout", "challenge", "--grid-spacing", "5", "--dt", "1e-3")
    _run("simulate", *survey, "--count", options.train_samples, "--seed", 1, "--output", work / "train")
    _run("simulate", *survey, "--count", options.test_samples, "--seed", 2, "--output", test)
    _run("inspect", test, "--figures", work / "figures" / "inspect")
    _run("train", config, "--data.path", work / "train", "--workdir", run)

    scores = {}
    for name, flags in VARIANTS.items():
        stem = "_".join(["submission", *(flag.strip("-") for flag in flags)])
        last = name == list(VARIANTS)[-1]
        submission, score = work / f"{stem}.npz", work / f"{stem}.json"
        extra: tuple[object, ...] = ("--deviation", work / "deviation.npz") if last else ()
        _run("predict", "--checkpoint", run, "--data", test, "--output", submission, *flags, *extra)
        if last:
            extra += ("--baseline-from", work / "train", "--figures", work / "figures" / "held_out")
        _run("evaluate", "--prediction", submission, "--truth", test, "--json", score, *extra)
        scores[name] = json.loads(score.read_text())

    rows = [(name, score["mape"]) for name, score in scores.items()]
    baselines = scores[list(VARIANTS)[-1]]["baselines"]
    print("\nHeld-out simulated samples, MAPE as the challenge scores it")
    _table([*((f"baseline: {name}", value) for name, value in baselines.items()), *rows])

    if options.look_alikes.is_dir():
        submission, score = work / "look_alikes.npz", work / "look_alikes.json"
        figures = ("--figures", work / "figures" / "look_alikes")
        _run(
            "predict",
            "--checkpoint",
            run,
            "--data",
            options.look_alikes,
            "--output",
            submission,
            *VARIANTS["+ TTA + post-processing"],
        )
        _run(
            "evaluate",
            "--prediction",
            submission,
            "--truth",
            options.look_alikes,
            "--json",
            score,
            *figures,
            "--baseline-from",
            work / "train",
        )
        values = json.loads(score.read_text())
        print("\nFull-size look-alikes of the challenge made by other people's tools (never trained on), MAPE")
        _table(
            [
                *((f"baseline: {n}", v) for n, v in values["baselines"].items()),
                ("+ TTA + post-processing", values["mape"]),
            ]
        )
    else:
        print(f"\n{options.look_alikes}: not there, so the full-size look-alikes are not predicted")

    print(f"\ndata         {work / 'train'}, {test}")
    print(f"checkpoint   {run}")
    print(f"submissions  {work}/submission*.npz, scores beside them as .json")
    print(f"figures      {work / 'figures'}, {run / 'figures'}")
    print(f"done in {(time.monotonic() - began) / 60:.1f} minutes")


def _run(command: str, *arguments: object) -> None:
    words = [str(a) for a in arguments]
    print(f"\n$ python -m seisvel_jax.{command} {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", f"seisvel_jax.{command}", *words], check=False).returncode
    if code in (130, -2):
        raise KeyboardInterrupt
    if code:
        raise UserError(f"the stage '{command}' failed (exit code {code}); its message is above")


def _table(rows: list[tuple[str, float]]) -> None:
    for name, value in rows:
        print(f"  {name:<55s} {100 * value:6.2f} %")


def main() -> None:
    """Entry point."""
    demo(tyro.cli(Demo, prog="python -m seisvel_jax.demo", description=__doc__))


if __name__ == "__main__":
    run_command(main)

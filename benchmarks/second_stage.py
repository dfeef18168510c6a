"""What a second stage gains: N steps of it on a first stage of N steps, against a first stage of 2 N, all online.

    python benchmarks/second_stage.py [--steps 600] [--output benchmarks/results/second_stage_cpu.md]

The small experiment of benchmarks/online.py; test samples from a stream of their own.
"""

import argparse
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from online import FAMILY, SURVEY, network, training

from seisvel_jax.config import write_config
from seisvel_jax.data.online import OnlineConfig, Simulated
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.inference.pretrained import load
from seisvel_jax.metrics import mae, mape
from seisvel_jax.models.config import GroupConfig
from seisvel_jax.train import train
from seisvel_jax.training.config import FirstStageConfig
from seisvel_jax.training.mesh import one_device
from seisvel_jax.wave.propagate import propagate

TEST = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = compare(Path(folder), options.steps)
    print(text)
    if options.output:
        options.output.write_text(text)


def compare(folder: Path, steps: int) -> str:
    """Train all three and give their scores as a Markdown page."""
    write_config(folder / "small.json", SURVEY.to_dict())
    online = OnlineConfig(survey=str(folder / "small.json"), family=FAMILY)
    test = Simulated(online, SURVEY, 0, one_device()).samples("test", TEST, 8)
    model = network(test.gathers_of)
    first = replace(
        training("first", model, steps),
        data=DataConfig(online=online, validation_fraction=0.0),
        eval_every=2 * steps,
    )
    second = replace(
        first,
        groups=(GroupConfig(replace(model, second_stage=True)),),
        data=replace(first.data, seed=1),
        first_stage=FirstStageConfig(str(folder / "first")),
    )
    rows = []
    for name, words, config in (
        ("first", f"first stage, {steps} steps", first),
        ("second", f"second stage on it, {steps} steps", second),
        ("longer", f"first stage, {2 * steps} steps", replace(first, steps=2 * steps)),
    ):
        start = time.perf_counter()
        train(config, folder / name)
        seconds = time.perf_counter() - start
        velocity = load(folder / name).predict(test.gathers_of, survey=SURVEY)
        residual = np.asarray(propagate(velocity, SURVEY, max_velocity=4500.0)) - test.gathers_of
        misfit = (residual**2).sum((1, 2, 3)) / (test.gathers_of**2).sum((1, 2, 3))
        rows.append(
            f"| {words} | {100 * mape(velocity, test.velocity_of).mean():.2f} "
            f"| {mae(velocity, test.velocity_of).mean():.0f} | {misfit.mean():.3f} | {seconds:.0f} |"
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f"""# What a second stage gains

`python benchmarks/second_stage.py --steps {steps}`, commit {commit.stdout.strip()}, {os.cpu_count()} cores
({platform.machine()}, no GPU). {FAMILY} models of {SURVEY.grid.shape} nodes, gathers {SURVEY.gather_shape}, all drawn
online, one network each; {TEST} test samples from a stream of their own.

| network | test MAPE, % | test MAE, m/s | relative data misfit | seconds |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()

"""Samples a second of the simulator on this machine, and the share of the time that drawing the models takes.

python benchmarks/simulate.py [--samples 16] [--skip-full] [--output benchmarks/results/simulate_cpu.md]

A sample is five shots. Three cases: OpenFWI's own experiment (310 x 310 nodes with the sponge, 1000 steps), the
challenge at 5 m and 1 ms, and one full sample of the challenge (1 m, 10001 rows, sponge of 350 m). "solver" is the time
loop on models that lie ready; "simulate" the whole of `simulate_dataset` with random models into a pack, less what was
compiled in a first run of as many samples as are simulated together. All cores; best of the runs.
"""

import argparse
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RUNS = 3
TARGETS = {"openfwi": "1.2 samples/s", "challenge, 5 m, 1 ms": "3 samples/s", "challenge, 1 m, 0.1 ms": "90 s a sample"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--skip-full", action="store_true", help="leave the 1 m sample out: it takes minutes")
    parser.add_argument("--output", type=Path, help="a .md for the table")
    options = parser.parse_args()

    from seisvel_jax.simulation.simulator import use_all_cores

    use_all_cores()
    from seisvel_jax.survey import openfwi, speed_and_structure

    rows = {
        "openfwi": measure(openfwi(), options.samples),
        "challenge, 5 m, 1 ms": measure(speed_and_structure(spacing=5, dt=1e-3), options.samples),
    }
    if not options.skip_full:
        rows["challenge, 1 m, 0.1 ms"] = measure_one(speed_and_structure())
    text = table(rows, options.samples)
    print(text)
    if options.output:
        options.output.write_text(text)


def measure(survey: Any, samples: int) -> dict[str, float]:
    """Rates of the solver, of drawing models and of the whole command."""
    from seisvel_jax.simulation.ground import read_model
    from seisvel_jax.simulation.run import simulate_dataset
    from seisvel_jax.simulation.simulator import USUAL_FASTEST, Simulator
    from seisvel_jax.simulation.velocities import RandomVelocities

    models = RandomVelocities(survey, samples, 0)
    velocity = np.stack([read_model(models, i, survey)[0] for i in range(samples)])  # compiles
    drawing = min(timed(lambda: [models.velocity(i) for i in range(samples)]) for _ in range(RUNS))

    simulator = Simulator(survey, 8)
    size = simulator.batch_size
    samples -= samples % size

    def solve(first: int = 0) -> None:
        started = simulator.start(velocity[first : first + size], USUAL_FASTEST, survey.boundary.width)
        simulator.finish(started, size)

    compiling = timed(solve)
    solving = min(timed(lambda: [solve(i) for i in range(0, samples, size)]) for _ in range(RUNS))

    def command(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return timed(lambda: simulate_dataset(models, survey, "packed", Path(folder) / "pack", count=count))

    command(size)
    whole = min(command(samples) for _ in range(RUNS))
    return {
        "solver": samples / solving,
        "simulate": samples / whole,
        "model_ms": 1e3 * drawing / samples,
        "model_share": drawing / whole,
        "compile": compiling - solving * size / samples,
    }


def measure_one(survey: Any) -> dict[str, float]:
    """One sample, alone: drawn, simulated and written as a folder of the challenge."""
    from seisvel_jax.simulation.run import simulate_dataset
    from seisvel_jax.simulation.velocities import RandomVelocities

    models = RandomVelocities(survey, 1, 0)
    drawing_first = timed(lambda: models.velocity(0))
    drawing = min(timed(lambda: models.velocity(0)) for _ in range(RUNS))
    with tempfile.TemporaryDirectory() as folder:
        whole = timed(lambda: simulate_dataset(models, survey, "challenge", Path(folder) / "set"))
    return {"seconds": whole, "model_ms": 1e3 * drawing, "model_share": drawing / whole, "first_model": drawing_first}


def timed(work: Any) -> float:
    """Seconds that `work()` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def table(rows: dict[str, dict[str, float]], samples: int) -> str:
    """Markdown."""
    import jax

    lines = [
        "# simulate: samples a second",
        "",
        f"`python benchmarks/simulate.py --samples {samples}`, commit {git('rev-parse', '--short', 'HEAD')}"
        f"{' with changes' if git('status', '--porcelain', 'seisvel_jax') else ''}, {hardware()}, "
        f"{jax.device_count()} {jax.default_backend()} devices, load {os.getloadavg()[0]:.1f}.",
        "",
        "| case | required | solver | whole command | drawing a model | its share |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "seconds" in row:
            cells = ["", f"{row['seconds']:.1f} s a sample, compiling included"]
        else:
            cells = [f"{row['solver']:.2f} samples/s", f"{row['simulate']:.2f} samples/s"]
        cells += [f"{row['model_ms']:.1f} ms", f"{100 * row['model_share']:.1f} %"]
        lines.append(f"| {name} | {TARGETS[name]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def hardware() -> str:
    """Processor and cores."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return f"{len(os.sched_getaffinity(0))} cores of {cpu.partition(':')[2].strip() or platform.processor()}"


def git(*command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()

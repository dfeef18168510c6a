"""What a sample costs: 100 samples of a 70 x 70 model at 4, 8, 16 and 32 evaluations, wells held, gathers pulling.

    python benchmarks/sample.py [--results]        with --results writes benchmarks/results/sample.md

The network of configs/diffusion_demo.py with new parameters: what they are does not change the cost. Seconds are those
of a second call, so without compiling, which is said beside.
"""

import argparse
import platform
import subprocess
import time
from pathlib import Path

import numpy as np

from seisvel_jax.simulation.simulator import use_all_cores

use_all_cores()

import jax  # noqa: E402

from seisvel_jax.config import DiffusionConfig, load_config_file  # noqa: E402
from seisvel_jax.diffusion.sampler import SamplerConfig  # noqa: E402
from seisvel_jax.inference.posterior import (  # noqa: E402
    Drawing,
    Job,
    Posterior,
    Told,
    gathered,
    sample_keys,
    shares,
    shots_of,
)
from seisvel_jax.inference.refined import simulated  # noqa: E402
from seisvel_jax.inference.told import Cells  # noqa: E402
from seisvel_jax.models.ensemble import init_params  # noqa: E402
from seisvel_jax.survey import openfwi  # noqa: E402
from seisvel_jax.training.runs import DiffusionRun  # noqa: E402
from seisvel_jax.training.state import abstract_params  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def new_run() -> DiffusionRun:
    config = load_config_file(ROOT / "configs" / "diffusion_demo.py", DiffusionConfig)
    survey = openfwi().resampled(dt=config.denoiser.encoder.dt)
    graphdef = abstract_params(config.groups, survey)[0][0]
    params = jax.jit(lambda key: init_params(config.groups, survey, key))(jax.random.key(0))[0]
    return DiffusionRun(config, survey, graphdef, params, 0, {}, {})


def told_of(run: DiffusionRun, *, wells: bool) -> Told:
    grid = run.survey.grid
    depth = np.arange(grid.depth_count)[:, None] + 0.1 * np.arange(grid.x_count)[None]
    velocity = (1800 + 300 * (depth // 12)).astype(np.float32)
    gathers = simulated(velocity[None], run.survey, 4500.0)[0]
    known = np.zeros(grid.shape, bool)
    known[:, [10, 40]] = wells
    nothing = Cells.none(grid)
    return Told(gathers, shots_of(gathers), Cells(velocity * known, known), nothing)


def seconds(run: DiffusionRun, drawing: Drawing, count: int, batch_size: int, *, wells: bool) -> tuple[float, float]:
    """Of drawing `count` samples of one model, and of the first time besides: compiling."""
    posterior, told = Posterior(run, drawing), told_of(run, wells=wells)
    parts = shares(count, posterior.members, batch_size)
    jobs = [Job(told, member, sample_keys(0, "a", numbers)) for member, numbers in parts]
    begun = time.perf_counter()
    posterior.draw(jobs[: posterior.together])
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    drawn = gathered(parts, posterior.draw(jobs), count)
    took = time.perf_counter() - begun
    assert np.isfinite(drawn).all()
    return took, first - took * posterior.together / len(jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", action="store_true")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--only", type=int, help="only the first so many lines")
    options = parser.parse_args()
    run = new_run()
    plain = [(f"{steps} evaluations", Drawing(SamplerConfig("dpm", steps)), 100, False) for steps in (16, 4, 8, 32)]
    rest = [
        ("16 levels of heun (31 evaluations)", Drawing(SamplerConfig("heun", 16)), 100, False),
        ("16, two wells put in alone", Drawing(SamplerConfig("dpm", 16), well_iterations=0), 100, True),
        ("16, two wells held by 2 conjugate gradients", Drawing(SamplerConfig("dpm", 16)), 100, True),
        ("16, weight 2", Drawing(SamplerConfig("dpm", 16), weight=2.0), 100, False),
        ("16, --guidance physics (sda)", Drawing(SamplerConfig("dpm", 16), guidance="sda"), 4, False),
        ("16, moment-matching of 4", Drawing(SamplerConfig("dpm", 16), guidance="moment-matching"), 2, False),
        ("16 levels of daps of 4", Drawing(SamplerConfig("dpm", 16), guidance="daps"), 2, False),
    ]
    lines = ["| drawn | samples | seconds | seconds a sample | compiling |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for what, drawing, count, wells in [*plain, *rest][: options.only]:
        took, compiling = seconds(run, drawing, count, options.batch_size, wells=wells)
        lines.append(f"| {what} | {count} | {took:.1f} | {took / count:.2f} | {max(compiling, 0):.0f} s |")
        print(lines[-1], flush=True)
    if options.results:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        where = (
            f"{jax.local_device_count()} {platform.processor() or platform.machine()} {jax.default_backend()} devices"
        )
        head = (
            f"# Seconds a sample\n\n`python benchmarks/sample.py --results`, {where}, commit {commit.stdout.strip()}.\n"
        )
        path = ROOT / "benchmarks" / "results" / "sample.md"
        path.write_text(head + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

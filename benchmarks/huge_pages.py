"""A training step with memory in pages of 4 kB and in huge pages, in processes that take turns.

python benchmarks/huge_pages.py [--config configs/diffusion_demo.py] [--steps 30] [--turns 3]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from seisvel_jax.huge_pages import TUNABLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/diffusion_demo.py", help="of a diffusion model")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options.config, options.steps)))
        return
    print("| pages | s a step, medians | share of the time in the kernel | largest memory, MB |\n|---|---|---|---|")
    found: dict[str, list[dict[str, float]]] = {"4 kB": [], "huge": []}
    for _ in range(options.turns):
        for name, tunables in (("4 kB", ""), ("huge", TUNABLE)):
            environment = {**os.environ, "GLIBC_TUNABLES": tunables}
            done = subprocess.run(
                [sys.executable, *sys.argv, "--child"], env=environment, check=True, capture_output=True, text=True
            )
            found[name].append(json.loads(done.stdout))
    for name, turns in found.items():
        seconds = ", ".join(f"{one['median']:.3f}" for one in turns)
        kernel = statistics.median(one["kernel"] for one in turns)
        print(f"| {name} | {seconds} | {100 * kernel:.0f} % | {max(one['memory'] for one in turns):.0f} |")


def measured(config_file: str, steps: int) -> dict[str, float]:
    """Of one process: the median step in seconds, the kernel's share of the CPU time, the largest memory in MB."""
    import jax
    import numpy as np

    from seisvel_jax.config import DiffusionConfig, load_config_file
    from seisvel_jax.training.diffusion_step import make_diffusion_step
    from seisvel_jax.training.optim import make_optimizer
    from seisvel_jax.training.source import dataset_and_survey
    from seisvel_jax.training.state import abstract_params, init_state

    config = load_config_file(config_file, DiffusionConfig)
    survey = dataset_and_survey(config)[1]
    optimizer = make_optimizer(config.optim, config.steps)
    step = make_diffusion_step(config, abstract_params(config.groups, survey)[0][0], optimizer, survey)
    state = init_state(config.groups, survey, optimizer, jax.random.key(0))
    rng, rows = np.random.default_rng(0), config.batch_size
    batch = {
        "gathers": rng.normal(size=(rows, *survey.gather_shape)).astype(np.float32),
        "velocity": rng.uniform(1500, 4500, (rows, *survey.grid.shape)).astype(np.float32),
        "family": np.zeros(rows, np.int32),
    }
    times = []
    for number in range(steps + 2):
        if number == 2:  # the first one compiles
            before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    return {
        "median": statistics.median(times[2:]),
        "kernel": system / (system + user),
        "memory": after.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()

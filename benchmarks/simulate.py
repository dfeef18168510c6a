"""Samples a second of the solver on this machine: `python benchmarks/simulate.py [--samples 8]`.

A sample is five shots. Best of three runs after compilation, all cores; JSON on stdout.
"""

import argparse
import json
import time

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8)
    samples = parser.parse_args().samples

    from seisvel_jax.simulate import RandomVelocities, use_all_cores

    use_all_cores()
    import jax

    from seisvel_jax.survey import openfwi, speed_and_structure
    from seisvel_jax.wave.plan import make_plan
    from seisvel_jax.wave.propagate import run_plan

    surveys = {
        "speed-and-structure 5 m 1 ms 350 m": speed_and_structure(spacing=5, dt=1e-3),
        "speed-and-structure 5 m 1 ms 500 m": speed_and_structure(spacing=5, dt=1e-3, sponge=500),
        "openfwi": openfwi(),
    }
    results = {}
    for name, survey in surveys.items():
        models = RandomVelocities(survey, samples, 0)
        velocity = np.stack([models.velocity(i) for i in range(samples)])
        plan = make_plan(survey, 4500.0)
        began = time.perf_counter()
        run_plan(velocity, plan).block_until_ready()
        first = time.perf_counter() - began
        walls, cpus = [], []
        for _ in range(3):
            began, cpu = time.perf_counter(), time.process_time()
            run_plan(velocity, plan).block_until_ready()
            walls.append(time.perf_counter() - began)
            cpus.append(time.process_time() - cpu)
        results[name] = {
            "samples_per_second": round(samples / min(walls), 2),
            "cpu_seconds_per_sample": round(min(cpus) / samples, 3),
            "compile_seconds": round(first - min(walls), 1),
        }
    print(json.dumps({"devices": jax.device_count(), "backend": jax.default_backend(), **results}, indent=1))


if __name__ == "__main__":
    main()

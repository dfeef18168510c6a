"""Bytes and samples a second of a pack against the challenge folders it was made from, in one run on this machine.

python benchmarks/pack.py [--samples 64] [--folder DIR] [--output benchmarks/results/pack_cpu.json]

Makes challenge-size samples (five files of 10001 x 31 float32 and one of 300 x 1259 float64 each; band-limited noise
and layers) in a temporary folder, packs them at 1 ms with the command, and reads both through the training pipeline
(grain, two threads, no cache). Three readings of the same 1 ms, 1 m samples:

  folders       as `train --data.dt 1e-3` reads them: decimated on the way
  folders, raw  the files alone, at their own 0.1 ms: what could be had if decimation were free
  pack          opened anew for each run, so every sample is compared with its checksum

Cold: the files are first put out of the page cache (posix_fadvise; a virtual disk may still cache them underneath).
Warm: read once before. Median and range of the runs.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH = 8
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where to make the data (default: the system's temporary folder)")
    parser.add_argument("--output", type=Path, help="file for the results; a .md of the same name beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = measure(Path(folder), options.samples)
    print(json.dumps(results, indent=1))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(table(results))


def measure(folder: Path, samples: int) -> dict:
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.survey import speed_and_structure

    raw, packed = folder / "train", folder / "pack"
    make_samples(raw, samples)
    began = time.perf_counter()
    command = [sys.executable, "-m", "seisvel_jax.pack", "--data", raw, "--output", packed, "--dt", "1e-3"]
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    packing = time.perf_counter() - began

    own, coarse = speed_and_structure(), speed_and_structure(dt=1e-3)
    assert open_dataset(packed).survey.gather_shape == coarse.gather_shape
    cases = {"folders": (raw, coarse), "folders, raw": (raw, own), "pack": (packed, coarse)}
    runs: dict[str, dict[str, list[dict[str, float]]]] = {name: {"cold": [], "warm": []} for name in cases}
    for _ in range(RUNS):  # one after the other, so that a busy moment of the machine does not fall on one case alone
        for name, (path, survey) in cases.items():
            for state in ("cold", "warm"):
                if state == "cold":
                    forget(path)
                runs[name][state].append(read(path, survey))
    sizes = {"folders": size(raw), "pack": size(packed)}
    rates, cpu = (
        {
            name: {state: spread([run[key] for run in of]) for state, of in states.items()}
            for name, states in runs.items()
        }
        for key in ("samples_per_second", "cpu_ms")
    )
    return {
        "commit": git("rev-parse", "--short", "HEAD"),
        "modified": bool(git("status", "--porcelain", "seisvel_jax", "benchmarks/pack.py")),
        "hardware": hardware(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "samples": samples,
        "batch": BATCH,
        "bytes": sizes,
        "bytes_ratio": round(sizes["folders"] / sizes["pack"], 2),
        "packing_samples_per_second": round(samples / packing, 2),
        "samples_per_second": rates,
        "cpu_ms_per_sample": cpu,
        "speed_ratio": {
            f"pack to {name}, {state}": round(rates["pack"][state]["median"] / rates[name][state]["median"], 2)
            for name in ("folders", "folders, raw")
            for state in ("cold", "warm")
        },
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


def make_samples(folder: Path, count: int) -> None:
    """Challenge-size samples: noise below 50 Hz for gathers, layers for velocity."""
    from seisvel_jax.data.writers import write_challenge_sample
    from seisvel_jax.survey import speed_and_structure

    rng = np.random.default_rng(0)
    sources, nt, receivers = speed_and_structure().gather_shape
    for index in range(count):
        spectrum = np.zeros((sources, nt // 2 + 1, receivers), np.complex64)
        spectrum[:, 1:50] = rng.normal(size=(sources, 49, receivers)) + 1j * rng.normal(size=(sources, 49, receivers))
        gathers = np.fft.irfft(spectrum, nt, axis=1).astype(np.float32)
        gathers *= 0.0155 / gathers.std()
        layers = np.sort(rng.uniform(1500, 4500, 40)).repeat(32)[:1259, None]
        velocity = (layers + rng.normal(0, 20, (1259, 300))).clip(1500, 4500).astype(np.float32)
        write_challenge_sample(folder, f"sample{index:04d}", gathers, velocity)


def read(path: Path, survey) -> dict[str, float]:
    """Samples a second and CPU ms a sample of an epoch through the pipeline, the set opened anew, nothing cached."""
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.data.pipeline import Batches, Resampled

    dataset = open_dataset(path)
    samples = Resampled(dataset, survey, 0.0)
    batches = Batches(samples, np.arange(len(dataset)), survey, BATCH, 0, prefetch=2, cache_gib=0.0)
    steps = len(dataset) // BATCH
    began, cpu = time.perf_counter(), time.process_time()
    stream = batches.from_step(0)
    for _ in range(steps):
        batch = next(stream)
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert batch["gathers"].shape == (BATCH, *survey.gather_shape)
    stream.close()
    return {"samples_per_second": steps * BATCH / elapsed, "cpu_ms": 1e3 * cpu / (steps * BATCH)}


def forget(path: Path) -> None:
    """Put the files below `path` out of the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def hardware() -> dict:
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": cpu.partition(":")[2].strip() or platform.processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def git(*command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()


def table(results: dict) -> str:
    lines = [
        f"# pack against challenge folders, commit {results['commit']}, {results['hardware']}",
        "",
        f"`python benchmarks/pack.py --samples {results['samples']}`; load {results['load']}; medians of {RUNS} runs "
        "(range).",
        "",
        "| | bytes | samples/s, cold page cache | samples/s, warm | CPU ms a sample, cold | warm |",
        "|---|---|---|---|---|---|",
    ]
    for name, states in results["samples_per_second"].items():
        cells = [f"{states[s]['median']} ({states[s]['min']}-{states[s]['max']})" for s in ("cold", "warm")]
        cells += [str(results["cpu_ms_per_sample"][name][state]["median"]) for state in ("cold", "warm")]
        lines.append(f"| {name} | {results['bytes'][name.partition(',')[0]]:,} | {' | '.join(cells)} |")
    ratios = "; ".join(f"{name}: {ratio}" for name, ratio in results["speed_ratio"].items())
    lines += ["", f"Bytes: {results['bytes_ratio']} times fewer. Speed, {ratios}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

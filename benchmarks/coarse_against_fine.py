"""Coarse challenge gathers (5 m, 1 ms) against fine ones (1 m, 0.1 ms) of the same models, shot by shot and by offset.

python benchmarks/coarse_against_fine.py [--look-alikes ../shared/data/challenge_like] [--random 2] [--spacing 5]
    [--output benchmarks/results/coarse_against_fine.md]

Two references: the look-alikes' gathers by Devito (another solver), and this package's own run of random models at
1 m and 0.1 ms with the organiser's scheme (order 4, Devito's sponge; a minute or two each, behind 350 and 500 m).
Compared at 1 ms: every tenth row of the fine gathers. No scaling and no shift is applied; the static shift that would
fit best is stated, with what it would give. "Late": rows from 160 ms after the arrival of the direct wave on, where
only reflections and the sponge's echo are left.
"""

import argparse
import itertools
import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np

OFFSETS = np.arange(0, 351, 50)
LATE = 0.16
"""Seconds after the direct wave's first arrival: the wavelet has passed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--look-alikes", type=Path, default=Path("../shared/data/challenge_like"))
    parser.add_argument("--random", type=int, default=2, help="random models to simulate at 1 m")
    parser.add_argument("--spacing", type=float, default=5.0, help="metres of the coarse grid")
    parser.add_argument("--output", type=Path, help="a .md for the tables; a .png of the same name beside it")
    options = parser.parse_args()

    from seisvel_jax.simulation.simulator import use_all_cores

    use_all_cores()
    cases = {}
    if (options.look_alikes / "compact").is_dir():
        cases["look-alikes, by Devito, 350 m"] = look_alikes(options.look_alikes, options.spacing)
    for width in (350.0, 500.0) if options.random else ():
        name = f"random models, this package at 1 m, {width:g} m"
        cases[name] = random_models(options.random, options.spacing, width)
    text = report(cases, options)
    print(text)
    if options.output:
        options.output.write_text(text)
        figure(cases, options.output.with_suffix(".png"), options.spacing)


def look_alikes(folder: Path, spacing: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`(coarse, fine)` gathers `[source, time, receiver]` by sample."""
    pairs = {}
    for path in sorted((folder / "compact").glob("*.npz")):
        with np.load(path, allow_pickle=False) as archive:
            fine, velocity = archive["gathers"], 1000 * archive["vp"].T.astype(np.float32)
        pairs[path.stem] = coarse_gathers(velocity, spacing, 350.0), fine
    return pairs


def random_models(count: int, spacing: float, width: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same of random models, the fine gathers by this package."""
    from seisvel_jax.simulation.velocities import RandomVelocities
    from seisvel_jax.survey import speed_and_structure
    from seisvel_jax.wave.propagate import propagate

    survey = speed_and_structure(sponge=width)
    models = RandomVelocities(survey, count, 2025)
    pairs = {}
    for index, name in enumerate(models.names):
        began = time.perf_counter()
        velocity = models.velocity(index)
        fine = np.asarray(propagate(velocity[None], survey, max_velocity=4500.0))[0, :, ::10]
        print(f"{name}: 1 m, {width:g} m sponge, {time.perf_counter() - began:.0f} s", flush=True)
        pairs[name] = coarse_gathers(velocity, spacing, width), fine
    return pairs


def coarse_gathers(velocity: np.ndarray, spacing: float, width: float) -> np.ndarray:
    """What `simulate --grid-spacing 5 --dt 1e-3` makes of a model at 1 m: `[source, time, receiver]`."""
    from seisvel_jax.data.coarsen import solving_survey
    from seisvel_jax.simulation.ground import read_model
    from seisvel_jax.simulation.velocities import ArrayVelocities
    from seisvel_jax.survey import speed_and_structure
    from seisvel_jax.wave.propagate import propagate

    survey = speed_and_structure(spacing=spacing, dt=1e-3, sponge=width)
    solved, _ = read_model(ArrayVelocities(velocity[None]), 0, survey)
    return np.asarray(propagate(solved[None], solving_survey(survey), max_velocity=4500.0))[0]


def offsets() -> np.ndarray:
    """`[source, receiver]` metres along x."""
    from seisvel_jax.survey import speed_and_structure

    survey = speed_and_structure(dt=1e-3)
    return np.abs(survey.sources[:, None, 0] - survey.receivers[None, :, 0])


def late_rows(nt: int, dt: float = 1e-3) -> np.ndarray:
    """`[source, time, receiver]`: whether a row lies after the direct wave."""
    arrival = np.hypot(offsets(), 10.0) / 1500.0
    return np.arange(nt)[None, :, None] * dt >= arrival[:, None] + LATE


def relative(coarse: np.ndarray, fine: np.ndarray, where: np.ndarray | None = None) -> float:
    """L2 norm of the difference over that of the fine gathers, of the values chosen."""
    difference, norm = coarse.astype(np.float64) - fine, fine.astype(np.float64)
    if where is not None:
        difference, norm = difference[where], norm[where]
    return float(np.linalg.norm(difference) / np.linalg.norm(norm))


def by_offset(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Relative L2 `[source, bin]` of the traces in each 50 m of offset; NaN where a shot has none."""
    distance = offsets()
    found = np.full((len(distance), len(OFFSETS) - 1), np.nan)
    for shot in range(len(distance)):
        for k, (low, high) in enumerate(itertools.pairwise(OFFSETS)):
            chosen = (distance[shot] >= low) & (distance[shot] < high)
            if chosen.any():
                found[shot, k] = relative(coarse[shot][:, chosen], fine[shot][:, chosen])
    return found


def best_shift(coarse: np.ndarray, fine: np.ndarray, dt: float = 1e-3) -> tuple[float, float]:
    """The static shift in ms, in steps of 0.01, that fits best, and the relative L2 with it."""
    nt = coarse.shape[1]
    spectrum = np.fft.rfft(coarse.astype(np.float64), 2 * nt, axis=1)
    frequency = np.fft.rfftfreq(2 * nt, dt)[None, :, None]

    def error(ms: float) -> float:
        return relative(np.fft.irfft(spectrum * np.exp(-2e-3j * np.pi * frequency * ms), 2 * nt, axis=1)[:, :nt], fine)

    errors = {ms: error(ms) for ms in np.arange(-10, 11) / 100}
    best = min(errors, key=lambda ms: errors[ms])
    return float(best), errors[best]


def report(cases: dict, options: argparse.Namespace) -> str:
    """The tables."""
    lines = [
        f"# Coarse gathers ({options.spacing:g} m, 1 ms) against fine ones (1 m, 0.1 ms)",
        "",
        f"`python benchmarks/coarse_against_fine.py --random {options.random} --spacing {options.spacing:g}`, commit "
        f"{git('rev-parse', '--short', 'HEAD')}, {hardware()}.",
        "",
        "Relative L2 in per cent, no shift, no scaling. Late: after the direct wave.",
        "",
        "| reference | models | all rows: mean | worst model | worst shot | late: mean | worst model | best shift |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, pairs in cases.items():
        whole = [relative(c, f) for c, f in pairs.values()]
        shots = [relative(c[s], f[s]) for c, f in pairs.values() for s in range(len(f))]
        late = [relative(c, f, late_rows(f.shape[1])) for c, f in pairs.values()]
        shifts = [best_shift(c, f) for c, f in pairs.values()]
        lines.append(
            f"| {name} | {len(pairs)} | {100 * np.mean(whole):.3f} | {100 * max(whole):.3f} | {100 * max(shots):.3f} | "
            f"{100 * np.mean(late):.3f} | {100 * max(late):.3f} | {np.mean([s for s, _ in shifts]):+.2f} ms, then "
            f"{100 * np.mean([e for _, e in shifts]):.3f} |"
        )
    for name, pairs in cases.items():
        found = np.asarray([by_offset(c, f) for c, f in pairs.values()])
        mean, worst = found.mean(0), np.nanmax(found, axis=(0, 1))
        lines += [
            "",
            f"## {name}: by offset",
            "",
            "| shot at x | " + " | ".join(f"{low}-{high} m" for low, high in itertools.pairwise(OFFSETS)) + " |",
            "|---" * len(OFFSETS) + "|",
        ]
        for x, row in zip((0, 74, 149, 224, 299), mean, strict=True):
            lines.append(f"| {x} m | " + " | ".join("-" if np.isnan(v) else f"{100 * v:.3f}" for v in row) + " |")
        lines.append("| worst | " + " | ".join("-" if np.isnan(v) else f"{100 * v:.3f}" for v in worst) + " |")
    return "\n".join(lines) + "\n"


def figure(cases: dict, path: Path, spacing: float) -> None:
    """Error by offset of every trace, and one gather's worst trace with its difference."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    panels = plt.figure(figsize=(10, 3.6), layout="constrained").subplots(1, 2)
    distance = offsets()
    for name, pairs in cases.items():
        errors = np.mean([np.linalg.norm(c - f, axis=1) / np.linalg.norm(f, axis=1) for c, f in pairs.values()], axis=0)
        panels[0].plot(distance.ravel(), 100 * errors.ravel(), ".", markersize=3, label=name)
    panels[0].set(xlabel="offset (m)", ylabel="relative L2 of a trace (%)", ylim=(0, None))
    panels[0].legend(fontsize=7)
    coarse, fine = next(iter(next(iter(cases.values())).values()))
    times = np.arange(fine.shape[1])
    late = late_rows(fine.shape[1])[0, :, 15]
    gain = np.where(late, 1.0, np.nan)
    panels[1].plot(times, gain * fine[0, :, 15], "k", lw=0.8, label="1 m")
    panels[1].plot(times, gain * coarse[0, :, 15], "r--", lw=0.8, label=f"{spacing:g} m")
    panels[1].plot(times, gain * (coarse - fine)[0, :, 15], "b", lw=0.6, label="difference")
    panels[1].set(xlabel="time (ms)", ylabel="pressure", title="shot at 0 m, receiver at 150 m, late", xlim=(0, 1000))
    panels[1].legend(fontsize=7)
    plt.savefig(path, dpi=110)


def hardware() -> str:
    """Processor and cores."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return f"{len(os.sched_getaffinity(0))} cores of {cpu.partition(':')[2].strip() or platform.processor()}, no GPU"


def git(*command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()

"""What refinement does for look-alike samples of the challenge: MAPE before and after, for each of them.

    python benchmarks/refine_lookalikes.py --run demo/run [--iterations 60] [--samples 16] [--cases clean noise ...]

The start is the answer of a trained run (the demo's: `make demo`) to the very gathers that are then fitted. The samples
were made by other people's tools, are trained on by nobody, and chose none of the defaults. What is finished waits in
`--workdir` (the same command goes on). Writes benchmarks/results/refine_lookalikes_cpu.md and .json.
"""

import argparse
import json
import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
LOOK_ALIKES = REPOSITORY.parent / "shared" / "data" / "challenge_like"
RESULTS = REPOSITORY / "benchmarks" / "results"
CASES = {
    "clean": "the gathers as they are",
    "noise": "white Gaussian noise of 10 % of the gathers' RMS value",
    "missing": "the middle shot missing (zero)",
    "wavelet": "fired with 13.5 Hz where 15 Hz is assumed",
    "wavelet estimated": "the same with --estimate-wavelet filter",
    "network": "the gathers as they are, --method network --iterations 3",
}


class LookAlikes:
    """The compact look-alikes, every tenth row of the challenge's gathers, as a data set of one of the cases."""

    layout, has_velocity = "challenge", True

    def __init__(self, path: Path, case: str, count: int):
        from seisvel_jax.survey import speed_and_structure

        self.path, self.case = path / "compact", case
        self.files = sorted(self.path.glob("sample_*.npz"))[:count]
        self.names = tuple(file.stem for file in self.files)
        self.survey = speed_and_structure(dt=1e-3)

    def __len__(self) -> int:
        return len(self.files)

    def origin(self, index: int) -> Path:
        return self.files[index]

    def velocity(self, index: int) -> np.ndarray:
        with np.load(self.files[index], allow_pickle=False) as archive:
            return np.ascontiguousarray(1000 * archive["vp"].T, np.float32)

    def gathers(self, index: int) -> np.ndarray:
        with np.load(self.files[index], allow_pickle=False) as archive:
            gathers = archive["gathers"].astype(np.float32)
        if self.case == "noise":
            noise = np.random.default_rng(index).standard_normal(gathers.shape)
            gathers += (0.1 * np.sqrt(np.mean(gathers**2)) * noise).astype(np.float32)
        if self.case == "missing":
            gathers[2] = 0
        if self.case.startswith("wavelet"):
            gathers = other_wavelet(gathers, 15.0, 13.5, self.survey.dt)
        return gathers


def other_wavelet(gathers: np.ndarray, had: float, wanted: float, dt: float) -> np.ndarray:
    """Gathers fired with a Ricker wavelet of `had` Hz as a lower one of the same delay records them, exactly.

    A Ricker's spectrum is proportional to `f^2 / p^3 exp(-f^2 / p^2)`, p its peak frequency.
    """
    frequencies = np.fft.rfftfreq(2 * gathers.shape[1], dt)
    ratio = (had / wanted) ** 3 * np.exp(-(frequencies**2) * (1 / wanted**2 - 1 / had**2))
    spectra = np.fft.rfft(gathers, 2 * gathers.shape[1], axis=1) * ratio[:, None]
    return np.fft.irfft(spectra, axis=1)[:, : gathers.shape[1]].astype(np.float32)


def refine_case(case: str, arguments: argparse.Namespace, predictor: object) -> dict:
    from seisvel_jax import metrics
    from seisvel_jax.inference.refined import Settings, usual_inversion
    from seisvel_jax.inference.refining import Refinement, with_known_sponge
    from seisvel_jax.inference.starts import Predicted

    dataset = LookAlikes(arguments.look_alikes, case, arguments.samples)
    starts = Predicted(predictor, dataset, arguments.batch_size)  # type: ignore[arg-type]
    network = case == "network"
    iterations = 3 if network else arguments.iterations
    inversion = usual_inversion(
        iterations=iterations, estimate_wavelet="filter" if case == "wavelet estimated" else "none"
    )
    settings = Settings(inversion, "network" if network else "gradient", spacing=arguments.grid_spacing)
    settings = replace(settings, sponge_width=arguments.sponge_width)
    refinement = Refinement(dataset, dataset.names, starts, settings, predictor)  # type: ignore[arg-type]
    refinement = with_known_sponge(refinement)
    output = arguments.workdir / f"{case.replace(' ', '_')}.npz"
    finished = refinement.run(output, arguments.batch_size)
    rows = []
    for index, name in enumerate(dataset.names):
        gathers, true = dataset.gathers(index)[None], dataset.velocity(index)
        before, after, evaluations, seconds = (float(x) for x in finished.read("summary", index))
        rows.append(
            {
                "name": name,
                "mape_before": metrics.mape(starts([index], gathers)[0], true),
                "mape_after": metrics.mape(finished.read("velocity", index), true),
                "misfit_before": before,
                "misfit_after": after,
                "evaluations": int(evaluations),
                "seconds": seconds,
            }
        )
    return {"sponge_width": refinement.settings.sponge_width, "samples": rows}


def table(results: dict[str, dict]) -> str:
    """MAPE in per cent, before and after, a row a sample and a pair of columns a case."""
    names = [row["name"] for row in next(iter(results.values()))["samples"]]
    lines = ["| sample | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    for index, name in enumerate(names):
        cells = []
        for case in results.values():
            row = case["samples"][index]
            worse = " (worse)" if row["mape_after"] > row["mape_before"] else ""
            cells.append(f"{100 * row['mape_before']:.2f} -> {100 * row['mape_after']:.2f}{worse}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for key, form in (("mean", "{:.3f} -> {:.3f}"), ("misfit left", ""), ("sponge, m", ""), ("s a sample", "")):
        cells = []
        for case in results.values():
            rows = case["samples"]
            if key == "mean":
                cells.append(form.format(*(100 * np.mean([r[m] for r in rows]) for m in ("mape_before", "mape_after"))))
            elif key == "misfit left":
                cells.append(f"{100 * np.mean([r['misfit_after'] / r['misfit_before'] for r in rows]):.1f} %")
            elif key == "s a sample":
                cells.append(f"{np.mean([r['seconds'] for r in rows]):.1f}")
            else:
                cells.append(f"{case['sponge_width']:g}")
        lines.append(f"| **{key}** | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def processor() -> str:
    """Its name, as the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=REPOSITORY / "demo" / "run")
    parser.add_argument("--look-alikes", type=Path, default=LOOK_ALIKES)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--grid-spacing", type=float, default=None, help="metres; default the command's own, 5")
    parser.add_argument(
        "--sponge-width", type=float, default=None, help="metres; default estimated, as the command does"
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--workdir", type=Path, default=REPOSITORY / "demo" / "refine_lookalikes")
    parser.add_argument("--output", type=Path, default=RESULTS / "refine_lookalikes_cpu.md")
    arguments = parser.parse_args()

    from seisvel_jax.inference.pretrained import load
    from seisvel_jax.simulation.simulator import use_all_cores

    use_all_cores()
    predictor = load(arguments.run)
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    results = {}
    for case in arguments.cases:
        print(f"{case}: {CASES[case]}", flush=True)
        results[case] = refine_case(case, arguments, predictor)
        print(table({case: results[case]}), flush=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    facts = {
        "commit": commit.stdout.strip(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "evaluations": arguments.iterations,
        "grid spacing, m": arguments.grid_spacing or 5.0,
        "seconds of refining": round(sum(row["seconds"] for case in results.values() for row in case["samples"]), 1),
    }
    text = "# Refining look-alikes of the challenge\n\nMAPE in per cent, the network's answer -> refined. "
    given = f"--iterations {arguments.iterations} --samples {arguments.samples} --batch-size {arguments.batch_size}"
    given += f" --grid-spacing {facts['grid spacing, m']:g}"
    given += f" --sponge-width {arguments.sponge_width:g}" if arguments.sponge_width is not None else ""
    text += f"`python benchmarks/refine_lookalikes.py {given}`, {facts}.\n\n" + table(results)
    text += "\n" + "\n".join(f"- {case}: {CASES[case]}" for case in results) + "\n"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    values = {"facts": facts, "cases": results}
    arguments.output.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

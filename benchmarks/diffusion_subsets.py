"""A diffusion run given every subset of {gathers, wells, background, family}, and what others make of the same pool.

    python -m seisvel_jax.train_diffusion configs/diffusion_demo.py --workdir RUN
    python benchmarks/diffusion_subsets.py RUN [--held-out 32] [--minutes 10] [--genuine ../shared/data/openfwi]

Judged on held-out simulated models of each family, on genuine CurveFault maps with simulated gathers, and on a genuine
pair; none of them is trained on. InversionNet, the ensemble and DiffusionVel's four U-Nets are trained on the pool of
RUN for `--minutes` each (compiling not counted). Each part is written to RUN/subsets as it is done, and not done again.
"""

import argparse
import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from diffusion_judged import (
    BLUR,
    SAMPLES,
    STEPS,
    TOGETHER,
    WEIGHTS,
    WELLS,
    drawer,
    drawn_all,
    joined,
    judged_models,
    scores,
    told_of,
)
from diffusion_rivals import BASE, ensemble, inversion_net, predicted, unets

from seisvel_jax.calibration import tempered
from seisvel_jax.diffusion.condition import SOURCES, only
from seisvel_jax.logging import progress, say
from seisvel_jax.training.runs import DiffusionRun, load_diffusion

FEW = 16
"""Samples where the number of evaluations is judged."""
SETS = [tuple(s for s, bit in zip(SOURCES, bits) if bit) for bits in itertools.product((0, 1), repeat=len(SOURCES))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--held-out", type=int, default=32, help="models of each family")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training for each of the others")
    parser.add_argument("--skip", nargs="*", default=[], help="of subsets evaluations inversion_net ensemble unets")
    parser.add_argument("--genuine", type=Path, default=Path("../shared/data/openfwi"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/diffusion_cpu.md"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/diffusion.png"))
    options = parser.parse_args()
    run = load_diffusion(options.run)
    judged = judged_models(run, options.held_out, options.genuine, options.run / "subsets")
    does: dict[str, Callable[[], dict[str, Any]]] = {
        "subsets": lambda: subsets(run, judged),
        "evaluations": lambda: evaluations(run, judged),
        "inversion_net": lambda: predicted(run, options.run, inversion_net(run.config), judged, options.minutes),
        "ensemble": lambda: predicted(run, options.run, ensemble(run.config), judged, options.minutes),
        "unets": lambda: unets(run, options.run, judged, options.minutes),
    }
    found: dict[str, Any] = {}
    for name, part in does.items():
        place = options.run / "subsets" / f"{name}-{options.held_out}.json"
        if not place.is_file() and name not in options.skip:
            start = time.perf_counter()
            values = part()
            place.write_text(json.dumps({**values, "seconds": time.perf_counter() - start}, indent=1) + "\n")
            say(f"{name}: done in {time.perf_counter() - start:.0f} s")
        if place.is_file():
            found[name] = json.loads(place.read_text())
    draw_figure(run, judged, options.figure)
    text = report(run, found, judged, options)
    print(text)
    options.output.write_text(text)


def subsets(run: DiffusionRun, judged: dict) -> dict[str, Any]:
    """Scores of every subset on every set of models, and of the rules that join three sources."""
    found: dict[str, Any] = {}
    models, own = joined(judged)
    told = told_of(run, models)

    def judge(samples: np.ndarray, *chosen: str) -> dict[str, Any]:
        factor = run.temperature(*chosen)
        return {name: scores(samples[:, rows], models["velocity"][rows], factor) for name, rows in own.items()}

    draw = drawer(run, STEPS, SAMPLES)
    for chosen in progress(SETS, "subsets", unit="subset"):
        found[" + ".join(chosen) or "nothing"] = judge(drawn_all(draw, only(told, *chosen)), *chosen)
    for rule in ("weighted mean", "independent"):
        draw = drawer(run, STEPS, SAMPLES, rule)
        found[f"rule: {rule}"] = judge(drawn_all(draw, only(told, *WEIGHTS)), *WEIGHTS)
    return found


def evaluations(run: DiffusionRun, judged: dict) -> dict[str, Any]:
    """Quality given the gathers and seconds for a sample, against the evaluations of the network a sample."""
    found: dict[str, Any] = {}
    models, _ = joined({name: judged[name] for name in run.config.denoiser.families})
    told = only(told_of(run, models), "gathers")
    for steps in (4, 8, 16, 32):
        draw = drawer(run, steps, FEW)
        first = jax.tree.map(lambda leaf: leaf[:TOGETHER], told)
        jax.block_until_ready(draw(first, jax.random.key(0)))
        start = time.perf_counter()
        samples = drawn_all(draw, told)
        seconds = (time.perf_counter() - start) / samples[:, :, 0, 0].size
        found[str(steps)] = {
            **scores(samples, models["velocity"], run.temperature("gathers")),
            "seconds_a_sample": seconds,
        }
    return found


# ---- what is written ----


def draw_figure(run: DiffusionRun, judged: dict, path: Path) -> None:
    """Simulated held-out models: truth, mean, spread and samples given gathers, and given all."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    draw = drawer(run, STEPS, SAMPLES)
    rows = [(name, chosen) for name in run.config.denoiser.families for chosen in (("gathers",), SOURCES)]
    titles = ("truth", f"mean of {SAMPLES} samples", "error of the mean", "spread", "sample", "sample")
    figure, axes = pyplot.subplots(len(rows), len(titles), figsize=(13, 2.3 * len(rows)), layout="constrained")
    for line, (name, chosen) in zip(axes, rows):
        models = judged[name]
        told = jax.tree.map(lambda leaf: leaf[:TOGETHER], only(told_of(run, models), *chosen))
        samples, truth = drawn_all(draw, told)[:, 0], models["velocity"][0]
        mean, spread = samples.mean(0), tempered(samples, run.temperature(*chosen)).std(0, ddof=1)
        fields = (truth, mean, np.abs(mean - truth), spread, samples[0], samples[1])
        for place, field, title in zip(line, fields, titles):
            error = title in ("error of the mean", "spread")
            low, high = (0, 800) if error else (1500, 4500)
            shown = place.imshow(field, cmap="magma" if error else "viridis", vmin=low, vmax=high)
            place.set_xticks([])
            place.set_yticks([])
            place.set_title(title if line[0] is axes[0, 0] else "", fontsize=9)
            if title in ("spread", "sample") and place in (line[3], line[5]):
                figure.colorbar(shown, ax=place, label="m/s")
        line[0].set_ylabel(f"{name}\ngiven {'gathers' if len(chosen) == 1 else 'all four'}", fontsize=9)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def report(run: DiffusionRun, found: dict, judged: dict, options: argparse.Namespace) -> str:
    """The Markdown page."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    names = list(judged)
    skipped = f" --skip {' '.join(options.skip)}" if options.skip else ""
    lines = [
        "# A diffusion model given every subset of its sources",
        "",
        f"`python benchmarks/diffusion_subsets.py RUN --held-out {options.held_out} "
        f"--minutes {options.minutes:g}{skipped}`, commit {commit.stdout.strip()}, "
        f"{os.cpu_count()} cores of an AMD EPYC with AVX-512, no GPU, beside other work.",
        "",
        f"RUN is `{run.config.name}` at step {run.step}, its temperatures fitted on its validation models: "
        + ", ".join(f"{given} {value:.2f}" for given, value in run.temperatures.items())
        + f". {options.held_out} held-out models of each family, five genuine CurveFault maps with "
        "simulated gathers, one genuine pair (the first map with its own gathers); none is trained on. "
        f"{SAMPLES} samples of each by {STEPS} evaluations; MAE, RMSE (m/s) and SSIM are of their mean. Wells at "
        + f"columns {', '.join(map(str, WELLS))}; the background is blurred by {BLUR:g} m. 90 %: share of the truth "
        "inside the central intervals, as drawn / tempered.",
        "",
    ]
    if "subsets" in found:
        for name in names:
            lines += [f"## {name}", "", "| given | MAE | RMSE | SSIM | CRPS | 90 % |", "|---|---|---|---|---|---|"]
            for chosen, own in found["subsets"].items():
                if isinstance(own, dict):
                    lines.append(f"| {chosen} | {_row(own[name])} |")
            lines += _others(found, name)
            lines.append("")
        lines += [monotone(found["subsets"], run.config.denoiser.families), ""]
        lines += [covered(found["subsets"], names), ""]
    if "evaluations" in found:
        lines += [f"## Evaluations of the network a sample, given the gathers, {FEW} samples a model", ""]
        lines += ["| evaluations | MAE | RMSE | SSIM | CRPS | 90 % | ms a sample |", "|---|---|---|---|---|---|---|"]
        for steps in ("4", "8", "16", "32"):
            own = found["evaluations"][steps]
            lines.append(f"| {steps} | {_row(own)} | {1000 * own['seconds_a_sample']:.0f} |")
        lines.append("")
    return "\n".join(lines)


def _row(own: dict[str, float]) -> str:
    calibrated = f"{100 * own['coverage']:.0f} / {100 * own['coverage_tempered']:.0f} %" if "crps" in own else ""
    crps = f"{own['crps']:.0f}" if "crps" in own else ""
    return f"{own['mae']:.0f} | {own['rmse']:.0f} | {own['ssim']:.3f} | {crps} | {calibrated}"


def _others(found: dict, name: str) -> list[str]:
    labels = {
        "inversion_net": "InversionNet, width 0.25 (gathers)",
        "ensemble": "ensemble of two attention networks (gathers)",
        "unets": f"DiffusionVel, base {BASE} (gathers, wells, background)",
    }
    return [f"| {label} | {_row(found[part]['scores'][name])} |" for part, label in labels.items() if part in found]


def monotone(found: dict, families: tuple[str, ...]) -> str:
    """Where one source more does not lower the mean MAE of the held-out models, and how sure that is."""

    def maes(chosen: frozenset) -> np.ndarray:
        of = found[" + ".join(source for source in SOURCES if source in chosen) or "nothing"]
        return np.concatenate([of[name]["maes"] for name in families])

    chosen = [frozenset(one) for one in SETS]
    pairs = [(less, more) for less in chosen for more in chosen if less < more and len(more) == len(less) + 1]
    gains = {(less, more): maes(less) - maes(more) for less, more in pairs}
    worse = []
    for (less, more), gain in gains.items():
        if gain.mean() < 0:
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            told = " + ".join(source for source in SOURCES if source in less) or "nothing"
            worse.append(f"{told} and {' + '.join(more - less)}: {-gain.mean():.1f} more, standard error {error:.1f}")
    mean = np.mean([gain.mean() for gain in gains.values()])
    said = (
        f"One source more lowers the mean MAE of the held-out models in {len(pairs) - len(worse)} of {len(pairs)} "
        f"cases, by {mean:.0f} m/s on average over all"
    )
    return f"{said}." if not worse else f"{said}; not: {'; '.join(worse)}."


def covered(found: dict, names: list[str]) -> str:
    """Where the tempered central 90 % intervals hold less than 85 or more than 95 % of the truth."""
    told = [" + ".join(chosen) or "nothing" for chosen in SETS]
    shares = {(name, chosen): 100 * found[chosen][name]["coverage_tempered"] for name in names for chosen in told}
    outside = [
        f"{name} given {chosen} {share:.1f}" for (name, chosen), share in shares.items() if not 85 <= share <= 95
    ]
    said = (
        f"Tempered 90 % intervals hold 85 to 95 % of the truth in {len(shares) - len(outside)} of {len(shares)} cases"
    )
    return f"{said}." if not outside else f"{said}; not: {'; '.join(outside)}."


if __name__ == "__main__":
    main()

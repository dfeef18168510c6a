"""Full-waveform inversion of genuine OpenFWI gathers, beside the stored runs of RED-DiffEq; time against deepwave.

    python benchmarks/inversion.py run curvefault [--data ../shared/data]   # also: marmousi, map0 ... map4; resumable
    python benchmarks/inversion.py time                                     # one gradient, beside deepwave, in turn
    python benchmarks/inversion.py report                                   # results/inversion_cpu.md and its figure

`run` keeps what it finds in `--work`, phase by phase, and goes on there. The true model is used for the scores alone.
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
CASES = ("curvefault", "marmousi", "map0", "map1", "map2", "map3", "map4")
FILES = {"curvefault": "curvefault_b_sample0", "marmousi": "marmousi_70x190"}
STORED = {"curvefault": "red_diffeq_curvefault_b_sample0_result", "marmousi": "red_diffeq_marmousi_result"}
BLUR = 10.0
"""Cells: standard deviation of the Gaussian that smooths the depth profile the maps start from."""

FIRST: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 60.0,
    "prior": "tv",
    "prior_weight": 3e-2,
    "prior_weight_end": 3e-4,
    "frequencies": (4.0, 5.5, 7.5, 10.0, 14.0),
}
SECOND: dict[str, Any] = {"prior": "tv", "precondition": 2.0, "memory": 40}
NEAR = [
    {**FIRST, "iterations": 126},
    {**SECOND, "iterations": 104, "prior_weight": 3e-4, "prior_weight_end": 5e-5, "stages": 3},
    {"steps": (1e-5, 2e-6, 4e-7, 8e-8, 1.6e-8), "most": 70},
    {"steps": (3e-9,)},
    {"steps": (1e-9,)},
]
FAR = [
    {**FIRST, "iterations": 180, "frequencies": (2.5, 3.5, 5.0, 7.0, 10.0)},
    {**SECOND, "iterations": 60, "prior_weight": 3e-4, "prior_weight_end": 1e-4, "stages": 2},
    {**SECOND, "iterations": 60, "prior_weight": 5e-5, "prior_weight_end": 2e-5, "stages": 2},
]
"""One inversion after the other, each with data corrected at the model before it. FAR: starts whose low frequencies are
off. `steps`: those of Gauss and Newton with the whole curvature, of these weights, and at most so many forward runs,
each of which counts as an evaluation though it is less than half of one."""
PHASES = {case: NEAR if case == "curvefault" else FAR for case in CASES}
MUST = dict.fromkeys(CASES, 3)
"""Phases that make 300 evaluations."""
MOST_OF_A_STEP = 17
"""Forward runs: 8 of the Jacobian and up to 9 along the step."""


def load(case: str, data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """True velocity `[1, depth, x]`, gathers, start, survey."""
    from seisvel_jax.survey import openfwi
    from seisvel_jax.wave.propagate import propagate

    folder = data / "openfwi"
    if case in FILES:
        truth = np.load(folder / f"{FILES[case]}_vel.npy", allow_pickle=False)[:, 0]
        observed = np.load(folder / f"{FILES[case]}_seis.npy", allow_pickle=False)
        stored = np.load(folder / f"{STORED[case]}.npz", allow_pickle=False)
        start = (1500 + 1500 * (stored["initial_velocity"] + 1)).astype(np.float32)[None]
        return truth, observed, start, openfwi(x_count=truth.shape[2])
    from scipy.ndimage import gaussian_filter1d

    survey = openfwi()
    maps = np.load(folder / "curvefault_b_maps_0to4_vel.npy", allow_pickle=False)[:, 0]
    truth = maps[int(case[-1])][None]
    observed = np.array(propagate(truth, survey, max_velocity=4500.0))
    observed[:, :, -1] = 0
    profile = gaussian_filter1d(truth.mean(2), BLUR, axis=1, mode="nearest")
    return truth, observed, np.repeat(profile[:, :, None], truth.shape[2], axis=2), survey


def run(case: str, data: Path, work: Path, phases: int) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", int(os.environ.get("SEISVEL_DEVICES", "1")))
    from seisvel_jax.inversion.cheaper import corrected, with_pml
    from seisvel_jax.inversion.config import InversionConfig
    from seisvel_jax.inversion.invert import Step, invert
    from seisvel_jax.wave.scheme import scheme_of

    known = load(case, data)
    truth, observed, start, survey = known
    scheme = scheme_of(survey)
    work.mkdir(parents=True, exist_ok=True)
    for number, settings in enumerate(PHASES[case][:phases]):
        file = work / f"{case}_{number}.npz"
        if file.exists():
            continue
        before = start if number == 0 else np.load(work / f"{case}_{number - 1}.npz", allow_pickle=False)["velocity"]
        if "steps" in settings:
            save(file, curved(f"{case} phase {number}", settings, before, known), before, truth)
            continue
        config = InversionConfig(**settings)
        curve: list[tuple[float, ...]] = []
        began = time.perf_counter()
        gathers = observed if number == 0 else corrected(observed, before, survey, max_velocity=4500.0)[0]

        def score(
            step: Step, curve: list = curve, truth: np.ndarray = truth, began: float = began, number: int = number
        ) -> None:
            optimizer = step.state.optimizer
            point = 1000 * np.asarray(getattr(optimizer, "point", optimizer.trial))
            scores = scores_of(point, truth)
            curve.append((*scores, float(step.state.history["misfit"][-1][0]), time.perf_counter() - began))
            if step.evaluation % 10 == 0:
                text = f"{case} phase {number} {step.evaluation}: MAE {scores[0]:.1f} SSIM {scores[2]:.4f} "
                print(text + f"misfit {curve[-1][3]:.2e}, {curve[-1][4]:.0f} s", file=sys.stderr, flush=True)

        found = invert(gathers, before, with_pml(survey), config, scheme=scheme, on_step=score)
        velocity = np.asarray(found.velocity)
        own = corrected(observed, velocity, survey, max_velocity=4500.0)[1]
        live = observed.any((0, 1, 3), keepdims=True)
        misfit = 0.5 * float((live * (own - observed) ** 2).sum() / (observed**2).sum())
        seconds = time.perf_counter() - began
        save(file, Phase(velocity, misfit, float(found.misfit_before[0]), curve, seconds), before, truth)


class Phase(NamedTuple):
    """What a phase came to."""

    velocity: np.ndarray
    misfit: float
    misfit_before: float
    curve: list[tuple[float, ...]]
    """MAE, RMSE, SSIM, misfit and seconds of each evaluation."""
    seconds: float


def save(file: Path, phase: Phase, before: np.ndarray, truth: np.ndarray) -> None:
    np.savez(
        file,
        velocity=phase.velocity,
        scores=scores_of(phase.velocity, truth),
        of_start=scores_of(before, truth),
        misfit=phase.misfit,
        misfit_before=phase.misfit_before,
        curve=np.asarray(phase.curve),
        seconds=phase.seconds,
        commit=commit(),
    )


def scores_of(velocity: np.ndarray, truth: np.ndarray) -> list[float]:
    from seisvel_jax.metrics import mae, rmse, ssim

    return [float(f(velocity, truth)[0]) for f in (mae, rmse, ssim)]


def curved(name: str, settings: dict[str, Any], before: np.ndarray, known: tuple) -> Phase:
    """Steps of Gauss and Newton, every forward run of which is an evaluation of the curve."""
    from seisvel_jax.inversion.gauss_newton import Stepped, gauss_newton

    truth, observed, _, survey = known
    began = time.perf_counter()
    curve = [(*scores_of(before, truth), float("nan"), 0.0)]

    def score(step: Stepped) -> bool:
        scores, seconds = scores_of(step.velocity[None], truth), time.perf_counter() - began
        curve.extend([curve[-1]] * (step.forward_runs - len(curve)))
        curve[-1] = (*scores, step.misfit, seconds)
        text = f"{name} {step.forward_runs}: MAE {scores[0]:.1f} SSIM {scores[2]:.4f} "
        text += f"misfit {step.misfit:.2e}, share {step.share:g}, {seconds:.0f} s"
        print(text, file=sys.stderr, flush=True)
        return step.forward_runs + MOST_OF_A_STEP > settings.get("most", math.inf)

    found = gauss_newton(observed[0], before[0], survey, weights=settings["steps"], on_step=score)
    return Phase(found.velocity[None], found.misfit, float("nan"), curve, time.perf_counter() - began)


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


# ---- time of an iteration -----------------------------------------------------------------------------------------


def iteration(threads: int, calls: int) -> None:
    """Misfit, gradient and L-BFGS's own work for one OpenFWI model, in this process: JSON on stdout."""
    import jax

    jax.config.update("jax_num_cpu_devices", threads)
    import jax.numpy as jnp
    from rivals.cases import CASES as PROBLEMS

    from seisvel_jax.inversion import lbfgs
    from seisvel_jax.inversion.cheaper import with_pml
    from seisvel_jax.inversion.config import InversionConfig
    from seisvel_jax.inversion.objective import evaluate, make_objective, response_of
    from seisvel_jax.inversion.parameters import from_velocity, make_space, slope, to_velocity
    from seisvel_jax.survey import openfwi
    from seisvel_jax.wave.scheme import Scheme

    survey = with_pml(openfwi())
    start = PROBLEMS["openfwi-1"].velocity()
    config = InversionConfig(prior="tv", prior_weight=1e-4)
    draw = np.random.default_rng(0).normal(size=(1, *survey.gather_shape)).astype(np.float32)
    objective = make_objective(draw, start, survey, config, scheme=Scheme(order=4))
    space = make_space(start, "velocity", config.bounds)
    response, weight = response_of(objective, np.inf, survey), jnp.asarray(1e-4, jnp.float32)
    state = lbfgs.begin(from_velocity(start, "velocity"), config.memory)

    def one(state: lbfgs.Lbfgs) -> lbfgs.Lbfgs:
        velocity = to_velocity(state.trial, "velocity")
        values = evaluate(objective, velocity, response, weight)
        gradient = values.gradient * slope(velocity, "velocity")
        return jax.block_until_ready(lbfgs.update(state, values.objective, gradient, space, jnp.float32(0.05)))

    state = one(one(state))
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        state = one(state)
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"seconds": float(np.median(seconds)), "process_mb": peak}))


def measure(work: Path, threads: int, repeats: int, output: Path) -> None:
    """Time both, and put the table into the report, in place of the one before."""
    from rivals.cases import CASES as PROBLEMS
    from rivals.driver import Contender, Failed

    case, found = PROBLEMS["openfwi-1"], {}
    contenders = {}
    with tempfile.TemporaryDirectory() as folder:
        for solver in ("ours", "deepwave"):
            try:
                contenders[solver] = Contender(solver, case, 4, threads, "cpu", processes=solver == "deepwave")
                contenders[solver].first("gradient", Path(folder))
                found[solver] = {"seconds": [], "peak_mb": 0.0}
            except Failed as error:
                print(f"{solver}: {error}", file=sys.stderr)
        for _ in range(repeats):
            for solver, values in found.items():  # in turn, so that a load on the machine meets both
                answers = contenders[solver].ask("time", mode="gradient", calls=2)
                values["seconds"].append(max(a["seconds"] for a in answers))
                values["peak_mb"] = sum(a["peak_mb"] for a in answers)
    for solver, values in found.items():
        values["seconds"] = float(np.median(values["seconds"]))
        for worker in contenders[solver].workers:
            worker.close()
    own = subprocess.run(
        [sys.executable, __file__, "iteration", "--threads", str(threads)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    found["iteration"] = json.loads(own.stdout)
    found["commit"], found["threads"] = commit(), threads
    work.mkdir(parents=True, exist_ok=True)
    (work / "time.json").write_text(json.dumps(found, indent=1))
    page = output / "inversion_cpu.md"
    text = page.read_text().partition(TIMING)[0] if page.exists() else ""
    page.write_text(text + "\n".join(timing(found)))
    print(json.dumps(found, indent=1))


# ---- report -------------------------------------------------------------------------------------------------------


def report(data: Path, work: Path, output: Path) -> None:
    rows = ["| case | evaluations | MAE m/s | RMSE m/s | SSIM | misfit | seconds |", "|---|---|---|---|---|---|---|"]
    commits = set()
    for case in CASES:
        found = read(case, work)
        if not found:
            continue
        mae, rmse, ssim = found[0]["of_start"]
        rows.append(f"| {case}, start | 0 | {mae:.1f} | {rmse:.1f} | {ssim:.3f} | {found[0]['misfit_before']:.2e} | |")
        if case in STORED:
            mae, rmse, ssim = theirs(case, data)[1]
            rows.append(f"| {case}, RED-DiffEq's stored run | 300 | {mae:.1f} | {rmse:.1f} | {ssim:.3f} | | |")
        count, seconds = 0, 0.0
        for number, phase in enumerate(found):
            count, seconds = count + len(phase["curve"]), seconds + float(phase["seconds"])
            commits.add(str(phase["commit"]))
            if number in (MUST[case] - 1, len(found) - 1):
                mae, rmse, ssim = phase["scores"]
                score = f"{mae:.1f} | {rmse:.1f} | {ssim:.3f} | {float(phase['misfit']):.1e} | {seconds:.0f} |"
                rows.append(f"| {case} | {count} | {score}")
    lines = [
        "# Full-waveform inversion",
        "",
        f"`python benchmarks/inversion.py`, commit {', '.join(sorted(commits))}, {processor()}, no GPU, "
        f"{platform.python_version()}. Each phase costs four forward runs besides its evaluations, which are the "
        "gradients. Misfit: half the share of the energy that is not explained, by the survey's own solver. "
        "Seconds: of a machine that did other work as well, compiling and scoring included; the last phase of "
        "curvefault had about an eighth of it. That phase is Gauss-Newton steps (inversion/gauss_newton.py), of "
        "which each forward run of all shots counts as an evaluation, the run of all sources and receivers as eight.",
        "",
        "Starts: curvefault and marmousi that of RED-DiffEq's stored run; the maps a depth profile, the mean of the "
        f"map over x smoothed by a Gaussian of {BLUR:g} cells.",
        "",
        *rows,
        "",
    ]
    if (work / "time.json").exists():
        lines += timing(json.loads((work / "time.json").read_text()))
    (output / "inversion_cpu.md").write_text("\n".join(lines))
    figure(data, work, output / "inversion_cpu.png")
    print("\n".join(lines))


TIMING = "One OpenFWI model,"


def timing(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{TIMING} 5 shots, order 4, PML of 10 cells, {found['threads']} threads, commit {found['commit']}, "
        "in one interleaved run:",
        "",
        "| | ms | peak memory MB |",
        "|---|---|---|",
    ]
    for name, text in (("ours", "gradient"), ("deepwave", "deepwave's gradient")):
        if name in found:
            lines.append(f"| {text} | {1e3 * found[name]['seconds']:.0f} | {found[name]['peak_mb']:.0f} |")
    own = found["iteration"]
    whole = f"{1e3 * own['seconds']:.0f} | {own['process_mb']:.0f} (whole process)"
    lines.append(f"| iteration: gradient, prior, L-BFGS | {whole} |")
    return [*lines, ""]


def read(case: str, work: Path) -> list[dict[str, np.ndarray]]:
    found = []
    for number in range(len(PHASES[case])):
        file = work / f"{case}_{number}.npz"
        if not file.exists():
            break
        with np.load(file, allow_pickle=False) as values:
            found.append(dict(values))
    return found


def theirs(case: str, data: Path) -> tuple[dict[str, np.ndarray], list[float]]:
    """Their curves in m/s, and the scores of their result by our measures."""
    from seisvel_jax.metrics import mae, rmse, ssim

    stored = np.load(data / "openfwi" / f"{STORED[case]}.npz", allow_pickle=False)
    result = 1500 + 1500 * (stored["result"] + 1)
    truth = np.load(data / "openfwi" / f"{FILES[case]}_vel.npy", allow_pickle=False)[0, 0]
    curves = {"mae": 1500 * stored["mae"], "ssim": stored["ssim"], "result": result, "truth": truth}
    return curves, [float(f(result, truth)) for f in (mae, rmse, ssim)]


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{os.cpu_count()} cores of {line.split(':')[1].strip()}"
    return f"{os.cpu_count()} cores"


def figure(data: Path, work: Path, file: Path) -> None:
    """The curves; and beside the runs the maps, which show data of others and are not for the repository."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cases = [case for case in STORED if len(read(case, work)) >= MUST[case]]
    if not cases:
        return
    curves, axes = plt.subplots(len(cases), 2, figsize=(9, 3.4 * len(cases)), squeeze=False, layout="constrained")
    maps, places = plt.subplots(len(cases), 3, figsize=(12, 3.6 * len(cases)), squeeze=False, layout="constrained")
    for row, place, case in zip(axes, places, cases):
        stored, found = theirs(case, data)[0], read(case, work)
        curve = np.concatenate([phase["curve"] for phase in found])
        for axis, column, name in ((row[0], 0, "mae"), (row[1], 2, "ssim")):
            axis.plot(np.arange(1, 301), stored[name], label="RED-DiffEq, stored run", color="tab:orange")
            axis.plot(np.arange(1, len(curve) + 1), curve[:, column], label="here", color="tab:blue")
            axis.set_xlabel("gradient evaluations")
            axis.axvline(300, color="0.8", linewidth=0.8)
        row[0].set_ylabel(f"{case}\nMAE, m/s")
        row[1].set_ylabel("SSIM")
        row[0].legend()
        images = (("true", stored["truth"]), ("RED-DiffEq, 300", stored["result"]))
        images = (*images, ("here, 300", found[MUST[case] - 1]["velocity"][0]))
        for axis, (title, velocity) in zip(place, images):
            shown = axis.imshow(velocity, vmin=1500, vmax=4500, aspect="auto", cmap="viridis")
            axis.set_title(title)
            axis.set_axis_off()
        maps.colorbar(shown, ax=place[2], label="m/s")
    curves.savefig(file, dpi=80)
    maps.savefig(work / "maps.png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("run", "time", "report", "iteration"))
    parser.add_argument("case", nargs="?", choices=CASES)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "seisvel_inversion")
    parser.add_argument("--phases", type=int, default=99)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    if arguments.do == "run":
        if arguments.case is None:
            parser.error(f"run needs a case: {', '.join(CASES)}")
        run(arguments.case, arguments.data, arguments.work, arguments.phases)
    elif arguments.do == "time":
        measure(arguments.work, arguments.threads, arguments.repeats, arguments.output)
    elif arguments.do == "iteration":
        iteration(arguments.threads, arguments.repeats)
    else:
        report(arguments.data, arguments.work, arguments.output)


if __name__ == "__main__":
    main()

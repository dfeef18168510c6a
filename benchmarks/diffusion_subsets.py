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
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from seisvel_jax.calibration import Calibration, tempered
from seisvel_jax.config import Config, DiffusionConfig
from seisvel_jax.data.online import Simulated
from seisvel_jax.data.pool import draw_pool
from seisvel_jax.data.resample import resample_gathers
from seisvel_jax.diffusion import compose, diffusionvel
from seisvel_jax.diffusion.condition import SOURCES, Condition, drop, of_training, only
from seisvel_jax.diffusion.config import ConditionConfig
from seisvel_jax.diffusion.processes import process_of
from seisvel_jax.diffusion.sampler import SamplerConfig, sample
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.diffusion.unet import UNet, UNetConfig
from seisvel_jax.inference.pretrained import load
from seisvel_jax.logging import progress, say
from seisvel_jax.metrics import mae, rmse, ssim
from seisvel_jax.models.config import GroupConfig, InversionNetConfig
from seisvel_jax.survey import openfwi
from seisvel_jax.train import train
from seisvel_jax.training.config import AugmentConfig, OptimConfig
from seisvel_jax.training.mesh import one_device
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.runs import DiffusionRun, load_diffusion
from seisvel_jax.training.state import abstract_params, init_state
from seisvel_jax.training.step import make_step
from seisvel_jax.wave.propagate import propagate

WELLS = (0, 24, 48, 69)
"""Logged columns, as in DiffusionVel's demonstration."""
BLUR = 100.0
"""Metres: of the background."""
SAMPLES, STEPS = 8, 16
MANY, FEWER_STEPS = 50, 8
"""Samples and evaluations where coverage is judged: by 8 samples a spread too narrow by a quarter still seems right."""
TOGETHER = 8
"""Models at a time."""
WEIGHTS = {"gathers": 0.25, "wells": 0.5, "background": 0.25}
"""DiffusionVel's."""
BASE = 8
"""Of its U-Nets; 64 as published."""
SETS = [tuple(s for s, bit in zip(SOURCES, bits) if bit) for bits in itertools.product((0, 1), repeat=len(SOURCES))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--held-out", type=int, default=32, help="models of each family")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training for each of the others")
    parser.add_argument(
        "--skip", nargs="*", default=[], help="of subsets coverage evaluations inversion_net ensemble unets"
    )
    parser.add_argument("--genuine", type=Path, default=Path("../shared/data/openfwi"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/diffusion_cpu.md"))
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/diffusion.png"))
    options = parser.parse_args()
    run = load_diffusion(options.run)
    judged = judged_models(run, options.held_out, options.genuine, options.run / "subsets")
    does: dict[str, Callable[[], dict[str, Any]]] = {
        "subsets": lambda: subsets(run, judged),
        "coverage": lambda: coverage(run, judged),
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


# ---- what is judged ----


def judged_models(run: DiffusionRun, count: int, genuine: Path, keep: Path) -> dict[str, dict[str, np.ndarray]]:
    """By name: gathers `[model, source, time, receiver]` on the run's times, velocity, family `[model]`."""
    online = run.config.data.online
    assert online is not None
    keep.mkdir(exist_ok=True)
    survey, families = openfwi(), run.config.denoiser.families
    judged = {}
    for number, family in enumerate(families, 1):
        place = keep / f"{family}-{count}.npz"
        if not place.is_file():
            # By OpenFWI's own sponge, whatever the pool was simulated with.
            simulated = Simulated(replace(online, family=family, pml=0.0), survey, 0, one_device())
            drawn = simulated.samples("test", count, TOGETHER, run.survey)
            np.savez(place, gathers=drawn.gathers_of, velocity=drawn.velocity_of)
        with np.load(place, allow_pickle=False) as arrays:
            judged[family] = {**arrays, "family": np.full(count, number, np.int32)}
    if not genuine.is_dir():
        say(f"{genuine}: not there; the genuine maps are left out")
        return judged
    maps = np.load(genuine / "curvefault_b_maps_0to4_vel.npy", allow_pickle=False)[:, 0].astype(np.float32)
    seis, vel = (np.load(genuine / f"curvefault_b_sample0_{what}.npy", allow_pickle=False) for what in ("seis", "vel"))
    gathers = np.array(propagate(maps, survey, max_velocity=4500.0))
    known = families.index("curvefault-b") + 1 if "curvefault-b" in families else 0
    for name, own, velocity in (("genuine maps", gathers, maps), ("genuine pair", seis, vel[:, 0])):
        resampled = np.stack([resample_gathers(one, survey.dt, run.survey) for one in own.astype(np.float32)])
        resampled[:, :, -1] = 0
        family = np.full(len(velocity), known, np.int32)
        judged[name] = {"gathers": resampled, "velocity": velocity.astype(np.float32), "family": family}
    return judged


def told_of(run: DiffusionRun, models: dict[str, np.ndarray]) -> Condition:
    """Everything: all shots, four wells, a smooth background, the family."""
    clean = jnp.asarray(Scale(run.config.denoiser.bounds).to_unit(models["velocity"]))
    config = ConditionConfig(wells=1, blur=(BLUR, BLUR))
    told = of_training(
        jnp.asarray(models["gathers"]), clean, jnp.asarray(models["family"]), jax.random.key(0),
        spacing=run.survey.grid.spacing, config=config,
    )  # fmt: skip
    logged = np.zeros(clean.shape, np.float32)
    logged[:, :, list(WELLS)] = 1
    return replace(told, wells=clean * logged, wells_known=jnp.asarray(logged))


# ---- samples ----


def denoiser(run: DiffusionRun, params: Any) -> Callable:
    """`(noisy, sigma, encoded) -> clean` of the first member."""
    network, process = nnx.merge(run.graphdef, params), process_of(run.config.process)

    def answer(values: Any, level: Any, encoded: Any) -> jax.Array:
        return network(values, level, encoded, run.survey)

    return lambda noisy, sigma, encoded: process.denoise(answer, noisy, sigma, encoded)


def drawer(run: DiffusionRun, steps: int, samples: int, rule: str = "all") -> Callable:
    """`condition of TOGETHER models, key -> samples [sample, model, depth, x] m/s`: one program a subset or all."""
    params = jax.tree.map(lambda leaf: leaf[0], run.params)
    scale, config = Scale(run.config.denoiser.bounds), SamplerConfig(steps=steps)

    @jax.jit
    def draw(told: Condition, key: jax.Array) -> jax.Array:
        network, denoise = nnx.merge(run.graphdef, params), denoiser(run, params)
        alone = [network.encode(only(told, source), run.survey) for source in WEIGHTS] if rule != "all" else []
        known: Any = network.encode(told, run.survey)
        if rule == "weighted mean":
            denoise, known = compose.weighted_mean([denoise] * 3, list(WEIGHTS.values())), tuple(alone)
        elif rule == "independent":
            prior = network.encode(only(told), run.survey)
            denoise, known = compose.independent(denoise, [denoise] * 3), (prior, *alone)
        shape = (told.blur.shape[0], *run.survey.grid.shape)
        drawn = sample(denoise, known, shape, key, config, samples=samples)
        return jnp.clip(jnp.asarray(scale.to_velocity(drawn)), *run.config.denoiser.bounds)

    return draw


def drawn_all(draw: Callable, told: Condition, key: int = 0) -> np.ndarray:
    """Samples `[sample, model, depth, x]` of all models, TOGETHER at a time."""
    count = told.blur.shape[0]
    found = []
    for first in range(0, count, TOGETHER):
        rows = np.resize(np.arange(first, min(first + TOGETHER, count)), TOGETHER)
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], told)
        found.append(np.asarray(draw(part, jax.random.fold_in(jax.random.key(key), first)))[:, : count - first])
    return np.concatenate(found, axis=1)


def scores(samples: np.ndarray, truth: np.ndarray, temperature: float = 1.0) -> dict[str, Any]:
    """Of samples `[sample, model, depth, x]`: their mean's errors, CRPS, coverage of the central 90 % intervals."""
    plain, warm = Calibration(len(truth)), Calibration(len(truth))
    for row, velocity in enumerate(truth):
        plain.add(samples[:, row], velocity)
        warm.add(tempered(samples[:, row], temperature), velocity)
    before, after = plain.summary(), warm.summary()
    return {
        **errors(samples.mean(0), truth),
        "crps": before["crps"],
        "coverage": before["coverage"]["0.9"],
        "coverage_tempered": after["coverage"]["0.9"],
        "own_temperature": before["temperature"],
    }


def errors(velocity: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Mean over the models, and the MAE of each."""
    return {
        "maes": [float(one) for one in mae(velocity, truth)],
        "mae": float(mae(velocity, truth).mean()),
        "rmse": float(rmse(velocity, truth).mean()),
        "ssim": float(np.mean([ssim(one, true) for one, true in zip(velocity, truth)])),
    }


def subsets(run: DiffusionRun, judged: dict) -> dict[str, Any]:
    """Scores of every subset on every set of models, and of the rules that join three sources."""
    found: dict[str, Any] = {}
    models, own = joined(judged)
    told = told_of(run, models)

    def judge(samples: np.ndarray) -> dict[str, Any]:
        return {name: scores(samples[:, rows], models["velocity"][rows], run.temperature) for name, rows in own.items()}

    draw = drawer(run, STEPS, SAMPLES)
    for chosen in progress(SETS, "subsets", unit="subset"):
        found[" + ".join(chosen) or "nothing"] = judge(drawn_all(draw, only(told, *chosen)))
    for rule in ("weighted mean", "independent"):
        draw = drawer(run, STEPS, SAMPLES, rule)
        found[f"rule: {rule}"] = judge(drawn_all(draw, only(told, *WEIGHTS)))
    return found


def coverage(run: DiffusionRun, judged: dict) -> dict[str, Any]:
    """Scores of many samples given some of the subsets, as drawn and tempered."""
    found: dict[str, Any] = {}
    models, own = joined(judged)
    told = told_of(run, models)
    draw = drawer(run, FEWER_STEPS, MANY)
    chosen = ((), ("gathers",), ("wells", "background"), ("gathers", "wells"), ("gathers", "wells", "background"))
    for some in progress(chosen, "coverage", unit="subset"):
        samples = drawn_all(draw, only(told, *some))
        found[" + ".join(some) or "nothing"] = {
            name: scores(samples[:, rows], models["velocity"][rows], run.temperature) for name, rows in own.items()
        }
    return found


def joined(judged: dict) -> tuple[dict[str, np.ndarray], dict[str, slice]]:
    """All models in one batch, and which rows of it each set has."""
    ends = np.cumsum([len(models["velocity"]) for models in judged.values()])
    own = {name: slice(int(end) - len(judged[name]["velocity"]), int(end)) for name, end in zip(judged, ends)}
    return {what: np.concatenate([m[what] for m in judged.values()]) for what in next(iter(judged.values()))}, own


def evaluations(run: DiffusionRun, judged: dict) -> dict[str, Any]:
    """Quality given the gathers and seconds for a sample, against the evaluations of the network a sample."""
    found: dict[str, Any] = {}
    models, _ = joined({name: judged[name] for name in run.config.denoiser.families})
    told = only(told_of(run, models), "gathers")
    for steps in (4, 8, 16, 32):
        draw = drawer(run, steps, SAMPLES)
        first = jax.tree.map(lambda leaf: leaf[:TOGETHER], told)
        jax.block_until_ready(draw(first, jax.random.key(0)))
        start = time.perf_counter()
        samples = drawn_all(draw, told)
        seconds = (time.perf_counter() - start) / samples[:, :, 0, 0].size
        found[str(steps)] = {**scores(samples, models["velocity"], run.temperature), "seconds_a_sample": seconds}
    return found


# ---- the others ----


def inversion_net(config: DiffusionConfig) -> Config:
    """InversionNet at a quarter of its width: the whole one takes seconds a step on two cores."""
    return other(config, "inversion_net", GroupConfig(InversionNetConfig(0.25, "pixel_shuffle")))


def ensemble(config: DiffusionConfig) -> Config:
    """Two members: the network that the denoiser reads gathers with, and its rate."""
    return other(config, "ensemble", GroupConfig(config.denoiser.encoder, 2), config.optim.learning_rate)


def other(config: DiffusionConfig, name: str, group: GroupConfig, rate: float = 2e-3) -> Config:
    """A network for gathers alone on the same pool, mirrored as often."""
    return Config(
        name=name,
        groups=(group,),
        data=config.data,
        optim=OptimConfig(kind="muon", learning_rate=rate, warmup_steps=50),
        augment=replace(AugmentConfig.off(), mirror=0.5),
        batch_size=config.batch_size,
        ema_decay=0.99,
        validation_samples=16,
        figures=0,
        tensorboard=False,
    )


def predicted(run: DiffusionRun, folder: Path, config: Config, judged: dict, minutes: float) -> dict[str, Any]:
    """Train for so many minutes' worth of steps; the errors on every set."""
    steps = steps_in(run, config, minutes)
    config = replace(config, steps=steps, eval_every=steps)
    place = folder / "subsets" / config.name
    share_pool(folder, place)
    start = time.perf_counter()
    train(config, place)
    seconds = time.perf_counter() - start
    predictor = load(place)
    found = {
        name: errors(predictor.predict(models["gathers"], survey=run.survey), models["velocity"])
        for name, models in judged.items()
    }
    return {"scores": found, "steps": steps, "training_seconds": seconds}


def steps_in(run: DiffusionRun, config: Config, minutes: float) -> int:
    """How many steps fit, by the time of a few of them."""
    optimizer = make_optimizer(config.optim, 100)
    step = make_step(config, abstract_params(config.groups, run.survey)[0], optimizer, run.survey)
    state: Any = init_state(config.groups, run.survey, optimizer, jax.random.key(0))
    shape = (config.batch_size, *run.survey.gather_shape)
    batch = {
        "gathers": np.random.default_rng(0).normal(size=shape).astype(np.float32),
        "velocity": np.full((config.batch_size, *run.survey.grid.shape), 3000.0, np.float32),
    }
    times = []
    for _ in range(7):
        start = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - start)
    return max(10, int(60 * minutes / np.mean(times[2:])))


def share_pool(folder: Path, place: Path) -> None:
    """The same files under another name, but for the labels: these networks are told none."""
    (place / "pool").mkdir(parents=True, exist_ok=True)
    for name in ("gathers.npy", "velocity.npy"):
        if not (place / "pool" / name).exists():
            os.link(folder / "pool" / name, place / "pool" / name)
    values = json.loads((folder / "pool" / "pool.json").read_text())
    values["of"]["labels"] = None
    values["checksums"].pop("family", None)
    (place / "pool" / "pool.json").write_text(json.dumps(values))


def unets(run: DiffusionRun, folder: Path, judged: dict, minutes: float) -> dict[str, Any]:
    """DiffusionVel: four U-Nets, a quarter of the minutes each; its weighted mean under DDIM, 10 steps."""
    config, scale, survey = run.config, Scale(run.config.denoiser.bounds), run.survey
    assert config.data.online is not None
    simulated = Simulated(config.data.online, openfwi(), config.data.seed, one_device(), config.denoiser.families)
    pool = draw_pool(simulated, config.data.online, config.batch_size, survey, folder / "pool")
    trained: dict[str, Any] = {}
    steps: dict[str, int] = {}
    for source in (*WEIGHTS, "none"):
        own = UNetConfig(source, survey.gather_shape[0], survey.grid.shape, BASE)  # type: ignore[arg-type]
        graph, params = nnx.split(UNet(own, survey.gather_shape[1], rngs=nnx.Rngs(0)))
        trained[source], steps[source] = _trained(graph, params, pool, run, source=source, minutes=minutes / 4)
    names = list(WEIGHTS)

    @jax.jit
    def draw(told: Condition, key: jax.Array) -> jax.Array:
        networks = [nnx.merge(*trained[name]) for name in names]
        shape = (told.blur.shape[0], *survey.grid.shape)
        weights = [WEIGHTS[name] for name in names]
        drawn = diffusionvel.ddim(
            networks, (told,) * len(names), shape, key, weights=weights, steps=10, samples=SAMPLES
        )
        return jnp.asarray(scale.to_velocity(drawn))

    models, own_rows = joined(judged)
    samples = drawn_all(draw, told_of(run, models))
    found = {name: scores(samples[:, rows], models["velocity"][rows]) for name, rows in own_rows.items()}
    return {"scores": found, "steps": steps}


def _trained(
    graph: Any, params: Any, pool: Any, run: DiffusionRun, *, source: str, minutes: float
) -> tuple[tuple[Any, Any], int]:
    """One network of the four by its own loss: AdamW, uniform t; EMA none, as published."""
    config, scale = run.config, Scale(run.config.denoiser.bounds)
    optimizer = optax.adamw(5e-4)
    condition = ConditionConfig(0.0, 0.0, 0.0, 0.0, 0.0)

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array, gathers: Any, velocity: Any) -> tuple:
        told_key, loss_key, dropout_key = jax.random.split(key, 3)
        clean = jnp.asarray(scale.to_unit(velocity))
        family = jnp.zeros(clean.shape[:1], jnp.int32)
        told = of_training(gathers, clean, family, told_key, spacing=run.survey.grid.spacing, config=condition)
        told = drop(told, told_key, condition)

        def loss(params: Any) -> jax.Array:
            network = nnx.merge(graph, params)
            return jnp.mean(diffusionvel.loss(lambda *known: network(*known, dropout_key), clean, told, loss_key))

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, rng, count, seconds = optimizer.init(params), np.random.default_rng(0), 0, 0.0
    with progress(None, f"U-Net, {source}", total=round(60 * minutes), unit="s") as bar:
        while seconds < 60 * minutes:
            rows = rng.integers(0, len(pool), config.batch_size)
            start = time.perf_counter()
            key = jax.random.fold_in(jax.random.key(1), count)
            params, state, value = step(params, state, key, pool.gathers_of[rows], pool.velocity_of[rows])
            float(value)
            if count:  # the first one compiles
                seconds += time.perf_counter() - start
                bar.update(time.perf_counter() - start)
            count += 1
    return (graph, params), count


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
        mean, spread = samples.mean(0), tempered(samples, run.temperature).std(0, ddof=1)
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
        f"RUN is `{run.config.name}` at step {run.step}, temperature {run.temperature:.2f} (fitted on its validation "
        f"models). {options.held_out} held-out models of each family, five genuine CurveFault maps with simulated "
        f"gathers, one genuine pair; none is trained on. {SAMPLES} samples of each by {STEPS} evaluations; MAE, RMSE "
        f"(m/s) and SSIM are of their mean. Wells at columns {', '.join(map(str, WELLS))}; the background is blurred "
        f"by {BLUR:g} m. 90 %: share of the truth inside the central intervals, as drawn / tempered.",
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
    if "coverage" in found:
        lines += [f"## Coverage, by {MANY} samples of {FEWER_STEPS} evaluations each", ""]
        lines += ["Share of the truth inside the central 90 % intervals, as drawn / tempered.", ""]
        lines += [f"| given | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
        for chosen, own in found["coverage"].items():
            if isinstance(own, dict):
                both = [f"{100 * own[n]['coverage']:.0f} / {100 * own[n]['coverage_tempered']:.0f} %" for n in names]
                lines.append(f"| {chosen} | {' | '.join(both)} |")
        lines.append("")
    if "evaluations" in found:
        lines += ["## Evaluations of the network a sample, given the gathers", ""]
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


if __name__ == "__main__":
    main()

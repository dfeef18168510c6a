"""Held-out and genuine models that diffusion models are judged on, samples drawn of them, and their scores."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seisvel_jax.calibration import Calibration, tempered
from seisvel_jax.data.online import Simulated
from seisvel_jax.data.resample import resample_gathers
from seisvel_jax.diffusion import compose
from seisvel_jax.diffusion.condition import Condition, of_training, only
from seisvel_jax.diffusion.config import ConditionConfig
from seisvel_jax.diffusion.processes import process_of
from seisvel_jax.diffusion.sampler import SamplerConfig, sample
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.logging import say
from seisvel_jax.metrics import mae, rmse, ssim
from seisvel_jax.survey import openfwi
from seisvel_jax.training.mesh import one_device
from seisvel_jax.training.runs import DiffusionRun
from seisvel_jax.wave.propagate import propagate

WELLS = (0, 24, 48, 69)
"""Logged columns, as in DiffusionVel's demonstration."""
BLUR = 100.0
"""Metres: of the background."""
SAMPLES, STEPS = 24, 8
"""Of each model, and evaluations of the network for each: by 8 samples a spread too narrow by a quarter still seems
right, and the noise of their mean hides small differences; more evaluations change nothing (docs/diffusion.md)."""
TOGETHER = 8
"""Models at a time."""
WEIGHTS = {"gathers": 0.25, "wells": 0.5, "background": 0.25}
"""DiffusionVel's."""


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
            simulated = Simulated(replace(online, family=family, pml=0.0, sponge_every=0), survey, 0, one_device())
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
        labels = np.full(len(velocity), known, np.int32)
        judged[name] = {"gathers": resampled, "velocity": velocity.astype(np.float32), "family": labels}
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


def joined(judged: dict) -> tuple[dict[str, np.ndarray], dict[str, slice]]:
    """All models in one batch, and which rows of it each set has."""
    ends = np.cumsum([len(models["velocity"]) for models in judged.values()])
    own = {name: slice(int(end) - len(judged[name]["velocity"]), int(end)) for name, end in zip(judged, ends)}
    return {what: np.concatenate([m[what] for m in judged.values()]) for what in next(iter(judged.values()))}, own

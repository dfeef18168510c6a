"""InversionNet, the ensemble and DiffusionVel's U-Nets, trained on the pool of a diffusion run for so many minutes."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from diffusion_judged import WEIGHTS, drawn_all, errors, joined, scores, told_of
from flax import nnx

from seisvel_jax.config import Config, DiffusionConfig
from seisvel_jax.data.online import Simulated
from seisvel_jax.data.pool import draw_pool
from seisvel_jax.diffusion import diffusionvel
from seisvel_jax.diffusion.condition import Condition, drop, of_training
from seisvel_jax.diffusion.config import ConditionConfig
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.diffusion.unet import UNet, UNetConfig
from seisvel_jax.inference.pretrained import load
from seisvel_jax.logging import progress
from seisvel_jax.models.config import GroupConfig, InversionNetConfig
from seisvel_jax.survey import openfwi
from seisvel_jax.train import train
from seisvel_jax.training.config import AugmentConfig, OptimConfig
from seisvel_jax.training.mesh import one_device
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.runs import DiffusionRun
from seisvel_jax.training.state import abstract_params, init_state
from seisvel_jax.training.step import make_step

BASE = 8
"""Of its U-Nets; 64 as published."""
SAMPLES = 8
"""Drawn by them: three networks of 10 steps each."""


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

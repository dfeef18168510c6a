"""A small experiment for the training tests: noise for gathers, layers for velocity; seconds to compile."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from seisvel_jax.config import Config
from seisvel_jax.config import replace as change
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.data.writers import write_openfwi, write_survey
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.survey import Boundary, Grid, Survey, ricker
from seisvel_jax.training.config import AugmentConfig, OptimConfig

SURVEY = Survey(
    sources=np.asarray([[0, 10], [70, 10]], np.float32),
    receivers=np.asarray([[10 * i, 10] for i in range(8)], np.float32),
    wavelet=ricker(15.0, 4e-3, 32, 0.05),
    dt=4e-3,
    nt=32,
    grid=Grid(8, 8, 10.0),
    boundary=Boundary("openfwi", 100.0, (70.0, 70.0)),
    record_start=1,
    name="tiny",
)

MODEL = VelocityNetConfig(
    width=8,
    heads=2,
    encoder_layers=1,
    decoder_layers=1,
    stem_channels=(8,),
    stem_blocks=(0,),
    patch_duration=0.032,
    token_duration=0.064,
    receiver_tokens=2,
    moments=(1, 1),
    patch_shape=(8, 8),
    refine_channels=0,
    dropout=0.1,
    spacing=10.0,
    dt=4e-3,
    amplitude=1.0,
    gains=(1.0,),
)

CONFIG = Config(
    name="tiny",
    groups=(GroupConfig(MODEL, members=2),),
    data=DataConfig(split_by="none", validation_fraction=0.25, read_threads=1),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=2, cycle_steps=1000),
    augment=AugmentConfig(trace_dropout=0.0, shift=0.0, frequency_mask=0.0, time_mask=0.0),
    batch_size=2,
    steps=6,
    eval_every=2,
    log_every=1,
    ema_decay=0.9,
    figures=0,
    tensorboard=False,
)

LIGHT = replace(
    CONFIG,
    groups=(GroupConfig(replace(MODEL, encoder_layers=0)),),
    augment=replace(CONFIG.augment, noise=0.0),
    validation_samples=3,
)
"""One member of the least network that still attends: compiles in a fraction of the time."""

QUICK = {
    "jax_disable_most_optimizations": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
"""Compiling is what these tests would spend their time on: with little optimisation, and once for each program."""


@contextlib.contextmanager
def quick_compilation(folder: Path | None = None) -> Iterator[None]:
    """Little optimisation, and compiled programs shared through `folder`."""
    wanted = QUICK | {"jax_compilation_cache_dir": None if folder is None else str(folder)}
    before = {name: jax.config.values[name] for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def arrays(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gathers `[count, 2, 32, 8]` and velocity `[count, 8, 8]`: two layers whose depth the gathers' energy tells."""
    rng = np.random.default_rng(seed)
    depth = rng.integers(2, 7, count)
    velocity = np.where(np.arange(8)[None, :, None] < depth[:, None, None], 1800.0, 3200.0) * np.ones((1, 1, 8))
    gathers = rng.normal(size=(count, 2, 32, 8)) * depth[:, None, None, None] / 4
    return gathers.astype(np.float32), velocity.astype(np.float32)


def write_data(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """The tiny experiment's samples as files of OpenFWI's layout."""
    gathers, velocity = arrays(count, seed)
    for index, start in enumerate(range(0, count, 4), 1):
        write_openfwi(folder, index, gathers[start : start + 4], velocity[start : start + 4])
    write_survey(folder, SURVEY)
    return folder


def quick_environment(programs: Path) -> dict[str, str]:
    """`quick_compilation` for other processes, which share `programs`."""
    return {name.upper(): str(value) for name, value in QUICK.items()} | {"JAX_COMPILATION_CACHE_DIR": str(programs)}


class StraightRun(NamedTuple):
    """A finished run and what training it returned."""

    run: Path
    result: dict[str, Any]


def run_straight(data: Path, run: Path) -> StraightRun:
    """Train CONFIG on `data` in the folder `run`."""
    from seisvel_jax.train import train

    return StraightRun(run, train(change(CONFIG, data__path=str(data)), run))


def state_of(run: Path, step: int = CONFIG.steps) -> Any:
    """The state in the last checkpoint of a run of CONFIG, which must be of `step`, as training goes on from it."""
    from seisvel_jax.training.checkpoint import Checkpoints, read_metadata, step_folders
    from seisvel_jax.training.optim import make_optimizer
    from seisvel_jax.training.state import abstract_state

    folder = step_folders(run)[-1]
    assert int(folder.name) == step
    abstract = abstract_state(CONFIG.groups, SURVEY, make_optimizer(CONFIG.optim, CONFIG.steps))
    found = Checkpoints(run).resume(abstract, read_metadata(folder))
    assert found is not None
    return jax.tree.map(np.asarray, found[0])


def assert_same_state(one: Path, other: Path) -> None:
    """Two finished runs of CONFIG have the same bits."""
    jax.tree.map(np.testing.assert_array_equal, state_of(one), state_of(other))

"""A diffusion run of the tiny experiment, untrained but not silent, as training leaves it."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from training_support import MODEL, SURVEY

from seisvel_jax.config import DiffusionConfig, to_dict
from seisvel_jax.diffusion.config import ConditionConfig, DenoiserConfig
from seisvel_jax.training.checkpoint import Checkpoints
from seisvel_jax.training.state import TrainState, abstract_params

DENOISER = DenoiserConfig(
    encoder=replace(MODEL, dropout=0.0), layers=1, channels=4, blocks=1, patch_shape=(4, 4), families=("flat", "curved")
)
RUN = DiffusionConfig("tiny", denoiser=DENOISER, members=2, condition=ConditionConfig(wells=3, blur=(10.0, 40.0)))


def write_run(path: Path, *, seed: int = 0, config: DiffusionConfig = RUN, **temperatures: float) -> Path:
    """Every parameter is random, so that all that is told is heard; nothing is compiled for it."""
    rng = np.random.default_rng(seed)
    shapes = abstract_params(config.groups, SURVEY)[1]
    params = jax.tree.map(lambda leaf: (0.2 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)
    checkpoints = Checkpoints(path)
    metadata = {
        "config": to_dict(config),
        "survey": SURVEY.to_dict(),
        "samples": {},
        "weights": [1 / config.members] * config.members,
        "postprocess": temperatures,
        "validation": {"crps": 100.0},
    }
    checkpoints.save(TrainState(jax.numpy.int32(1), params, (), params), metadata)
    checkpoints.close()
    return path

"""Challenge folders to pack, on a grid of 20 m."""

from pathlib import Path

import numpy as np

from seisvel_jax.data.writers import write_challenge_sample
from seisvel_jax.survey import speed_and_structure

COARSE = speed_and_structure(spacing=20, dt=2e-3)


def write_challenge(folder: Path, count: int = 5, survey=COARSE, velocity: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for index in range(count):
        gathers = 1e-2 * rng.normal(size=survey.gather_shape)
        model = rng.uniform(1500, 4500, survey.grid.shape).astype(np.float32)
        model[:3] = 1500
        write_challenge_sample(folder, f"id{index}", gathers, model if velocity else None)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

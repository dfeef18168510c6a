"""Samples back into the layouts they come in; every file or sample folder appears whole or not at all."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from seisvel_jax.data.challenge import VELOCITY_FILE, gather_file, source_ids
from seisvel_jax.errors import UserError
from seisvel_jax.files import sync, whole_file
from seisvel_jax.survey import Survey


def write_challenge_sample(folder: str | Path, name: str, gathers: np.ndarray, velocity: np.ndarray | None) -> Path:
    """Write `<folder>/<name>/` with a shot file a source and, where given, the velocity model; return its path.

    `gathers` `[source, time, receiver]`, stored float32; `velocity` `[depth, x]` m/s, stored float64 km/s with the
    lateral axis first. An earlier sample of this name is replaced. Five shots get the challenge's numbers, others
    1, 2, 3... (and need a survey.json, see `write_survey`).
    """
    folder = Path(folder)
    if name in ("", ".", "..") or "/" in name or name.startswith("."):
        raise UserError(f"{folder}: '{name}' as a sample's name, expected a plain folder name: rename it")
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=folder))
    try:
        for source_id, gather in zip(source_ids(len(gathers)), gathers, strict=True):
            np.save(part / gather_file(source_id), np.ascontiguousarray(gather, np.float32))
        if velocity is not None:
            np.save(part / VELOCITY_FILE, np.ascontiguousarray(velocity.T, np.float64) / 1000)
        for path in part.iterdir():
            sync(path)
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o777 & ~umask)
        if (folder / name).exists():
            old = part.with_suffix(".old")
            (folder / name).rename(old)
            part.rename(folder / name)
            shutil.rmtree(old)
        else:
            part.rename(folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder / name


def write_openfwi(folder: str | Path, index: int, gathers: np.ndarray, velocities: np.ndarray) -> Path:
    """Write `data/data{index}.npy` `(N, source, time, receiver)` and `model/model{index}.npy` `(N, 1, depth, x)`.

    float32, `velocities` `[N, depth, x]` m/s. The model file first: gathers never lie there without their velocities.
    Returns the path of the gathers.
    """
    folder = Path(folder)
    if len(gathers) != len(velocities):
        raise ValueError(f"{len(gathers)} gathers and {len(velocities)} velocities")
    path = folder / "data" / f"data{index}.npy"
    with whole_file(folder / "model" / f"model{index}.npy") as part:
        np.save(part, np.ascontiguousarray(velocities[:, None], np.float32))
    with whole_file(path) as part:
        np.save(part, np.ascontiguousarray(gathers, np.float32))
    return path


def write_survey(folder: str | Path, survey: Survey) -> Path:
    """Write `survey.json` beside samples, so that readers know positions, sampling, wavelet and grid."""
    path = Path(folder) / "survey.json"
    with whole_file(path) as part:
        part.write_text(json.dumps(survey.to_dict()) + "\n", encoding="utf-8")
    return path

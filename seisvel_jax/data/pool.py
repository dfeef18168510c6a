"""The pool of a run: samples drawn once, when it begins, and kept beside its checkpoints for when it goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from seisvel_jax.data.online import Drawn, OnlineConfig, Simulated
from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, read_json, whole_file
from seisvel_jax.logging import say
from seisvel_jax.survey import Survey

STREAM = "pool"
PARTS = ("gathers", "velocity", "family")


def draw_pool(simulated: Simulated, config: OnlineConfig, rows: int, onto: Survey, folder: Path | None) -> Drawn:
    """The `config.pool` samples of `simulated`, drawn `rows` at a time, or read from `folder` if they lie there.

    They are resampled to the times of the survey `onto`. They depend on the config, surveys and seed alone: a folder
    that says it is of others, or is damaged, is written anew. Without a folder, or with several processes, they are
    drawn at every start.
    """
    import jax

    if folder is None or jax.process_count() > 1:
        return simulated.samples(STREAM, config.pool, rows, onto)
    wanted = _label(simulated, config, rows, onto)
    if (folder / "pool.json").is_file():
        try:
            return _read(folder, onto, wanted)
        except UserError as error:
            say(f"warning: {error}: the samples are drawn again")
    drawn = simulated.samples(STREAM, config.pool, rows, onto)
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    for name, values in zip(PARTS, (drawn.gathers_of, drawn.velocity_of, drawn.family_of)):
        if values is not None:
            with whole_file(folder / f"{name}.npy") as part, open(part, "wb") as file:
                np.save(file, values)
            sums[name] = _checksum(folder / f"{name}.npy")
    with whole_file(folder / "pool.json") as part:
        part.write_text(json.dumps({"of": wanted, "checksums": sums}, indent=1) + "\n", encoding="utf-8")
    return drawn


def _read(folder: Path, onto: Survey, wanted: dict[str, Any]) -> Drawn:
    values = read_json(folder / "pool.json")
    if not isinstance(values, dict) or values.get("of") != wanted or not isinstance(values.get("checksums"), dict):
        raise UserError(f"{folder}: samples of another run")
    arrays = {}
    for name, known in values["checksums"].items():
        path = folder / f"{name}.npy"
        if name not in PARTS or not path.is_file() or _checksum(path) != known:
            raise UserError(f"{path}: damaged or missing")
        arrays[name] = load_npy(path)
    return Drawn(onto, arrays["gathers"], arrays["velocity"], STREAM, arrays.get("family"))


def _label(simulated: Simulated, config: OnlineConfig, rows: int, onto: Survey) -> dict[str, Any]:
    """All that decides the samples, as JSON gives it back."""
    values = {
        "surveys": [simulated.survey.to_dict(), onto.to_dict()],
        "families": list(simulated.families),
        "labels": None if simulated.numbers is None else list(simulated.numbers),
        "seed": simulated.seed,
        "count": config.pool,
        "rows": rows,
        "sponge_widths": list(config.sponge_widths),
        "pml": config.pml,
        "sponge_every": config.sponge_every,
    }
    return json.loads(json.dumps(values))


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

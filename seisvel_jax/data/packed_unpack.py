"""Packs back into the layout they came from: challenge folders, or OpenFWI's batch files and single gathers."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from seisvel_jax.data.openfwi import partner_path
from seisvel_jax.data.packed import PackedDataset
from seisvel_jax.data.packed_files import npy_header_bytes, read_json
from seisvel_jax.data.writers import write_challenge_sample, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.files import only_one, whole_file
from seisvel_jax.survey import Survey, openfwi, speed_and_structure

CLAIM_FILE = ".unpack.json"
"""Hidden, so that the folder is one of samples alone; says which pack lies there unpacked."""


def unpack_dataset(dataset: PackedDataset, output: Path, progress: Callable[..., Any]) -> int:
    """Write the samples of a pack under `output` in the layout they came from; return how many were new.

    Sample folders and files that are there are kept: a killed run goes on. A survey that the layout does not imply is
    written as survey.json. Raises UserError for damaged samples and for a folder that holds something else.
    """
    layout = dataset.info.source["layout"]
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: a file stands where the folder of samples should be: choose another --output")
    if output.resolve().is_relative_to(dataset.path.resolve()):
        raise UserError(f"{output}: lies within the pack: choose another --output")
    with only_one(output, "unpacking"):
        _claim(output, {"pack": dataset.info.digest, "layout": layout})
        if dataset.survey.to_dict() != _implied_survey(layout, dataset.survey).to_dict():
            write_survey(output, dataset.survey)
        with progress(None, "unpack", total=len(dataset)) as bar:
            write = _write_challenge if layout == "challenge" else _write_openfwi
            return write(dataset, output, bar)


def _claim(output: Path, wanted: dict[str, str]) -> None:
    """Make `output` the folder of this unpacking, or check that it is; remove what a killed run was writing."""
    path = output / CLAIM_FILE
    if path.exists():
        found = read_json(path)
        if found != wanted:
            raise UserError(f"{output}: holds another pack's samples: choose another --output or remove it")
    else:
        others = sorted(entry.name for entry in output.iterdir() if not entry.name.startswith("."))
        if others:
            raise UserError(f"{output}: holds other files ({others[0]}): choose another --output or an empty one")
        with whole_file(path) as part:
            part.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    for entry in [*output.glob(".*.part*"), *output.glob(".*.old"), *output.glob("**/.*.part.npy")]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _implied_survey(layout: str, survey: Survey) -> Survey:
    """What a reader of the unpacked files takes their survey for where nothing else is said."""
    if layout == "challenge":
        return speed_and_structure(spacing=300.0 / survey.grid.x_count, dt=1.0 / (survey.nt - 1))
    return openfwi(x_count=survey.gather_shape[2])


def _write_challenge(dataset: PackedDataset, output: Path, bar: Any) -> int:
    new = 0
    for index, name in enumerate(dataset.names):
        if not (output / name).exists():
            velocity = dataset.velocity(index) if dataset.has_velocity else None
            write_challenge_sample(output, name, dataset.gathers(index), velocity)
            new += 1
        bar.update(1)
    return new


def _write_openfwi(dataset: PackedDataset, output: Path, bar: Any) -> int:
    groups: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        groups.setdefault(dataset.group(index), []).append(index)
    new = 0
    for group, indices in groups.items():
        path = output / PurePosixPath(group)
        if path.suffix != ".npy":
            raise UserError(f"{dataset.path}: samples out of '{group}', expected a .npy file: pack the data again")
        partner = partner_path(path)
        if dataset.has_velocity and partner is None:
            raise UserError(f"{path}: its name has no partner for velocities (data1, seis1, X_seis): pack them again")
        if not path.exists():
            single = len(indices) == 1 and dataset.names[indices[0]].endswith(path.stem)
            # Velocities first: gathers never lie there without theirs.
            if dataset.has_velocity and partner is not None:
                _write_array(partner, indices, lambda index: dataset.velocity(index)[None], batched=True)
            _write_array(path, indices, dataset.gathers, batched=not single)
            new += len(indices)
        bar.update(len(indices))
    return new


def _write_array(path: Path, indices: list[int], read: Callable[[int], np.ndarray], *, batched: bool) -> None:
    """One .npy file of samples, one in memory at a time."""
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(whole_file(path))
        handle: BinaryIO = stack.enter_context(open(part, "wb"))
        for count, index in enumerate(indices):
            sample = np.ascontiguousarray(read(index), "<f4")
            if count == 0:
                shape = (len(indices), *sample.shape) if batched else sample.shape
                handle.write(npy_header_bytes(shape, sample.dtype))
            handle.write(sample.data)

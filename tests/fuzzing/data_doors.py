"""Doors that take folders of samples, packs and surveys."""

import contextlib
import json
import os
from pathlib import Path

from hypothesis import strategies as st

from fuzzing.folders import mischief
from fuzzing.refusal import refused
from fuzzing.sound import Sound
from fuzzing.values import NAMES, Draw, changed, json_text


def dataset(draw: Draw, folder: Path, sound: Sound) -> None:
    """Folders of samples of either layout, and packs."""
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.data.inspection import inspect_dataset
    from seisvel_jax.data.packed import verify
    from seisvel_jax.data.split import split_indices
    from seisvel_jax.data.velocity_files import open_velocities

    name = draw(st.sampled_from(["challenge", "openfwi", "velocities", "pack"]))
    path = sound.copy(name, folder)
    inner = draw(st.sampled_from(["", "", "", "", "train", "deep/deeper", "train/data"]))
    if inner:
        (folder / "up" / inner).parent.mkdir(parents=True)
        path.rename(folder / "up" / inner)
        path = folder / "up"
    if draw(st.integers(0, 3)) == 0:
        folders = sorted(p for p in path.rglob("*") if p.is_dir())
        if folders:
            with contextlib.suppress(OSError, ValueError):
                chosen = draw(st.sampled_from(folders))
                raw = draw(st.sampled_from([None, b"a\xff", b"\xed\xa0\x80"]))
                target = os.path.join(os.fsencode(chosen.parent), raw) if raw else chosen.with_name(draw(NAMES))
                os.rename(chosen, target)
    mischief(draw, path)

    def use() -> None:
        data = open_dataset(path)
        for index in range(min(len(data), 4)):
            refused(lambda index=index: data.gathers(index))
            refused(lambda index=index: data.velocity(index))
        refused(lambda: split_indices(data, validation_fraction=0.5, seed=0))
        json.dumps(inspect_dataset(data, range(min(len(data), 4))).to_dict())
        for index in range(len(data)):
            data.names[index].encode()  # into a digest, a file, a terminal

    def models() -> None:
        velocities = open_velocities(path)
        for index in range(min(len(velocities.names), 4)):
            velocities.names[index].encode()
            refused(lambda index=index: velocities.velocity(index))

    refused(use)
    refused(models)
    if name == "pack" and path.is_dir():
        refused(lambda: verify(path))


def pack(draw: Draw, folder: Path, sound: Sound) -> None:
    """pack.json with other values, and a checksum that fits."""
    from seisvel_jax.data import packed
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.data.packed_info import digest_of

    path = sound.copy("pack", folder)
    values = json.loads((path / "pack.json").read_text())
    digest = values.pop("digest")
    values = changed(draw, values)
    if isinstance(values, dict):
        with contextlib.suppress(ValueError):
            digest = digest_of(values)
        values = {"digest": digest, **values}
    (path / "pack.json").write_text(json.dumps(values))
    if draw(st.integers(0, 3)) == 0:
        mischief(draw, path)

    def use() -> None:
        data = open_dataset(path)
        for index in range(min(len(data), 4)):
            refused(lambda index=index: data.gathers(index))
            refused(lambda index=index: data.velocity(index))

    refused(use)
    refused(lambda: packed.verify(path))


def survey(draw: Draw, folder: Path, sound: Sound) -> None:
    """survey.json, beside samples and by itself."""
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.survey import read_survey

    name = draw(st.sampled_from(["challenge", "openfwi"]))
    path = sound.copy(name, folder)
    file = path / "survey.json"
    file.write_bytes(json_text(draw, json.loads(file.read_text())))
    if draw(st.integers(0, 9)) == 0:
        mischief(draw, path)

    def use() -> None:
        survey = read_survey(file)
        json.dumps(survey.to_dict())

    refused(use)
    refused(lambda: open_dataset(path).gathers(0))
    refused(lambda: open_dataset(path).velocity(0))

"""Doors that take single files of arrays."""

import contextlib
import io
import shutil
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

from fuzzing.arrays import bomb, good, header, odd_array
from fuzzing.folders import mischief
from fuzzing.refusal import refused
from fuzzing.sound import Sound
from fuzzing.values import NAMES, Draw, damaged


def npy(draw: Draw, folder: Path, sound: Sound) -> None:
    """Single arrays, under names that mean something to the readers."""
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.data.velocity_files import open_velocities
    from seisvel_jax.files import load_npy, npy_header
    from seisvel_jax.inference.submission import read_field

    path = folder / draw(st.sampled_from(["x_seis.npy", "v.npy", "vp_model.npy", "0123456789.npy", "data1.npy"]))
    shutil.copy(sound.made("velocities") / "v1.npy", path)
    mischief(draw, folder)
    for use in (
        lambda: npy_header(path),
        lambda: load_npy(path),
        lambda: load_npy(path, memory_map=True),
        lambda: open_dataset(path).gathers(0),
        lambda: open_velocities(path).velocity(0),
        lambda: read_field(path, "a", 0),
    ):
        refused(use)


def npz(draw: Draw, folder: Path, sound: Sound) -> None:
    """Archives: damaged, with odd names, bombs, other compressions, things that are no arrays."""
    from seisvel_jax.evaluate import open_prediction
    from seisvel_jax.inference.submission import read_field

    path = folder / "s.npz"
    if draw(st.booleans()):
        sound.copy("s.npz", folder)
    else:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.simplefilter("ignore")  # names that are there twice
            for _ in range(draw(st.integers(0, 3))):
                name = draw(NAMES) + draw(st.sampled_from([".npy", ".npy", ""])) or "x"  # zipfile needs a name
                kind = draw(st.sampled_from(["array", "header", "bomb", "good"]))
                content = {"array": odd_array, "header": header, "bomb": bomb, "good": good}[kind](draw)
                archive.writestr(name, content, draw(st.sampled_from([0, 8, 8, 12, 14])))
    if draw(st.integers(0, 2)) > 0 and path.stat().st_size < 2**20:
        path.write_bytes(damaged(draw, path.read_bytes()))

    def use() -> None:
        velocities = open_prediction(path)
        for index, name in enumerate(velocities.names[:3]):
            assert Path(name).name == name and name.isprintable(), f"name {name!r} would leave its folder"
            refused(lambda index=index: velocities.velocity(index))
            refused(lambda name=name, index=index: read_field(path, name, index))

    refused(use)
    refused(lambda: read_field(path, draw(NAMES), 0))


def refining(draw: Draw, folder: Path, sound: Sound) -> None:
    """The record of a batch that is being refined: damaged, or other numbers behind a checksum that fits."""
    from seisvel_jax.inference import refine_state
    from seisvel_jax.inversion.config import InversionConfig

    path = sound.copy("state.npy", folder)
    if draw(st.booleans()):
        path.write_bytes(damaged(draw, path.read_bytes()))
    elif draw(st.booleans()):
        path.write_bytes(draw(st.sampled_from([odd_array, header]))(draw))
    else:
        values = np.load(path, allow_pickle=False)[:-1]
        for _ in range(draw(st.integers(1, 3))):
            numbers = st.sampled_from([-1.0, 0.5, 3.0, 1e300, float("nan"), float("inf"), 2.0**31, 2.0**63])
            values[draw(st.integers(0, 12))] = draw(numbers)
        values = values[: draw(st.sampled_from([len(values), len(values), 3]))]
        np.save(path, np.append(values, refine_state._checksum(values)))
    with contextlib.redirect_stderr(io.StringIO()):
        state = refine_state.read(path, (2, 4, 4), InversionConfig())
    if state is not None:
        assert min(state.evaluations, state.stage, state.stage_evaluations, state.quiet) >= 0
        assert state.best.shape == (2, 4, 4) and len(state.history["misfit"]) == state.evaluations


WORDS = [b"\x00", b'"', b"1e999", b"nan", b"9" * 5000, b",", b"\r", b"a" * 140_000, b"_y_", "٣".encode()]


def misprinted(draw: Draw, content: bytes) -> bytes:
    """A table with an odd word in it, or damaged."""
    if draw(st.booleans()):
        at = draw(st.integers(0, len(content)))
        return content[:at] + draw(st.sampled_from(WORDS)) + content[at:]
    return damaged(draw, content)


def logs(draw: Draw, folder: Path, sound: Sound) -> None:
    """Well logs to sample with."""
    from training_support import SURVEY

    from seisvel_jax.inference.told import open_wells

    named = draw(st.booleans())
    lines = [f"{'a,' * named}{10 * x},{5 * depth},{1500 + 100 * depth}" for x in range(3) for depth in range(9)]
    content = "\n".join(["sample," * named + "x,depth,velocity", *lines]).encode()
    path = folder / "logs.csv"
    path.write_bytes(misprinted(draw, content))
    dataset = SimpleNamespace(survey=SURVEY, names=("a", "b"), has_velocity=False, path=folder)

    def use() -> None:
        cells = open_wells(str(path), dataset, ("a",))(0)
        assert cells.known.any() and np.isfinite(cells.values).all() and (cells.values[cells.known] > 0).all()

    refused(use)


def csv(draw: Draw, folder: Path, sound: Sound) -> None:
    """Competition files."""
    from seisvel_jax.inference.submission import CompetitionCSV

    path = sound.copy("s.csv", folder)
    path.write_bytes(misprinted(draw, path.read_bytes()))

    def use() -> None:
        models = CompetitionCSV(path)
        for index in range(len(models)):
            models.velocity(index)

    refused(use)

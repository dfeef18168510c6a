"""The OpenFWI layouts: batch files of gathers with a partner of velocity maps, and the competition's single gathers.

`data/data{n}.npy` + `model/model{n}.npy` (also flat), `seis{s}.npy` + `vel{s}.npy`, `X_seis.npy` + `X_vel.npy`:
`(N, source, time, receiver)` and `(N, 1, depth, x)` m/s. Competition: `(source, time, receiver)`, one file a sample.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from seisvel_jax.data.checks import MAX_SAMPLES, check_names, finite_float32, sane_velocity
from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, npy_header
from seisvel_jax.survey import Survey, openfwi

OPEN_FILES = 8
"""Batch files kept memory-mapped at a time: 500 samples each, so a shuffled run touches many more."""
_PARTNERS = ((r"^data", "model"), (r"^seis", "vel"), (r"_seis$", "_vel"), (r"_data$", "_model"), (r"_data$", "_vel"))
_FOLDER_PARTNERS = {"data": ("model", "vel"), "seis": ("vel", "model")}
_VELOCITY_NAME = re.compile(r"^(model|vel)|(_vel|_model)$")
_COMPETITION_ID = re.compile(r"^[0-9a-f]{10}\b")
_GATHER_NAME = re.compile(r"^(data|seis)|(_seis|_data)$|^[0-9a-f]{10}$")


@dataclass(frozen=True)
class GatherFile:
    """One file of gathers, what its header says, and where its velocities lie."""

    path: Path
    shape: tuple[int, ...] | None
    """None where the header cannot be read: the file counts as one bad sample."""
    velocity: Path | None

    @property
    def samples(self) -> int:
        """Gathers in the file."""
        return self.shape[0] if self.shape is not None and len(self.shape) == 4 else 1

    @property
    def gather_shape(self) -> tuple[int, ...] | None:
        """`(source, time, receiver)`."""
        return None if self.shape is None else self.shape[-3:]


def velocity_partner(path: Path) -> Path | None:
    """The velocity file that belongs to a file of gathers by its name, where it exists."""
    folders = [path.parent]
    folders += [path.parent.with_name(other) for other in _FOLDER_PARTNERS.get(path.parent.name, ())]
    names = [re.sub(pattern, other, path.stem) for pattern, other in _PARTNERS if re.search(pattern, path.stem)]
    for folder in folders:
        for name in names:
            candidate = folder / f"{name}.npy"
            if candidate.is_file():
                return candidate
    return None


def partner_path(path: Path) -> Path | None:
    """Where the velocities of a file of gathers are written: the first place `velocity_partner` looks beside it."""
    names = [re.sub(pattern, other, path.stem) for pattern, other in _PARTNERS if re.search(pattern, path.stem)]
    folder = path.parent.with_name(_FOLDER_PARTNERS.get(path.parent.name, (path.parent.name,))[0])
    return folder / f"{names[0]}.npy" if names else None


def is_velocity_name(path: Path) -> bool:
    """Whether the name says velocities: model1, vel2_1_0, X_vel."""
    return bool(_VELOCITY_NAME.search(path.stem))


def gather_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files of gathers in `folder` (or its data/ or seis/, or those of its subfolders, one a family), and the others.

    What a file is, its name says (data1, seis2_1_0, X_seis, a competition id); where it does not, its shape does.
    """
    for folders in _places(folder):
        found: list[Path] = []
        others: list[Path] = []
        for place in folders:
            for path in npy_files(place):
                (found if is_gathers(path) else others).append(path)
        if found:
            partners = {velocity_partner(path) for path in found}
            return found, [path for path in others if path not in partners]
    return [], []


def _places(folder: Path) -> list[list[Path]]:
    families = _subfolders(folder)
    return [
        [folder],
        [f for f in families if f.name in _FOLDER_PARTNERS],
        [p for f in families for p in (f, *(g for g in _subfolders(f) if g.name in _FOLDER_PARTNERS))],
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def npy_files(folder: Path) -> list[Path]:
    """The visible .npy files directly in `folder`, data2 before data10; competition ids by their letters."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(".npy") and not e.name.startswith("."))
    if not any(_COMPETITION_ID.match(name) for name in names):
        names.sort(key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)])
    return [folder / name for name in names]


def is_gathers(path: Path) -> bool:
    """Whether a file holds gathers, by its name or else by its shape."""
    if is_velocity_name(path):
        return False
    if _GATHER_NAME.search(path.stem):
        return True
    try:
        shape, _ = npy_header(path)
    except UserError:
        return False
    # (N, 1, depth, x) and (N, depth, x) are velocities.
    return (len(shape) == 4 and shape[1] > 1) or (len(shape) == 3 and shape[:2] == openfwi().gather_shape[:2])


class OpenFWIDataset:
    """Reads gathers out of memory-mapped batch files and single files; at most `OPEN_FILES` are open at a time."""

    layout = "openfwi"

    def __init__(self, path: Path, files: list[Path], survey: Survey | None):
        self.path = path
        self.files = _read_headers(files)
        self._refuse_mixture()
        self.survey = survey or self._survey_of_files()
        self.has_velocity = any(file.velocity for file in self.files)
        if sum(file.samples for file in self.files) > MAX_SAMPLES:
            raise UserError(f"{path}: claims more than {MAX_SAMPLES} samples, expected gathers: check its files")
        self._samples = [(k, i) for k, file in enumerate(self.files) for i in range(file.samples)]
        self.names = tuple(self._name(k, i) for k, i in self._samples)
        check_names(self.names, path)
        if len(set(self.names)) < len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise UserError(f"{path}: two samples are named {twice}: give one of their folders at a time")
        self._open = lru_cache(OPEN_FILES)(lambda path: load_npy(path, memory_map=True))

    def __len__(self) -> int:
        return len(self._samples)

    def origin(self, index: int) -> Path:
        """The file of gathers."""
        return self.files[self._samples[index][0]].path

    def gathers(self, index: int) -> np.ndarray:
        """`[source, time, receiver]` float32 with the last time row zero. Raises UserError naming the file."""
        file, i = self.files[self._samples[index][0]], self._samples[index][1]
        array = load_npy(file.path) if file.shape is None or len(file.shape) == 3 else self._open(file.path)
        name = str(file.path) if array.ndim == 3 else f"{file.path}: sample {i}"
        expected = self.survey.gather_shape
        if array.dtype.kind != "f":
            raise UserError(f"{file.path}: dtype {array.dtype}, expected float32: save it with .astype('float32')")
        if array.ndim not in (3, 4) or array.shape[-3:] != expected or (array.ndim == 4 and i >= array.shape[0]):
            raise UserError(
                f"{file.path}: shape {array.shape}, expected (samples, *{expected}) or {expected} (source, time, "
                "receiver): keep files of another survey in a folder of their own"
            )
        gathers = finite_float32(array if array.ndim == 3 else array[i], name)
        gathers = gathers.copy() if not gathers.flags.writeable or gathers.base is not None else gathers
        # Zero in the training files, a field in the competition's test files: the same for all of them.
        gathers[:, -1] = 0
        return gathers

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s. Raises UserError naming the file."""
        file, i = self.files[self._samples[index][0]], self._samples[index][1]
        if file.shape is None:
            npy_header(file.path)  # raises: without its gathers the file does not say how many samples it has
        if file.velocity is None:
            raise UserError(f"{file.path}: has no velocity file beside it (model*.npy, vel*.npy, X_vel.npy): add it")
        array = self._open(file.velocity)
        expected = self.survey.grid.shape
        if array.shape[-2:] != expected or array.ndim > 4 or array.size != file.samples * expected[0] * expected[1]:
            raise UserError(
                f"{file.velocity}: shape {array.shape}, expected ({file.samples}, 1, {expected[0]}, {expected[1]}) "
                f"(sample, 1, depth, x) as {file.path.name} holds {file.samples} gathers: check the pair"
            )
        name = f"{file.velocity}: sample {i}"
        return sane_velocity(finite_float32(array.reshape(-1, *expected)[i], name), name, "m/s").copy()

    def _name(self, k: int, i: int) -> str:
        file = self.files[k]
        parts = (
            [p for p in file.path.parent.relative_to(self.path).parts if p not in _FOLDER_PARTNERS]
            if (self.path.is_dir())
            else []
        )
        stem = "_".join([*parts, file.path.stem])
        return stem if file.shape is None or len(file.shape) == 3 else f"{stem}-{i:03d}"

    def _refuse_mixture(self) -> None:
        kinds = Counter((f.gather_shape, f.velocity is not None) for f in self.files if f.shape is not None)
        if not kinds:
            return  # each file is named as unreadable when it is read
        # A few odd files are bad samples, named when they are read; more are several data sets in one folder.
        if kinds.most_common(1)[0][1] < 0.75 * kinds.total():
            seen = "; ".join(
                f"{shape} {'with' if velocity else 'without'} velocity: "
                + ", ".join(f.path.name for f in self.files if (f.gather_shape, f.velocity is not None) == kind)
                for kind in kinds
                for shape, velocity in [kind]
            )
            raise UserError(
                f"{self.path}: mixes gathers of several kinds ({seen[:600]}): give one file, not the folder"
            )

    def _survey_of_files(self) -> Survey:
        shapes = Counter(f.gather_shape for f in self.files if f.gather_shape is not None)
        if not shapes:
            return openfwi()
        shape = shapes.most_common(1)[0][0]
        sources, nt = openfwi().gather_shape[:2]
        if len(shape) != 3 or shape[:2] != (sources, nt) or shape[2] < sources:
            raise UserError(
                f"{self.files[0].path}: gathers of shape {shape}, expected ({sources}, {nt}, 70) (source, time, "
                "receiver) as in OpenFWI: for another survey put a survey.json beside the files (docs/data.md)"
            )
        return openfwi(x_count=shape[2])


def _read_headers(paths: list[Path]) -> list[GatherFile]:
    # Thousands of competition files are of one size: the first header of a size stands for the others, which are
    # checked when they are read.
    known: dict[int, tuple[int, ...]] = {}
    files = []
    for path in paths:
        size = path.stat().st_size
        shape = known.get(size)
        if shape is None:
            try:
                shape, _ = npy_header(path)
                if len(shape) in (3, 4):
                    known[size] = shape
            except UserError:
                shape = None
        files.append(GatherFile(path, shape, velocity_partner(path)))
    return files

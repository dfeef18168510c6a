"""Velocity models wherever they lie: arrays, challenge folders and submissions, partners of OpenFWI gathers."""

import math
import zipfile
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path

import numpy as np

from seisvel_jax.data import challenge, openfwi
from seisvel_jax.data.checks import MAX_SAMPLES, check_names, finite_float32, is_plain_name, sane_velocity
from seisvel_jax.data.dataset import nothing_here, open_dataset
from seisvel_jax.data.packed import is_pack
from seisvel_jax.data.segy import SUFFIXES, read_segy_velocity
from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, npy_header, read_npy_header

MAX_NODES = 2**26
"""Of one velocity model in an archive: 8192 x 8192."""


class Velocities(ABC):
    """Velocity models by index: `velocity(i)` is `[depth, x]` float32 m/s. Streams: holds no model in memory."""

    def __init__(self, path: Path, layout: str, names: list[str]):
        self.path = path
        self.layout = layout
        """`array`, `segy`, `challenge`, `submission`, `openfwi` or `packed`."""
        self.names = tuple(names)
        check_names(self.names, path)

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s. Raises UserError naming the file."""


def open_velocities(path: str | Path) -> Velocities:
    """The velocity models at `path`.

    Takes `.npy` `(N, 1, depth, x)`, `(N, depth, x)` or `(depth, x)` in m/s; a folder of such files; a challenge folder
    (`vp_model.npy`, km/s, lateral first); a submission `.npz` (the same under each sample's name); a file or folder of
    OpenFWI gathers, whose partner files are read under the gathers' names; a pack; a SEG-Y file of one line, or a
    folder of such files. Raises UserError naming file and cure.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: check the path")
    if is_pack(path):
        return _OfDataset(path)
    if path.is_file():
        if path.suffix == ".npz":
            return _Submission(path)
        if path.suffix.lower() in SUFFIXES:
            return _SegyModels(path, [path])
        if path.suffix != ".npy":
            raise UserError(f"{path}: a file of kind '{path.suffix}', expected velocities in .npy, .npz or .segy")
        if path.name == challenge.VELOCITY_FILE:
            return _ChallengeModels(path, [path.parent])
        if openfwi.velocity_partner(path) is not None:
            return _OfDataset(path)
        return _Arrays(path, [path])
    samples = challenge.sample_folders(path) or ([path] if challenge.is_sample(path) else [])
    if samples:
        return _ChallengeModels(path, samples)
    if openfwi.gather_files(path)[0]:
        return _OfDataset(path)
    files = openfwi.npy_files(path) or [f for name in ("model", "vel") for f in _files_in(path / name)]
    lines = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
    if lines and not files:
        return _SegyModels(path, lines)
    if not files:
        raise nothing_here(path)
    return _Arrays(path, files)


def _files_in(folder: Path) -> list[Path]:
    return openfwi.npy_files(folder) if folder.is_dir() else []


class _Arrays(Velocities):
    """`.npy` files of m/s, depth first."""

    def __init__(self, path: Path, files: list[Path]):
        self._where: list[tuple[Path, int]] = []
        names = []
        for file in files:
            shape, _ = npy_header(file)
            if len(shape) not in (2, 3, 4) or (len(shape) == 4 and shape[1] != 1):
                raise UserError(
                    f"{file}: shape {shape}, expected velocities (N, 1, depth, x), (N, depth, x) or (depth, x): "
                    "check the file; gathers need their velocity file beside them"
                )
            count = 1 if len(shape) == 2 else shape[0]
            if count > MAX_SAMPLES or math.prod(shape[-2:]) > MAX_NODES:
                raise UserError(
                    f"{file}: shape {shape}, expected at most {MAX_SAMPLES} models of at most {MAX_NODES} nodes: "
                    "check the file"
                )
            names += [file.stem] if len(shape) == 2 else [f"{file.stem}-{i:03d}" for i in range(count)]
            self._where += [(file, i) for i in range(count)]
        super().__init__(path, "array", names)
        self._open = lru_cache(openfwi.OPEN_FILES)(lambda file: load_npy(file, memory_map=True))

    def velocity(self, index: int) -> np.ndarray:
        file, i = self._where[index]
        array = self._open(file)
        name = f"{file}: sample {i}"
        return sane_velocity(finite_float32(array.reshape(-1, *array.shape[-2:])[i], name), name, "m/s").copy()


class _SegyModels(Velocities):
    """SEG-Y files of one model each."""

    def __init__(self, path: Path, files: list[Path]):
        super().__init__(path, "segy", [file.stem for file in files])
        self._files = files

    def velocity(self, index: int) -> np.ndarray:
        return read_segy_velocity(self._files[index], MAX_NODES)


class _ChallengeModels(Velocities):
    """`vp_model.npy` of sample folders."""

    def __init__(self, path: Path, folders: list[Path]):
        super().__init__(path, "challenge", [folder.resolve().name for folder in folders])
        self._folders = folders

    def velocity(self, index: int) -> np.ndarray:
        file = self._folders[index] / challenge.VELOCITY_FILE
        if not file.exists():
            raise UserError(f"{file}: missing, expected the sample's velocity model: complete or remove the sample")
        return challenge.read_velocity(file)


class _OfDataset(Velocities):
    """Partner files of OpenFWI gathers, or the models of a pack, under the gathers' names."""

    def __init__(self, path: Path):
        self._dataset = open_dataset(path)
        if not self._dataset.has_velocity:
            raise UserError(f"{path}: gathers without velocity files beside them: give the velocities' own file")
        super().__init__(path, self._dataset.layout, list(self._dataset.names))

    def velocity(self, index: int) -> np.ndarray:
        return self._dataset.velocity(index)


class _Submission(Velocities):
    """A challenge submission: one `(lateral, depth)` array of km/s a sample."""

    def __init__(self, path: Path):
        with open_archive(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
        for name in members:
            # Names of samples become names of folders and figures: none may lead out of its place.
            if not is_plain_name(name.removesuffix(".npy")):
                raise UserError(f"{path}: an array named {name!r:.80}, expected the name of a sample: write it again")
        if len(set(members)) < len(members):
            raise UserError(f"{path}: two arrays of one name, expected one a sample: write it again")
        if not members:
            raise UserError(f"{path}: an archive without arrays, expected one (lateral, depth) array a sample")
        super().__init__(path, "submission", [name.removesuffix(".npy") for name in members])

    def velocity(self, index: int) -> np.ndarray:
        name = f"{self.path}: {self.names[index]}"
        with open_archive(self.path) as archive:
            array = read_member(archive, f"{self.names[index]}.npy", name)
        return sane_velocity(finite_float32(array.T * np.float64(1000), name), name, "km/s")


def open_archive(path: Path) -> zipfile.ZipFile:
    """The archive at `path`, open for reading. Raises UserError."""
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # damaged directories come out as errors of struct, of Unicode, of values, of the file
        raise UserError(f"{path}: truncated or not an .npz archive ({error!s:.200}): write it again") from error


def read_member(archive: zipfile.ZipFile, member: str, name: str) -> np.ndarray:
    """The `(lateral, depth)` array in a member of an .npz; `name` is for messages.

    What the archive and the array's header claim is compared with each other and with `MAX_NODES` before anything is
    unpacked: few bytes may claim, and unpack to, any size. Raises UserError.
    """
    try:
        info = archive.getinfo(member)
        with archive.open(info) as file:
            shape, _ = read_npy_header(file, info.file_size, name)
        if len(shape) != 2:
            raise UserError(f"{name}: shape {shape}, expected (lateral, depth) in km/s")
        if math.prod(shape) > MAX_NODES:
            raise UserError(f"{name}: shape {shape}, expected a model of at most {MAX_NODES} nodes: write it again")
        with archive.open(info) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # each way of compressing has errors of its own for damaged data
        raise UserError(f"{name}: damaged ({' '.join(str(error).split())[:200]}): write the file again") from error

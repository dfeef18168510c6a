"""Velocity models wherever they lie: arrays, challenge folders and submissions, partners of OpenFWI gathers."""

import zipfile
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np

from seisvel_jax.data import challenge, openfwi
from seisvel_jax.data.checks import finite_float32, sane_velocity
from seisvel_jax.data.dataset import nothing_here, open_dataset
from seisvel_jax.data.packed import is_pack
from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, npy_header, read_npy_header


class Velocities(ABC):
    """Velocity models by index: `velocity(i)` is `[depth, x]` float32 m/s. Streams: holds no model in memory."""

    def __init__(self, path: Path, layout: str, names: list[str]):
        self.path = path
        self.layout = layout
        """`array`, `challenge`, `submission`, `openfwi` or `packed`."""
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s. Raises UserError naming the file."""


def open_velocities(path: str | Path) -> Velocities:
    """The velocity models at `path`.

    Takes `.npy` `(N, 1, depth, x)`, `(N, depth, x)` or `(depth, x)` in m/s; a folder of such files; a challenge folder
    (`vp_model.npy`, km/s, lateral first); a submission `.npz` (the same under each sample's name); a file or folder of
    OpenFWI gathers, whose partner files are read under the gathers' names; a pack. Raises UserError naming file
    and cure.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: check the path")
    if is_pack(path):
        return _OfDataset(path)
    if path.is_file():
        if path.suffix == ".npz":
            return _Submission(path)
        if path.suffix != ".npy":
            raise UserError(f"{path}: a file of kind '{path.suffix}', expected velocities in .npy or .npz")
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
            names += [file.stem] if len(shape) == 2 else [f"{file.stem}-{i:03d}" for i in range(count)]
            self._where += [(file, i) for i in range(count)]
        super().__init__(path, "array", names)
        self._open = lru_cache(openfwi.OPEN_FILES)(lambda file: load_npy(file, memory_map=True))

    def velocity(self, index: int) -> np.ndarray:
        file, i = self._where[index]
        array = self._open(file)
        name = f"{file}: sample {i}"
        return sane_velocity(finite_float32(array.reshape(-1, *array.shape[-2:])[i], name), name, "m/s").copy()


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
        with _archive(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
        if not members:
            raise UserError(f"{path}: an archive without arrays, expected one (lateral, depth) array a sample")
        super().__init__(path, "submission", [name.removesuffix(".npy") for name in members])

    def velocity(self, index: int) -> np.ndarray:
        name = f"{self.path}: {self.names[index]}"
        with _archive(self.path) as archive:
            member = archive.getinfo(f"{self.names[index]}.npy")
            with _member(archive, member, name) as file:
                shape, _ = read_npy_header(file, member.file_size, name)
            with _member(archive, member, name) as file:
                try:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
                    raise UserError(f"{name}: damaged ({error}): write the file again") from error
        if len(shape) != 2:
            raise UserError(f"{name}: shape {shape}, expected (lateral, depth) in km/s")
        return sane_velocity(finite_float32(array.T * np.float64(1000), name), name, "km/s")


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(f"{path}: truncated or not an .npz archive ({error}): write it again") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> IO[bytes]:
    try:
        return archive.open(member)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{name}: damaged ({error}): write the file again") from error

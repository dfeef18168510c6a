"""Packs: many samples in a few memory-mapped arrays, every byte of which is checked (docs/pack.md)."""

import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from seisvel_jax.data.checks import finite_float32, sane_velocity
from seisvel_jax.data.packed_codec import decode_gathers, decode_velocity
from seisvel_jax.data.packed_files import ARRAYS, check_array, shard_file
from seisvel_jax.data.packed_info import PACK_FILE, UNFINISHED_FILE, read_info
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey

OPEN_SHARDS = 128


def is_pack(path: Path) -> bool:
    """Whether `path` is the folder of a pack, finished or not, or of what is left of one."""
    if not path.is_dir():
        return False
    return any((path / name).exists() for name in (PACK_FILE, UNFINISHED_FILE, shard_file("gathers", 0)))


class PackedDataset:
    """Reads samples out of the memory-mapped arrays of a pack.

    Opening checks pack.json with its digest, and size and header of every file. The bytes of a sample are compared
    with their checksum when it is first read, so a flipped bit is found before anyone computes with it.
    """

    layout = "packed"

    def __init__(self, path: Path, survey: Survey | None = None, *, check_files: bool = True):
        self.path = path
        self.info = read_info(path)
        if check_files:
            for number, shard in enumerate(self.info.shards):
                for what in shard.arrays:
                    self.check_file(what, number)
        self.survey = survey or self.info.survey
        self.has_velocity = self.info.has_velocity
        self.names = tuple(name for shard in self.info.shards for name in shard.names)
        self._groups = tuple(name for shard in self.info.shards for name, count in shard.files for _ in range(count))
        self._ends = np.cumsum([len(shard.names) for shard in self.info.shards])
        self._verified = {what: np.zeros(len(self.names), bool) for what in ARRAYS}
        self._map = lru_cache(OPEN_SHARDS)(self._open)

    def __len__(self) -> int:
        return len(self.names)

    def origin(self, index: int) -> Path:
        """The file of gathers in the pack."""
        return self.path / shard_file("gathers", self._place(index)[0])

    def group(self, index: int) -> str:
        """The file or folder that the sample was packed from, relative to the source: what a split keeps together."""
        return self._groups[index]

    def stored_dtypes(self) -> dict[str, str]:
        """How `gathers` and `velocity` are stored."""
        return {"gathers": self.info.dtype} | ({"velocity": self.info.velocity_dtype} if self.has_velocity else {})

    def gathers(self, index: int) -> np.ndarray:
        """`[source, time, receiver]` float32. Raises UserError naming a damaged file and sample."""
        number, i = self._place(index)
        stored, name = self._stored("gathers", number, i)
        gathers = decode_gathers(stored, self.info.dtype, self.info.shards[number].exponents[i])
        if not self._verified["gathers"][index]:
            finite_float32(gathers, name)
            self._verified["gathers"][index] = True
        return gathers

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s. Raises UserError naming a damaged file and sample."""
        number, i = self._place(index)
        if not self.has_velocity:
            raise UserError(f"{self.path}: a pack of gathers without velocity models: give a pack of training data")
        stored, name = self._stored("velocity", number, i)
        velocity = decode_velocity(stored, self.info.velocity_dtype)
        if not self._verified["velocity"][index]:
            sane_velocity(finite_float32(velocity, name), name, "m/s")
            self._verified["velocity"][index] = True
        return velocity

    def check_file(self, what: str, number: int) -> Path:
        """Path of a shard's `gathers` or `velocity`, its size and header checked. Raises UserError naming it."""
        path = self.path / shard_file(what, number)
        check_array(path, self.info.shards[number].arrays[what], *self.info.array_shapes()[what])
        return path

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self.names):
            raise IndexError(index)
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - int(self._ends[number]) + len(self.info.shards[number].names)

    def _stored(self, what: str, number: int, i: int) -> tuple[np.ndarray, str]:
        """One stored sample, compared with its checksum unless that was done before; and its name for messages."""
        shard = self.info.shards[number]
        array, path = self._map(what, number)
        name = f"{path}: sample {i} ({shard.names[i]})"
        # Reading a map beyond the end of its file would kill the process.
        if path.stat().st_size != shard.arrays[what].bytes:
            self.check_file(what, number)
        sample = array[i]
        index = int(self._ends[number]) - len(shard.names) + i
        if not self._verified[what][index] and zlib.crc32(sample) != shard.arrays[what].checksums[i]:
            raise UserError(
                f"{name}: damaged (its bytes do not match their checksum): copy the file again, or delete it and run "
                "the pack command again: only this file is made anew"
            )
        return sample, name

    def _open(self, what: str, number: int) -> tuple[np.ndarray, Path]:
        path = self.check_file(what, number)
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)), path


def verify(path: Path, report: Callable[[int], None] = lambda samples: None) -> list[str]:
    """Read every file and sample of the pack at `path` against its checksums; one line a fault, none where it is whole.

    `report` is called with the number of samples read, a few at a time. Raises UserError where pack.json itself
    cannot be used.
    """
    dataset = PackedDataset(path, check_files=False)
    faults = []
    index = 0
    for number, shard in enumerate(dataset.info.shards):
        readable = []
        for what in shard.arrays:
            try:
                dataset.check_file(what, number)
                readable.append(dataset.gathers if what == "gathers" else dataset.velocity)
            except (UserError, OSError) as error:
                faults.append(str(error))
        for _ in shard.names:
            for read in readable:
                try:
                    read(index)
                except (UserError, OSError) as error:
                    faults.append(str(error))
            report(1)
            index += 1
    return faults

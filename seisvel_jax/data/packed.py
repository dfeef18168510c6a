"""Packs: many samples in a few memory-mapped arrays, every byte of which is checked (docs/pack.md).

```
pack.json             what it is: version, survey, names, the files they came from, checksums, statistics
gathers-00000.npy     (samples, source, time, receiver) float16, float32, or the bits of bfloat16 as uint16
velocity-00000.npy    (samples, depth, x) steps of 0.1 m/s as uint16, or m/s as float32
```
"""

import hashlib
import io
import json
import re
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from seisvel_jax.data.checks import finite_float32, sane_velocity
from seisvel_jax.data.packed_codec import (
    EXPONENTS,
    GATHER_STORED,
    VELOCITY_STORED,
    decode_gathers,
    decode_velocity,
)
from seisvel_jax.errors import UserError
from seisvel_jax.files import npy_header
from seisvel_jax.survey import Survey

FORMAT, VERSION = "seisvel_jax pack", 1
PACK_FILE = "pack.json"
UNFINISHED_FILE = "packing.json"
"""The settings of a pack that is not finished yet."""
SHARD_NAME = re.compile(r"^(gathers|velocity)-[0-9]{5,}\.npy$")
LARGEST_JSON = 2**27
"""Bytes of pack.json: enough for two million samples."""
OPEN_SHARDS = 128
LONGEST_NAME = 200
ARRAYS = ("gathers", "velocity")
_SUMMED = ("squared_error", "squared_norm", "worst_error", "velocity_error")


def is_pack(path: Path) -> bool:
    """Whether `path` is the folder of a pack, finished or not, or of what is left of one."""
    if not path.is_dir():
        return False
    return any((path / name).exists() for name in (PACK_FILE, UNFINISHED_FILE, shard_file("gathers", 0)))


def shard_file(what: str, number: int) -> str:
    """Name of a shard's array of `gathers` or `velocity`."""
    return f"{what}-{number:05d}.npy"


def plain_name(name: Any) -> bool:
    """Whether a name out of a file may become the name of a file: one visible component, no way out of its folder."""
    return (
        isinstance(name, str)
        and 0 < len(name.encode("utf-8", "surrogateescape")) <= LONGEST_NAME
        and not name.startswith(".")
        and not any(letter in "/\\" or ord(letter) < 32 for letter in name)
    )


def npy_header_bytes(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The header of a `.npy` file; its length does not depend on `shape[0]`."""
    stream = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


@dataclass(frozen=True)
class StoredArray:
    """One file of a shard: its size and its checksums (CRC-32)."""

    bytes: int
    header_bytes: int
    header_checksum: int
    checksums: tuple[int, ...]
    """One a sample."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "bytes": self.bytes,
            "header_bytes": self.header_bytes,
            "header_checksum": self.header_checksum,
            "checksums": list(self.checksums),
        }


@dataclass(frozen=True)
class Shard:
    """What one pair of files holds."""

    names: tuple[str, ...]
    files: tuple[tuple[str, int], ...]
    """`(file or folder of the source, how many samples in a row came from it)`; they stay together in a split."""
    exponents: tuple[int, ...]
    """One a sample: gathers are `2^exponent` times the stored values."""
    arrays: dict[str, StoredArray]
    """`gathers` and, where there is one, `velocity`; none where every sample was left out."""
    left_out: tuple[dict[str, str], ...] = ()
    """Samples of the source that could not be read: `name`, `reason`."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """Sums, from which those of the pack are made."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `Shard.from_dict` is its inverse."""
        return {
            "names": list(self.names),
            "files": [list(pair) for pair in self.files],
            "exponents": list(self.exponents),
            "arrays": {what: array.to_dict() for what, array in self.arrays.items()},
            "left_out": list(self.left_out),
            "statistics": self.statistics,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Shard":
        """The shard of `to_dict`. Raises KeyError, TypeError or ValueError where it is no such thing."""
        arrays = {
            str(what): StoredArray(
                _whole(array["bytes"]),
                _whole(array["header_bytes"]),
                _whole(array["header_checksum"]),
                tuple(_whole(one) for one in array["checksums"]),
            )
            for what, array in values["arrays"].items()
        }
        shard = Shard(
            names=tuple(values["names"]),
            files=tuple((name, _whole(count)) for name, count in values["files"]),
            exponents=tuple(int(one) for one in values["exponents"]),
            arrays=arrays,
            left_out=tuple({"name": str(one["name"]), "reason": str(one["reason"])} for one in values["left_out"]),
            statistics=_sums(values["statistics"]),
        )
        count = len(shard.names)
        for name in shard.names:
            if not plain_name(name):
                raise ValueError(f"{name!r:.80} as a sample's name")
        for name, _ in shard.files:
            if not isinstance(name, str) or not all(plain_name(part) for part in name.split("/")):
                raise ValueError(f"{name!r:.80} as a file of the source")
        if sum(number for _, number in shard.files) != count:
            raise ValueError(f"{count} samples, out of files with {sum(number for _, number in shard.files)}")
        if len(shard.exponents) != count or not all(one in EXPONENTS for one in shard.exponents):
            raise ValueError(f"exponents of {count} samples")
        if any(len(array.checksums) != count for array in arrays.values()):
            raise ValueError(f"checksums of {count} samples")
        return shard


def _sums(values: Any) -> dict[str, Any]:
    """The sums of a shard, if they are such. Raises KeyError, TypeError or ValueError where not."""
    if any(not isinstance(values[key], int | float) for key in _SUMMED):
        raise ValueError("its sums are no numbers")
    for moments in values["moments"].values():
        if any(not isinstance(one, int | float) for one in moments.values()):
            raise ValueError("its moments are no numbers")
    if any(_whole(int(bin_)) + _whole(count) >= 2**63 for bin_, count in values["envelope"].items()):
        raise ValueError("its envelopes are no counts")
    return dict(values)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r:.80}, expected a whole number")
    return value


@dataclass(frozen=True)
class PackInfo:
    """The contents of pack.json."""

    survey: Survey
    dtype: Any
    velocity_dtype: Any
    has_velocity: bool
    made_from: dict[str, Any]
    """The settings that decide the contents, the source's identity among them."""
    source: dict[str, Any]
    """`path`, `layout` (`challenge` or `openfwi`, also where a pack was packed again), `bytes`."""
    shards: tuple[Shard, ...]
    statistics: dict[str, Any]
    digest: str
    """Of everything in the pack: it covers the checksums."""

    def array_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape of one sample and stored dtype by array."""
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "gathers": (self.survey.gather_shape, GATHER_STORED[self.dtype])
        }
        if self.has_velocity:
            shapes["velocity"] = (self.survey.grid.shape, VELOCITY_STORED[self.velocity_dtype])
        return shapes


def write_info(info: PackInfo) -> str:
    """The text of pack.json, with its own digest."""
    values = {
        "format": FORMAT,
        "version": VERSION,
        "survey": info.survey.to_dict(),
        "dtype": info.dtype,
        "velocity_dtype": info.velocity_dtype,
        "has_velocity": info.has_velocity,
        "made_from": info.made_from,
        "source": info.source,
        "statistics": info.statistics,
        "shards": [shard.to_dict() for shard in info.shards],
    }
    return json.dumps({"digest": _digest(values), **values}, allow_nan=False) + "\n"


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a plain file of sensible size. Raises UserError naming the file."""
    check_plain_file(path)
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(f"{path}: {path.stat().st_size} bytes, expected at most {LARGEST_JSON}: not a file of a pack")

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} in it")

    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: damaged ({str(error)[:100]}): copy the pack again, or remove it and pack the data again"
        ) from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: damaged (not a JSON object): copy the pack again, or remove it and pack the data again"
        )
    return values


def check_plain_file(path: Path) -> int:
    """Size in bytes of a file of a pack. Raises UserError where it is missing, a link, a pipe or a folder."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: missing, expected as a part of this pack: copy the pack again, or run the pack command again: it "
            "makes what is missing"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "not a plain file"
        raise UserError(f"{path}: {kind}, expected the file itself: copy the pack with its contents (cp -rL)")
    return status.st_size


def read_info(folder: Path) -> PackInfo:
    """What pack.json in `folder` says, its digest checked. Raises UserError naming file, fault and cure."""
    path = folder / PACK_FILE
    if not path.exists() and not path.is_symlink():
        if (folder / UNFINISHED_FILE).exists():
            raise UserError(
                f"{folder}: an unfinished pack: run the pack or simulate command again, it goes on where it stopped"
            )
        raise UserError(
            f"{path}: missing beside the arrays of a pack: copy the pack again, or remove it and pack the data again"
        )
    values = read_json(path)
    version = values.get("version")
    if values.get("format") != FORMAT:
        raise UserError(f"{path}: format {values.get('format')!r:.60}, expected '{FORMAT}': not a pack, or damaged")
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{path}: version {version}, expected {VERSION}: upgrade seisvel_jax, it is older than the pack"
        )
    if version != VERSION:
        raise UserError(f"{path}: version {version!r:.20}, expected {VERSION}: remove it and pack the data again")
    if values.pop("digest", None) != (digest := _digest(values)):
        raise UserError(
            f"{path}: damaged (its checksum does not match): copy the pack again, or remove it and pack the data again"
        )
    try:
        info = PackInfo(
            survey=Survey.from_dict(values["survey"]),
            dtype=values["dtype"],
            velocity_dtype=values["velocity_dtype"],
            has_velocity=bool(values["has_velocity"]),
            made_from=dict(values["made_from"]),
            source={
                "path": str(values["source"]["path"]),
                "layout": str(values["source"]["layout"]),
                "bytes": _whole(values["source"]["bytes"]),
            },
            shards=tuple(Shard.from_dict(shard) for shard in values["shards"]),
            statistics=dict(values["statistics"]),
            digest=digest,
        )
        if info.dtype not in GATHER_STORED or info.velocity_dtype not in VELOCITY_STORED:
            raise ValueError(f"dtypes {info.dtype!r:.40} and {info.velocity_dtype!r:.40}")
        if info.source["layout"] not in ("challenge", "openfwi"):
            raise ValueError(f"layout {info.source['layout']!r:.40}")
        for shard in info.shards:
            if set(shard.arrays) != (set(info.array_shapes()) if shard.names else set()):
                raise ValueError(f"arrays {sorted(shard.arrays)}")
        names = [name for shard in info.shards for name in shard.names]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{len(names)} samples with {len(set(names))} different names")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UserError) as error:
        raise UserError(
            f"{path}: not a description of a pack ({error!s:.200}): remove it and pack the data again"
        ) from None
    return info


def check_array(path: Path, stored: StoredArray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Size and header of a shard's file at `path`, of samples of `shape`. Raises UserError naming the file."""
    size = check_plain_file(path)
    cure = "copy it again, or delete it and run the pack command again: only this file is made anew"
    if size != stored.bytes:
        fault = "truncated" if size < stored.bytes else "too long"
        raise UserError(f"{path}: {fault}: {size} bytes, expected {stored.bytes}: {cure}")
    found, found_dtype = npy_header(path)
    expected = (len(stored.checksums), *shape)
    if found != expected or found_dtype != dtype:
        raise UserError(f"{path}: shape {found} {found_dtype}, expected {expected} {dtype}: {cure}")
    if stored.header_bytes + int(np.prod(expected, dtype=object)) * dtype.itemsize != stored.bytes:
        raise UserError(f"{path}: {stored.bytes} bytes do not hold shape {expected} {dtype}: {cure}")
    with open(path, "rb") as file:
        if zlib.crc32(file.read(stored.header_bytes)) != stored.header_checksum:
            raise UserError(f"{path}: damaged (the checksum of its header does not match): {cure}")


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

"""The files of a pack: arrays with their checksums, and JSON; whatever is wrong with one is named (docs/pack.md).

```
pack.json             what it is: version, survey, names, the files they came from, checksums, statistics
gathers-00000.npy     (samples, source, time, receiver) float16, float32, or the bits of bfloat16 as uint16
velocity-00000.npy    (samples, depth, x) steps of 0.1 m/s as uint16, or m/s as float32
```
"""

import io
import json
import re
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.files import npy_header

ARRAYS = ("gathers", "velocity")
SHARD_NAME = re.compile(r"^(gathers|velocity)-[0-9]{5,}\.npy$")
LARGEST_JSON = 2**27
"""Bytes of pack.json: enough for two million samples."""


def shard_file(what: str, number: int) -> str:
    """Name of a shard's array of `gathers` or `velocity`."""
    return f"{what}-{number:05d}.npy"


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

"""Files that appear whole or not at all, and arrays that are checked before anyone computes with them."""

import contextlib
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from seisvel_jax.errors import UserError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    A full disk, an error or Ctrl-C inside the block leaves an earlier file at `path` as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part" + path.suffix, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def npy_header(path: str | os.PathLike) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype that a `.npy` file states, checked against the file's size; reads a few hundred bytes only.

    Raises UserError naming the file where it is missing, a folder, truncated, not `.npy`, of a dtype that is no real
    number, or has no elements.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder stands where a .npy file is needed: check the path")
    try:
        with open(path, "rb") as file:
            return read_npy_header(file, path.stat().st_size, str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: check the path") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None


def read_npy_header(file: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the `.npy` stream `file` of `size` bytes; refuses what numpy could not or must not read.

    A header may claim any shape: it is compared with the size before anyone allocates memory for it.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in {(1, 0), (2, 0), (3, 0)}:
            raise ValueError(f"format version {version}")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shape, _, dtype = read_header(file)
    except Exception as error:  # numpy lets tokenizer, parser and Unicode errors of a damaged header through
        reason = " ".join(str(error).split())[:200]
        if "PK" in reason or name.endswith(".npz"):
            reason += "; it may be an .npz archive"
        raise UserError(f"{name}: is truncated or not a .npy file ({reason}): write it again with numpy.save") from None
    if dtype.hasobject:
        raise UserError(f"{name}: holds Python objects, which are never unpickled: save it as an array of float32")
    if dtype.kind not in "fiu":
        raise UserError(f"{name}: dtype {dtype}, expected real numbers (float32 or float64)")
    if any(count < 0 for count in shape):
        raise UserError(f"{name}: shape {shape} in its header: write it again with numpy.save")
    if 0 in shape:
        raise UserError(f"{name}: an array of shape {shape} without elements: nothing to read, write it again")
    expected = math.prod(shape) * dtype.itemsize
    if expected > size - file.tell():
        raise UserError(
            f"{name}: is truncated: {size - file.tell()} bytes of data, expected {expected} for shape {shape} "
            f"{dtype}: copy or write it again"
        )
    return shape, dtype


def load_npy(path: str | os.PathLike, *, memory_map: bool = False) -> np.ndarray:
    """The array in a `.npy` file; never unpickles, never allocates more than the file holds.

    Raises UserError naming the file where it is missing, a folder, truncated, not `.npy`, of a dtype that is no real
    number, or has no elements.
    """
    path = Path(path)
    npy_header(path)
    try:
        return np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: is truncated or not a .npy file ({error}): write it again with numpy.save") from error

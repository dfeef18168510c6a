"""Files that appear whole or not at all, and arrays that are checked before anyone computes with them."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
import stat
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from seisvel_jax.errors import UserError

MAX_JSON = 64 * 2**20
"""Bytes of a JSON file that is read at all: the largest survey has a few megabytes."""
MAX_HEADER = 10_000
"""Bytes of the header of a `.npy` file; numpy reads no longer ones either."""
MAX_ARRAY = 4 * 2**30
"""Bytes of an array that is read into memory in one piece; larger ones are memory-mapped, or no sample of ours."""


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


def sync(path: str | os.PathLike) -> None:
    """Have the contents of a file or the entries of a folder on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_PART = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.(part|old)")


def remove_parts(folder: Path, names: set[str] | None = None) -> None:
    """Remove what killed writers of these `names` (of any) left in `folder`. Only where nobody writes them now."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        left = _PART.match(entry.name)
        if left and (names is None or left["name"] in names):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


@contextlib.contextmanager
def only_one(folder: Path, what: str, name: str = ".lock") -> Iterator[None]:
    """Hold `folder/name` for this process while the block runs. Raises UserError where another process holds it.

    The lock goes with the process, however it ends. A file system without locks gives none, silently. `what` is what
    the holder does, for the message.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    # Of the process, not of the open file: a second run within one process (a notebook) is not locked out.
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read(40).strip() or "another process"
                raise UserError(
                    f"{folder}: {holder} is {what} here now: wait for it, stop it, or choose another place"
                ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file. Raises UserError naming the file where it is missing, too large, or no JSON."""
    path = Path(path)
    _refuse_special(path)
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise UserError(f"{path}: {size / 2**20:.0f} MiB, expected at most {MAX_JSON // 2**20}: not a file of ours")
        return json.loads(path.read_bytes().decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file: check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder stands where a file is needed: check the path") from None
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of thousands of digits; too deep
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not JSON, or damaged ({reason}): write it again") from error


def _refuse_special(path: Path) -> None:
    """Raises UserError for a pipe, device or socket: reading one may wait or go on for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # whoever opens it says why
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: a pipe or device, expected a file: check the path")


def npy_header(path: str | os.PathLike) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype that a `.npy` file states, checked against the file's size; reads a few hundred bytes only.

    Raises UserError naming the file where it is missing, a folder, truncated, not `.npy`, of a dtype that is no real
    number, or has no elements.
    """
    path = Path(path)
    with _opened(path) as file:
        return read_npy_header(file, path.stat().st_size, str(path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.is_dir():
        raise UserError(f"{path}: a folder stands where a .npy file is needed: check the path")
    _refuse_special(path)
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: check the path") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    with file:
        yield file


def read_npy_header(file: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the `.npy` stream `file` of `size` bytes; refuses what numpy could not or must not read.

    A header may claim any shape: it is compared with the size before anyone allocates memory for it.
    """
    shape, _, dtype = _npy_header(file, size, name)
    return shape, dtype


_HEADER = re.compile(
    r"\{'descr': '(?P<descr>[<>|=]?[a-zA-Z][0-9]*)', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>[0-9]{1,18}, |[0-9]{1,18},|(?:[0-9]{1,18}, ?)*[0-9]{1,18}|)\), ?\}\s*"
)
_ODD_HEADERS = threading.Lock()


def _read_fields(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first axis runs fastest, and dtype; any error where it is no header.

    numpy's own reader evaluates the header as Python source. Before Python 3.12 that fails now and then when several
    threads do it (cpython issue 106905), so what numpy and most others write is read without it.
    """
    version = np.lib.format.read_magic(file)
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise ValueError(f"format version {version}")
    start = file.tell()
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(file.read(width), "little")
    if length <= MAX_HEADER:
        text = file.read(length)
        plain = _HEADER.fullmatch(text.decode("latin1")) if len(text) == length else None
        if plain:
            shape = tuple(int(count) for count in plain["shape"].split(",") if count.strip())
            return shape, plain["fortran"] == "True", np.dtype(plain["descr"])
    file.seek(start)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with _ODD_HEADERS, warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_header(file)


def _npy_header(file: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        shape, fortran, dtype = _read_fields(file)
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
    return shape, fortran, dtype


def load_npy(path: str | os.PathLike, *, memory_map: bool = False) -> np.ndarray:
    """The array in a `.npy` file; never unpickles, never allocates more than the file holds.

    Raises UserError naming the file where it is missing, a folder, truncated, not `.npy`, of a dtype that is no real
    number, has no elements, or (unless memory-mapped) is larger than `MAX_ARRAY`: a sparse file claims any size.
    """
    path = Path(path)
    with _opened(path) as file:
        shape, fortran, dtype = _npy_header(file, path.stat().st_size, str(path))
        order: Literal["C", "F"] = "F" if fortran else "C"
        if memory_map:
            return np.memmap(path, dtype, "r", file.tell(), shape, order)
        count = math.prod(shape)
        if count * dtype.itemsize > MAX_ARRAY:
            raise UserError(
                f"{path}: shape {shape} {dtype} is {count * dtype.itemsize / 2**30:.1f} GiB, expected one sample of at "
                f"most {MAX_ARRAY / 2**30:g} GiB: store samples in files of their own"
            )
        array = np.fromfile(file, dtype, count)
    if array.size < count:  # it shrank while it was read
        raise UserError(f"{path}: is truncated: {array.size} values, expected {count}: copy or write it again")
    return array.reshape(shape, order=order)

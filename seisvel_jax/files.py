"""Files that appear whole or not at all, and arrays that are checked before anyone computes with them."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


def load_npy(path: str | os.PathLike, *, memory_map: bool = False) -> np.ndarray:
    """The array in a `.npy` file; never unpickles.

    Raises UserError naming the file where it is missing, a folder, truncated, not `.npy`, of a dtype that is no real
    number, or has no elements.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder stands where a .npy file is needed: check the path")
    try:
        array = np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: check the path") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except (ValueError, EOFError, OSError) as error:
        reason = (
            "holds Python objects, which are never unpickled"
            if "pickle" in str(error)
            else "is truncated or not a .npy file"
        )
        raise UserError(f"{path}: {reason} ({error}): write it again with numpy.save") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{path}: an .npz archive under the name .npy: give it its own name")
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path}: dtype {array.dtype}, expected real numbers (float32 or float64)")
    if array.size == 0:
        raise UserError(f"{path}: an array of shape {array.shape} without elements")
    return array

"""The list of a checkpoint's files with their checksums: written last, checked first.

It is checked before anything else of the checkpoint is parsed, so that no reader ever sees a damaged byte. No name in
it is opened: the files that lie in the folder are compared with it.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import seisvel_jax
from seisvel_jax.errors import UserError
from seisvel_jax.files import read_json, sync

NAME = "manifest.json"
VERSION = 2
"""Of the checkpoint's format. 1 had no manifest. Raise it when an older seisvel_jax could not read a new checkpoint."""
MAX_FILES = 100_000


class Foreign(UserError):
    """Made by another version or for another run: nothing is wrong with the files, and nobody may move them away."""


def write_manifest(folder: Path, step: int) -> None:
    """Sum up all files of `folder`, have them on the disk, then write the manifest beside them."""
    names = _files(folder)
    with ThreadPoolExecutor(4) as readers:
        sums = list(readers.map(lambda name: _size_and_checksum(folder / name, safely=True), names))
    values: dict[str, Any] = {
        "version": VERSION,
        "made_by": f"seisvel_jax {seisvel_jax.__version__}",
        "step": step,
        "files": dict(zip(names, sums)),
    }
    path = folder / NAME
    path.write_text(json.dumps({**values, "checksum": _checksum_of(values)}, indent=1) + "\n", encoding="utf-8")
    sync(path)
    for place, _, _ in os.walk(folder):
        sync(place)


def check_manifest(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> int | None:
    """The step of a checkpoint whose files are as they were written; None where it has no manifest (version 1).

    `wanted` tells by its name whether a file will be read: the others may be damaged or missing. Raises UserError
    naming the folder and the file that is damaged, `Foreign` where a newer version made it.
    """
    path = folder / NAME
    if path.is_symlink() or not path.exists():
        _files(folder)  # raises for links
        return None
    values = read_json(path)
    if not isinstance(values, dict) or values.pop("checksum", None) != _checksum_of(values):
        raise UserError(f"{path}: damaged: its own checksum differs")
    version, step, files = values.get("version"), values.get("step"), values.get("files")
    if isinstance(version, int) and version > VERSION:
        raise Foreign(
            f"{folder}: made by {values.get('made_by', 'a newer seisvel_jax')}, format {version}, expected at most "
            f"{VERSION}: update seisvel_jax ({seisvel_jax.__version__} is installed)"
        )
    if not isinstance(step, int) or not isinstance(files, dict) or version != VERSION:
        raise UserError(f"{path}: damaged: not the manifest of a checkpoint")
    if folder.name.isdecimal() and int(folder.name) != step:
        raise UserError(f"{folder}: damaged: it holds step {step}, expected {folder.name}: its name was changed")
    have = {name for name in _files(folder) if wanted(name)}
    want = {name for name in files if wanted(name)}
    for name in sorted(have ^ want):
        raise UserError(f"{folder}: damaged: {name} is {'not of it' if name in have else 'missing'}")
    for name in sorted(want):
        size = (folder / name).stat().st_size  # first: a sparse file may have terabytes to sum up
        listed = files[name]
        if not isinstance(listed, list) or listed[:1] != [size] or list(_size_and_checksum(folder / name)) != listed:
            raise UserError(f"{folder}: damaged: the contents of {name} have changed (checksum)")
    return step


def _files(folder: Path) -> list[str]:
    """Names relative to `folder` of all files in it but the manifest and hidden ones. Raises UserError for a link."""
    names: list[str] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        for name in [*folders, *files]:
            mode = (here / name).lstat().st_mode
            if stat.S_ISLNK(mode):
                raise UserError(f"{here / name}: a link inside a checkpoint, expected its own files: copy them there")
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{here / name}: a pipe or device inside a checkpoint, expected files: remove it")
        names += [(here / name).relative_to(folder).as_posix() for name in files if not name.startswith(".")]
        if len(names) > MAX_FILES:
            raise UserError(f"{folder}: more than {MAX_FILES} files, expected a checkpoint")
    return sorted(name for name in names if name != NAME)


def _size_and_checksum(path: Path, *, safely: bool = False) -> tuple[int, str]:
    with open(path, "rb") as file:
        if safely:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _checksum_of(values: dict[str, Any]) -> str:
    # This must never change: an old version must be able to tell a new manifest from a damaged one.
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

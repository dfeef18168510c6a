"""Predictions on their way into a file: finished samples wait in a folder beside it, then go out one at a time.

submission.npz         appears whole, under this name, when the last sample is done
submission.npz.part/   finished samples (float32 m/s) and what they were made with, so that a run can be resumed
"""

import csv
import hashlib
import json
import shutil
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seisvel_jax.data.velocity_files import open_archive, read_member
from seisvel_jax.errors import UserError, describe_os_error
from seisvel_jax.files import load_npy, npy_header, read_json, whole_file
from seisvel_jax.logging import say

FORMATS = {
    ".npz": "the challenge's submission: per sample a float64 (lateral, depth) array in km/s under its name",
    ".csv": "the OpenFWI competition's submission: odd columns, a line a row of the model, m/s",
    ".npy": "one array (N, 1, depth, x) float32 m/s",
}
Named = tuple[str, np.ndarray]
MAX_CSV = 4 * 2**30
"""Bytes: the competition's file of 65818 samples has 1.5 GB."""
VERSION = 3
"""Of the finished samples that wait in OUTPUT.part: raised where the same checkpoint and data give other numbers."""


def check_output(output: Path, *, names: tuple[str, ...], shape: tuple[int, int]) -> None:
    """Refuse before any work what cannot end well: another suffix, a place that cannot be written, too full a disk.

    `names` and `shape` (depth, x) of the samples to come. Raises UserError.
    """
    if output.suffix not in FORMATS:
        raise UserError(
            f"{output}: a name ending in '{output.suffix}', expected one of: "
            + "; ".join(f"{suffix} ({what})" for suffix, what in FORMATS.items())
        )
    if output.suffix == ".csv" and shape != (70, 70):
        raise UserError(
            f"{output}: the competition's CSV holds models of (70, 70), these are {shape}: write .npz or .npy"
        )
    if output.suffix == ".npz":
        bad = [name for name in names if "/" in name or not name]
        if bad:
            raise UserError(f"{output}: the sample name '{bad[0]}' cannot be a key of an .npz: rename the sample")
    if output.is_dir():
        raise UserError(f"{output}: a folder stands where the file is to be written: choose another name")
    if output.exists() and not stat.S_ISREG(output.stat().st_mode):
        raise UserError(f"{output}: a device or pipe, expected the name of a file: choose another")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output.parent / f".{output.name}.probe") as part:
            part.write_bytes(b"0" * 4096)
        (output.parent / f".{output.name}.probe").unlink()
    except OSError as error:
        # Without the temporary name, which means nothing to the user.
        reason = describe_os_error(OSError(error.errno, error.strerror))
        raise UserError(f"{output}: cannot be written there: {reason}") from error
    # Finished samples as float32, then the file itself.
    need = len(names) * shape[0] * shape[1] * (4 + (8 if output.suffix == ".npz" else 4))
    free = shutil.disk_usage(output.parent).free
    if need > free:
        raise UserError(
            f"{output}: needs {need / 1e6:,.0f} MB on the way, {free / 1e6:,.1f} MB are free: free some space or "
            "choose another place; what was there before is untouched"
        )


class Finished:
    """The samples of one prediction that are done, in `<output>.part/`; survives an interruption."""

    def __init__(
        self, output: Path, fingerprint: Mapping[str, Any], *, fields: tuple[str, ...], keep_others: bool = False
    ):
        """Open or begin the folder. One left by other options, data or checkpoints is begun anew, saying so.

        With `keep_others` it is refused instead (UserError naming what differs): hours of work may be in it.
        """
        self.folder = output.with_name(output.name + ".part")
        self.fields = fields
        told = self.folder / "made_with.json"
        wanted = json.loads(json.dumps({"version": VERSION, **fingerprint}))
        # An empty one may be another shard's, which is just beginning.
        if self.folder.is_dir() and any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            try:
                found = read_json(told)
            except UserError:
                found = {}
            if found != wanted:
                differs = [name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name]]
                if keep_others:
                    raise UserError(_other_settings(self.folder, found, wanted))
                say(f"{self.folder}: left by a prediction with other {', '.join(differs) or 'options'}: starting anew")
                shutil.rmtree(self.folder)
        elif self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: a file stands where finished samples are kept: remove or rename it")
        self.folder.mkdir(parents=True, exist_ok=True)
        if not told.exists():
            with whole_file(told) as part:
                part.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        self._done = {path.name for path in self.folder.glob("*.npy") if _is_whole(path)}

    def __contains__(self, index: int) -> bool:
        return all(self._file(field, index).name in self._done for field in self.fields)

    def add(self, index: int, **arrays: np.ndarray) -> None:
        """Keep a sample: one array for each of the fields."""
        for field in self.fields:
            path = self._file(field, index)
            with whole_file(path) as part:
                np.save(part, arrays[field].astype(np.float32))
            self._done.add(path.name)

    def read(self, field: str, index: int) -> np.ndarray:
        """A kept array."""
        return load_npy(self._file(field, index))

    def remove(self) -> None:
        """Clear away when the file is written."""
        shutil.rmtree(self.folder)

    def _file(self, field: str, index: int) -> Path:
        return self.folder / f"{field}_{index:06d}.npy"


def files_digest(dataset: Any, names: tuple[str, ...]) -> str:
    """Of the samples' names, the files they come from (name, size, time) and the survey: other data, other digest."""

    def of_file(path: Path) -> list[Any]:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]

    origins = dict.fromkeys(dataset.origin(index) for index in range(len(names)))
    digest = hashlib.sha256(repr([of_file(path) for path in origins]).encode())
    digest.update(repr((names, dataset.survey.to_dict())).encode())
    return digest.hexdigest()


def _other_settings(folder: Path, found: Any, wanted: Mapping[str, Any]) -> str:
    found = found if isinstance(found, dict) else {}
    changed = [name for name in wanted if found.get(name) != wanted[name]]
    changed += [name for name in found if name not in wanted]
    told = []
    for name in changed:
        old, new = found.get(name), wanted.get(name)
        digest = any(isinstance(value, str) and len(value) == 64 for value in (old, new))
        told.append(f"other {name}" if digest else f"{name} {old!r:.80}, now {new!r:.80}")
    return (
        f"{folder}: holds samples made with other settings ({'; '.join(told) or 'unknown'}): give the same command "
        "again to go on, choose another --output, or remove that folder to start anew"
    )


def _is_whole(path: Path) -> bool:
    try:
        npy_header(path)
    except UserError as error:
        say(f"warning: {error}; it is predicted again")
        return False
    return True


def write_predictions(output: Path, samples: Iterable[Named], count: int) -> None:
    """Write `count` pairs of name and velocity `[depth, x]` m/s in the format of `output`'s suffix, one at a time.

    The file appears whole or not at all; the same samples give the same bytes.
    """
    write = {".npz": _write_npz, ".csv": _write_csv, ".npy": _write_npy}[output.suffix]
    with whole_file(output) as part:
        try:
            write(part, samples, count)
        except OSError as error:
            # The temporary name means nothing to the user.
            raise OSError(error.errno, error.strerror, str(output)) from error


def _write_npz(part: Path, samples: Iterable[Named], count: int) -> None:
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, velocity in samples:
            # A fixed date: equal predictions make equal files.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w", force_zip64=True) as file:
                lateral_first = np.ascontiguousarray(velocity.T, np.float64) / 1000
                np.lib.format.write_array(file, lateral_first, allow_pickle=False)


def _write_csv(part: Path, samples: Iterable[Named], count: int) -> None:
    with open(part, "w", newline="", encoding="utf-8") as file:
        file.write("oid_ypos," + ",".join(f"x_{column}" for column in range(1, 70, 2)) + "\n")
        for name, velocity in samples:
            for row, line in enumerate(velocity[:, 1::2]):
                file.write(f"{name}_y_{row}," + ",".join(f"{value:.3f}" for value in line) + "\n")


def _write_npy(part: Path, samples: Iterable[Named], count: int) -> None:
    with open(part, "wb") as file:
        for index, (_, velocity) in enumerate(samples):
            if index == 0:
                shape = (count, 1, *velocity.shape)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(velocity, "<f4").tobytes())


def read_field(path: Path, name: str, index: int) -> np.ndarray:
    """One sample `[depth, x]` of a file written by `write_predictions`, in m/s whatever its values: a deviation too.

    By `name` from an .npz, by `index` from an .npy. Raises UserError naming the file.
    """
    if path.suffix == ".npy":
        array = load_npy(path, memory_map=True)
        if array.ndim != 4 or index >= len(array):
            raise UserError(f"{path}: shape {array.shape}, expected (N, 1, depth, x) with at least {index + 1} samples")
        return np.array(array[index, 0], np.float32)
    with open_archive(path) as archive:
        return (1000 * read_member(archive, f"{name}.npy", f"{path}: {name!r}").T).astype(np.float32)


def _next(reader: Any, path: Path) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: {error}, expected comma-separated numbers") from None


class CompetitionCSV:
    """A competition submission read back: `velocity(i)` is `[depth, odd columns of x]` float32 m/s, `x_step` 2."""

    layout = "csv"

    def __init__(self, path: Path):
        """Raises UserError naming the file and line where it is no such file."""
        self.path = path
        rows: dict[str, dict[int, list[float]]] = {}
        columns = [f"x_{column}" for column in range(1, 70, 2)]
        if not path.is_file() or path.stat().st_size > MAX_CSV:
            raise UserError(f"{path}: expected a file of at most {MAX_CSV / 2**30:g} GiB")
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.reader(file)
            header = _next(reader, path) or []
            if header != ["oid_ypos", *columns]:
                raise UserError(
                    f"{path}: first line {','.join(header)[:60]!r}, expected oid_ypos,x_1,x_3,...,x_69 (odd columns)"
                )
            while (words := _next(reader, path)) is not None:
                name, _, row = words[0].rpartition("_y_") if words else ("", "", "")
                try:
                    values = [float(word) for word in words[1:]]
                    if not name or len(values) != len(columns) or not np.isfinite(values).all():
                        raise ValueError
                    rows.setdefault(name, {})[int(row)] = values
                except ValueError:
                    raise UserError(
                        f"{path}: line {reader.line_num}: {','.join(words)[:60]!r}, expected <sample>_y_<row> and "
                        f"{len(columns)} finite numbers"
                    ) from None
        for name, lines in rows.items():
            if sorted(lines) != list(range(70)):
                raise UserError(f"{path}: sample {name} has {len(lines)} rows, expected y_0..y_69")
        self.names = tuple(rows)
        self._rows = rows

    def __len__(self) -> int:
        return len(self.names)

    def velocity(self, index: int) -> np.ndarray:
        """`[70, 35]` float32 m/s: x = 1, 3, ..., 69."""
        lines = self._rows[self.names[index]]
        return np.asarray([lines[row] for row in range(70)], np.float32)

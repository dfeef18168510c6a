"""What a user tells of the ground besides gathers: well logs, a smooth background, water. On the grid of the data."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seisvel_jax.data.checks import FASTEST, SLOWEST
from seisvel_jax.data.resample import resample_velocity
from seisvel_jax.errors import UserError
from seisvel_jax.inference.refined import water_above
from seisvel_jax.inference.starts import OfFile
from seisvel_jax.survey import Grid

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset

WATER = 1500.0
"""m/s."""
MAX_LOGS = 16 * 2**20
"""Bytes of a file of logs."""
HEADERS = (["x", "depth", "velocity"], ["sample", "x", "depth", "velocity"])


@dataclass(frozen=True)
class Cells:
    """Cells of a grid whose velocity is known exactly."""

    values: np.ndarray
    """`[depth, x]` float32 m/s; 0 where not known."""
    known: np.ndarray
    """`[depth, x]` bool."""

    @staticmethod
    def none(grid: Grid) -> "Cells":
        """Nothing known."""
        return Cells(np.zeros(grid.shape, np.float32), np.zeros(grid.shape, bool))

    def over(self, other: "Cells") -> "Cells":
        """Both; where both know a cell, this one's value."""
        values = np.where(self.known, self.values, other.values)
        return Cells(values.astype(np.float32), self.known | other.known)

    def on(self, grid: Grid, target: Grid) -> "Cells":
        """The same at the nearest nodes of another grid; what falls on one node is averaged."""
        if grid == target:
            return self
        rows, columns = np.nonzero(self.known)
        ratio = grid.spacing / target.spacing
        return averaged(rows * ratio, columns * ratio, self.values[rows, columns], target)

    def imposed(self, velocity: np.ndarray) -> np.ndarray:
        """Velocity `[..., depth, x]` with the known cells put in."""
        return np.where(self.known, self.values, velocity)


def averaged(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, grid: Grid) -> Cells:
    """Values at fractional rows and columns, the mean of those nearest to each node; those beyond the edge count to it.

    A grid coarser than the data leaves nodes between the logs unknown; a finer one has only the nearest nodes known.
    """
    row = np.clip(np.floor(rows + 0.5).astype(int), 0, grid.depth_count - 1)
    column = np.clip(np.floor(columns + 0.5).astype(int), 0, grid.x_count - 1)
    total, count = np.zeros(grid.shape), np.zeros(grid.shape)
    np.add.at(total, (row, column), values)
    np.add.at(count, (row, column), 1)
    return Cells((total / np.maximum(count, 1)).astype(np.float32), count > 0)


class Columns:
    """Whole columns of the data set's own velocity, as if a well had been drilled there."""

    def __init__(self, text: str, dataset: "Dataset", count: int):
        """`text` is `0,24,48`; the first `count` samples are read at once. Raises UserError."""
        try:
            columns = sorted({int(word) for word in text.split(",")})
        except ValueError:
            raise UserError(
                f"--wells {text}: expected numbers of columns such as 0,24,48, or the name of a .csv of logs"
            ) from None
        last = dataset.survey.grid.x_count - 1
        outside = [column for column in columns if not 0 <= column <= last]
        if outside:
            raise UserError(f"--wells: column {outside[0]}, expected 0 to {last} of the data's grid")
        if not dataset.has_velocity:
            raise UserError(
                f"--wells {text}: columns are taken from the data's own velocity, and {dataset.path} holds none; "
                "expected the name of a .csv of logs (x,depth,velocity)"
            )
        self.columns, self._dataset = columns, dataset
        digest = hashlib.sha256(repr(columns).encode())
        for index in range(count):
            digest.update(dataset.velocity(index)[:, columns].tobytes())
        self.fingerprint = digest.hexdigest()

    def __call__(self, index: int) -> Cells:
        """The logs of one sample."""
        velocity = self._dataset.velocity(index)
        known = np.zeros(velocity.shape, bool)
        known[:, self.columns] = True
        return Cells(np.where(known, velocity, 0).astype(np.float32), known)


class Logs:
    """Logs from a CSV file with the header `x,depth,velocity` or `sample,x,depth,velocity`: metres, metres, m/s.

    A row is one reading. Readings nearest to one cell of the data's grid are averaged; without a column `sample` they
    hold for every sample.
    """

    def __init__(self, path: Path, dataset: "Dataset", names: Sequence[str]):
        """Read all of it. Raises UserError naming the line where it is no such file or lies outside of the model."""
        if not path.is_file() or path.stat().st_size > MAX_LOGS:
            raise UserError(f"{path}: expected a .csv of logs (x,depth,velocity) of at most {MAX_LOGS >> 20} MiB")
        self._path, self._grid, self._names = path, dataset.survey.grid, tuple(dataset.names)
        self._readings: dict[str, list[tuple[float, float, float]]] = {}
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.reader(file)
            try:
                header = [word.strip().lower() for word in next(reader, [])]
                if header not in HEADERS:
                    raise UserError(
                        f"{path}: first line {','.join(header)[:60]!r}, expected x,depth,velocity or "
                        "sample,x,depth,velocity (metres, metres, m/s)"
                    )
                for words in reader:
                    if words:
                        self._read(words, len(header) == len(HEADERS[1]), reader.line_num)
            except csv.Error as error:
                raise UserError(f"{path}: line {reader.line_num}: {error}, expected comma-separated numbers") from None
        if not self._readings:
            raise UserError(f"{path}: no readings in it, expected lines x,depth,velocity")
        if "" not in self._readings:
            missing = [name for name in names if name not in self._readings]
            if missing:
                raise UserError(
                    f"{path}: no log of sample {missing[0]}"
                    + (f" and {len(missing) - 1} more" * (len(missing) > 1))
                    + ": complete it, or leave the column sample out where all have the same"
                )
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()

    def _read(self, words: list[str], with_sample: bool, line: int) -> None:
        where = f"{self._path}: line {line}: {','.join(words)[:60]!r}"
        name, numbers = (words[0].strip(), words[1:]) if with_sample else ("", words)
        try:
            x, depth, velocity = (float(word) for word in numbers)
        except ValueError:
            raise UserError(f"{where}, expected {'a sample, ' * with_sample}x, depth and velocity as numbers") from None
        if with_sample and name not in self._names:
            raise UserError(f"{where}: a sample that is not in the data")
        deep, wide = self._grid.extent
        half = self._grid.spacing / 2
        if not (-half <= x <= wide + half and -half <= depth <= deep + half):
            raise UserError(f"{where}: outside of the model, expected x 0 to {wide:g} m and depth 0 to {deep:g} m")
        if not SLOWEST <= velocity <= FASTEST:
            raise UserError(f"{where}: a velocity of {velocity:g}, expected {SLOWEST:g} to {FASTEST:g} m/s")
        self._readings.setdefault(name, []).append((depth, x, velocity))

    def __call__(self, index: int) -> Cells:
        """The logs of one sample."""
        readings = np.asarray(self._readings.get(self._names[index], self._readings.get("")))
        spacing = self._grid.spacing
        return averaged(readings[:, 0] / spacing, readings[:, 1] / spacing, readings[:, 2], self._grid)


Wells = Columns | Logs


def open_wells(text: str, dataset: "Dataset", names: Sequence[str]) -> Wells:
    """`--wells`: numbers of columns, or the name of a file of logs. Raises UserError."""
    return Logs(Path(text), dataset, names) if text.lower().endswith(".csv") else Columns(text, dataset, len(names))


class Background:
    """Smooth velocity models, one a sample, matched with the gathers as the starts of a refinement are."""

    def __init__(self, path: Path, dataset: "Dataset", count: int):
        """Raises UserError where they are no models of these gathers."""
        self._models = OfFile(path, dataset, count)
        self.fingerprint = self._models.fingerprint

    def __call__(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s on the grid of the data."""
        return self._models([index], np.empty(0))[0]


def water_to(depth: float, grid: Grid) -> Cells:
    """Everything above `depth` metres is water. Raises UserError."""
    if not 0 < depth <= grid.extent[0]:
        raise UserError(f"--water {depth:g}: expected metres of water, above 0 and at most {grid.extent[0]:g}")
    known = np.zeros(grid.shape, bool)
    known[np.arange(grid.depth_count) * grid.spacing < depth] = True
    return Cells(np.where(known, np.float32(WATER), np.float32(0)), known)


def water_of(background: np.ndarray, grid: Grid) -> Cells:
    """What is exactly 1500 m/s from the top of a background down to some metres above the first that is not."""
    known = water_above(background, grid.spacing)
    return Cells(np.where(known, np.float32(WATER), np.float32(0)), known)


def on_grid(velocity: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """Velocity `[..., depth, x]` on another grid, float32."""
    return resample_velocity(np.asarray(velocity, np.float32), grid, target)

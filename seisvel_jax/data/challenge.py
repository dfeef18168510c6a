"""The Speed and Structure layout: a folder a sample, a file a shot, the velocity in km/s with the lateral axis first.

`<folder>/<sample id>/receiver_data_src_{1,75,150,225,300}.npy` `(time, receiver)` and, for training,
`<folder>/<sample id>/vp_model.npy` `(x, depth)`. The experiment is 300 m x 1259 m and 1 s at any sampling.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from seisvel_jax.data.checks import check_names, finite_float32, sane_velocity
from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, npy_header
from seisvel_jax.survey import SOURCE_IDS, Survey, speed_and_structure

VELOCITY_FILE = "vp_model.npy"
PROBED = 25
"""Files whose headers are looked at to find out a shape; all the others are checked when they are read."""


def source_ids(count: int) -> tuple[int, ...]:
    """Numbers in the names of the shot files: the challenge's for five shots, else 1, 2, 3..."""
    return SOURCE_IDS if count == len(SOURCE_IDS) else tuple(range(1, count + 1))


def gather_file(source_id: int) -> str:
    """Name of one shot's file."""
    return f"receiver_data_src_{source_id}.npy"


def is_sample(folder: Path) -> bool:
    """Whether the folder holds at least one file of a challenge sample."""
    try:
        with os.scandir(folder) as entries:
            return any(e.name == VELOCITY_FILE or e.name.startswith("receiver_data_src_") for e in entries)
    except OSError:
        return False


def sample_folders(folder: Path) -> list[Path]:
    """The sample folders directly inside `folder`, by name; hidden ones are unfinished writes and are left out."""
    with os.scandir(folder) as entries:
        inside = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    return [folder / name for name in inside if is_sample(folder / name)]


class ChallengeDataset:
    """Reads one sample at a time from challenge folders; keeps nothing open and nothing in memory."""

    layout = "challenge"

    def __init__(self, path: Path, folders: list[Path], survey: Survey | None):
        self.path = path
        self.folders = folders
        self.names = tuple(folder.name for folder in folders)
        check_names(self.names, path)
        self.has_velocity = any((folder / VELOCITY_FILE).exists() for folder in folders)
        self.survey = survey or self._survey_of_files()
        self.source_ids = source_ids(self.survey.gather_shape[0])

    def __len__(self) -> int:
        return len(self.folders)

    def origin(self, index: int) -> Path:
        """The sample's folder."""
        return self.folders[index]

    def gathers(self, index: int) -> np.ndarray:
        """`[source, time, receiver]` float32 as recorded. Raises UserError naming the file."""
        _, nt, receivers = self.survey.gather_shape
        paths = [self.folders[index] / gather_file(source_id) for source_id in self.source_ids]
        missing = [path for path in paths if not path.exists()]
        if missing:
            more = f" (and {len(missing) - 1} more of its shots)" if len(missing) > 1 else ""
            raise UserError(
                f"{missing[0]}: missing{more}, expected the shots {self.source_ids}: "
                "complete the sample or remove its folder"
            )
        for path in paths:
            self._check_gather(path, *npy_header(path))
        # Only now: before, nothing but a survey.json said how large it is.
        gathers = np.empty((len(self.source_ids), nt, receivers), np.float32)
        for k, path in enumerate(paths):
            gathers[k] = finite_float32(load_npy(path), str(path))
        return gathers

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s. Raises UserError naming the file."""
        path = self.folders[index] / VELOCITY_FILE
        if not path.exists():
            raise UserError(f"{path}: missing, expected the sample's velocity model: complete or remove the sample")
        velocity = read_velocity(path)
        if velocity.shape != self.survey.grid.shape:
            depth, x = self.survey.grid.shape
            cure = (
                "it is depth-first, transpose it"
                if velocity.shape == (x, depth)
                else "keep samples of another grid in a folder of their own, with a survey.json"
            )
            raise UserError(f"{path}: shape {velocity.T.shape}, expected {(x, depth)} (lateral, depth): {cure}")
        return velocity

    def _check_gather(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        _, nt, receivers = self.survey.gather_shape
        if dtype.kind != "f":
            raise UserError(f"{path}: dtype {dtype}, expected float32: save it with .astype('float32')")
        if shape == (nt, receivers):
            return
        cure = (
            "receivers and time are swapped, transpose it"
            if shape == (receivers, nt)
            else "write it again, or keep samples of another survey in a folder of their own"
        )
        raise UserError(f"{path}: shape {shape}, expected {(nt, receivers)} (time, receiver): {cure}")

    def _survey_of_files(self) -> Survey:
        # The commonest shapes among the first samples count, so that one damaged sample does not condemn the others.
        shape = _commonest(folder / gather_file(source_id) for folder in self.folders for source_id in SOURCE_IDS)
        if shape is None:
            if any(path.is_file() for folder in self.folders for path in folder.glob("receiver_data_src_*.npy")):
                return speed_and_structure()  # each sample is named as unreadable when it is read
            first = self.folders[0] / gather_file(SOURCE_IDS[0])
            raise UserError(
                f"{first}: missing, expected shot files {SOURCE_IDS}: velocity models alone are no shot gathers; "
                "make some with python -m seisvel_jax.simulate"
            )
        if len(shape) == 2 and shape[0] == 31 and shape[1] != 31:
            shape = shape[::-1]  # each file is then reported as transposed
        nt = shape[0]
        expected = speed_and_structure(spacing=100).gather_shape[2]
        if len(shape) != 2 or nt < 2 or shape[1] != expected:
            raise UserError(
                f"{self.path}: shot files of shape {shape}, expected (time, {expected}) for the challenge's 1 s "
                "records: for another survey put a survey.json beside the samples (docs/data.md)"
            )
        spacing = 1.0
        velocity_shape = _commonest(folder / VELOCITY_FILE for folder in self.folders)
        if velocity_shape is not None and len(velocity_shape) == 2:
            x_count, depth_count = velocity_shape
            if x_count > depth_count:
                x_count, depth_count = depth_count, x_count  # each file is then reported as depth-first
            spacing = 300.0 / x_count
            survey = speed_and_structure(spacing=spacing)
            if survey.grid.shape != (depth_count, x_count):
                raise UserError(
                    f"{self.path}: {VELOCITY_FILE} of shape {velocity_shape}, expected {survey.grid.shape[::-1]} for "
                    f"the challenge's 300 m x 1259 m at {spacing:g} m: for another survey put a survey.json beside "
                    "the samples (docs/data.md)"
                )
        return speed_and_structure(spacing=spacing, dt=1.0 / (nt - 1))


def read_velocity(path: Path) -> np.ndarray:
    """A `vp_model.npy` (km/s, lateral first) as `[depth, x]` float32 m/s. Raises UserError naming the file."""
    array = load_npy(path)
    if array.ndim != 2:
        raise UserError(f"{path}: shape {array.shape}, expected (lateral, depth): write it again")
    if array.dtype.kind != "f":
        raise UserError(f"{path}: dtype {array.dtype}, expected float64 km/s: save it with .astype('float64')")
    return sane_velocity(finite_float32(array.T * np.float64(1000), str(path)), str(path), "km/s")


def _commonest(paths: Iterable[Path]) -> tuple[int, ...] | None:
    """The commonest shape of the first readable files among `paths`."""
    shapes: Counter[tuple[int, ...]] = Counter()
    for path in paths:
        if not path.exists():
            continue
        try:
            shapes[npy_header(path)[0]] += 1
        except UserError:
            continue
        if shapes.total() >= PROBED:
            break
    return shapes.most_common(1)[0][0] if shapes else None

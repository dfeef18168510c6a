"""One way to read every layout: `open_dataset(path)` finds out what lies there."""

from pathlib import Path
from typing import Protocol

import numpy as np

from seisvel_jax.data import challenge, openfwi
from seisvel_jax.data.packed import PackedDataset, is_pack
from seisvel_jax.data.packed_files import SHARD_NAME
from seisvel_jax.data.packed_info import PACK_FILE
from seisvel_jax.data.split import file_group
from seisvel_jax.errors import UserError
from seisvel_jax.files import npy_header
from seisvel_jax.logging import say
from seisvel_jax.survey import Survey, read_survey


class Dataset(Protocol):
    """Samples by index, in SI units and the package's axis order; reading a bad sample raises UserError naming it."""

    path: Path
    layout: str
    """`challenge`, `openfwi` or `packed`."""
    names: tuple[str, ...]
    """Unique: the challenge's sample id, a competition file's stem, `<stem>-<index>` in batch files."""
    survey: Survey
    """Of the files as they lie."""
    has_velocity: bool

    def __len__(self) -> int:
        """Samples."""
        ...

    def gathers(self, index: int) -> np.ndarray:
        """`[source, time, receiver]` float32 at the files' own sampling."""
        ...

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s on the files' own grid."""
        ...

    def origin(self, index: int) -> Path:
        """File or folder the sample comes from."""
        ...


class Subset:
    """Some samples of a dataset, itself a dataset."""

    def __init__(self, dataset: Dataset, indices: np.ndarray):
        self.dataset = dataset
        self.indices = [int(i) for i in indices]
        self.path, self.layout = dataset.path, dataset.layout
        self.survey, self.has_velocity = dataset.survey, dataset.has_velocity
        self.names = tuple(dataset.names[i] for i in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def gathers(self, index: int) -> np.ndarray:
        """`[source, time, receiver]` float32 at the files' own sampling."""
        return self.dataset.gathers(self.indices[index])

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s on the files' own grid."""
        return self.dataset.velocity(self.indices[index])

    def origin(self, index: int) -> Path:
        """File or folder the sample comes from."""
        return self.dataset.origin(self.indices[index])

    def group(self, index: int) -> str:
        """What a split by file keeps together."""
        return file_group(self.dataset, self.indices[index])


def open_dataset(path: str | Path, *, survey: Survey | None = None) -> Dataset:
    """The samples at `path`: challenge samples in a folder, or one of them; OpenFWI files, or one of them; a pack.

    The survey is the one given, or the pack's, or `survey.json` in the folder or its parent, or the layout's own at
    the files' sampling. Raises UserError naming what lies there, what was expected, and the cure.
    """
    if str(path) == "":
        raise UserError("no data given: name a folder of samples (--data.path DATA/train)")
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: check the path")
    if is_pack(path) or path.name == PACK_FILE:
        return PackedDataset(path if path.is_dir() else path.parent, survey)
    survey = survey or _survey_beside(path)
    if path.is_file():
        return _open_file(path, survey)
    splits = split_folders(path)
    if splits:
        names = " or ".join(str(p) for p in splits)
        raise UserError(f"{path}: holds the folders of a split, expected one of them: give {names}")
    samples = challenge.sample_folders(path)
    if not samples and challenge.is_sample(path):
        return challenge.ChallengeDataset(path, [path], survey)
    files, others = openfwi.gather_files(path) if not samples else ([], [])
    if samples:
        known = set(samples)
        _say_ignored(path, sorted(p for p in path.iterdir() if p not in known))
        return challenge.ChallengeDataset(path, samples, survey)
    if files:
        _say_ignored(path, others)
        return openfwi.OpenFWIDataset(path, files, survey)
    raise nothing_here(path)


def split_folders(path: Path) -> list[Path]:
    """The folders of a root with train/ and test/ (or val/, validation/) that hold data of their own."""
    inside = [path / name for name in ("train", "train_samples", "val", "validation", "test") if (path / name).is_dir()]
    return inside if not challenge.is_sample(path) and not any(challenge.is_sample(p) for p in inside) else []


def _open_file(path: Path, survey: Survey | None) -> Dataset:
    if path.name == challenge.VELOCITY_FILE or path.name.startswith("receiver_data_src_"):
        raise UserError(f"{path}: one file of a challenge sample: give the sample's folder, or the folder of samples")
    if SHARD_NAME.match(path.name) and is_pack(path.parent):
        raise UserError(f"{path}: one file of a pack, whose numbers need pack.json: give the folder {path.parent}")
    if path.suffix != ".npy":
        raise UserError(
            f"{path}: a file of kind '{path.suffix}', expected a .npy file of gathers or a folder of samples: "
            "check the path"
        )
    shape, _ = npy_header(path)
    if openfwi.is_velocity_name(path) or (len(shape) == 4 and shape[1] == 1) or len(shape) not in (3, 4):
        raise UserError(
            f"{path}: shape {shape}, expected gathers (samples, source, time, receiver) or (source, time, receiver): "
            "give the file of gathers; its velocities are found by its name"
        )
    return openfwi.OpenFWIDataset(path, [path], survey)


def _survey_beside(path: Path) -> Survey | None:
    folder = path if path.is_dir() else path.parent
    folder = folder.resolve()
    places = [folder, folder.parent]
    if challenge.is_sample(folder) or folder.name in ("data", "seis"):
        places.append(folder.parent.parent)
    for place in places:
        if (place / "survey.json").is_file():
            return read_survey(place / "survey.json")
    return None


def nothing_here(path: Path) -> UserError:
    """The error for a folder without samples, saying what lies there instead."""
    inside = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir())
    inside = [name if name.isprintable() else repr(name) for name in inside]
    if not inside:
        return UserError(f"{path}: an empty folder, expected samples: check the path, or copy the data there")
    seen = ", ".join(inside[:4]) + (f" and {len(inside) - 4} more" if len(inside) > 4 else "")
    if any(p.name.startswith("receiver_data_src_") for p in path.glob("*/*/*")):
        return UserError(f"{path}: its samples lie one folder deeper (it holds {seen}): give that folder")
    return UserError(
        f"{path}: holds no samples (only {seen}), expected challenge folders with receiver_data_src_*.npy and "
        "vp_model.npy, OpenFWI files data*.npy, seis*.npy, X_seis.npy, or a pack: check the path (docs/data.md)"
    )


def _say_ignored(path: Path, ignored: list[Path]) -> None:
    names = [
        p.name
        for p in ignored
        if not p.name.startswith(".") and p.name not in ("survey.json", "simulate.json", "samples.csv", "README.md")
    ]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        say(f"{path}: ignored, as they are no gathers: {', '.join(names[:3])}{more}")

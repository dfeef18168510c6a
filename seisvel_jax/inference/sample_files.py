"""Files of samples: many velocity models of each gather, by diffusion or by the members of an ensemble.

A `.npz` with `NAME/samples.npy` `[sample, depth, x]` float32 m/s for each NAME, and beside it what was made of them
(`NAME/mean.npy` and others). `evaluate` reads its calibration from such a file.
"""

import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from seisvel_jax.data.velocity_files import open_archive
from seisvel_jax.errors import UserError
from seisvel_jax.files import MAX_ARRAY, read_npy_header, whole_file

_KEY = "/samples.npy"


def write_samples(output: Path, named: Iterable[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """Write `(NAME, {"samples": [sample, depth, x], ...})`, one at a time; the file appears whole or not at all."""
    with whole_file(output) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, fields in named:
            for field, values in fields.items():
                # A fixed date: equal samples make equal files.
                entry = zipfile.ZipInfo(f"{name}/{field}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(values, np.float32), allow_pickle=False)


def holds_samples(path: Path) -> bool:
    """Whether this is an archive with samples in it. Raises UserError where a `.npz` cannot be opened."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    with open_archive(path) as archive:
        return any(entry.endswith(_KEY) for entry in archive.namelist())


class SampleFile:
    """A file of samples, read one name at a time. As a set of velocity models it is the means of the samples."""

    layout = "samples"

    def __init__(self, path: Path):
        """Raises UserError where there are no samples in it."""
        self.path = path
        with open_archive(path) as archive:
            found = [entry.removesuffix(_KEY) for entry in archive.namelist() if entry.endswith(_KEY)]
        if not found:
            raise UserError(f"{path}: no samples in it, expected NAME/samples.npy: write it with sample or predict")
        self.names = tuple(found)

    def __len__(self) -> int:
        return len(self.names)

    def samples(self, index: int) -> np.ndarray:
        """`[sample, depth, x]` float32 m/s. Raises UserError for an entry that is damaged or something else."""
        name = f"{self.path}: {self.names[index]}{_KEY}"
        with open_archive(self.path) as archive:
            try:
                info = archive.getinfo(self.names[index] + _KEY)
                with archive.open(info) as file:
                    shape, dtype = read_npy_header(file, info.file_size, name)
                if len(shape) != 3 or dtype.kind != "f" or math.prod(shape) * dtype.itemsize > MAX_ARRAY:
                    raise UserError(
                        f"{name}: {dtype} of shape {shape}, expected real (sample, depth, x): write it again"
                    )
                with archive.open(info) as file:
                    values = np.lib.format.read_array(file, allow_pickle=False).astype(np.float32)
            except UserError:
                raise
            except Exception as error:  # each way of damaging an archive has errors of its own
                raise UserError(f"{name}: damaged ({' '.join(str(error).split())[:200]}): write it again") from error
        if not np.isfinite(values).all():
            raise UserError(f"{name}: values that are not finite, expected m/s: write it again")
        return values

    def velocity(self, index: int) -> np.ndarray:
        """Mean of the samples, `[depth, x]` float32 m/s."""
        return self.samples(index).mean(0, dtype=np.float64).astype(np.float32)

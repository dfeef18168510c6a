"""What lies in a dataset, read sample by sample in bounded memory: shapes, ranges, and every bad sample by name."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seisvel_jax.data.challenge import VELOCITY_FILE
from seisvel_jax.data.dataset import Dataset
from seisvel_jax.data.openfwi import velocity_partner
from seisvel_jax.data.packed import PackedDataset
from seisvel_jax.errors import UserError
from seisvel_jax.files import npy_header
from seisvel_jax.survey import Survey

WATER, SALT = 1500.0, 4500.0
"""m/s, exact in the challenge's models."""


@dataclass
class Moments:
    """Minimum, maximum, mean and standard deviation of many arrays, one at a time, in float64."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    smallest: float = float("inf")
    largest: float = float("-inf")

    def add(self, array: np.ndarray) -> None:
        """Take in one array."""
        mean = float(array.mean(dtype=np.float64))
        self.count += array.size
        self.total += mean * array.size
        self.squares += (float(array.std(dtype=np.float64)) ** 2 + mean**2) * array.size
        self.smallest = min(self.smallest, float(array.min()))
        self.largest = max(self.largest, float(array.max()))

    def to_dict(self) -> dict[str, float]:
        """`mean`, `std`, `min`, `max`; empty where nothing was added."""
        if not self.count:
            return {}
        mean = self.total / self.count
        variance = max(self.squares / self.count - mean**2, 0.0)
        return {"mean": mean, "std": variance**0.5, "min": self.smallest, "max": self.largest}


@dataclass
class Report:
    """The findings on one folder or file; `to_dict` for JSON."""

    path: Path
    layout: str
    samples: int
    inspected: int
    survey: Survey
    has_velocity: bool
    gathers: Moments = field(default_factory=Moments)
    velocity: Moments = field(default_factory=Moments)
    water: int = 0
    salt: int = 0
    with_salt: int = 0
    bad: list[dict[str, str]] = field(default_factory=list)
    """`name`, `origin`, `reason`; a sample may have two entries, for its gathers and for its velocity."""
    dtypes: dict[str, Counter[str]] = field(default_factory=lambda: {"gathers": Counter(), "velocity": Counter()})
    """Dtypes of the files as they lie, with how many samples have them."""
    good: list[int] = field(default_factory=list)
    checksums: dict[str, list[str]] = field(default_factory=dict)
    """Names of the samples under the checksum of their gathers, which also finds copies under another name."""
    velocity_checksums: dict[str, list[str]] = field(default_factory=dict)

    @property
    def bad_samples(self) -> int:
        """Samples with at least one fault."""
        return len({entry["name"] for entry in self.bad})

    @property
    def duplicates(self) -> list[list[str]]:
        """Groups of samples with the same gathers."""
        return [names for names in self.checksums.values() if len(names) > 1]

    @property
    def velocity_duplicates(self) -> list[list[str]]:
        """Groups of samples with the same velocity model."""
        return [names for names in self.velocity_checksums.values() if len(names) > 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, in SI units."""
        cells = max(self.velocity.count, 1)
        models = max(sum(map(len, self.velocity_checksums.values())), 1)
        result: dict[str, Any] = {
            "path": str(self.path),
            "layout": self.layout,
            "samples": self.samples,
            "inspected": self.inspected,
            "bad_samples": self.bad_samples,
            "survey": survey_facts(self.survey),
            "gathers": {
                "shape": list(self.survey.gather_shape),
                "dtypes": dict(self.dtypes["gathers"]),
                **self.gathers.to_dict(),
            },
            "bad": self.bad,
            "duplicates": self.duplicates,
            "velocity_duplicates": self.velocity_duplicates,
        }
        if self.has_velocity:
            result["velocity"] = {
                "shape": list(self.survey.grid.shape),
                "dtypes": dict(self.dtypes["velocity"]),
                **self.velocity.to_dict(),
                "water_share": self.water / cells,
                "salt_share": self.salt / cells,
                "samples_with_salt": self.with_salt / models,
            }
        return result


def inspect_dataset(dataset: Dataset, indices: Iterable[int]) -> Report:
    """Read the samples `indices` one at a time; nothing is kept of them but sums and checksums."""
    report = Report(dataset.path, dataset.layout, len(dataset), 0, dataset.survey, dataset.has_velocity)
    gather_names: dict[str, list[str]] = defaultdict(list)
    velocity_names: dict[str, list[str]] = defaultdict(list)
    for i in indices:
        name, origin = dataset.names[i], dataset.origin(i)
        report.inspected += 1
        reasons = []
        for what, dtype in _file_dtypes(dataset, i).items():
            report.dtypes[what][dtype] += 1
        try:
            gathers = dataset.gathers(i)
            report.gathers.add(gathers)
            gather_names[_checksum(gathers)].append(name)
            reasons += _silent(gathers)
        except (UserError, OSError) as error:
            reasons.append(str(error))
        if dataset.has_velocity:
            try:
                velocity = dataset.velocity(i)
                report.velocity.add(velocity)
                velocity_names[_checksum(velocity)].append(name)
                salt = int(np.count_nonzero(velocity == SALT))
                report.water += int(np.count_nonzero(velocity == WATER))
                report.salt += salt
                report.with_salt += salt > 0
            except (UserError, OSError) as error:
                reasons.append(str(error))
        report.bad += [{"name": name, "origin": str(origin), "reason": reason} for reason in dict.fromkeys(reasons)]
        if not reasons:
            report.good.append(i)
    report.checksums, report.velocity_checksums = dict(gather_names), dict(velocity_names)
    return report


def overlap(first: Report, second: Report) -> list[tuple[str, str]]:
    """Pairs `(name in first, name in second)` whose gathers or velocity models have the same contents."""
    pairs = set()
    for ours, theirs in (
        (first.checksums, second.checksums),
        (first.velocity_checksums, second.velocity_checksums),
    ):
        pairs |= {(a, b) for checksum in ours.keys() & theirs.keys() for a in ours[checksum] for b in theirs[checksum]}
    return sorted(pairs)


def survey_facts(survey: Survey) -> dict[str, Any]:
    """What a reader of the report needs of the survey, in SI units."""
    sources, receivers = np.asarray(survey.sources), np.asarray(survey.receivers)
    wavelet = np.asarray(survey.wavelet, np.float64)
    padded = max(wavelet.shape[-1], round(10 / survey.dt))  # 0.1 Hz fine
    spectra = np.abs(np.fft.rfft(wavelet, padded)).reshape(-1, padded // 2 + 1)  # of all shots together
    peak = int(spectra.sum(0).argmax())
    depth, width = survey.grid.extent
    return {
        "name": survey.name,
        "sources": len(sources),
        "source_x": [float(x) for x in sources[:, 0]],
        "source_depth": [float(sources[:, 1].min()), float(sources[:, 1].max())],
        "receivers": len(receivers),
        "receiver_x": [float(receivers[:, 0].min()), float(receivers[:, 0].max())],
        "receiver_depth": [float(receivers[:, 1].min()), float(receivers[:, 1].max())],
        "dt": survey.dt,
        "nt": survey.nt,
        "record_length": (survey.nt - 1) * survey.dt,
        "wavelet_peak_frequency": float(np.fft.rfftfreq(padded, survey.dt)[peak]),
        "grid_spacing": survey.grid.spacing,
        "grid_depth": depth,
        "grid_width": width,
        "boundary": f"{survey.boundary.kind}, {survey.boundary.width:g} m",
    }


def _file_dtypes(dataset: Dataset, index: int) -> dict[str, str]:
    """Dtypes of the sample's files by what they hold; of several kinds the first that is not float32."""
    if isinstance(dataset, PackedDataset):
        return dataset.stored_dtypes()
    origin = dataset.origin(index)
    if dataset.layout == "challenge":
        gathers, velocity = sorted(origin.glob("receiver_data_src_*.npy")), [origin / VELOCITY_FILE]
    else:
        partner = velocity_partner(origin)
        gathers, velocity = [origin], [partner] if partner else []
    found: dict[str, str] = {}
    for what, paths in (("gathers", gathers), ("velocity", velocity)):
        for path in paths:
            try:
                dtype = str(npy_header(path)[1])
            except (UserError, OSError):
                continue  # named among the bad samples
            if what not in found or dtype != "float32":
                found[what] = dtype
    return found


def _silent(gathers: np.ndarray) -> list[str]:
    """What is wrong with gathers that are finite: shots or traces without any signal."""
    traces: np.ndarray = (gathers != 0).any(axis=1)
    shots = traces.any(axis=1)
    if not shots.any():
        return ["all gathers are zero, expected a signal: simulate or copy the sample again"]
    if not shots.all():
        dead = [int(k) for k in np.nonzero(~shots)[0]]
        return [f"the gather of shot {_some(dead)} (counted from 0) is zero: simulate or copy the sample again"]
    if not traces.all():
        dead_traces = [(int(s), int(r)) for s, r in np.argwhere(~traces)]
        return [f"{len(dead_traces)} of {traces.size} traces are zero, (shot, receiver) {_some(dead_traces)}"]
    return []


def _some(items: list[Any]) -> str:
    return ", ".join(str(item) for item in items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def _checksum(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()

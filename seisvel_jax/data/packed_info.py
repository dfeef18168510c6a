"""What pack.json says: survey, names, checksums, statistics; whether it is whole and sane (docs/pack.md)."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seisvel_jax.data.packed_codec import (
    EXPONENTS,
    GATHER_STORED,
    VELOCITY_STORED,
)
from seisvel_jax.data.packed_files import StoredArray, read_json
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey

FORMAT, VERSION = "seisvel_jax pack", 1
PACK_FILE = "pack.json"
UNFINISHED_FILE = "packing.json"
"""The settings of a pack that is not finished yet."""
LONGEST_NAME = 200
_SUMMED = ("squared_error", "squared_norm", "worst_error", "velocity_error")


def plain_name(name: Any) -> bool:
    """Whether a name out of a file may become the name of a file: one visible component, no way out of its folder."""
    return (
        isinstance(name, str)
        and 0 < len(name.encode("utf-8", "surrogateescape")) <= LONGEST_NAME
        and not name.startswith(".")
        and not any(letter in "/\\" or ord(letter) < 32 for letter in name)
    )


@dataclass(frozen=True)
class Shard:
    """What one pair of files holds."""

    names: tuple[str, ...]
    files: tuple[tuple[str, int], ...]
    """`(file or folder of the source, how many samples in a row came from it)`; they stay together in a split."""
    exponents: tuple[int, ...]
    """One a sample: gathers are `2^exponent` times the stored values."""
    arrays: dict[str, StoredArray]
    """`gathers` and, where there is one, `velocity`; none where every sample was left out."""
    left_out: tuple[dict[str, str], ...] = ()
    """Samples of the source that could not be read: `name`, `reason`."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """Sums, from which those of the pack are made."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `Shard.from_dict` is its inverse."""
        return {
            "names": list(self.names),
            "files": [list(pair) for pair in self.files],
            "exponents": list(self.exponents),
            "arrays": {what: array.to_dict() for what, array in self.arrays.items()},
            "left_out": list(self.left_out),
            "statistics": self.statistics,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Shard":
        """The shard of `to_dict`. Raises KeyError, TypeError or ValueError where it is no such thing."""
        arrays = {
            str(what): StoredArray(
                _whole(array["bytes"]),
                _whole(array["header_bytes"]),
                _whole(array["header_checksum"]),
                tuple(_whole(one) for one in array["checksums"]),
            )
            for what, array in values["arrays"].items()
        }
        shard = Shard(
            names=tuple(values["names"]),
            files=tuple((name, _whole(count)) for name, count in values["files"]),
            exponents=tuple(int(one) for one in values["exponents"]),
            arrays=arrays,
            left_out=tuple({"name": str(one["name"]), "reason": str(one["reason"])} for one in values["left_out"]),
            statistics=_sums(values["statistics"]),
        )
        count = len(shard.names)
        for name in shard.names:
            if not plain_name(name):
                raise ValueError(f"{name!r:.80} as a sample's name")
        for name, _ in shard.files:
            if not isinstance(name, str) or not all(plain_name(part) for part in name.split("/")):
                raise ValueError(f"{name!r:.80} as a file of the source")
        if sum(number for _, number in shard.files) != count:
            raise ValueError(f"{count} samples, out of files with {sum(number for _, number in shard.files)}")
        if len(shard.exponents) != count or not all(one in EXPONENTS for one in shard.exponents):
            raise ValueError(f"exponents of {count} samples")
        if any(len(array.checksums) != count for array in arrays.values()):
            raise ValueError(f"checksums of {count} samples")
        return shard


def _sums(values: Any) -> dict[str, Any]:
    """The sums of a shard, if they are such. Raises KeyError, TypeError or ValueError where not."""
    if any(not isinstance(values[key], int | float) for key in _SUMMED):
        raise ValueError("its sums are no numbers")
    for moments in values["moments"].values():
        if any(not isinstance(one, int | float) for one in moments.values()):
            raise ValueError("its moments are no numbers")
    if any(_whole(int(bin_)) + _whole(count) >= 2**63 for bin_, count in values["envelope"].items()):
        raise ValueError("its envelopes are no counts")
    return dict(values)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r:.80}, expected a whole number")
    return value


@dataclass(frozen=True)
class PackInfo:
    """The contents of pack.json."""

    survey: Survey
    dtype: Any
    velocity_dtype: Any
    has_velocity: bool
    made_from: dict[str, Any]
    """The settings that decide the contents, the source's identity among them."""
    source: dict[str, Any]
    """`path`, `layout` (`challenge` or `openfwi`, also where a pack was packed again), `bytes`."""
    shards: tuple[Shard, ...]
    statistics: dict[str, Any]
    digest: str
    """Of everything in the pack: it covers the checksums."""

    def array_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape of one sample and stored dtype by array."""
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "gathers": (self.survey.gather_shape, GATHER_STORED[self.dtype])
        }
        if self.has_velocity:
            shapes["velocity"] = (self.survey.grid.shape, VELOCITY_STORED[self.velocity_dtype])
        return shapes


def write_info(info: PackInfo) -> str:
    """The text of pack.json, with its own digest."""
    values = {
        "format": FORMAT,
        "version": VERSION,
        "survey": info.survey.to_dict(),
        "dtype": info.dtype,
        "velocity_dtype": info.velocity_dtype,
        "has_velocity": info.has_velocity,
        "made_from": info.made_from,
        "source": info.source,
        "statistics": info.statistics,
        "shards": [shard.to_dict() for shard in info.shards],
    }
    return json.dumps({"digest": digest_of(values), **values}, allow_nan=False) + "\n"


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of everything in pack.json but the digest itself."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_info(folder: Path) -> PackInfo:
    """What pack.json in `folder` says, its digest checked. Raises UserError naming file, fault and cure."""
    path = folder / PACK_FILE
    if not path.exists() and not path.is_symlink():
        if (folder / UNFINISHED_FILE).exists():
            raise UserError(
                f"{folder}: an unfinished pack: run the pack or simulate command again, it goes on where it stopped"
            )
        raise UserError(
            f"{path}: missing beside the arrays of a pack: copy the pack again, or remove it and pack the data again"
        )
    values = read_json(path)
    version = values.get("version")
    if values.get("format") != FORMAT:
        raise UserError(f"{path}: format {values.get('format')!r:.60}, expected '{FORMAT}': not a pack, or damaged")
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{path}: version {version}, expected {VERSION}: upgrade seisvel_jax, it is older than the pack"
        )
    if version != VERSION:
        raise UserError(f"{path}: version {version!r:.20}, expected {VERSION}: remove it and pack the data again")
    if values.pop("digest", None) != (digest := digest_of(values)):
        raise UserError(
            f"{path}: damaged (its checksum does not match): copy the pack again, or remove it and pack the data again"
        )
    try:
        info = PackInfo(
            survey=Survey.from_dict(values["survey"]),
            dtype=values["dtype"],
            velocity_dtype=values["velocity_dtype"],
            has_velocity=bool(values["has_velocity"]),
            made_from=dict(values["made_from"]),
            source={
                "path": str(values["source"]["path"]),
                "layout": str(values["source"]["layout"]),
                "bytes": _whole(values["source"]["bytes"]),
            },
            shards=tuple(Shard.from_dict(shard) for shard in values["shards"]),
            statistics=dict(values["statistics"]),
            digest=digest,
        )
        if info.dtype not in GATHER_STORED or info.velocity_dtype not in VELOCITY_STORED:
            raise ValueError(f"dtypes {info.dtype!r:.40} and {info.velocity_dtype!r:.40}")
        if info.source["layout"] not in ("challenge", "openfwi"):
            raise ValueError(f"layout {info.source['layout']!r:.40}")
        for shard in info.shards:
            if set(shard.arrays) != (set(info.array_shapes()) if shard.names else set()):
                raise ValueError(f"arrays {sorted(shard.arrays)}")
        names = [name for shard in info.shards for name in shard.names]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"{len(names)} samples with {len(set(names))} different names")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UserError) as error:
        raise UserError(
            f"{path}: not a description of a pack ({error!s:.200}): remove it and pack the data again"
        ) from None
    return info

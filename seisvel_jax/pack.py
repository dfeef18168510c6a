"""Pack a data set of any layout into a few memory-mapped files, check a pack, or unpack it again.

  python -m seisvel_jax.pack --data DATA/train --output PACK --dt 1e-3     pack; the same command again goes on
  python -m seisvel_jax.pack --data PACK --verify                          read every byte against its checksum
  python -m seisvel_jax.pack --data PACK --output DIR --unpack             back to the layout it came from

A pack is a data set like any other: give it to inspect, train, predict and evaluate. Exit code 0: done; 1: --verify
found damage; 2: bad input; 130, 143: interrupted, run the same command again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from seisvel_jax.errors import UserError, run_command

if TYPE_CHECKING:
    from seisvel_jax.data.packed_info import PackInfo
    from seisvel_jax.survey import Survey


@dataclass(frozen=True)
class Pack:
    """Options of the command."""

    data: Path
    """What to pack: a folder of samples (challenge or OpenFWI layout), one OpenFWI file, or a pack. With --verify and
    --unpack: the pack."""
    output: Path | None = None
    """Folder of the pack; with --unpack, folder of the samples."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Of the gathers. float16: scaled sample by sample, relative error 2e-4; bfloat16: 2e-3; float32: exact."""
    velocity_dtype: Literal["uint16", "float32"] = "uint16"
    """uint16: steps of 0.1 m/s (whole numbers are exact, up to 6553.5 m/s); float32: as read."""
    dt: float | None = None
    """Seconds between time samples, with an anti-alias filter (1e-3 keeps all of the challenge's signal; default: the
    files' own)."""
    spacing: float | None = None
    """Metres between the nodes of the velocity models (default: the files' own)."""
    shard_size: int | None = None
    """Samples a file; a killed run loses at most one such file (default: 256 MiB of gathers)."""
    skip_bad: bool = False
    """Leave bad samples out, naming each, instead of stopping at the first."""
    threads: int | None = None
    """That read, resample and convert (default: one a core); never changes the result."""
    verify: bool = False
    """Only read the pack --data, and compare every byte with its checksum."""
    unpack: bool = False
    """Write the samples of the pack --data back into the layout that they came from."""


def pack(options: Pack) -> int:
    """Run the command; return its exit code. Raises UserError."""
    _check(options)
    if options.verify:
        return _verify(options.data)
    if options.unpack:
        return _unpack(options)
    return _pack(options)


def _check(options: Pack) -> None:
    if options.verify and options.unpack:
        raise UserError("--verify and --unpack: give one of them")
    if not options.verify and options.output is None:
        raise UserError("--output is missing: name a new folder for the result")
    if options.verify and options.output is not None:
        raise UserError("--verify only reads: leave --output out")
    for name, value in (("--shard-size", options.shard_size), ("--threads", options.threads)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}, expected at least 1")
    for name, number in (("--dt", options.dt), ("--spacing", options.spacing)):
        if number is not None and not 0 < number < float("inf"):
            raise UserError(f"{name} {number}, expected a number above 0")


def _pack(options: Pack) -> int:
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.data.packed_samples import Format
    from seisvel_jax.data.packed_writer import pack_dataset
    from seisvel_jax.logging import progress, say

    assert options.output is not None
    dataset = open_dataset(options.data)
    info = pack_dataset(
        dataset,
        _survey(dataset.survey, options),
        options.output,
        Format(options.dtype, options.velocity_dtype, options.shard_size, options.skip_bad),
        progress=progress,
        say=say,
        threads=options.threads,
    )
    for shard in info.shards:
        for one in shard.left_out:
            say(f"left out: {one['name']}: {one['reason']}")
    print(summary(options.output, info))
    return 0


def _survey(survey: "Survey", options: Pack) -> "Survey":
    """The survey on the sampling asked for. Raises UserError where that would cut into the signal."""
    from seisvel_jax.data.pipeline import resampled_survey

    coarsest = min(survey.grid.extent) / 2
    if options.spacing is not None and options.spacing > coarsest:
        raise UserError(f"--spacing {options.spacing:g} m, expected at most {coarsest:g}: two nodes are no model")
    return resampled_survey(survey, options.spacing, options.dt, option="--dt")


def summary(output: Path, info: "PackInfo") -> str:
    """A few lines on what a pack holds and what it saved."""
    from seisvel_jax.data.packed_info import PACK_FILE

    stored = {
        what: sum(shard.arrays[what].bytes for shard in info.shards if shard.names) for what in info.array_shapes()
    }
    after = sum(stored.values()) + (output / PACK_FILE).stat().st_size
    before = info.source["bytes"]
    count = sum(len(shard.names) for shard in info.shards)
    survey, facts = info.survey, info.statistics
    error, gathers, percentiles = facts["storage_error"], facts["gathers"], facts["envelope_percentiles"]
    rows = [
        ("pack", f"{output}: {count} samples in {_shards(info)} ({info.source['layout']} layout)"),
        (
            "gathers",
            f"{survey.gather_shape} (source, time, receiver) every {1e3 * survey.dt:g} ms, {info.dtype}, "
            f"{_megabytes(stored['gathers'])}; error {error['gathers']:.1e} of their norm, at most "
            f"{error['gathers_worst_sample']:.1e} of a sample's",
        ),
        (
            "  amplitude",
            f"std {gathers['std']:.4g}, {gathers['min']:.4g} to {gathers['max']:.4g}; envelope: half below "
            f"{percentiles['50']:.2g}, 99 % below {percentiles['99']:.2g}",
        ),
    ]
    if info.has_velocity:
        velocity = facts["velocity"]
        kind = "steps of 0.1 m/s in uint16" if info.velocity_dtype == "uint16" else "float32"
        rows.append(
            (
                "velocity",
                f"{survey.grid.shape} (depth, x) every {survey.grid.spacing:g} m, {kind}, "
                f"{_megabytes(stored['velocity'])}; error at most {error['velocity']:.2g} m/s",
            )
        )
        rows.append(("  m/s", f"mean {velocity['mean']:.1f}, {velocity['min']:g} to {velocity['max']:g}"))
    if facts["left_out"]:
        rows.append(("left out", f"{facts['left_out']} bad samples, named above and in {PACK_FILE}"))
    rows.append(("bytes", f"{_megabytes(before)} before, {_megabytes(after)} after: {before / after:.1f} times fewer"))
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def _shards(info: "PackInfo") -> str:
    return f"{len(info.shards)} shard{'' if len(info.shards) == 1 else 's'}"


def _megabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _verify(path: Path) -> int:
    from seisvel_jax.data.packed import verify
    from seisvel_jax.data.packed_info import read_info
    from seisvel_jax.logging import progress

    if not path.exists():
        raise UserError(f"{path}: no such folder: check the path")
    info = read_info(path)
    count = sum(len(shard.names) for shard in info.shards)
    with progress(None, "verify", total=count) as bar:
        faults = verify(path, bar.update)
    for fault in faults:
        print(f"DAMAGED {fault}")
    print(f"{path}: {count} samples in {_shards(info)}: {f'{len(faults)} faults' if faults else 'whole'}")
    return 1 if faults else 0


def _unpack(options: Pack) -> int:
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.data.packed import PackedDataset
    from seisvel_jax.data.packed_unpack import unpack_dataset
    from seisvel_jax.logging import progress, say

    assert options.output is not None
    dataset: Any = open_dataset(options.data)
    if not isinstance(dataset, PackedDataset):
        raise UserError(f"{options.data}: {dataset.layout} layout, expected a pack: it is unpacked already")
    new = unpack_dataset(dataset, options.output, progress)
    kept = len(dataset) - new
    say(f"{options.output}: {new} samples unpacked" + (f", {kept} were there" if kept else ""))
    return 0


def main() -> int:
    """The command line."""
    return pack(tyro.cli(Pack, prog="python -m seisvel_jax.pack", description=__doc__))


if __name__ == "__main__":
    run_command(main)

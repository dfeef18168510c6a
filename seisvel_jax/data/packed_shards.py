"""The shards of a pack: each whole or not at all, and the end, when all are there."""

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from seisvel_jax.data.packed_files import StoredArray, check_array, npy_header_bytes, read_json, shard_file
from seisvel_jax.data.packed_info import PACK_FILE, UNFINISHED_FILE, PackInfo, Shard, read_info, write_info
from seisvel_jax.data.packed_samples import PackedSample, summarise, sums
from seisvel_jax.errors import UserError
from seisvel_jax.files import whole_file


def write_shard(
    output: Path,
    info: PackInfo,
    number: int,
    packed: Iterator[PackedSample | dict[str, str]],
    *,
    groups: list[str],
    done: Callable[[], None] = lambda: None,
) -> Shard:
    """Write the arrays of one shard sample by sample, then, when both lie there whole, its record."""
    shapes = info.array_shapes()
    kept: list[PackedSample] = []
    files: list[list[Any]] = []
    left_out: list[dict[str, str]] = []
    with contextlib.ExitStack() as stack:
        parts = {what: stack.enter_context(whole_file(output / shard_file(what, number))) for what in shapes}
        handles: dict[str, BinaryIO] = {what: stack.enter_context(open(part, "wb")) for what, part in parts.items()}
        for what, (shape, dtype) in shapes.items():
            handles[what].write(npy_header_bytes((len(groups), *shape), dtype))
        for group, sample in zip(groups, packed):
            if isinstance(sample, dict):
                left_out.append(sample)
                done()
                continue
            for what, handle in handles.items():
                handle.write(sample.arrays[what].data)
            if files and files[-1][0] == group:
                files[-1][1] += 1
            else:
                files.append([group, 1])
            kept.append(_without_arrays(sample))
            done()
        headers = {what: npy_header_bytes((len(kept), *shape), dtype) for what, (shape, dtype) in shapes.items()}
        for what, handle in handles.items():
            handle.seek(0)
            handle.write(headers[what])
    arrays = {}
    for what, (shape, dtype) in shapes.items() if kept else ():
        values = len(kept) * int(np.prod(shape)) * dtype.itemsize
        arrays[what] = StoredArray(
            bytes=len(headers[what]) + values,
            header_bytes=len(headers[what]),
            header_checksum=zlib.crc32(headers[what]),
            checksums=tuple(sample.checksums[what] for sample in kept),
        )
    shard = Shard(
        names=tuple(sample.name for sample in kept),
        files=tuple((name, count) for name, count in files),
        exponents=tuple(sample.exponent for sample in kept),
        arrays=arrays,
        left_out=tuple(left_out),
        statistics=sums(kept, list(shapes)),
    )
    if not kept:
        for what in shapes:
            (output / shard_file(what, number)).unlink()
    with whole_file(output / record_file(number)) as part:
        part.write_text(json.dumps(shard.to_dict()) + "\n", encoding="utf-8")
    return shard


def _without_arrays(sample: PackedSample) -> PackedSample:
    return PackedSample(**{**vars(sample), "arrays": {}})


def record_file(number: int) -> str:
    """Name of the record of a shard of an unfinished pack; its being there says that the shard is whole."""
    return f"shard-{number:05d}.json"


def finished_shards(output: Path, info: PackInfo, plan: list[range]) -> dict[int, Shard]:
    """The shards that lie there whole, by number: their record, the size and the header of their files are right."""
    records: dict[int, Shard] = {}
    if (output / PACK_FILE).exists():
        records = dict(enumerate(read_info(output).shards))
    for number in range(len(plan)):
        path = output / record_file(number)
        if path.exists():
            with contextlib.suppress(UserError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
                records[number] = Shard.from_dict(read_json(path))
    done = {}
    for number, shard in records.items():
        if number >= len(plan) or len(shard.names) + len(shard.left_out) != len(plan[number]):
            continue
        with contextlib.suppress(UserError, KeyError):
            for what, stored in shard.arrays.items():
                check_array(output / shard_file(what, number), stored, *info.array_shapes()[what])
            done[number] = shard
    return done


def finish(output: Path, info: PackInfo, shards: list[Shard]) -> PackInfo:
    """Write pack.json out of the records, then remove them: until then the pack counts as unfinished."""
    names = [name for shard in shards for name in shard.names]
    if not names:
        reason = next((one["reason"] for shard in shards for one in shard.left_out), "none there")
        raise UserError(f"{info.source['path']}: not one good sample ({reason}): see python -m seisvel_jax.inspect")
    info = PackInfo(**{**vars(info), "shards": tuple(shards), "statistics": summarise(shards)})
    text = write_info(info)
    path = output / PACK_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8")
    for number in range(len(shards)):
        (output / record_file(number)).unlink(missing_ok=True)
    (output / UNFINISHED_FILE).unlink(missing_ok=True)
    return read_info(output)

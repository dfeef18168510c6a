"""Makes packs: shard by shard, each whole or not at all, so that a killed run goes on and ends with the same bytes."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import scipy.fft

from seisvel_jax.data.challenge import VELOCITY_FILE
from seisvel_jax.data.inspection import Moments
from seisvel_jax.data.openfwi import velocity_partner
from seisvel_jax.data.packed import (
    PACK_FILE,
    UNFINISHED_FILE,
    VERSION,
    PackedDataset,
    PackInfo,
    Shard,
    StoredArray,
    check_array,
    npy_header_bytes,
    plain_name,
    read_info,
    read_json,
    shard_file,
    write_info,
)
from seisvel_jax.data.packed_codec import (
    GATHER_STORED,
    VELOCITY_STORED,
    GatherDtype,
    VelocityDtype,
    decode_gathers,
    decode_velocity,
    encode_gathers,
    encode_velocity,
)
from seisvel_jax.data.pipeline import Resampled
from seisvel_jax.data.split import file_group
from seisvel_jax.errors import UserError
from seisvel_jax.files import only_one, whole_file
from seisvel_jax.survey import Survey

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset

SHARD_BYTES = 2**28
"""Of gathers in one file, unless told otherwise: a killed run loses at most one such file."""
MOST_THREADS = 16
"""Unless told otherwise: each has two samples in memory."""
ENVELOPE_EVERY = 4
"""The envelope is taken of every so-many-th receiver."""
PERCENTILES = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9, 100.0)
_BITS = 18
"""Low bits of a float32 that the histogram of envelopes drops: 32 bins an octave."""


@dataclass(frozen=True)
class Format:
    """How samples are stored."""

    dtype: GatherDtype = "float16"
    velocity_dtype: VelocityDtype = "uint16"
    shard_size: int | None = None
    """Samples a shard; none: as many as fill 256 MiB of gathers."""
    skip_bad: bool = False
    """Leave samples out that cannot be read, instead of stopping."""


@dataclass(frozen=True)
class _Packed:
    """A sample as it will be stored, and what was measured on the way."""

    name: str
    exponent: int
    arrays: dict[str, np.ndarray]
    checksums: dict[str, int]
    moments: dict[str, Moments]
    envelope: Counter[int]
    squared_error: float
    squared_norm: float
    velocity_error: float


def pack_dataset(
    dataset: "Dataset",
    survey: Survey,
    output: Path,
    form: Format,
    *,
    progress: Callable[..., Any],
    say: Callable[[str], None] = lambda message: None,
    threads: int | None = None,
) -> PackInfo:
    """Write `dataset`, seen on `survey`'s times and grid, as a pack in the folder `output`; return what it holds.

    Files that are there already, of the same data and settings, are kept; what misses is made; the result has the
    same bytes as that of a run from nothing. `progress(None, text, total=, initial=)` gives a progress bar. Raises
    UserError for bad samples (unless `form.skip_bad`), another pack or other files in `output`, and a full disk.
    """
    samples = Resampled(dataset, survey, 0.0) if survey is not dataset.survey else dataset
    shard_size = form.shard_size or max(1, SHARD_BYTES // _sample_bytes(survey, form, dataset.has_velocity)["gathers"])
    plan = [range(first, min(first + shard_size, len(dataset))) for first in range(0, len(dataset), shard_size)]
    groups = [_relative_group(dataset, index) for index in range(len(dataset))]
    for name in (*dataset.names, *(part for group in set(groups) for part in group.split("/"))):
        if not plain_name(name):
            raise UserError(
                f"{dataset.path}: '{name}' as a sample's or file's name, expected a visible name of at most 200 bytes "
                "without separators or control characters: rename it"
            )
    files = _source_files(dataset)
    made_from = {
        "samples": len(dataset),
        "names": _sha("\n".join(dataset.names)),
        "files": _files_digest(dataset.path, files),
        "gathers": list(survey.gather_shape),
        "velocity": list(survey.grid.shape) if dataset.has_velocity else None,
        "dt": survey.dt,
        "spacing": survey.grid.spacing,
        "survey": _sha(json.dumps(survey.to_dict(), sort_keys=True)),
        "dtype": form.dtype,
        "velocity_dtype": form.velocity_dtype if dataset.has_velocity else None,
        "shard_size": shard_size,
        "skip_bad": form.skip_bad,
        "version": VERSION,
    }
    source: dict[str, Any] = {
        "path": str(dataset.path.resolve()),
        "layout": dataset.info.source["layout"] if isinstance(dataset, PackedDataset) else dataset.layout,
        "bytes": sum(file.stat().st_size for file in files),
    }
    info = PackInfo(survey, form.dtype, form.velocity_dtype, dataset.has_velocity, made_from, source, (), {}, "")
    with _claimed(dataset.path, output, made_from):
        done = _finished_shards(output, info, plan)
        todo = [number for number in range(len(plan)) if number not in done]
        finished = sum(len(plan[number]) for number in done)
        _warn_of_space(output, info, [len(plan[number]) for number in todo], say)
        with progress(None, "pack", total=len(dataset), initial=finished) as bar:
            meter = _Meter(bar, source["bytes"] / len(dataset))
            for number in todo:
                packed = _ahead(lambda index: _pack_sample(samples, index, form), plan[number], threads)
                named = [groups[index] for index in plan[number]]
                try:
                    with contextlib.closing(packed):
                        done[number] = _write_shard(output, info, number, packed, groups=named, meter=meter)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    raise UserError(
                        f"{output}: the disk is full; {len(done)} of {len(plan)} shards are complete and kept: free "
                        "some space and run the same command again, it goes on there"
                    ) from error
        return _finish(output, info, [done[number] for number in range(len(plan))])


def _sample_bytes(survey: Survey, form: Format, has_velocity: bool) -> dict[str, int]:
    counts = {"gathers": int(np.prod(survey.gather_shape)) * GATHER_STORED[form.dtype].itemsize}
    if has_velocity:
        counts["velocity"] = int(np.prod(survey.grid.shape)) * VELOCITY_STORED[form.velocity_dtype].itemsize
    return counts


# ---- the source ----


def _relative_group(dataset: "Dataset", index: int) -> str:
    """What `file_group` says, relative to the dataset's path: the same on every machine."""
    group = file_group(dataset, index)
    if isinstance(dataset, PackedDataset):
        return group
    path = Path(group)
    try:
        relative = path.relative_to(dataset.path).as_posix()
    except ValueError:
        relative = path.name
    return path.resolve().name if relative == "." else relative


def _source_files(dataset: "Dataset") -> list[Path]:
    """The files that the dataset reads, each once."""
    files: dict[Path, None] = {}
    for origin in dict.fromkeys(dataset.origin(index) for index in range(len(dataset))):
        if dataset.layout == "packed":
            files |= dict.fromkeys(origin.parent / name for name in (PACK_FILE, origin.name))
            velocity: Path | None = origin.parent / origin.name.replace("gathers", "velocity")
        elif origin.is_dir():
            shots = sorted(origin.glob("receiver_data_src_*.npy"))
            files |= dict.fromkeys(shots)
            velocity = origin / VELOCITY_FILE
        else:
            files[origin] = None
            velocity = velocity_partner(origin)
        if velocity is not None and velocity.exists():
            files[velocity] = None
    return [file for file in files if file.is_file()]


def _files_digest(path: Path, files: list[Path]) -> str:
    """Names, sizes and times of the files: it changes where one of them is written again."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        relative = file.relative_to(path).as_posix() if file.is_relative_to(path) else file.name
        digest.update(f"{relative!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


# ---- samples ----


def _pack_sample(samples: "Dataset", index: int, form: Format) -> _Packed | dict[str, str]:
    """The sample as it will be stored; or, where it is bad and may be left out, its name and the reason."""
    name = samples.names[index]
    try:
        gathers = samples.gathers(index)
        velocity = samples.velocity(index) if samples.has_velocity else None
    except UserError as error:
        if not form.skip_bad:
            raise
        return {"name": name, "reason": str(error)}
    stored, exponent = encode_gathers(gathers, form.dtype, name)
    # Statistics are of what a reader of the pack will get.
    restored = decode_gathers(stored, form.dtype, exponent)
    exact = gathers.astype(np.float64)
    difference = restored - exact
    arrays, moments = {"gathers": stored}, {"gathers": Moments()}
    moments["gathers"].add(restored)
    velocity_error = 0.0
    if velocity is not None:
        arrays["velocity"] = encode_velocity(velocity, form.velocity_dtype, name)
        restored_velocity = decode_velocity(arrays["velocity"], form.velocity_dtype)
        moments["velocity"] = Moments()
        moments["velocity"].add(restored_velocity)
        velocity_error = float(np.abs(restored_velocity.astype(np.float64) - velocity).max())
    return _Packed(
        name=name,
        exponent=exponent,
        arrays=arrays,
        checksums={what: zlib.crc32(array.data) for what, array in arrays.items()},
        moments=moments,
        envelope=_envelope_histogram(restored),
        squared_error=float(np.vdot(difference, difference)),
        squared_norm=float(np.vdot(exact, exact)),
        velocity_error=velocity_error,
    )


def _envelope_histogram(gathers: np.ndarray) -> Counter[int]:
    """How often the envelope (modulus of the analytic signal in time) lies in each of 32 bins an octave."""
    traces = gathers[..., ::ENVELOPE_EVERY]
    nt = traces.shape[-2]
    length = scipy.fft.next_fast_len(nt)
    spectrum = scipy.fft.fft(traces, length, axis=-2)
    spectrum[..., 1 : (length + 1) // 2, :] *= 2
    spectrum[..., length // 2 + 1 :, :] = 0
    envelope = np.abs(scipy.fft.ifft(spectrum, axis=-2))[..., :nt, :].astype(np.float32)
    bins, counts = np.unique(envelope.view(np.uint32) >> _BITS, return_counts=True)
    return Counter({int(one): int(count) for one, count in zip(bins, counts)})


def _ahead(
    work: Callable[[int], _Packed | dict[str, str]], indices: range, threads: int | None
) -> Generator[_Packed | dict[str, str], None, None]:
    """`work` of the indices in order, a few at a time in threads: two a thread in memory."""
    threads = threads or min(os.cpu_count() or 1, MOST_THREADS)
    waiting: deque[Future[_Packed | dict[str, str]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for index in indices:
                waiting.append(pool.submit(work, index))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Meter:
    """A progress bar that also says how many bytes of the source are read a second."""

    def __init__(self, bar: Any, bytes_each: float):
        self._bar, self._bytes_each = bar, bytes_each

    def sample(self) -> None:
        """One more."""
        rate = self._bar.format_dict.get("rate")
        elapsed = self._bar.format_dict.get("elapsed") or 0.0
        new = self._bar.n + 1 - self._bar.initial
        rate = rate or (new / elapsed if elapsed > 0 else None)
        if rate:
            self._bar.set_postfix_str(f"{rate * self._bytes_each / 1e6:.0f} MB/s read", refresh=False)
        self._bar.update(1)


# ---- shards ----


def _write_shard(
    output: Path,
    info: PackInfo,
    number: int,
    packed: Iterator[_Packed | dict[str, str]],
    *,
    groups: list[str],
    meter: _Meter,
) -> Shard:
    """Write the arrays of one shard sample by sample, then, when both lie there whole, its record."""
    shapes = info.array_shapes()
    kept: list[_Packed] = []
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
                meter.sample()
                continue
            for what, handle in handles.items():
                handle.write(sample.arrays[what].data)
            if files and files[-1][0] == group:
                files[-1][1] += 1
            else:
                files.append([group, 1])
            kept.append(_without_arrays(sample))
            meter.sample()
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
        statistics=_sums(kept, list(shapes)),
    )
    if not kept:
        for what in shapes:
            (output / shard_file(what, number)).unlink()
    with whole_file(output / _record_file(number)) as part:
        part.write_text(json.dumps(shard.to_dict()) + "\n", encoding="utf-8")
    return shard


def _without_arrays(sample: _Packed) -> _Packed:
    return _Packed(**{**vars(sample), "arrays": {}})


def _record_file(number: int) -> str:
    """Name of the record of a shard of an unfinished pack; its being there says that the shard is whole."""
    return f"shard-{number:05d}.json"


def _finished_shards(output: Path, info: PackInfo, plan: list[range]) -> dict[int, Shard]:
    """The shards that lie there whole, by number: their record, the size and the header of their files are right."""
    records: dict[int, Shard] = {}
    if (output / PACK_FILE).exists():
        records = dict(enumerate(read_info(output).shards))
    for number in range(len(plan)):
        path = output / _record_file(number)
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


# ---- the folder ----


@contextlib.contextmanager
def _claimed(source: Path, output: Path, made_from: dict[str, Any]) -> Iterator[None]:
    """Make `output` the folder of this pack, or check that it already is; no other process may write to it."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: a file stands where the pack's folder should be: choose another --output")
    inside = output.resolve()
    if inside == source.resolve() or inside.is_relative_to(source.resolve()):
        raise UserError(f"{output}: lies within the data to be packed ({source}): choose another --output")
    with only_one(output, "packing"):
        found = None
        for name in (PACK_FILE, UNFINISHED_FILE):
            if (output / name).exists():
                found = read_info(output).made_from if name == PACK_FILE else read_json(output / name)
                break
        if found is None:
            others = sorted(entry.name for entry in output.iterdir() if not entry.name.startswith("."))
            if others:
                raise UserError(
                    f"{output}: holds files that are not of a pack ({others[0]}): choose another --output or an empty "
                    "one"
                )
            with whole_file(output / UNFINISHED_FILE) as part:
                part.write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
        else:
            _refuse_difference(output, found, json.loads(json.dumps(made_from)))
        for entry in output.iterdir():
            if entry.name.startswith(".") and ".part" in entry.name:
                entry.unlink()  # what a killed run was writing
        yield


_WORDS = {
    "names": "samples of other names",
    "files": "the files of the source have changed since",
    "survey": "another survey",
}


def _refuse_difference(output: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    changed = [key for key in wanted.keys() | found.keys() if found.get(key) != wanted.get(key)]
    if not changed:
        return
    plain = [
        f"{key} {found.get(key)!r:.60}, now {wanted.get(key)!r:.60}" for key in sorted(changed) if key not in _WORDS
    ]
    what = "; ".join(plain or [_WORDS[key] for key in sorted(changed)])
    raise UserError(f"{output}: holds another pack: {what}: choose another --output or remove it")


def _warn_of_space(output: Path, info: PackInfo, counts: list[int], say: Callable[[str], None]) -> None:
    form = Format(info.dtype, info.velocity_dtype)
    needed = sum(counts) * sum(_sample_bytes(info.survey, form, info.has_velocity).values())
    free = shutil.disk_usage(output).free
    if needed > free:
        say(f"warning: {output}: needs {needed / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB free")


def _finish(output: Path, info: PackInfo, shards: list[Shard]) -> PackInfo:
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
        (output / _record_file(number)).unlink(missing_ok=True)
    (output / UNFINISHED_FILE).unlink(missing_ok=True)
    return read_info(output)


# ---- statistics ----


def _sums(kept: list[_Packed], whats: list[str]) -> dict[str, Any]:
    """Sums over the samples of a shard."""
    envelope: Counter[int] = Counter()
    for sample in kept:
        envelope.update(sample.envelope)
    moments = {what: _merged([sample.moments[what] for sample in kept]) for what in whats}
    return {
        "moments": {what: asdict(one) for what, one in moments.items() if one.count},
        "envelope": {str(one): envelope[one] for one in sorted(envelope)},
        "squared_error": sum(sample.squared_error for sample in kept),
        "squared_norm": sum(sample.squared_norm for sample in kept),
        "worst_error": max((_relative(s.squared_error, s.squared_norm) for s in kept), default=0.0),
        "velocity_error": max((sample.velocity_error for sample in kept), default=0.0),
    }


def _merged(parts: list[Moments]) -> Moments:
    total = Moments()
    for part in parts:
        total.count += part.count
        total.total += part.total
        total.squares += part.squares
        total.smallest = min(total.smallest, part.smallest)
        total.largest = max(total.largest, part.largest)
    return total


def _relative(squared_error: float, squared_norm: float) -> float:
    return (squared_error / squared_norm) ** 0.5 if squared_norm > 0 else 0.0


def summarise(shards: list[Shard]) -> dict[str, Any]:
    """Statistics of the pack out of the sums of its shards; SI units, of the values as a reader gets them."""
    sums = [shard.statistics for shard in shards]
    envelope: Counter[int] = Counter()
    for one in sums:
        envelope.update({int(bin_): count for bin_, count in one["envelope"].items()})
    moments = {
        what: _merged([Moments(**one["moments"][what]) for one in sums if what in one["moments"]]).to_dict()
        for what in ("gathers", "velocity")
    }
    return {
        **{what: values for what, values in moments.items() if values},
        "envelope_percentiles": _percentiles(envelope),
        "storage_error": {
            # of the gathers' L2 norm; m/s
            "gathers": _relative(sum(one["squared_error"] for one in sums), sum(one["squared_norm"] for one in sums)),
            "gathers_worst_sample": max((one["worst_error"] for one in sums), default=0.0),
            "velocity": max((one["velocity_error"] for one in sums), default=0.0),
        },
        "left_out": sum(len(shard.left_out) for shard in shards),
    }


def _percentiles(histogram: Counter[int]) -> dict[str, float]:
    """Percentiles of the envelope to 1.6 %: the middle of the histogram's bin."""
    bins = np.array(sorted(histogram), np.uint32)
    counts = np.cumsum([histogram[int(one)] for one in bins])
    low, high = (bins << _BITS).view(np.float32), ((bins + 1) << _BITS).view(np.float32)
    middle = np.where(bins == 0, 0.0, (low.astype(np.float64) + high) / 2)
    where = [min(int(np.searchsorted(counts, counts[-1] * p / 100)), len(bins) - 1) for p in PERCENTILES]
    return {f"{p:g}": float(middle[k]) for p, k in zip(PERCENTILES, where)}

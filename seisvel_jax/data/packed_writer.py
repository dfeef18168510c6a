"""Makes packs: shard by shard, each whole or not at all, so that a killed run goes on and ends with the same bytes."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seisvel_jax.data.challenge import VELOCITY_FILE
from seisvel_jax.data.openfwi import velocity_partner
from seisvel_jax.data.packed import PackedDataset
from seisvel_jax.data.packed_files import read_json
from seisvel_jax.data.packed_info import PACK_FILE, UNFINISHED_FILE, VERSION, PackInfo, plain_name, read_info
from seisvel_jax.data.packed_samples import Format, PackedSample, encode_sample, sample_bytes
from seisvel_jax.data.packed_shards import finish, finished_shards, write_shard
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
    shard_size = form.shard_size or max(1, SHARD_BYTES // sample_bytes(survey, form, dataset.has_velocity)["gathers"])
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
        done = finished_shards(output, info, plan)
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
                        done[number] = write_shard(output, info, number, packed, groups=named, done=meter.sample)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    raise UserError(
                        f"{output}: the disk is full; {len(done)} of {len(plan)} shards are complete and kept: free "
                        "some space and run the same command again, it goes on there"
                    ) from error
        return finish(output, info, [done[number] for number in range(len(plan))])


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


def _pack_sample(samples: "Dataset", index: int, form: Format) -> PackedSample | dict[str, str]:
    """The sample as it will be stored; or, where it is bad and may be left out, its name and the reason."""
    name = samples.names[index]
    try:
        gathers = samples.gathers(index)
        velocity = samples.velocity(index) if samples.has_velocity else None
    except UserError as error:
        if not form.skip_bad:
            raise
        return {"name": name, "reason": str(error)}
    return encode_sample(name, gathers, velocity, form)


def _ahead(
    work: Callable[[int], PackedSample | dict[str, str]], indices: range, threads: int | None
) -> Generator[PackedSample | dict[str, str], None, None]:
    """`work` of the indices in order, a few at a time in threads: two a thread in memory."""
    threads = threads or min(os.cpu_count() or 1, MOST_THREADS)
    waiting: deque[Future[PackedSample | dict[str, str]]] = deque()
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
    needed = sum(counts) * sum(sample_bytes(info.survey, form, info.has_velocity).values())
    free = shutil.disk_usage(output).free
    if needed > free:
        say(f"warning: {output}: needs {needed / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB free")

"""Doors that take the checkpoints of a run: to predict with, and to go on training from."""

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzzing.folders import mischief
from fuzzing.refusal import refused
from fuzzing.sound import Sound
from fuzzing.values import Draw, changed, json_text


def checkpoint(draw: Draw, folder: Path, sound: Sound) -> None:
    """Files damaged, swapped, linked, missing: what happens to a disk."""
    from seisvel_jax.training.checkpoint_files import verified

    run = sound.copy("run", folder)
    mischief(draw, run)
    for step in (run / "checkpoints" / "1", run / "checkpoints" / "2"):
        refused(lambda step=step: verified(step))
    if draw(st.integers(0, 11)) == 0:  # loading what is whole takes longer than all the rest
        use_run(run, sound)


def signed(draw: Draw, folder: Path, sound: Sound) -> None:
    """Other contents behind checksums that fit: what somebody could make who wants to."""
    from seisvel_jax.errors import UserError
    from seisvel_jax.training.manifest import write_manifest

    run = sound.copy("run", folder)
    shutil.rmtree(run / "checkpoints" / "1")
    step = run / "checkpoints" / "2"
    path = step / "_CHECKPOINT_METADATA"
    kind = draw(st.sampled_from(["ours", "ours", "Orbax's", "files", "files"]))
    if kind == "files":
        (step / "manifest.json").unlink()
        mischief(draw, step)
    else:
        values = json.loads(path.read_text())
        if kind == "ours":
            values["custom_metadata"] = changed(draw, values["custom_metadata"])
        else:
            values = changed(draw, values)
        path.write_text(json.dumps(values))
        (step / "manifest.json").unlink()
    sizes = [path.lstat().st_size for path in step.rglob("*")]
    if draw(st.integers(0, 9)) and max(sizes) < 2**28:  # terabytes are read in full before they are signed
        with contextlib.suppress(UserError, OSError):  # a link or a pipe: nobody signs those
            write_manifest(step, 2)
    file = step / "manifest.json"
    if draw(st.integers(0, 9)) == 0 and file.is_file():
        file.write_bytes(json_text(draw, json.loads(file.read_text())))
    use_run(run, sound)


def use_run(run: Path, sound: Sound) -> None:
    """Load it to predict, and to go on."""
    from seisvel_jax.training.checkpoint import Checkpoints, load_run

    with contextlib.redirect_stderr(io.StringIO()), traced_once():
        refused(lambda: load_run(run))
        checkpoints = Checkpoints(run)
        refused(lambda: checkpoints.resume(sound.abstract, sound.metadata), lines=25)
        checkpoints.close()


_traced: dict[str, Any] = {}


@contextlib.contextmanager
def traced_once() -> Iterator[None]:
    """Tracing a network takes a second: inside, the same one is traced once."""
    from seisvel_jax.training import runs as module

    plain = module.abstract_params

    def trace(groups: tuple, survey: Any) -> Any:
        key = repr((groups, survey.to_dict()))
        if key not in _traced:
            _traced[key] = plain(groups, survey)
        return _traced[key]

    module.abstract_params = trace
    try:
        yield
    finally:
        module.abstract_params = plain

"""Velocity models in SEG-Y, read with segyio (an optional dependency)."""

from pathlib import Path

import numpy as np

from seisvel_jax.data.checks import finite_float32, sane_velocity
from seisvel_jax.errors import UserError
from seisvel_jax.logging import say

SUFFIXES = (".sgy", ".segy")


def read_segy_velocity(path: Path, most_nodes: int) -> np.ndarray:
    """The velocity model in a SEG-Y file of one line, `[depth, x]` float32 m/s: a trace is a column of the ground.

    Files hold m/s or km/s; what cannot be m/s and can be km/s is taken for that, and said. Headers are not asked for
    the spacing: depth has no field of its own in SEG-Y, and the same bytes mean mm, us or nothing in different files.
    Raises UserError naming the file, and how to install segyio.
    """
    try:
        import segyio
    except ImportError:
        raise UserError(f"{path}: reading SEG-Y needs segyio, which is not installed: pip install segyio") from None
    try:
        with segyio.open(path, strict=False, ignore_geometry=True) as file:
            traces, samples = int(file.tracecount), len(file.samples)
            if not 2 <= traces * samples <= most_nodes:
                raise UserError(
                    f"{path}: {traces} traces of {samples} samples, expected a model of at most {most_nodes} nodes: "
                    "cut a line out of it"
                )
            array = np.asarray(file.trace.raw[:], np.float32).reshape(traces, samples).T
    except UserError:
        raise
    except Exception as error:  # segyio has errors of its own, of values, of the file, for damaged headers
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not SEG-Y, or damaged ({reason}): write the file again") from error
    array = finite_float32(array, str(path))
    if float(array.min()) >= 0.1 and float(array.max()) <= 20:
        say(f"{path}: values {array.min():g} to {array.max():g} are taken for km/s")
        array = array * np.float32(1000)
    return sane_velocity(array, str(path), "m/s")

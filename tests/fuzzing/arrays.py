"""Array files that lie, that nobody expects, or that are far larger than they look."""

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from fuzzing.values import Draw


def header(draw: Draw) -> bytes:
    """A `.npy` file whose header may say anything."""
    shape = draw(st.lists(st.one_of(st.integers(-3, 70), st.integers(0, 2**66)), max_size=6).map(tuple))
    kinds = [
        "'<f4'",
        "'<f8'",
        "'>f8'",
        "'|O'",
        "'<c8'",
        "'<U9'",
        "'|V8'",
        "'<i2'",
        "'x'",
        "'<f16'",
        "3",
        "'|S0'",
        "'<M8'",
    ]
    text = draw(
        st.one_of(
            st.builds(
                lambda descr, order: f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}",
                st.sampled_from([*kinds, "[('a', '<f4')]", "'<f4', 'more': 1", "('<f4', (2**40,))", "'f4, f4'"]),
                st.sampled_from(["False", "True", "2"]),
            ),
            st.text(max_size=60),
            st.sampled_from(["(" * 3000, "{'a': " * 300, "9" * 6000, "-" * 5000 + "1", "{'shape': " + "1," * 9000]),
        )
    ).encode("utf-8", "surrogatepass")
    version = draw(st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x00\x07"]))
    size = len(text) + draw(st.sampled_from([0, 0, 0, -1, 1, 2**15, 2**31]))
    length = (size % 2**16).to_bytes(2, "little") if version == b"\x01\x00" else (size % 2**32).to_bytes(4, "little")
    return b"\x93NUMPY" + version + length + text + draw(st.binary(max_size=64))


def odd_array(draw: Draw) -> bytes:
    """A sound `.npy` file of numbers that nobody expects there."""
    shape = draw(st.lists(st.integers(0, 9), max_size=5).map(tuple))
    fill = draw(st.sampled_from([0.0, 2000.0, 2.0, -1.0, 1e300, 1e38, float("nan"), float("inf"), 3.4e38]))
    dtype = draw(
        st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i4", "<u8", "|b1", "<c8", "<U3", "<f16", "|S4", "<M8[s]"])
    )
    stream = io.BytesIO()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            array = np.full(shape, fill).astype(dtype)
        except (ValueError, TypeError, OverflowError):
            array = np.zeros(shape, dtype)
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def sparse(draw: Draw, path: Path) -> None:
    """A file that claims, and has, terabytes, on no disk space."""
    shape = draw(st.sampled_from([(2**38,), (5, 10**8, 31), (2**20, 2**15), (10**6, 1, 70, 70), (2**33, 5)]))
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    path.write_bytes(stream.getvalue())
    with contextlib.suppress(OSError):
        os.truncate(path, len(stream.getvalue()) + 4 * int(np.prod(shape, dtype=object)))


def bomb(draw: Draw) -> bytes:
    """Zeros that pack well: as many as a test can afford to make, under a header that claims as many or more."""
    shape = draw(st.sampled_from([(2**12, 2**11), (2**20, 2**19), (2**22,)]))
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(2**22)


def good(draw: Draw) -> bytes:
    """A model as it should be."""
    stream = io.BytesIO()
    np.save(stream, np.full((8, 8), draw(st.sampled_from([1.5, 2.0, 4.5]))))
    return stream.getvalue()

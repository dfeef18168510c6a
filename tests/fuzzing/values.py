"""Odd names and values, and damage to bytes and JSON. `draw` is hypothesis's: the same seed draws the same."""

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy], Any]
NAMES = st.one_of(
    st.sampled_from(
        [
            "..",
            "../out",
            "/tmp/out",
            "a/b",
            "a\\b",
            "",
            " ",
            ".hidden",
            "a\nb",
            "\x1b[31mred",
            "ö",
            "a" * 200,
            "\ufeff",
            "名前",
            "a\u202eb",
            "con",
            "-x",
            "%s",
            "{0}",
            "s1 ",
            "data1",
            "model1",
            "vp_model",
            "x_seis",
            "0123456789",
        ]
    ),
    st.text(max_size=12),
)
VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, 2**64, 10**30, -(10**30)]),
    st.sampled_from([0.0, -0.0, 1e-300, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 1.5]),
    st.sampled_from(["", "x", "1", "../x", "/etc/passwd", "a\nb", "float32", "VelocityNetConfig", "devito"]),
    st.sampled_from([[], {}, [[]], [None], {"a": 1}, [1, 2], [1.0] * 40, [[0, 0]] * 3, [[1]], [[[[]]]]]),
    st.integers(-3, 70),
    st.floats(),
)


def damaged(draw: Draw, content: bytes) -> bytes:
    """`content` with one to three faults, as often near its ends as anywhere."""
    for _ in range(draw(st.integers(1, 3))):
        size = len(content)
        place = draw(st.sampled_from(["head", "tail", "any"]))
        low, high = {"head": (0, min(size, 160)), "tail": (max(0, size - 160), size), "any": (0, size)}[place]
        at = draw(st.integers(low, max(low, high)))
        kind = draw(st.sampled_from(["cut", "flip", "flip", "flip", "bytes", "insert", "remove", "zeros", "repeat"]))
        some = draw(st.integers(1, 64))
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and at < size:
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif kind == "bytes":
            content = content[:at] + draw(st.binary(min_size=1, max_size=some)) + content[at + some :]
        elif kind == "insert":
            content = content[:at] + draw(st.binary(min_size=1, max_size=some)) + content[at:]
        elif kind == "remove":
            content = content[:at] + content[at + some :]
        elif kind == "zeros":
            content = content[:at] + bytes(some) + content[at + some :]
        elif kind == "repeat":
            content = content[:at] + content[max(0, at - some) :]
    return content


def changed(draw: Draw, values: Any) -> Any:
    """A JSON value with one to three leaves or branches replaced, removed, added or doubled."""
    values = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 3))):
        place, depth = values, 0
        while isinstance(place, dict | list) and place:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner) or (depth > 0 and draw(st.integers(0, 5)) == 0):
                kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "double"]))
                if kind == "replace":
                    place[key] = copy.deepcopy(draw(VALUES))
                elif kind == "remove":
                    del place[key]
                elif kind == "add" and isinstance(place, dict):
                    place[draw(st.sampled_from(["more", "kind", "version", "", "__class__"]))] = copy.deepcopy(
                        draw(VALUES)
                    )
                elif isinstance(place, list):
                    place.append(inner)
                break
            place, depth = inner, depth + 1
    return values


def json_text(draw: Draw, values: Any) -> bytes:
    """JSON with other values, or damaged, or of another kind altogether."""
    kind = draw(st.sampled_from(["changed", "changed", "changed", "damaged", "odd"]))
    if kind == "changed":
        return json.dumps(changed(draw, values)).encode()
    if kind == "damaged":
        return damaged(draw, json.dumps(values).encode())
    odd = [b"", b"null", b"[" * 100_000, b'{"a":' * 20_000, b"1" * 10_000, b"\xff\xfe", b"\x00" * 50, b"{}", b"[]"]
    return draw(st.sampled_from([*odd, b'"\\ud800"', b"NaN", b"1e999", b'{"version": 1e999}', b"-" * 99]))

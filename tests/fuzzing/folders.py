"""Mischief among the files of a folder."""

import contextlib
import os
from pathlib import Path

from hypothesis import strategies as st

from fuzzing.arrays import header, odd_array, sparse
from fuzzing.values import NAMES, Draw, damaged, json_text


def mischief(draw: Draw, folder: Path) -> None:
    """Do something to one or two of the files below `folder`."""
    for _ in range(draw(st.integers(1, 2))):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size < 2**24)
        if not files:
            return
        path = draw(st.sampled_from(files))
        kinds = ["damage"] * 5 + [
            "header",
            "array",
            "sparse",
            "remove",
            "folder",
            "link",
            "pipe",
            "swap",
            "rename",
            "json",
        ]
        kind = draw(st.sampled_from(kinds))
        if kind == "damage":
            path.write_bytes(damaged(draw, path.read_bytes()))
        elif kind == "header":
            path.write_bytes(header(draw))
        elif kind == "array":
            path.write_bytes(odd_array(draw))
        elif kind == "sparse":
            sparse(draw, path)
        elif kind == "json":
            path.write_bytes(json_text(draw, {"a": [1, 2]}))
        elif kind == "swap":
            other = draw(st.sampled_from(files))
            mine, others = path.read_bytes(), other.read_bytes()
            path.write_bytes(others)
            other.write_bytes(mine)
        elif kind == "rename":
            with contextlib.suppress(OSError, ValueError):
                path.rename(path.with_name(draw(NAMES) + draw(st.sampled_from(["", path.suffix]))))
        else:
            path.unlink()
            if kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind == "link":
                targets = [
                    "/etc/passwd",
                    "/dev/zero",
                    "/dev/null",
                    "/",
                    str(path),
                    str(path.parent),
                    "nowhere",
                    "../..",
                ]
                path.symlink_to(draw(st.sampled_from(targets)))

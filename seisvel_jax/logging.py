"""What the user sees while work goes on: progress with a rate and a finish time, and plain lines in a log file."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_silent = False


def silence(silent: bool) -> None:
    """Whether this process keeps quiet: of several that work as one only the first talks."""
    global _silent  # noqa: PLW0603
    _silent = silent


def progress(
    items: Iterable[T] | None, description: str, *, total: int | None = None, unit: str = "sample", initial: int = 0
) -> Any:
    """A progress bar on stderr with rate and finish time: iterate over it, or call `.update(n)` where items is None.

    Where stderr is no terminal a line is printed every ten seconds instead of a redrawn bar.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        unit_scale=False,
        initial=initial,
        dynamic_ncols=terminal,
        ncols=None if terminal else 100,
        mininterval=0.2 if terminal else 10.0,
        miniters=None if terminal else 1,
        ascii=None if terminal else True,
        file=sys.stderr,
        disable=_silent,
    )


def say(message: str) -> None:
    """A line to the user on stderr that does not tear a progress bar; stdout is for results."""
    if _silent:
        return
    with tqdm.external_write_mode(file=sys.stderr):
        print(message, file=sys.stderr, flush=True)


def chunks(count: int, size: int, start: int = 0) -> Iterator[range]:
    """`range`s of at most `size` that cover start..count-1 in order."""
    for first in range(start, count, size):
        yield range(first, min(first + size, count))

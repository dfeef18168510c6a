"""Running inputs through doors, each with a limit of time, all with one of memory."""

import contextlib
import faulthandler
import functools
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fuzzing.doors import DOORS
from fuzzing.sound import Sound
from fuzzing.values import Draw

SECONDS = 10.0
"""Of computing that an input may take; thirty times as many on the clock; the slowest honest ones trace a network."""
MEMORY = 1.5 * 2**30
"""Bytes of address space that all inputs together may take beyond what the program has when it begins."""


@dataclass
class Found:
    """What a run has done and found."""

    inputs: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


class Slow(BaseException):
    """An input took too long. No Exception, so that nothing on the way swallows it."""


def _too_slow(number: int, frame: Any) -> None:
    raise Slow


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Inside, an input that takes too long is ended by `Slow`."""
    before = {which: signal.signal(which, _too_slow) for which in (signal.SIGALRM, signal.SIGPROF)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Inside, the process may take `MEMORY` bytes beyond what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (int(used + MEMORY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(found: Found, name: str, door: Callable[[Draw, Path], None], place: Path, draw: Draw) -> None:
    """One input, with its limit of time."""
    found.inputs[name] += 1
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    begun = time.process_time()
    faulthandler.dump_traceback_later(40 * SECONDS, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 30 * SECONDS)
    try:
        door(draw, place)
    except Slow:
        raise AssertionError(f"{name}: not done within {SECONDS:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    found.slowest = max(found.slowest, (time.process_time() - begun, name))


def _with_draw(one: Callable[[Draw], None]) -> Callable:
    def run(data: Any) -> None:
        one(data.draw)

    return run


def fuzz(inputs: int, number: int, names: list[str], folder: Path) -> Found:
    """Run `inputs` inputs of seed `number`, shared out among the doors `names`."""
    found, sound = Found(), Sound(folder / "sound")
    for name in ("run", "pack"):  # what training and packing hold in memory counts as the program's
        if {"run": {"checkpoint", "signed"}, "pack": {"pack", "dataset"}}[name] & set(names):
            sound.made(name)
    total = sum(DOORS[name][1] for name in names)
    with limited_memory():
        for name in names:
            door, share = DOORS[name]
            use = functools.partial(door, sound=sound)
            one = functools.partial(attempt, found, name, use, folder / "input")
            run = seed(number)(
                settings(
                    max_examples=max(1, round(inputs * share / total)),
                    database=None,
                    deadline=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                )(given(st.data())(_with_draw(one)))
            )
            clock, computing = time.monotonic(), time.process_time()
            try:
                with limited_time():
                    run()
            except KeyboardInterrupt:
                raise
            except BaseException:
                found.problems.append(f"{name}: {traceback.format_exc()}")
            clock, computing = time.monotonic() - clock, time.process_time() - computing
            print(f"{name}: {found.inputs[name]} inputs, {clock:.0f} s ({computing:.0f} s computing)", flush=True)
    return found

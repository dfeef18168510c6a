"""A short form of tests/fuzz.py: in a process of its own, whose memory is limited."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import running
from fuzzing.doors import DOORS
from fuzzing.refusal import refused

ROOT = Path(__file__).resolve().parents[1]


def run(*words):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fuzz.py"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        cwd=ROOT,
    )
    assert done.returncode == 0 and ", 0 problems" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def test_several_hundred_hostile_inputs():
    assert "seed 5: " in run("--inputs", 400, "--seed", 5)


@pytest.mark.slow
def test_several_thousand_hostile_inputs():
    run("--inputs", 3000, "--seed", 6)


def test_the_fuzz_finds_what_is_planted(tmp_path):
    """A reader that believes a header, one that lets an error through, one that never ends: all are found."""

    def too_much():
        raise MemoryError

    def unforeseen():
        raise KeyError("a")

    for use in (too_much, unforeseen):
        with pytest.raises((MemoryError, KeyError)):
            refused(use)
    found = running.Found()
    seconds, running.SECONDS = running.SECONDS, 0.2
    try:
        with running.limited_time(), pytest.raises(AssertionError, match="not done within"):
            running.attempt(found, "endless", lambda draw, place: [None for _ in iter(int, 1)], tmp_path / "a", None)
    finally:
        running.SECONDS = seconds
    assert found.inputs["endless"] == 1


def test_every_door_has_a_share_of_a_hundred():
    assert sum(share for _, share in DOORS.values()) == 100

"""Commands begin again with huge pages where that is of use, once, and nothing else does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seisvel_jax import huge_pages
from seisvel_jax.huge_pages import TUNABLE, begin_again_with_huge_pages, wanted

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    return path


def test_wanted_where_kernel_and_library_give_them_to_those_who_ask(kernel, monkeypatch):
    assert wanted({}, kernel)
    assert not wanted({"GLIBC_TUNABLES": ""}, kernel), "the user has decided"
    for text in ("[always] madvise never\n", "always madvise [never]\n"):
        kernel.write_text(text)
        assert not wanted({}, kernel)
    kernel.write_text("always [madvise] never\n")
    for version, so in (
        ("glibc 2.34", False),
        ("glibc 2.35", True),
        ("glibc 3.0", True),
        ("musl", False),
        (None, False),
    ):
        monkeypatch.setattr(os, "confstr", lambda name, version=version: version)
        assert wanted({}, kernel) is so
    assert not wanted({}, kernel.parent / "missing")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not wanted({}, kernel)


def test_only_a_command_begins_again_and_only_once(monkeypatch):
    """This is pytest: nothing happens. As a command it is replaced by the same words, told the tunable besides."""
    called = []
    monkeypatch.setattr(os, "execve", lambda *words: called.append(words))
    monkeypatch.setattr(huge_pages, "wanted", lambda environment: "GLIBC_TUNABLES" not in environment)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    begin_again_with_huge_pages()
    assert not called
    monkeypatch.setattr(huge_pages, "started_as_a_command", lambda: True)
    begin_again_with_huge_pages()
    ((program, words, environment),) = called
    assert (
        program == sys.executable
        and words == sys.orig_argv
        and environment == {**os.environ, "GLIBC_TUNABLES": TUNABLE}
    )
    monkeypatch.setenv("GLIBC_TUNABLES", TUNABLE)
    begin_again_with_huge_pages()
    assert len(called) == 1
    monkeypatch.delenv("GLIBC_TUNABLES")

    def fails(*words):
        raise OSError("no exec here")

    monkeypatch.setattr(os, "execve", fails)
    begin_again_with_huge_pages()


def test_a_real_command_says_the_same_and_leaves_with_the_same_code(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    words = [sys.executable, "-m", "seisvel_jax.inspect", str(tmp_path / "nowhere")]
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {tmp_path / 'nowhere'}: no such file or folder: check the path\n"

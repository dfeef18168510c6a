"""Strict JAX flags for the whole suite, and the places of data that may be absent."""

import os
import sys
from pathlib import Path

os.environ.setdefault("SEISVEL_TYPECHECK", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest
from training_support import StraightRun, quick_compilation, run_straight, write_data

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_threefry_partitionable", True)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the reference data are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="module")
def quickly():
    """Compile with little optimisation."""
    with quick_compilation():
        yield


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Path:
    """Where compiled programs are kept for all who want them."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def programs(compiled):
    """Compile with little optimisation, each program once; where the programs are, for other processes."""
    with quick_compilation(compiled):
        yield compiled


@pytest.fixture
def double():
    """Compute in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The tiny experiment's samples: to be read only."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def straight(compiled, data, tmp_path_factory) -> StraightRun:
    """The tiny experiment trained without interruption: to be read only."""
    with quick_compilation(compiled):
        return run_straight(data, tmp_path_factory.mktemp("straight"))


@pytest.fixture
def own_argv(monkeypatch):
    """The command line is put back: commands run in this process set it."""
    monkeypatch.setattr(sys, "argv", ["pytest"])

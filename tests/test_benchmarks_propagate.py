"""The comparison of solvers: what it compares is right, what it says follows from what it measured."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from rivals import cases, report, roofline
from rivals.compiled import PlainC
from rivals.driver import Contender, Failed, Worker
from rivals.worker import compare

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler `cc`")


@needs_compiler
@pytest.mark.parametrize(("order", "speed", "largest"), [(4, 3000.0, 0.01), (8, 1500.0, 0.01)])
def test_plain_c_solves_the_wave_equation(order, speed, largest):
    case = cases.homogeneous(speed, 0)
    solver = PlainC(case, order, 1, "cpu")
    found = solver.gathers(solver.forward())
    assert found.shape == (1, 1, 1000, len(case.receivers))
    error = compare(found[0, 0].astype(float), cases.analytic(case, speed))
    assert error["l2"] < largest and error["shift"] == 0 and error["scale"] == pytest.approx(1, abs=2e-3)


@needs_compiler
def test_plain_c_sends_little_back():
    small, large = (
        PlainC(cases.homogeneous(3000.0, margin), 8, 1, "cpu").forward()[0, 0].astype(float) for margin in (0, 150)
    )
    assert 20 * np.log10(np.abs(small - large).max() / np.abs(large).max()) < -61  # -63 as it is


@needs_compiler
def test_plain_c_in_two_threads_and_substeps():
    base = cases.homogeneous(2500.0, 0)
    case = dataclasses.replace(base, nt=300, sources=np.asarray([[1, 5], [1, 35], [1, 60]]))
    one, two = (PlainC(case, 4, threads, "cpu").forward() for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    finer = PlainC(dataclasses.replace(case, substeps=2), 4, 1, "cpu").forward()
    assert np.linalg.norm(finer - one) < 0.02 * np.linalg.norm(one)


@needs_compiler
def test_worker_answers_and_says_why_it_cannot():
    worker = Worker("C", threads=1, device="cpu", cores=[])
    try:
        assert worker.ask("version")["version"].startswith("plain C")
        with pytest.raises(Failed, match="no_such_request"):
            worker.ask("no_such_request")
    finally:
        worker.close()


@needs_compiler
def test_a_worker_that_dies_is_reported_and_stays_dead():
    worker = Worker("C", threads=1, device="cpu", cores=[])
    try:
        worker.process.kill()
        worker.process.wait()
        for _ in range(2):
            with pytest.raises(Failed, match="process ended with -9"):
                worker.ask("version")
    finally:
        worker.close()


@needs_compiler
def test_answers_of_several_processes_stay_in_step():
    case = cases.CASES["openfwi-1"]
    pair = Contender("C", case, 4, 2, "cpu", processes=True)
    try:
        assert len(pair.workers) == min(2, len(os.sched_getaffinity(0)))
        with pytest.raises(Failed, match="no gradient"):
            pair.ask("first", mode="gradient", save="")
        assert [answer["has_gradient"] for answer in pair.ask("version")] == [False] * len(pair.workers)
    finally:
        pair.close()


def test_compare_finds_shift_and_factor():
    signal = np.sin(np.arange(200) / 7.0)[:, None] * np.exp(-(((np.arange(200) - 100) / 30.0) ** 2))[:, None]
    found = compare(np.roll(signal, 2, axis=0) / 3, signal)
    assert found["l2"] < 1e-6 and found["shift"] == 2 and found["scale"] == pytest.approx(3)
    assert found["unshifted_l2"] > 0.5


def test_parts_share_out_the_shots():
    case = cases.CASES["openfwi-1"]
    parts = [case.part(k, 2).sources for k in range(2)]
    assert [len(part) for part in parts] == [3, 2]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)[:, 1]), case.sources[:, 1])


def test_models_are_within_what_the_grid_carries():
    for case in cases.CASES.values():
        if not cases.missing(case):
            velocity = case.velocity()
            courant = velocity.max() * case.dt / case.substeps / case.spacing
            assert courant < 0.54, case.name  # order 8 allows 0.5546
            for nodes in (case.sources, case.receivers):
                assert (nodes >= 0).all() and (nodes < velocity.shape[1:]).all(), case.name


def test_steps_are_the_same_for_all():
    from seisvel_jax.survey import from_arrays
    from seisvel_jax.wave.plan import make_plan
    from seisvel_jax.wave.scheme import Scheme

    for case in cases.CASES.values():
        if cases.missing(case):
            continue
        velocity = case.velocity()
        places = ([[x * case.spacing, z * case.spacing] for z, x in nodes] for nodes in (case.sources, case.receivers))
        survey = from_arrays(
            *places, case.wavelet(), dt=case.dt, nt=case.nt, shape=velocity.shape[1:], spacing=case.spacing
        )
        for order in case.orders:
            assert make_plan(survey, float(velocity.max()), Scheme(order=order)).substeps == case.substeps


def test_roofline_takes_the_level_that_holds_the_fields(monkeypatch):
    monkeypatch.setattr(roofline, "cache_bytes", lambda: (1 << 20, 32 << 20))
    machine = {"L2 GB/s": 160.0, "L3 GB/s": 80.0, "memory GB/s": 16.0, "GFLOP/s": 75.0}
    assert roofline.attainable(machine, 90 * 90, 4, "forward") == (5e9, "L2")  # 75 / 15: operations bind
    assert roofline.attainable(machine, 90 * 90, 8, "forward") == (3e9, "L2")
    assert roofline.attainable(machine, 1279 * 320, 4, "gradient") == (pytest.approx(80e9 / 48), "L3")
    assert roofline.attainable(machine, 10**7, 4, "forward") == (1e9, "memory")


def accuracy_row(solver, l2, order=4):
    error = {"l2": l2, "shift": 0, "scale": 1.0, "unshifted_l2": l2}
    return {"solver": solver, "order": order, "speed": 1500.0, "error": error, "interior": error, "echo_db": -50.0}


def timing_row(solver, ms, **more):
    row = {"case": "openfwi-1", "order": 4, "threads": 2, "mode": "forward", "solver": solver, "ms_per_shot": ms}
    row |= {
        "quartiles_ms": [ms, ms],
        "repeats": 3,
        "cpu_ms_per_shot": ms,
        "mcells_per_second": 1.0,
        "peak_mb": 1.0,
        "compile_s": 0.0,
    }
    return row | more


def test_page_marks_what_is_not_at_equal_accuracy():
    accuracy = [accuracy_row("ours", 0.01), accuracy_row("devito", 0.016), accuracy_row("C", 0.0149)]
    assert report.not_equal(accuracy) == {("devito", 4)}
    result = {
        "complete": False,
        "command": "python benchmarks/propagate.py",
        "date": "2026-01-01",
        "commit": "abc",
        "hardware": "a machine",
        "load_start": (0.0, 0.0, 0.0),
        "load_end": (1.0, 1.0, 1.0),
        "minutes": 1.0,
        "versions": {"ours": "seisvel_jax"},
        "skipped": [{"what": "deepwave", "why": "not installed"}],
        "roofline": {"2": {"L2 GB/s": 100.0}},
        "accuracy": accuracy,
        "timings": [timing_row("ours", 5.0), timing_row("devito", 4.0), timing_row("C", 8.0)],
    }
    page = report.markdown(result)
    assert "| openfwi-1 | 2 cores | 4 | forward | **5.00** | 4.00\\* (0.80x) | 8.00 (1.60x) | plain C 1.60x |" in page
    assert "Not complete" in page and "deepwave: not installed" in page

"""The refine command on tiny surveys: formats, grids, resume, and everything that can go wrong on the way."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from training_support import quick_compilation

from seisvel_jax.data.coarsen import add_correction, to_solver
from seisvel_jax.data.writers import write_challenge_sample, write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.inference import refine_state
from seisvel_jax.inference.refined import (
    Refiner,
    Settings,
    live,
    relative_residual,
    simulated,
    solver_survey,
    water_above,
)
from seisvel_jax.inversion.config import InversionConfig
from seisvel_jax.inversion.iterate import gradient_free
from seisvel_jax.refine import Refine, refine, settings_of
from seisvel_jax.survey import Boundary, Grid, Survey, ricker, speed_and_structure

SURVEY = Survey(
    sources=np.asarray([[0, 10], [150, 10]], np.float32),
    receivers=np.asarray([[10 * i, 10] for i in range(16)], np.float32),
    wavelet=100 * ricker(15.0, 2e-3, 150, 0.07),
    dt=2e-3,
    nt=150,
    grid=Grid(12, 16, 10.0),
    boundary=Boundary("openfwi", 100.0, (110.0, 150.0)),
    record_start=1,
    name="tiny",
)
COUNT = 3


@pytest.fixture(autouse=True, scope="module")
def quick(tmp_path_factory):
    with quick_compilation(tmp_path_factory.mktemp("programs")):
        yield


def models(count: int = COUNT, grid: Grid = SURVEY.grid) -> np.ndarray:
    """Water above a step at another depth in each model, `[count, depth, x]`."""
    depth = np.arange(grid.depth_count)[:, None] * grid.spacing
    below = np.linspace(2000, 2300, grid.x_count)[None]
    return np.stack([np.where(depth < 40 + 10 * i, 1500, below + 20 * i) for i in range(count)]).astype(np.float32)


def starts(true: np.ndarray) -> np.ndarray:
    return np.where(true == 1500, 1500, np.clip(true - 120, 1500, 4500)).astype(np.float32)


@pytest.fixture(scope="module")
def gathers() -> np.ndarray:
    return simulated(models(), SURVEY, 4500.0)


@pytest.fixture
def place(tmp_path, gathers) -> Path:
    """Gathers of OpenFWI's layout, their last row zero, and a start in each format; no true models."""
    write_openfwi(tmp_path / "all", 1, np.concatenate([gathers[:, :, :-1], 0 * gathers[:, :, -1:]], 2), models())
    (tmp_path / "data").mkdir()
    (tmp_path / "all" / "data" / "data1.npy").rename(tmp_path / "data" / "seis.npy")
    write_survey(tmp_path / "data", SURVEY)
    np.save(tmp_path / "velocity.npy", starts(models())[:, None])
    lateral_first = {f"seis-{i:03d}": v.T.astype(np.float64) / 1000 for i, v in enumerate(starts(models()))}
    np.savez(tmp_path / "submission.npz", **lateral_first)
    return tmp_path


def options(place: Path, output: str = "out.npy", **changes) -> Refine:
    given = {"data": place / "data", "start": place / "velocity.npy", "output": place / output, "iterations": 6}
    return Refine(**{**given, "batch_size": 2, **changes})


def test_the_answer_fits_better_and_water_stays(place, capsys):
    refine(options(place, figures=place / "figures", figure_count=1))
    shown = capsys.readouterr()
    found, start = np.load(place / "out.npy", allow_pickle=False), starts(models())
    assert found.shape == (COUNT, 1, 12, 16) and found.dtype == np.float32
    table = json.loads((place / "out.json").read_text())
    assert [row["name"] for row in table["samples"]] == ["seis-000", "seis-001", "seis-002"]
    assert "seis-001" in shown.out and "mean" in shown.out and "evaluation" in shown.err
    assert table["settings"]["iterations"] == 6 and table["settings"]["misfit"] == "l2"
    # The misfit in the table is that of the file: half the residual's share of the energy, the last row not counting.
    observed = np.load(place / "data" / "seis.npy", allow_pickle=False)
    for velocities, which in ((start, "misfit_before"), (found[:, 0], "misfit_after")):
        residual = (simulated(velocities, SURVEY, 4500.0) - observed)[:, :, :-1]
        share = 0.5 * np.square(residual).sum((1, 2, 3)) / np.square(observed).sum((1, 2, 3))
        np.testing.assert_allclose([row[which] for row in table["samples"]], share, rtol=1e-3)
    assert all(row["misfit_after"] < 0.5 * row["misfit_before"] for row in table["samples"])
    water = water_above(start, 10.0)  # to 30 m above the seabed
    assert water.sum((1, 2)).tolist() == [16, 32, 48] and (found[:, 0][water] == 1500).all()
    assert np.abs(found[:, 0] - models()).mean() < np.abs(start - models()).mean()
    assert (place / "figures" / "seis-000.png").stat().st_size > 10_000
    assert sorted(p.name for p in place.glob("*out*")) == ["out.json", "out.npy"]


def test_a_submission_gives_a_submission_and_one_file_of_gathers_will_do(place):
    refine(options(place))
    changes = {"data": place / "data" / "seis.npy", "start": place / "submission.npz", "limit": 2}
    refine(options(place, "out.npz", **changes))
    with np.load(place / "out.npz", allow_pickle=False) as archive:
        assert archive.files == ["seis-000", "seis-001"]
        assert archive["seis-001"].shape == (16, 12) and archive["seis-001"].dtype == np.float64
        straight = np.load(place / "out.npy", allow_pickle=False)
        np.testing.assert_allclose(1000 * archive["seis-001"].T, straight[1, 0], atol=0.01)


def test_interrupted_and_resumed_equals_straight(place, monkeypatch, capsys):
    from seisvel_jax.inference import refined

    refine(options(place, "straight.npz"))
    invert, calls = refined.invert, []

    def stopping(*args, on_step, **kwargs):
        calls.append(1)

        def step(told):
            on_step(told)
            if len(calls) == 2 and told.evaluation == 4:
                raise KeyboardInterrupt

        return invert(*args, on_step=step, **kwargs)

    monkeypatch.setattr(refined, "invert", stopping)
    monkeypatch.setattr(refined, "SAVE_EVERY", -1.0)
    with pytest.raises(KeyboardInterrupt):
        refine(options(place, "out.npz"))
    assert not (place / "out.npz").exists() and (place / "out.npz.part").is_dir()
    # Other settings are refused with the difference, and what is done is kept.
    with pytest.raises(UserError, match=r"out.npz.part: .*iterations 6, now 7.*remove that folder"):
        refine(options(place, "out.npz", iterations=7))
    other = np.load(place / "velocity.npy", allow_pickle=False)
    np.save(place / "other.npy", other + 1)
    with pytest.raises(UserError, match="other start"):
        refine(options(place, "out.npz", start=place / "other.npy"))
    refine(options(place, "out.npz"))
    said = capsys.readouterr().err
    assert "2 of 3 samples are done already" in said and "4 evaluations of this batch are done" in said
    assert len(calls) == 3
    assert (place / "out.npz").read_bytes() == (place / "straight.npz").read_bytes()
    assert not (place / "out.npz.part").exists()


def test_the_record_of_a_batch_comes_back_or_the_batch_is_begun_anew(tmp_path, capsys):
    """Bit for bit; damaged, or with counts that no inversion has, it is none."""
    config, file, shape = InversionConfig(), tmp_path / "state.npy", (2, 4, 4)
    state = refine_state._empty(shape, config)
    state.evaluations, state.stage, state.best = 3, 1, np.random.default_rng(0).normal(size=shape).astype(np.float32)
    state.history = {name: [np.full(2, k, np.float32) for k in range(3)] for name in refine_state.HISTORY}
    refine_state.save(file, state)
    found = refine_state.read(file, shape, config)
    assert found is not None and (found.evaluations, found.stage) == (3, 1) and found.lowest is None
    np.testing.assert_array_equal(found.best, state.best)
    np.testing.assert_array_equal(found.history["misfit"], state.history["misfit"])
    values = np.load(file, allow_pickle=False)
    for place, value, said in ((40, 7.0, "checksum"), (1, -1.0, "whole numbers"), (0, np.inf, "whole numbers")):
        other = values.copy()
        other[place] = value
        if said != "checksum":
            other[-1] = refine_state._checksum(other[:-1])
        np.save(file, other)
        assert refine_state.read(file, shape, config) is None
        assert said in capsys.readouterr().err
    np.save(file, values[:-9])
    assert refine_state.read(file, shape, config) is None


def test_shards_and_a_last_look_make_what_one_command_makes(place, monkeypatch, capsys):
    """A batch each for two hosts, none for a third; the last look refines nothing."""
    from seisvel_jax.inference import refined

    refine(options(place, "straight.npz"))
    for shard in ((1, 3), (2, 3), (0, 3)):
        refine(options(place, "out.npz", shard=shard))
        assert not (place / "out.npz").exists() and not (place / "out.json").exists()
    kept = sorted(path.name for path in (place / "out.npz.part").glob("velocity_*"))
    assert kept == [f"velocity_{index:06d}.npy" for index in range(COUNT)]
    assert "shard 1 of 3: done" in capsys.readouterr().err
    monkeypatch.setattr(refined, "invert", None)
    with pytest.raises(UserError, match="batch_size 2, now 1"):  # another division would be another batch
        refine(options(place, "out.npz", batch_size=1, shard=(0, 3)))
    refine(options(place, "out.npz"))
    assert (place / "out.npz").read_bytes() == (place / "straight.npz").read_bytes()
    table, straight = (json.loads((place / f"{name}.json").read_text())["samples"] for name in ("out", "straight"))
    assert [row["misfit_after"] for row in table] == [row["misfit_after"] for row in straight]
    with pytest.raises(UserError, match="--shard 3 3: expected I N with 0 <= I < N"):
        refine(options(place, "other.npz", shard=(3, 3)))


def test_the_method_network_takes_its_error_out(gathers):
    """A network that answers 60 m/s too low everywhere: one step of strength 1 from its answer finds the truth."""
    true = models()
    asked = []

    def network(given):
        asked.append(given.shape)
        # Of what ground the gathers are is told by comparing them: this fake knows the models it may see.
        known = np.concatenate([true, true - 60, true - 120])
        seen = simulated(known, SURVEY, 4500.0)
        nearest = [np.argmin([np.square(one - other).sum() for other in seen]) for one in given]
        return (known[nearest] - 60)[None]

    mask = np.ones((COUNT, *SURVEY.gather_shape), np.float32)
    found = gradient_free(
        network, gathers, true - 60, SURVEY, strength=1.0, iterations=1, bounds=(1300, 4500), mask=mask
    )
    np.testing.assert_allclose(found.velocity, true, atol=1e-3)
    assert (found.misfit_after < 1e-6).all() and (found.misfit_before > 1e-3).all() and asked == [gathers.shape]
    # A step in the wrong direction is never taken; shorter ones are tried along it, without asking again.
    asked.clear()
    wrong = gradient_free(lambda given: network(given) + 300, gathers, true, SURVEY, iterations=3, bounds=(1300, 4500))
    assert (wrong.velocity == true).all() and (wrong.misfit_after == wrong.misfit_before).all() and len(asked) == 1
    assert wrong.history["misfit"].shape == (4, COUNT) and (wrong.history["misfit"][1:] > wrong.misfit_before).all()
    assert (np.diff(wrong.history["misfit"], axis=0)[1:] < 0).all()
    with pytest.raises(UserError, match="strength 2"):
        gradient_free(network, gathers, true, SURVEY, strength=2.0)


def test_a_correction_keeps_what_is_finer():
    fine, coarse = Grid(20, 15, 1.0), Grid(4, 3, 5.0)
    rough = (2000 + 200 * np.random.default_rng(0).standard_normal((1, 20, 15))).astype(np.float32)
    rough[:, :6] = 1500
    solved = to_solver(rough, fine, coarse)
    assert solved.shape == (1, 4, 3) and solved.dtype == np.float32
    assert to_solver(rough, fine, fine) is rough  # and as fine but further: the last values go on
    np.testing.assert_array_equal(to_solver(rough, fine, Grid(21, 17, 1.0))[0, 20, 13:], rough[0, 19, [13, 14, 14, 14]])
    assert (add_correction(rough, 0 * solved, fine, coarse, (1500, 4500)) == rough).all()
    step = np.zeros_like(solved)
    step[0, 2:] = 100
    moved = add_correction(rough, step, fine, coarse, (1500, 4500))
    np.testing.assert_allclose((moved - rough)[0, 10:], 100, atol=1e-3)
    np.testing.assert_allclose((moved - rough)[0, 7], 40, atol=1e-3)
    # Bounds hold what is moved and leave alone what lay beyond them before.
    limited = add_correction(rough, 20 * step, fine, coarse, (1500, 2100))
    assert (limited[0, 12:] == np.maximum(rough, 2100)[0, 12:]).all() and (limited[0, :6] == 1500).all()


def test_the_challenge_is_solved_coarsely_behind_the_width_asked_for():
    solved = solver_survey(speed_and_structure(), Settings(sponge_width=500.0))
    assert solved.grid == Grid(253, 61, 5.0) and solved.dt == 1e-3 and solved.nt == 1001  # as far as 1258 and 299 m
    assert solved.boundary == Boundary("devito", 500.0, (1258.0, 299.0))
    assert solver_survey(SURVEY, Settings()) == SURVEY
    with pytest.raises(UserError, match="--sponge-width: the boundary of survey tiny is 'openfwi'"):
        solver_survey(SURVEY, Settings(sponge_width=500.0))
    dead = np.ones((1, *SURVEY.gather_shape), np.float32)
    dead[0, 1] = 0
    dead[0, 0, :, 3] = 0
    mask = live(dead, SURVEY)
    assert not mask[0, 1].any() and not mask[0, 0, :, 3].any() and not mask[:, :, -1].any()
    assert mask.sum() == 15 * (SURVEY.nt - 1)


def test_the_true_model_of_a_look_alike_explains_its_gathers(shared_data):
    """Made by other tools at 1 m and 0.1 ms, solved on 5 m and 1 ms: 0.2 % of amplitude, late rows too."""
    with np.load(shared_data / "challenge_like" / "compact" / "sample_011.npz", allow_pickle=False) as archive:
        observed, true = archive["gathers"][None], 1000 * archive["vp"].T[None].astype(np.float32)
    refiner = Refiner(speed_and_structure(dt=1e-3), Settings(sponge_width=350.0))
    solved = to_solver(true, refiner.data_survey.grid, refiner.survey.grid)
    predicted = refiner.simulate(solved)
    late = np.ones_like(observed)
    late[:, :, :450] = 0
    assert np.sqrt(relative_residual(predicted, observed, np.ones_like(observed))[0]) < 3e-3
    assert np.sqrt(relative_residual(predicted, observed, late)[0]) < 0.05


def test_the_width_of_the_challenges_sponge_is_estimated(tmp_path, capsys, monkeypatch):
    """A coarser relative of the challenge, so that it is cheap: data behind 500 m, written without a survey.json."""
    from seisvel_jax.data import challenge
    from seisvel_jax.inference import refined

    survey = speed_and_structure(spacing=20.0, dt=4e-3, sponge=500.0)
    survey = dataclasses.replace(survey, wavelet=ricker(6.0, 4e-3, survey.nt, 1 / 6))
    true = models(1, survey.grid)
    write_challenge_sample(tmp_path / "data", "one", simulated(true, survey, 4500.0)[0], None)
    np.savez(tmp_path / "start.npz", one=starts(true)[0].T.astype(np.float64) / 1000)
    given = Refine(tmp_path / "data", tmp_path / "start.npz", tmp_path / "out.npz", iterations=2, grid_spacing=20.0)
    coarse = dataclasses.replace(survey, boundary=dataclasses.replace(survey.boundary, width=350.0))
    monkeypatch.setattr(challenge.ChallengeDataset, "_survey_of_files", lambda self: coarse)
    monkeypatch.setattr(refined, "SPONGE_WIDTHS", (500.0,))  # and the survey's own 350: each costs a compilation
    refine(given)
    assert "sponge: 500 m fits the starts of 1 samples best" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["settings"]["sponge_width"] == 500.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "--iterations: 0"),
        ({"batch_size": 0}, "--batch-size: 0"),
        ({"limit": 0}, "--limit: 0"),
        ({"strength": 1.5}, "--strength: 1.5"),
        ({"prior_weight": -1.0, "prior": "tv"}, "prior_weight -1.0"),
        ({"bounds": (4000.0, 1500.0)}, "bounds"),
        ({"grid_spacing": -5.0}, "--grid-spacing -5.0"),
        ({"sponge_width": 500.0}, "--sponge-width"),
        ({"survey": "openfwi"}, "survey 'tiny'.*leave --survey out"),
        ({"survey": "elsewhere"}, "--survey elsewhere: expected openfwi"),
        ({"method": "network"}, "needs a trained run"),
        ({"data": "nowhere"}, "nowhere: no such"),
        ({"data": "empty"}, "empty: an empty folder"),
        ({"start": "nowhere.npy"}, "nowhere.npy: no such"),
        ({"start": "empty"}, "empty: an empty folder"),
        ({"start": "bad.csv"}, "every second column"),
        ({"start": "nan.npy"}, "nan.npy: sample 1: 1 of 192 values are NaN"),
        ({"start": "short.npz"}, "short.npz: truncated"),
        ({"start": "few.npy"}, "few.npy: 2 models, expected 3"),
        ({"start": "wide.npy"}, r"wide.npy: .*shape \(12, 40\).*expected \(12, 16\)"),
        ({"start": "kilometres.npy"}, "look like km/s"),
        ({"start": "others.npz"}, "others.npz: no model for 1 of 3 samples of .*: seis-002"),
        ({"output": "out.csv"}, "out.csv: a competition file"),
        ({"output": "out.txt"}, "ending in '.txt'"),
        ({"output": "empty.npy"}, "empty.npy: a folder stands"),
        ({"output": "velocity.npy"}, "velocity.npy: is --start too"),
        ({"output": "/proc/out.npy"}, "cannot be written"),
        ({"figures": "velocity.npy"}, "a file stands where the folder for figures"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(place, changes, message):
    good = np.load(place / "velocity.npy", allow_pickle=False)
    bad = good.copy()
    bad[1, 0, 3, 4] = np.nan
    np.save(place / "nan.npy", bad)
    np.save(place / "few.npy", good[:2])
    np.save(place / "wide.npy", np.tile(good, (1, 1, 1, 3))[..., :40])
    np.save(place / "kilometres.npy", good / 1000)
    np.savez(place / "others.npz", **{f"seis-{i:03d}": good[0, 0].T / 1000 for i in (0, 1, 7)})
    (place / "short.npz").write_bytes((place / "submission.npz").read_bytes()[:-200])
    (place / "bad.csv").write_text("oid_ypos\n")
    (place / "empty").mkdir()
    (place / "empty.npy").mkdir()
    before = sorted(place.rglob("*"))
    paths = {name: place / str(changes[name]) for name in ("data", "start", "output", "figures") if name in changes}
    with pytest.raises(UserError, match=message):
        refine(options(place, **{**changes, **paths}))
    assert sorted(place.rglob("*")) == before
    assert (np.load(place / "velocity.npy", allow_pickle=False) == good).all()


def test_settings_of_the_command_line():
    given = Refine(Path("a"), Path("b"), Path("c"), prior="tv", misfit="l1", frequencies=(5.0, 10.0))
    settings = settings_of(given)
    assert settings.inversion.prior == "tv" and settings.inversion.prior_weight > 0
    assert settings.inversion.frequencies == (5.0, 10.0) and settings.keep_water
    assert settings_of(dataclasses.replace(given, method="network")).inversion.iterations == 3


@pytest.mark.slow
def test_killed_and_run_again(place):
    """SIGTERM in a process of its own: one line, no traceback, and the second run has the straight run's bytes."""
    command = [sys.executable, "-m", "seisvel_jax.refine", "--data", place / "data", "--start", place / "velocity.npy"]
    command += ["--batch-size", "1", "--iterations", "100"]

    def start(output: str) -> subprocess.Popen:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        words = [str(word) for word in (*command, "--output", place / output)]
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)

    process = start("out.npz")
    part, deadline = place / "out.npz.part", time.monotonic() + 300
    while not list(part.glob("history_*.npy")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "interrupted" in message and "Traceback" not in message
    assert not (place / "out.npz").exists() and part.is_dir()
    for output in ("out.npz", "straight.npz"):
        process = start(output)
        process.communicate(timeout=600)
        assert process.returncode == 0
    assert (place / "out.npz").read_bytes() == (place / "straight.npz").read_bytes()


def test_what_fits_worse_at_full_size_is_shortened_or_dropped(monkeypatch, gathers):
    """Solved on 20 m for models of 10 m: of three corrections one fits, one only when it is halved, one never."""
    from seisvel_jax.inference import refined

    true, before = models(), np.ones(COUNT)

    def invert(observed, start, survey, config, **kwargs):
        assert observed.shape == gathers.shape and start.shape == (COUNT, 7, 9) and survey.grid.spacing == 20.0
        return SimpleNamespace(
            velocity=start + 100,
            misfit_before=before,
            misfit_after=0.1 * before,
            history={"misfit": before[None]},
            evaluations=1,
        )

    def misfit(self, velocity, observed, mask):
        moved = (velocity - true)[:, -1].mean(1)
        return np.where(moved < np.array([200, 60, -1]), 0.5, 2.0)

    monkeypatch.setattr(refined, "invert", invert)
    monkeypatch.setattr(refined.Refiner, "misfit", misfit)
    found = refined.Refiner(SURVEY, Settings(spacing=20.0))(gathers, true)
    assert found.misfit_after.tolist() == [0.5, 0.5, 1.0] and (found.misfit_before == 1).all()
    assert (found.velocity[2] == true[2]).all()
    np.testing.assert_allclose((found.velocity - true)[:2, -1].mean(1), [100, 50], atol=1e-3)
    kept = water_above(true, 10.0)
    assert kept.any() and (found.velocity[kept] == 1500).all()

"""The simulate command: files as the readers want them, the same result however it was batched or interrupted."""

import dataclasses
import json

import numpy as np
import pytest

from seisvel_jax.data.coarsen import effective_velocity, solving_survey
from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.errors import UserError
from seisvel_jax.simulate import Simulate, simulate, simulate_dataset, survey_of
from seisvel_jax.simulation import simulator
from seisvel_jax.simulation.ground import read_model
from seisvel_jax.simulation.velocities import ArrayVelocities
from seisvel_jax.survey import openfwi, ricker, speed_and_structure
from seisvel_jax.wave.propagate import propagate


def tiny_survey():
    survey = openfwi(x_count=12)
    return dataclasses.replace(
        survey,
        nt=100,
        wavelet=100 * ricker(15.0, 1e-3, 100, 0.05),
        grid=dataclasses.replace(survey.grid, depth_count=10),
        boundary=dataclasses.replace(survey.boundary, width=100.0, start=(90.0, 110.0)),
        name="tiny",
    )


def random_velocity(count, survey=None, seed=0):
    grid = (survey or tiny_survey()).grid
    return np.random.default_rng(seed).integers(1500, 3500, (count, *grid.shape)).astype(np.float32)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.npy")}


@pytest.mark.parametrize("layout", ["challenge", "openfwi"])
def test_written_data_set_reads_back(tmp_path, layout):
    survey, velocity = tiny_survey(), random_velocity(5)
    assert simulate_dataset(velocity, survey, layout, tmp_path / "set", batch_size=2, file_size=3) == 5
    dataset = open_dataset(tmp_path / "set")
    assert len(dataset) == 5 and dataset.survey.gather_shape == (5, 100, 12)
    expected = np.array(propagate(velocity, survey, max_velocity=4500.0))
    if layout == "openfwi":
        expected[:, :, -1] = 0
        assert (np.load(tmp_path / "set" / "data" / "data1.npy")[:, :, -1] == 0).all()
        assert len(np.load(tmp_path / "set" / "data" / "data2.npy")) == 2
    for i in range(5):
        np.testing.assert_allclose(dataset.gathers(i), expected[i], atol=1e-5 * np.abs(expected).max())
        np.testing.assert_allclose(dataset.velocity(i), velocity[i], rtol=1e-6)
    # Nothing is simulated twice.
    before = files_of(tmp_path)
    assert simulate_dataset(velocity, survey, layout, tmp_path / "set", batch_size=4, file_size=3) == 0
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("layout", ["challenge", "openfwi"])
def test_interrupted_and_rebatched_runs_give_the_same_files(tmp_path, layout, monkeypatch):
    survey, velocity = tiny_survey(), random_velocity(6)
    velocity[4, 5, 5] = 6500  # needs a shorter time step, which must not touch its neighbours
    simulate_dataset(velocity, survey, layout, tmp_path / "straight", batch_size=4, file_size=2)

    from seisvel_jax.data import writers

    name = "write_challenge_sample" if layout == "challenge" else "write_openfwi"
    write, calls = getattr(writers, name), []

    def stop_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(writers, name, stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(velocity, survey, layout, tmp_path / "stopped", batch_size=3, file_size=2)
    monkeypatch.undo()
    left = simulate_dataset(velocity, survey, layout, tmp_path / "stopped", batch_size=3, file_size=2)
    assert left == (5 if layout == "challenge" else 4)
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "straight")


@pytest.mark.parametrize("layout", ["challenge", "openfwi"])
def test_shards_together_make_what_one_run_makes(tmp_path, layout):
    survey, velocity = tiny_survey(), random_velocity(5)
    simulate_dataset(velocity, survey, layout, tmp_path / "straight", batch_size=2, file_size=2)
    new = [
        simulate_dataset(velocity, survey, layout, tmp_path / "set", batch_size=2, file_size=2, shard=(i, 4))
        for i in (2, 0, 1, 3)
    ]
    assert new == ([1, 2, 1, 1] if layout == "challenge" else [1, 2, 2, 0])
    assert files_of(tmp_path / "set") == files_of(tmp_path / "straight")
    for shard in ((0, 0), (2, 2), (-1, 2)):
        with pytest.raises(UserError, match="--shard"):
            simulate_dataset(velocity, survey, layout, tmp_path / "set", shard=shard)


def test_other_settings_or_foreign_files_are_refused(tmp_path):
    survey, velocity = tiny_survey(), random_velocity(2)
    simulate_dataset(velocity, survey, "challenge", tmp_path / "set")
    before = files_of(tmp_path)
    longer = dataclasses.replace(survey, dt=2e-3)
    for changed in (
        lambda: simulate_dataset(velocity + 1, survey, "challenge", tmp_path / "set"),
        lambda: simulate_dataset(velocity, longer, "challenge", tmp_path / "set"),
        lambda: simulate_dataset(velocity, survey, "openfwi", tmp_path / "set"),
    ):
        with pytest.raises(UserError, match="other settings"):
            changed()
    assert files_of(tmp_path) == before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("keep me")
    with pytest.raises(UserError, match="not of a simulation"):
        simulate_dataset(velocity, survey, "challenge", foreign)
    (tmp_path / "set" / "simulate.json").write_text("{")
    with pytest.raises(UserError, match=r"simulate\.json"):
        simulate_dataset(velocity, survey, "challenge", tmp_path / "set")
    with pytest.raises(UserError, match="a file stands"):
        simulate_dataset(velocity, survey, "challenge", foreign / "thesis.txt")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda v: v / 1000, "km/s"),
        (lambda v: v * 10, "300 to 9000"),
        (lambda v: v[:, :7], "expected \\(depth, x\\)"),
        (lambda v: v * np.nan, "NaN"),
    ],
)
def test_bad_models_leave_no_folder_behind(tmp_path, bad, message):
    with pytest.raises(UserError, match=message):
        simulate_dataset(bad(random_velocity(2)), tiny_survey(), "challenge", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_finer_models_are_low_passed_for_the_waves_and_picked_for_the_files():
    survey = tiny_survey()
    fine = np.full((30, 36), 1500.0, np.float32)
    fine[14:] = 3000  # just above node 5 at row 15
    fine[:, 17:] = 2000
    solved, written = read_model(ArrayVelocities(fine), 0, survey)
    np.testing.assert_array_equal(written, fine[::3, ::3])
    assert solved.shape == (10, 12) and solved.min() == 1500 and solved.max() == 3000  # no overshoot
    # A wave of four coarse nodes, on both grids, and one of 1.25, which the coarse grid would show as one of five.
    for length, left in ((4 * 3, 1.0), (1.25 * 3, 0.0)):
        ripple = 1e-7 + 1e-8 * np.cos(2 * np.pi * np.arange(120) / length)
        velocity = np.tile((1 / np.sqrt(ripple)).astype(np.float32), (9, 1))
        found = 1 / effective_velocity(velocity, 3, (3, 40))[1, 6:-6].astype(np.float64) ** 2
        np.testing.assert_allclose(found, 1e-7 + left * (ripple[::3][6:-6] - 1e-7), atol=4e-10)


def test_the_boundary_repeats_the_edge_of_the_finer_model():
    """On 5 m the last column of the challenge lies 4 m before its own: a dipping seabed must not be cut off there."""
    survey = speed_and_structure(spacing=5, dt=1e-3)
    assert solving_survey(survey).grid.shape == (253, 61) and survey.grid.shape == (252, 60)
    assert solving_survey(speed_and_structure()).grid.shape == (1259, 300)
    assert solving_survey(openfwi()).grid.shape == (70, 70)
    depth, x = np.meshgrid(np.arange(1259), np.arange(300), indexing="ij")
    dipping = np.where(depth > 200 + 0.5 * x, 3000, 1500).astype(np.float32)
    solved, written = read_model(ArrayVelocities(dipping), 0, survey)
    assert written.shape == (252, 60)
    np.testing.assert_array_equal(written, dipping[::5, ::5])
    for node, column in ((0, 0), (60, 299)):
        expected = effective_velocity(np.repeat(dipping[:, column : column + 1], 300, axis=1), 5, (253, 61))[:, 0]
        np.testing.assert_allclose(solved[:, node], expected, rtol=1e-6)
    coarse, written = read_model(ArrayVelocities(written), 0, survey)
    np.testing.assert_array_equal(coarse[:252, :60], written)
    np.testing.assert_array_equal(coarse[:, 60], coarse[:, 59])


def test_command_draws_random_models(tmp_path, monkeypatch):
    monkeypatch.setattr(simulator, "use_all_cores", lambda: None)
    (tmp_path / "tiny.json").write_text(json.dumps(tiny_survey().to_dict()))
    options = Simulate(
        survey=str(tmp_path / "tiny.json"), output=tmp_path / "a", count=3, seed=7, family=("flatvel-a",)
    )
    assert simulate(options) == 0
    simulate(dataclasses.replace(options, output=tmp_path / "b", batch_size=2))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") and len(files_of(tmp_path / "a")) == 18
    simulate(dataclasses.replace(options, output=tmp_path / "c", seed=8))
    assert files_of(tmp_path / "c") != files_of(tmp_path / "a")
    np.save(tmp_path / "velocity.npy", random_velocity(2)[:, None])
    mine = {"count": None, "family": (), "models": tmp_path / "velocity.npy"}
    simulate(dataclasses.replace(options, **mine, output=tmp_path / "d"))
    assert len(open_dataset(tmp_path / "d")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": None}, "--count N"),
        ({"survey": "openfwy"}, "expected openfwi, speed-and-structure"),
        ({"grid_spacing": -5.0}, "--grid-spacing"),
        ({"dt": float("nan")}, "--dt"),
        ({"sponge_width": 100.0}, "--sponge-width"),
        ({"models": "missing.npy"}, "missing.npy"),
    ],
)
def test_bad_options(tmp_path, change, message, monkeypatch):
    from pathlib import Path

    monkeypatch.setattr(simulator, "use_all_cores", lambda: None)
    options = {"survey": "openfwi", "output": tmp_path / "out", "count": 1, **change}
    if "models" in change:
        options["models"] = Path(change["models"])
    with pytest.raises(UserError, match=message):
        simulate(Simulate(**options))
    assert not (tmp_path / "out").exists()


def test_survey_of_options():
    coarse = survey_of(Simulate("speed-and-structure", None, grid_spacing=5.0, dt=1e-3, sponge_width=500.0))
    assert coarse.to_dict() == speed_and_structure(spacing=5, dt=1e-3, sponge=500).to_dict()
    assert survey_of(Simulate("openfwi", None), (70, 190)).grid.shape == (70, 190)

"""What a simulation draws sample by sample: boundary widths, noise, families; packs written directly; windows."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_support import quick_compilation

from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.noise import Noise, add_noise
from seisvel_jax.data.packed import verify
from seisvel_jax.errors import UserError
from seisvel_jax.simulate import Simulate, simulate, simulate_dataset
from seisvel_jax.simulation import packing, simulator
from seisvel_jax.simulation.velocities import ArrayVelocities, RandomVelocities
from seisvel_jax.simulation.widths import Widths
from seisvel_jax.simulation.windows import WindowedVelocities
from seisvel_jax.survey import Boundary, from_arrays, openfwi, ricker
from seisvel_jax.wave.propagate import propagate


@pytest.fixture(autouse=True, scope="module")
def quickly():
    with quick_compilation():
        yield


def tiny_survey(**changes):
    survey = from_arrays(
        np.asarray([[0.0, 10.0], [70.0, 10.0]]),
        np.asarray([[10.0 * i, 10.0] for i in range(8)]),
        ricker(15.0, 2e-3, 60, 0.05),
        dt=2e-3,
        shape=(9, 8),
        spacing=10.0,
    )
    survey = dataclasses.replace(survey, boundary=Boundary("devito", 60.0, (80.0, 70.0)), name="tiny")
    return dataclasses.replace(survey, **changes)


def random_velocity(count, seed=0):
    return np.random.default_rng(seed).integers(2000, 3500, (count, 9, 8)).astype(np.float32)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


WIDTHS = Widths(50.0, 60.0, 10.0)


# ---- packs ----


def test_a_pack_holds_what_the_folders_hold_and_a_stopped_run_ends_with_the_same_bytes(tmp_path, monkeypatch):
    survey, velocity = tiny_survey(), random_velocity(7)
    velocity[3, 5, 5] = 6000  # a shorter time step of its own
    drawn = {"widths": WIDTHS, "noise": Noise(white=0.1, dead=0.1), "seed": 1}
    simulate_dataset(velocity, survey, "challenge", tmp_path / "folders", **drawn)
    with monkeypatch.context() as patch:
        # Batches of three, which fill up in another order than that of the samples.
        patch.setattr(simulator, "together", lambda batch_size: batch_size)
        simulate_dataset(velocity, survey, "packed", tmp_path / "pack", file_size=2, batch_size=3, **drawn)
    folders, pack = open_dataset(tmp_path / "folders"), open_dataset(tmp_path / "pack")
    assert pack.layout == "packed" and verify(tmp_path / "pack") == [] and folders.names == pack.names
    for i in range(7):
        scale = np.abs(folders.gathers(i)).max()
        np.testing.assert_allclose(pack.gathers(i), folders.gathers(i), rtol=5e-4, atol=1e-6 * scale)
        np.testing.assert_array_equal(pack.velocity(i), velocity[i])
    table = (tmp_path / "pack" / "samples.csv").read_text()
    assert table == (tmp_path / "folders" / "samples.csv").read_text()
    assert {float(line.split(",")[2]) for line in table.splitlines()[1:]} == {50.0, 60.0}

    write, calls = packing.write_shard, []

    def stop_at_the_second(*args, **more):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*args, **more)

    monkeypatch.setattr(packing, "write_shard", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(velocity, survey, "packed", tmp_path / "stopped", file_size=2, batch_size=1, **drawn)
    monkeypatch.undo()
    with pytest.raises(UserError, match="unfinished pack"):
        open_dataset(tmp_path / "stopped")
    assert simulate_dataset(velocity, survey, "packed", tmp_path / "stopped", file_size=2, **drawn) == 5
    assert contents(tmp_path / "stopped") == contents(tmp_path / "pack")
    (tmp_path / "stopped" / "velocity-00001.npy").unlink()
    assert simulate_dataset(velocity, survey, "packed", tmp_path / "stopped", file_size=2, **drawn) == 2
    assert contents(tmp_path / "stopped") == contents(tmp_path / "pack")
    for shard in ((2, 3), (0, 3), (1, 3)):
        assert not (tmp_path / "many" / "pack.json").exists()
        simulate_dataset(velocity, survey, "packed", tmp_path / "many", file_size=2, shard=shard, **drawn)
    assert contents(tmp_path / "many") == contents(tmp_path / "pack")
    for change in ({"seed": 6}, {"dtype": "float32"}, {"widths": None}, {"noise": Noise(white=0.2)}):
        with pytest.raises(UserError, match="other settings"):
            simulate_dataset(velocity, survey, "packed", tmp_path / "pack", file_size=2, **(drawn | change))


def test_packs_of_openfwi_have_silent_last_rows_and_fast_models_are_refused_before_anything_is_there(tmp_path):
    boundary = Boundary("openfwi", 60.0, (80.0, 70.0))
    survey = tiny_survey(boundary=boundary, record_start=1)
    simulate_dataset(random_velocity(3), survey, "packed", tmp_path / "pack", file_size=2)
    pack = open_dataset(tmp_path / "pack")
    assert (pack.gathers(2)[:, -1] == 0).all() and (pack.gathers(2)[:, -2] != 0).any()
    assert [pack.group(i) for i in range(3)] == ["data/data1.npy"] * 2 + ["data/data2.npy"]
    with pytest.raises(UserError, match="--velocity-dtype float32"):
        simulate_dataset(random_velocity(1) + 4000, tiny_survey(), "packed", tmp_path / "fast")
    assert not (tmp_path / "fast").exists()


@pytest.mark.slow
def test_killed_at_any_moment_a_pack_goes_on_to_the_same_bytes(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny_survey().to_dict()))
    np.save(tmp_path / "models.npy", random_velocity(60)[:, None])
    command = [sys.executable, "-m", "seisvel_jax.simulate", "--survey", tmp_path / "tiny.json", "--models"]
    command += [tmp_path / "models.npy", "--layout", "packed", "--file-size", "4", "--output"]
    subprocess.run([*map(str, command), str(tmp_path / "straight")], check=True, stderr=subprocess.DEVNULL)
    for seconds in np.linspace(3, 9, 5):
        process = subprocess.Popen([*map(str, command), str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run([*map(str, command), str(tmp_path / "killed")], check=True, stderr=subprocess.DEVNULL)
    left = {name: data for name, data in contents(tmp_path / "killed").items() if name != ".lock"}
    assert left == contents(tmp_path / "straight")


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_bytes(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny_survey().to_dict()))
    np.save(tmp_path / "models.npy", random_velocity(5)[:, None])
    for devices in (1, 2, 3):
        command = [
            "-m",
            "seisvel_jax.simulate",
            "--survey",
            "tiny.json",
            "--models",
            "models.npy",
            "--layout",
            "packed",
        ]
        command += ["--file-size", "2", "--sponge-width", "50", "60", "--sponge-step", "10", "--noise.white", "0.1"]
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        subprocess.run(
            [sys.executable, *command, "--output", f"on_{devices}"],
            check=True,
            cwd=tmp_path,
            env=os.environ | flags,
            stderr=subprocess.DEVNULL,
        )
    assert contents(tmp_path / "on_1") == contents(tmp_path / "on_2") == contents(tmp_path / "on_3")


@pytest.mark.slow
def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[1] / "docs" / "simulate.md"
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, str(page), "exec"), {})
    assert len(open_dataset(tmp_path / "PACK")) == 2


# ---- what is drawn ----


def test_each_sample_has_its_own_boundary():
    survey, velocity = tiny_survey(), random_velocity(1)[0]
    drawn = [WIDTHS.width(3, index) for index in range(200)]
    assert set(drawn) == {50.0, 60.0} and drawn == [WIDTHS.width(3, index) for index in range(200)]
    assert drawn != [WIDTHS.width(4, index) for index in range(200)]
    runs = simulator.Simulator(survey, 2)
    for width in (50.0, 60.0):
        wide = dataclasses.replace(survey, boundary=dataclasses.replace(survey.boundary, width=width))
        expected = np.asarray(propagate(velocity[None], wide, max_velocity=4500.0))[0]
        found = runs.finish(runs.start(velocity[None], 4500.0, width), 1)[0]
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    for bad in ((70.0, 50.0), (0.0, 50.0), (50.0, float("inf"))):
        with pytest.raises(UserError, match="--sponge-width"):
            Widths(*bad)


def test_batching_does_not_change_a_bit():
    """With the filter for time dispersion, which mixes the rows of all traces of a batch."""
    survey, velocity = tiny_survey(), random_velocity(4)
    alone, four = (simulator.Simulator(survey, size) for size in (1, 4))
    four.batch_size = 4
    found = four.finish(four.start(velocity, 4500.0, 60.0), 4)
    for i in range(4):
        np.testing.assert_array_equal(alone.finish(alone.start(velocity[i : i + 1], 4500.0, 60.0), 1)[0], found[i])


def test_noise_is_what_its_numbers_say():
    survey = tiny_survey(nt=2000, dt=1e-3)
    rng = np.random.default_rng(0)
    gathers = (3 * rng.standard_normal((2, 2000, 8))).astype(np.float32)
    before = gathers.copy()

    def added(seed=1, index=2, **noise):
        return add_noise(gathers, survey, Noise(**noise), seed, index) - gathers

    white = [added(white=0.5, index=i).std() / 3 for i in range(40)]
    assert max(white) < 0.51 and min(white) < 0.1 and np.mean(white) == pytest.approx(0.25, abs=0.06)
    band = added(band=0.5, band_hz=(10.0, 20.0))
    power = np.abs(np.fft.rfft(band, axis=1)).mean((0, 2))
    frequency = np.fft.rfftfreq(2000, 1e-3)
    assert power[(frequency > 41) | (frequency < 4.9)].max() < 1e-4 * power.max()
    linear = added(linear=4.0, linear_speed=(400.0, 400.0), linear_hz=(10.0, 10.0))
    fired = np.abs(survey.wavelet).argmax() * 1e-3
    for receiver in range(8):
        later = linear[0, :, receiver].argmax() * 1e-3 - fired
        assert later == pytest.approx(10 * receiver / 400, abs=1.1e-3)
    dead = (add_noise(gathers, survey, Noise(dead=0.25, white=0.1), 0, 0) == 0).all(1)
    assert 1 <= dead.sum() <= 8
    ratio = add_noise(gathers, survey, Noise(gain=0.2), 0, 0) / gathers
    assert np.ptp(ratio, axis=(0, 1)).max() < 1e-4 and 0.05 < np.log(ratio[0, 0]).std() < 0.5
    smooth = np.exp(-(((np.arange(2000) - 1000) / 20.0) ** 2))[None, :, None] * np.ones((2, 1, 8))
    late = add_noise(smooth.astype(np.float32), survey, Noise(shift=5e-3), 0, 0)
    moved = (late * np.arange(2000)[None, :, None]).sum(1) / late.sum(1) - 1000
    assert 2 < moved.std() < 9 and moved.std() > 0
    np.testing.assert_array_equal(gathers, before)
    np.testing.assert_array_equal(added(white=0.5), added(white=0.5))
    assert (added(white=0.5) != added(white=0.5, seed=2)).any()
    for bad in ({"white": -1.0}, {"dead": 1.5}, {"band_hz": (20.0, 10.0)}, {"gain": float("nan")}):
        with pytest.raises(UserError, match="--noise"):
            Noise(**bad)


def test_families_take_turns_and_do_not_depend_on_the_count(tmp_path):
    survey = dataclasses.replace(openfwi(), name="openfwi")
    models = RandomVelocities(survey, 5, 3, ("flatvel-a", "curvevel-b"))
    assert [models.family(i) for i in range(3)] == ["flatvel-a", "curvevel-b", "flatvel-a"]
    again = RandomVelocities(survey, 9, 3, ("flatvel-a", "curvevel-b"))
    np.testing.assert_array_equal(models.velocity(4), again.velocity(4))
    assert np.ptp(models.velocity(4), axis=1).max() == 0 and np.ptp(models.velocity(1), axis=1).max() > 0
    with pytest.raises(UserError, match="flatvel-a"):
        RandomVelocities(survey, 1, 0, ("flatvel-c",))


def test_new_models_out_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setattr(simulator, "use_all_cores", lambda: None)
    (tmp_path / "tiny.json").write_text(json.dumps(tiny_survey().to_dict()))
    velocity = random_velocity(3)
    velocity[:, :3] = 1500
    np.save(tmp_path / "mine.npy", velocity[:, None])
    options = Simulate(
        str(tmp_path / "tiny.json"), tmp_path / "set", models=tmp_path / "mine.npy", augment=True, count=6
    )
    assert simulate(options) == 0
    found = open_dataset(tmp_path / "set")
    models = [found.velocity(i) for i in range(6)]
    assert len({model.tobytes() for model in models}) == 6
    for model in models:
        assert (model[0] == 1500).all() and model.min() >= 1500 and (np.abs(model - np.round(model)) < 1e-3).all()
    rows = (tmp_path / "set" / "samples.csv").read_text().splitlines()
    assert rows[0] == "index,name,parents" and all(len(set(row.split(",")[2].split())) == 2 for row in rows[1:])
    simulate(dataclasses.replace(options, output=tmp_path / "more", count=7))
    more = open_dataset(tmp_path / "more")
    assert all((more.velocity(i) == models[i]).all() for i in range(6))
    for change in ({"augment": False, "family": ("style-a",)}, {"count": None}, {"models": None}):
        with pytest.raises(UserError, match=r"--family|--count|--augment"):
            simulate(dataclasses.replace(options, output=tmp_path / "bad", **change))
    assert not (tmp_path / "bad").exists()


# ---- larger models ----


def test_windows_of_a_larger_model():
    survey = tiny_survey()
    depth, x = np.meshgrid(np.arange(30) * 5.0, np.arange(45) * 4.0, indexing="ij")
    whole = (2000 + 3 * depth + 2 * x).astype(np.float32)  # linear, so that interpolation is exact
    windows = WindowedVelocities(ArrayVelocities(whole[None], ["line"]), survey, (5.0, 4.0))
    assert windows.names == ("line_z00000_x000000", "line_z00000_x000080")
    for index, start in enumerate((0.0, 80.0)):
        nodes = windows.velocity(index)[::2, ::2]
        expected = 2000 + 3 * np.arange(9)[:, None] * 10.0 + 2 * (start + np.arange(8)[None] * 10.0)
        np.testing.assert_allclose(nodes, expected, rtol=1e-6)
    with pytest.raises(UserError, match="expected at least the survey's 80 m x 70 m"):
        WindowedVelocities(ArrayVelocities(whole[None]), survey, (2.0, 4.0))


def test_windows_of_a_segy_line(tmp_path, monkeypatch):
    segyio = pytest.importorskip("segyio")
    monkeypatch.setattr(simulator, "use_all_cores", lambda: None)
    line = np.linspace(1.5, 3.5, 20 * 9, dtype=np.float32).reshape(20, 9)  # [trace, sample] km/s
    segyio.tools.from_array2D(str(tmp_path / "line.sgy"), line, dt=10_000)
    (tmp_path / "tiny.json").write_text(json.dumps(tiny_survey().to_dict()))
    options = Simulate(
        str(tmp_path / "tiny.json"), tmp_path / "set", models=tmp_path / "line.sgy", model_spacing=(10.0, 10.0)
    )
    assert simulate(options) == 0
    found = open_dataset(tmp_path / "set")
    assert len(found) == 2
    np.testing.assert_allclose(found.velocity(1), 1000 * line[8:16].T, rtol=1e-6)
    simulate(dataclasses.replace(options, clip=(2500.0, 3000.0), output=tmp_path / "clipped"))
    clipped = open_dataset(tmp_path / "clipped").velocity(1)
    np.testing.assert_allclose(clipped, np.clip(1000 * line[8:16].T, 2500, 3000), rtol=1e-6)
    with pytest.raises(UserError, match="--clip"):
        simulate(dataclasses.replace(options, clip=(3000.0, 2500.0), output=tmp_path / "other"))
    with pytest.raises(UserError, match="expected \\(depth, x\\)"):
        simulate(dataclasses.replace(options, model_spacing=None, output=tmp_path / "other"))
    (tmp_path / "bad.sgy").write_bytes(b"no traces in here")
    with pytest.raises(UserError, match=r"bad\.sgy"):
        simulate(dataclasses.replace(options, models=tmp_path / "bad.sgy", output=tmp_path / "other"))
    monkeypatch.setitem(sys.modules, "segyio", None)
    with pytest.raises(UserError, match="pip install segyio"):
        simulate(dataclasses.replace(options, output=tmp_path / "other"))

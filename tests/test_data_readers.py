"""Every layout is read as written and as others wrote it; names, units, axes and surveys are right."""

import gc
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seisvel_jax.data import openfwi as openfwi_reader
from seisvel_jax.data.dataset import open_dataset, split_folders
from seisvel_jax.data.velocity_files import open_velocities
from seisvel_jax.data.writers import write_challenge_sample, write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, npy_header
from seisvel_jax.survey import Boundary, Grid, Survey, openfwi, ricker, speed_and_structure

COARSE = speed_and_structure(spacing=20, dt=2e-3)


def random_sample(survey, seed):
    rng = np.random.default_rng(seed)
    gathers = rng.normal(size=survey.gather_shape).astype(np.float32)
    return gathers, rng.uniform(1500, 4500, survey.grid.shape).astype(np.float32)


def test_challenge_round_trip_keeps_values_units_and_axes(tmp_path):
    gathers, velocity = random_sample(COARSE, 0)
    velocity[:3] = 1500
    folder = write_challenge_sample(tmp_path, "a1", gathers, velocity)
    # The files as the challenge has them, read without our reader.
    stored = np.load(folder / "vp_model.npy")
    assert stored.dtype == np.float64 and stored.shape == velocity.shape[::-1]
    assert stored[4, 0] == 1.5
    np.testing.assert_allclose(stored[4, 7] * 1000, velocity[7, 4], rtol=1e-12)
    np.testing.assert_array_equal(np.load(folder / "receiver_data_src_225.npy"), gathers[3])
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*(f"receiver_data_src_{k}.npy" for k in (1, 75, 150, 225, 300)), "vp_model.npy"]
    )
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.names, dataset.has_velocity) == ("challenge", ("a1",), True)
    np.testing.assert_array_equal(dataset.gathers(0), gathers)
    np.testing.assert_array_equal(dataset.velocity(0), velocity)
    assert dataset.survey.grid == COARSE.grid and dataset.survey.nt == COARSE.nt
    assert dataset.survey.dt == pytest.approx(2e-3)
    np.testing.assert_array_equal(dataset.survey.sources, COARSE.sources)
    assert dataset.origin(0) == folder


def test_one_challenge_sample_and_a_test_folder_without_models(tmp_path):
    gathers, _ = random_sample(COARSE, 0)
    write_challenge_sample(tmp_path, "b", gathers, None)
    write_challenge_sample(tmp_path, "a", gathers, None)
    dataset = open_dataset(tmp_path)
    assert dataset.names == ("a", "b") and not dataset.has_velocity
    assert dataset.survey.grid == speed_and_structure().grid
    assert open_dataset(tmp_path / "b").names == ("b",)


def test_writing_again_replaces_a_sample_and_unfinished_ones_are_not_seen(tmp_path):
    gathers, velocity = random_sample(COARSE, 0)
    write_challenge_sample(tmp_path, "a", 2 * gathers, velocity)
    write_challenge_sample(tmp_path, "a", gathers, velocity)
    (tmp_path / ".b.x.part").mkdir()
    np.save(tmp_path / ".b.x.part" / "receiver_data_src_1.npy", gathers[0])
    dataset = open_dataset(tmp_path)
    assert dataset.names == ("a",)
    np.testing.assert_array_equal(dataset.gathers(0), gathers)
    assert {p.name for p in tmp_path.iterdir()} == {"a", ".b.x.part"}


def test_a_failing_write_leaves_the_earlier_sample(tmp_path, monkeypatch):
    gathers, velocity = random_sample(COARSE, 0)
    write_challenge_sample(tmp_path, "a", gathers, velocity)
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_challenge_sample(tmp_path, "a", 3 * gathers, velocity)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    np.testing.assert_array_equal(open_dataset(tmp_path).gathers(0), gathers)


def test_own_survey_with_three_shots(tmp_path):
    survey = Survey(
        sources=np.asarray([[0, 4], [50, 4], [100, 4]], np.float32),
        receivers=np.asarray([[10 * i, 2] for i in range(11)], np.float32),
        wavelet=ricker(20, 2e-3, 101, 0.06),
        dt=2e-3,
        nt=101,
        grid=Grid(12, 11, 10.0),
        boundary=Boundary("devito", 200.0, (110.0, 100.0)),
        record_start=0,
        name="mine",
    )
    gathers, velocity = random_sample(survey, 0)
    write_challenge_sample(tmp_path / "train", "s", gathers, velocity)
    write_survey(tmp_path, survey)  # the parent of the split folders
    for path in (tmp_path / "train", tmp_path / "train" / "s"):
        dataset = open_dataset(path)
        assert dataset.survey.name == "mine"
        np.testing.assert_array_equal(dataset.gathers(0), gathers)
        np.testing.assert_array_equal(dataset.velocity(0), velocity)


@pytest.fixture
def batches(tmp_path):
    survey = openfwi()
    rng = np.random.default_rng(0)
    gathers = rng.normal(size=(2, 3, *survey.gather_shape)).astype(np.float32)
    velocity = rng.integers(1500, 4500, (2, 3, 70, 70)).astype(np.float32)
    return tmp_path, gathers, velocity


def test_openfwi_data_and_model_folders(batches):
    folder, gathers, velocity = batches
    write_openfwi(folder, 10, gathers[1], velocity[1])
    write_openfwi(folder, 2, gathers[0], velocity[0])
    assert np.load(folder / "model" / "model2.npy").shape == (3, 1, 70, 70)
    for path in (folder, folder / "data"):
        dataset = open_dataset(path)
        assert dataset.layout == "openfwi" and dataset.has_velocity
        assert dataset.names == tuple(f"data{n}-{i:03d}" for n in (2, 10) for i in range(3))
        np.testing.assert_array_equal(dataset.gathers(4)[:, :-1], gathers[1, 1, :, :-1])
        assert not dataset.gathers(4)[:, -1].any()
        np.testing.assert_array_equal(dataset.velocity(4), velocity[1, 1])
        assert dataset.origin(4) == folder / "data" / "data10.npy"
    assert dataset.gathers(0).flags.writeable
    assert open_dataset(folder / "data" / "data2.npy").names == ("data2-000", "data2-001", "data2-002")


@pytest.mark.parametrize(
    ("gathers_name", "velocity_name"),
    [("seis2_1_0", "vel2_1_0"), ("data1", "model1"), ("marmousi_seis", "marmousi_vel"), ("x_data", "x_model")],
)
def test_openfwi_flat_pairs(batches, gathers_name, velocity_name):
    folder, gathers, velocity = batches
    np.save(folder / f"{gathers_name}.npy", gathers[0])
    np.save(folder / f"{velocity_name}.npy", velocity[0][:, None])
    dataset = open_dataset(folder)
    assert dataset.names[2] == f"{gathers_name}-002"
    np.testing.assert_array_equal(dataset.velocity(2), velocity[0, 2])
    np.testing.assert_array_equal(open_velocities(folder).velocity(2), velocity[0, 2])
    assert open_velocities(folder / f"{gathers_name}.npy").names == dataset.names


def test_families_in_subfolders_get_their_folder_into_the_name(batches):
    folder, gathers, velocity = batches
    write_openfwi(folder / "FlatVel_A", 1, gathers[0], velocity[0])
    (folder / "CurveFault_B").mkdir()
    np.save(folder / "CurveFault_B" / "seis6_1_0.npy", gathers[1])
    np.save(folder / "CurveFault_B" / "vel6_1_0.npy", velocity[1][:, None])
    dataset = open_dataset(folder)
    assert dataset.names[0] == "CurveFault_B_seis6_1_0-000" and dataset.names[-1] == "FlatVel_A_data1-002"
    np.testing.assert_array_equal(dataset.velocity(5), velocity[0, 2])


def test_competition_folder_and_single_file(batches):
    folder, gathers, _ = batches
    names = ("000039dca2", "0001026c8a", "00015b24d5")
    for name, gather in zip(names, gathers[0], strict=True):
        np.save(folder / f"{name}.npy", gather)
    dataset = open_dataset(folder)
    assert dataset.names == names and not dataset.has_velocity
    np.testing.assert_array_equal(dataset.gathers(1)[:, :-1], gathers[0, 1, :, :-1])
    assert not dataset.gathers(1)[:, -1].any()
    assert open_dataset(folder / f"{names[0]}.npy").names == names[:1]


def test_few_files_are_open_at_a_time(batches):
    folder, gathers, velocity = batches
    for n in range(2 * openfwi_reader.OPEN_FILES):
        write_openfwi(folder, n, gathers[0, :1], velocity[0, :1])
    dataset = open_dataset(folder)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for i in range(len(dataset)):
        dataset.gathers(i)
        dataset.velocity(i)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + openfwi_reader.OPEN_FILES


def test_split_root_names_its_folders(tmp_path):
    gathers, velocity = random_sample(COARSE, 0)
    for split in ("train", "test"):
        write_challenge_sample(tmp_path / split, "a", gathers, velocity)
    assert [p.name for p in split_folders(tmp_path)] == ["train", "test"]
    assert split_folders(tmp_path / "train") == []
    with pytest.raises(UserError, match=r"holds the folders of a split.*give .*train or .*test"):
        open_dataset(tmp_path)


def test_survey_json_is_what_survey_reads(tmp_path):
    path = write_survey(tmp_path, COARSE)
    assert Survey.from_dict(json.loads(path.read_text())).grid == COARSE.grid


def test_the_example_in_the_docs_works(tmp_path, monkeypatch):
    docs = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    code = docs.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = {"gathers": rng.normal(size=(3, 751, 51)), "velocity": np.full((80, 101), 2000.0)}
    exec(code, values)
    dataset = open_dataset("DATA/train")
    assert dataset.names == ("line_001",) and dataset.survey.name == "my survey"
    np.testing.assert_array_equal(dataset.gathers(0), values["gathers"].astype(np.float32))
    assert dataset.velocity(0).shape == (80, 101)


def test_velocity_files(tmp_path):
    rng = np.random.default_rng(0)
    velocity = rng.uniform(1500, 4500, (3, 9, 7)).astype(np.float32)
    np.save(tmp_path / "maps.npy", velocity[:, None])
    maps = open_velocities(tmp_path / "maps.npy")
    assert maps.names == ("maps-000", "maps-001", "maps-002") and maps.layout == "array"
    np.testing.assert_array_equal(maps.velocity(1), velocity[1])
    np.save(tmp_path / "maps.npy", velocity)
    np.testing.assert_array_equal(open_velocities(tmp_path / "maps.npy").velocity(2), velocity[2])
    (tmp_path / "single").mkdir()
    for name, one in zip("ba", velocity, strict=False):
        np.save(tmp_path / "single" / f"{name}.npy", one)
    folder = open_velocities(tmp_path / "single")
    assert folder.names == ("a", "b")
    np.testing.assert_array_equal(folder.velocity(0), velocity[1])
    np.savez(tmp_path / "submission.npz", **{"id9": velocity[0].T.astype(np.float64) / 1000})
    submission = open_velocities(tmp_path / "submission.npz")
    assert submission.names == ("id9",) and submission.layout == "submission"
    np.testing.assert_array_equal(submission.velocity(0), velocity[0])
    write_challenge_sample(tmp_path / "set", "s", *random_sample(COARSE, 3))
    models = open_velocities(tmp_path / "set")
    assert models.names == ("s",)
    np.testing.assert_array_equal(models.velocity(0), random_sample(COARSE, 3)[1])
    for path in (tmp_path / "set" / "s", tmp_path / "set" / "s" / "vp_model.npy"):
        assert open_velocities(path).names == ("s",)
    # A stack of tall models is no gather, whatever its shape.
    np.save(tmp_path / "tall.npy", np.full((5, 1259, 300), 2000, np.float32))
    assert len(open_velocities(tmp_path / "tall.npy")) == 5


def test_genuine_openfwi_pair(shared_data):
    dataset = open_dataset(shared_data / "openfwi" / "curvefault_b_sample0_seis.npy")
    gathers, velocity = dataset.gathers(0), dataset.velocity(0)
    np.testing.assert_array_equal(velocity, np.load(shared_data / "openfwi/curvefault_b_maps_0to4_vel.npy")[0, 0])
    # Row 0 holds the injected wavelet: amplitude over (v / 1000)^2 is the wavelet's first sample (facts of the solver).
    survey = dataset.survey
    columns = np.asarray(survey.sources[:, 0] / 10, int)
    injected = (velocity[1, columns] * survey.dt / survey.grid.spacing) ** 2 * survey.wavelet[0]
    np.testing.assert_allclose(gathers[np.arange(5), 0, columns], injected, rtol=2e-3)


def test_genuine_wide_pair_and_competition_gather(shared_data):
    wide = open_dataset(shared_data / "openfwi" / "marmousi_70x190_seis.npy")
    np.testing.assert_array_equal(wide.survey.sources[:, 0] / 10, [0, 47, 94, 142, 189])
    assert wide.velocity(0).shape == (70, 190) and wide.gathers(0).shape == (5, 1000, 190)
    raw = np.load(shared_data / "openfwi" / "marmousi_70x190_seis.npy")
    assert raw[0, :, -1].any() and not wide.gathers(0)[:, -1].any()
    single = open_dataset(shared_data / "openfwi" / "kaggle_test_000039dca2.npy")
    assert single.names == ("kaggle_test_000039dca2",) and not single.has_velocity
    with pytest.raises(UserError, match=r"mixes gathers of several kinds.*give one file"):
        open_dataset(shared_data / "openfwi")


def test_genuine_challenge_like_folder(shared_data):
    dataset = open_dataset(shared_data / "challenge_like" / "full")
    assert dataset.layout == "challenge" and len(dataset) == 6
    assert dataset.survey.gather_shape == (5, 10001, 31) and dataset.survey.dt == pytest.approx(1e-4)
    velocity = dataset.velocity(0)
    assert velocity.shape == (1259, 300) and velocity[0].min() == velocity[0].max() == 1500
    # The direct wave reaches the nearest receiver at 78.9 ms (README of the data).
    assert np.abs(dataset.gathers(0)[0, :, 0]).argmax() == pytest.approx(789, abs=5)


def test_many_threads_read_headers_while_garbage_is_collected(tmp_path):
    # JAX hooks into the collector, so threads take turns in the middle of anything, Python's parser included: before
    # 3.12 that made numpy's reader of headers fail, and a good file was called truncated.
    path = tmp_path / "a.npy"
    np.save(path, np.arange(6, dtype=np.float32).reshape(2, 3))
    before, yields = gc.get_threshold(), [lambda *_: time.sleep(0)]
    gc.callbacks.extend(yields)
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            for array in pool.map(lambda _: load_npy(path), range(2000)):
                assert array.shape == (2, 3) and array[1, 2] == 5
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(yields[0])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "array", [np.arange(6.0), np.arange(6, dtype=">i4").reshape(2, 3), np.float32(7), np.ones((1, 2))]
)
def test_headers_as_numpy_and_as_others_write_them(tmp_path, array, order):
    array = np.asarray(array, order=order)
    np.save(tmp_path / "a.npy", array)
    content = (tmp_path / "a.npy").read_bytes()
    fields = np.lib.format.header_data_from_array_1_0(array)
    for text in (
        "{{'shape': {shape}, 'fortran_order': {fortran_order}, 'descr': '{descr}'}}\n",  # another order of the keys
        "{{'descr': '{descr}', 'fortran_order': {fortran_order}, 'shape': {shape}, }}   \n",
        "{{'descr':'{descr}','fortran_order':{fortran_order},'shape':{shape}}}",
    ):
        header = text.format(**fields).encode()
        (tmp_path / "b.npy").write_bytes(content[:8] + len(header).to_bytes(2, "little") + header + content[128:])
        for path in (tmp_path / "a.npy", tmp_path / "b.npy"):
            for memory_map in (False, True):
                found = load_npy(path, memory_map=memory_map)
                assert (found.shape, found.dtype) == (array.shape, array.dtype) == npy_header(path)
                np.testing.assert_array_equal(found, array)

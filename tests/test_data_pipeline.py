"""Resampling against analytic signals and genuine decimated files; split without leaks; a stream exact by step."""

import dataclasses
import itertools
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.pipeline import Batches, DataConfig, Resampled, open_data, read_batch, training_survey
from seisvel_jax.data.resample import resample_gathers, resample_velocity
from seisvel_jax.data.split import split_indices
from seisvel_jax.data.writers import write_challenge_sample, write_openfwi
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Grid, from_arrays, openfwi, ricker, speed_and_structure
from seisvel_jax.wave.propagate import propagate


def test_decimation_equals_the_genuine_decimated_records(shared_data):
    dataset = open_dataset(shared_data / "challenge_like" / "full")
    survey = dataset.survey.resampled(dt=1e-3)
    for i in (0, 5):
        with np.load(shared_data / "challenge_like" / "compact" / f"{dataset.names[i]}.npz") as archive:
            expected = archive["gathers"]
        ours = resample_gathers(dataset.gathers(i), dataset.survey.dt, survey)
        assert ours.shape == expected.shape and ours.dtype == np.float32
        assert np.linalg.norm(ours - expected) < 1e-4 * np.linalg.norm(expected)
        # The ends of the record, where a careless filter rings or fades.
        np.testing.assert_allclose(ours[:, -5:], expected[:, -5:], atol=2e-5)
        np.testing.assert_allclose(ours[:, :5], expected[:, :5], atol=2e-5)
        back = resample_gathers(ours, 1e-3, dataset.survey)
        assert np.linalg.norm(back - dataset.gathers(i)) < 1e-4 * np.linalg.norm(dataset.gathers(i))


@pytest.mark.parametrize(("frequency", "gain"), [(15, 1), (100, 1), (290, 1), (510, 0), (700, 0), (2000, 0), (4990, 0)])
def test_signal_passes_and_noise_above_the_new_nyquist_is_removed(frequency, gain):
    fine, coarse = speed_and_structure(spacing=20), speed_and_structure(spacing=20, dt=1e-3)
    times = np.arange(fine.nt) * fine.dt
    tone = np.sin(2 * np.pi * frequency * times + 0.7).astype(np.float32)[:, None]
    ours = resample_gathers(tone, fine.dt, coarse)[100:-100]
    expected = gain * tone[::10][100:-100]
    assert np.abs(ours - expected).max() < 5e-4


def test_resampled_openfwi_gathers_are_those_simulated_at_the_other_sampling():
    """OpenFWI's first row lies one sample after the shot: 1 ms, or 4 ms, as the solver has it."""
    survey = from_arrays(
        sources=np.asarray([[0, 10], [70, 10]]),
        receivers=np.asarray([[10.0 * i, 10] for i in range(8)]),
        wavelet=ricker(10.0, 1e-3, 401, 0.1),
        dt=1e-3,
        nt=400,
        shape=(8, 8),
        spacing=10.0,
        record_start=1,
    )
    coarse = survey.resampled(dt=4e-3)
    velocity = np.full((1, 8, 8), 2000, np.float32)
    fine = np.array(propagate(velocity, survey, max_velocity=2500.0))[0]
    direct = np.array(propagate(velocity, coarse, max_velocity=2500.0))[0]
    ours = resample_gathers(fine, survey.dt, coarse)
    assert np.linalg.norm(ours - direct) < 0.01 * np.linalg.norm(direct)
    back = resample_gathers(ours, coarse.dt, survey)
    assert np.linalg.norm((back - fine)[:, 8:-8]) < 0.01 * np.linalg.norm(fine)


@pytest.mark.parametrize(("dt", "new_dt"), [(1e-3, 4e-4), (1e-3, 2.5e-3), (2e-3, 1e-3), (1e-3, 2e-3)])
def test_any_ratio_interpolates_a_band_limited_signal(dt, new_dt):
    survey = speed_and_structure(spacing=20, dt=new_dt)

    def signal(t):
        return np.sin(2 * np.pi * 30 * t + 0.3) * np.exp(-(((t - 0.5) / 0.4) ** 2))

    samples = signal(np.arange(round(1 / dt) + 1) * dt)[:, None]
    gathers = np.stack([samples, -2 * samples])
    ours = resample_gathers(gathers, dt, survey)
    expected = signal(np.arange(survey.nt) * new_dt)
    assert ours.dtype == np.float64 and ours.shape == (2, survey.nt, 1)
    np.testing.assert_allclose(ours[1, :, 0], -2 * expected, atol=2e-3)
    np.testing.assert_allclose(ours[0, 40:-40, 0], expected[40:-40], atol=2e-4)


def test_constant_and_ramp_keep_their_ends():
    survey = speed_and_structure(spacing=20, dt=1e-3)
    ramp = np.linspace(3, 5, 10001).astype(np.float32)[:, None]
    np.testing.assert_allclose(resample_gathers(ramp, 1e-4, survey), ramp[::10], rtol=2e-6)


def test_equal_sampling_is_untouched():
    survey = openfwi()
    gathers = np.random.default_rng(0).normal(size=survey.gather_shape).astype(np.float32)
    assert resample_gathers(gathers, survey.dt, survey) is gathers
    velocity = np.ones(survey.grid.shape, np.float32)
    assert resample_velocity(velocity, survey.grid, Grid(70, 70, 10.0)) is velocity


def test_velocity_resampling():
    rng = np.random.default_rng(0)
    grid = Grid(1259, 300, 1.0)
    velocity = rng.uniform(1500, 4500, grid.shape).astype(np.float32)
    np.testing.assert_array_equal(resample_velocity(velocity, grid, grid.resampled(5.0)), velocity[::5, ::5])
    target = Grid(100, 40, 7.3)
    ours = resample_velocity(velocity, grid, target)
    positions = np.stack(
        np.meshgrid(np.arange(100) * 7.3, np.minimum(np.arange(40) * 7.3, 299), indexing="ij"), axis=-1
    )
    expected = RegularGridInterpolator((np.arange(1259.0), np.arange(300.0)), velocity.astype(np.float64))(positions)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert ours.dtype == np.float32
    fine = resample_velocity(velocity[None, ::5, ::5], grid.resampled(5.0), grid)
    assert fine.shape == (1, *grid.shape)
    np.testing.assert_allclose(fine[0, ::5, ::5], velocity[::5, ::5], rtol=1e-6)
    np.testing.assert_array_equal(fine[0, 1256:], np.broadcast_to(fine[0, 1255], (3, 300)))


class Names:
    """A dataset of names and origins: all that the split looks at."""

    def __init__(self, names, origins=None):
        self.path, self.names, self.origins = "DATA", tuple(names), origins or list(names)

    def __len__(self):
        return len(self.names)

    def origin(self, i):
        return self.origins[i]


@pytest.mark.parametrize("split_by", ["file", "prefix", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_split_is_a_partition_that_keeps_groups_together(split_by, seed):
    names = [f"cube{c:02d}_line{k:03d}" for c in range(12) for k in range(7)]
    origins = [f"file{i // 6}" for i in range(len(names))]
    dataset = Names(names, origins)
    train, validation = split_indices(dataset, split_by=split_by, validation_fraction=0.2, seed=seed)
    assert sorted([*train, *validation]) == list(range(len(names)))
    assert 0 < len(validation) <= 0.2 * len(names) and len(train)
    groups = {"file": origins, "prefix": [n[:6] for n in names], "none": names}[split_by]
    assert not {groups[i] for i in train} & {groups[i] for i in validation}
    again = split_indices(dataset, split_by=split_by, validation_fraction=0.2, seed=seed)
    np.testing.assert_array_equal(again[1], validation)
    other = split_indices(dataset, split_by=split_by, validation_fraction=0.2, seed=seed + 100)
    assert not np.array_equal(other[1], validation)


def test_split_edges():
    two = split_indices(Names(["a", "b"]), split_by="file", validation_fraction=0.01, seed=0)
    assert [len(side) for side in two] == [1, 1]
    # One group holds nearly everything: it must stay in training.
    names = [*(f"big_{i}" for i in range(20)), "small_1"]
    for seed in range(4):
        train, validation = split_indices(Names(names), split_by="prefix", validation_fraction=0.3, seed=seed)
        assert list(validation) == [20] and len(train) == 20
    train, validation = split_indices(Names(names), split_by="file", validation_fraction=0, seed=0)
    assert len(train) == 21 and len(validation) == 0
    with pytest.raises(UserError, match=r"one group by prefix \(big\).*--data.split-by none"):
        split_indices(Names(names[:20]), split_by="prefix", validation_fraction=0.1, seed=0)
    with pytest.raises(UserError, match=r"one sample, .*--data.validation-fraction 0"):
        split_indices(Names(["a"]), split_by="none", validation_fraction=0.1, seed=0)
    with pytest.raises(UserError, match=r"validation-fraction 1, expected"):
        split_indices(Names(names), split_by="none", validation_fraction=1, seed=0)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Ten samples, told apart by the value of their velocity."""
    folder = tmp_path_factory.mktemp("pairs")
    survey = speed_and_structure(spacing=50, dt=5e-3)
    rng = np.random.default_rng(0)
    for i in range(10):
        gathers = rng.normal(size=survey.gather_shape).astype(np.float32)
        write_challenge_sample(folder, f"s{i}", gathers, np.full(survey.grid.shape, 2000 + i, np.float32))
    return open_dataset(folder)


def sample_ids(batch):
    return [int(v) - 2000 for v in batch["velocity"][:, 0, 0].round()]


def test_stream_is_exact_by_step_and_independent_of_threads(pairs):
    indices = np.arange(1, 10)
    stream = Batches(pairs, indices, pairs.survey, 4, seed=3, read_threads=1)
    straight = list(itertools.islice(stream.from_step(0), 12))
    assert straight[0]["gathers"].shape == (4, *pairs.survey.gather_shape)
    assert straight[0]["gathers"].dtype == straight[0]["velocity"].dtype == np.float32
    order = [i for batch in straight for i in sample_ids(batch)]
    for epoch in range(4):  # every epoch has each training sample once, in an order of its own
        assert sorted(order[9 * epoch : 9 * epoch + 9]) == list(range(1, 10))
    assert order[:9] != order[9:18]
    for batch in straight[:2]:
        for gathers, i in zip(batch["gathers"], sample_ids(batch), strict=True):
            np.testing.assert_array_equal(gathers, pairs.gathers(i))
    for step, threads in ((0, 3), (7, 1), (7, 3)):
        again = Batches(pairs, indices, pairs.survey, 4, seed=3, read_threads=threads, prefetch=2)
        for ours, expected in zip(again.from_step(step), straight[step:], strict=False):
            np.testing.assert_array_equal(ours["gathers"], expected["gathers"])
            np.testing.assert_array_equal(ours["velocity"], expected["velocity"])
    other = next(Batches(pairs, indices, pairs.survey, 4, seed=4).from_step(0))
    assert sample_ids(other) != sample_ids(straight[0])


def test_processes_share_one_order(pairs):
    indices = np.arange(10)
    for count in (2, 4):
        whole = next(Batches(pairs, indices, pairs.survey, 4, 0).from_step(2))
        parts = [
            next(
                Batches(
                    pairs, indices, pairs.survey, 4 // count, 0, process_index=process, process_count=count
                ).from_step(2)
            )
            for process in range(count)
        ]
        for name, rows in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), rows)


def test_jumping_far_reads_nothing_before_and_reading_ahead_is_bounded(pairs):
    class Counting:
        def __init__(self, dataset):
            self.dataset, self.reads = dataset, 0

        def __getattr__(self, name):
            return getattr(self.dataset, name)

        def __len__(self):
            return len(self.dataset)

        def gathers(self, i):
            self.reads += 1
            return self.dataset.gathers(i)

    counting = Counting(pairs)
    stream = Batches(counting, np.arange(10), pairs.survey, 2, 0, read_threads=2, prefetch=3).from_step(100_000)
    next(stream)
    time.sleep(0.5)  # as long as a step takes: the readers must not run on
    stream.close()
    assert 2 <= counting.reads <= 2 * (3 + 2)


def test_cache_reads_each_sample_once_within_its_bound(pairs):
    survey = pairs.survey.resampled(dt=1e-2 / 2)
    bytes_each = 4 * (np.prod(survey.gather_shape) + np.prod(survey.grid.shape))
    fitting = Resampled(pairs, survey, cache_gib=10 * bytes_each / 2**30)
    assert fitting.gathers(3) is fitting.gathers(3) and fitting.velocity(3) is fitting.velocity(3)
    too_large = Resampled(pairs, survey, cache_gib=9.9 * bytes_each / 2**30)
    assert not too_large.cached
    too_large.velocity(3)
    assert not too_large._velocity


def test_the_last_row_of_openfwi_stays_zero_at_another_sampling(tmp_path):
    survey = openfwi()
    rng = np.random.default_rng(0)
    gathers = rng.normal(size=(1, *survey.gather_shape)).astype(np.float32)
    write_openfwi(tmp_path, 1, gathers, np.full((1, 70, 70), 2000, np.float32))
    dataset = open_dataset(tmp_path)
    for dt in (1e-3, 2e-3, 7e-4):
        batch = read_batch(dataset, [0], dataset.survey.resampled(dt=dt))
        assert batch["gathers"][0, :, 5].any() and not batch["gathers"][0, :, -1].any()


def test_read_batch_is_in_order_and_resampled(pairs):
    survey = pairs.survey.resampled(spacing=100.0)
    batch = read_batch(pairs, [7, 2], survey)
    assert sample_ids(batch) == [7, 2]
    assert batch["velocity"].shape == (2, *survey.grid.shape)
    np.testing.assert_array_equal(batch["gathers"][1], pairs.gathers(2))


def test_a_bad_sample_stops_the_stream_with_its_name(pairs, tmp_path):
    for i in range(3):
        write_challenge_sample(tmp_path, f"s{i}", pairs.gathers(i), pairs.velocity(i))
    bad = np.full((pairs.survey.nt, 31), np.nan, np.float32)
    np.save(tmp_path / "s1" / "receiver_data_src_75.npy", bad)
    dataset = open_dataset(tmp_path)
    with pytest.raises(UserError, match=r"s1.receiver_data_src_75\.npy: 6231 of 6231 values are NaN"):
        for _ in itertools.islice(Batches(dataset, np.arange(3), dataset.survey, 3, 0).from_step(0), 1):
            pass


def test_config(pairs):
    config = DataConfig(str(pairs.path), grid_spacing=100.0, limit=6)
    dataset = open_data(config)
    assert len(dataset) == len(set(dataset.names)) == 6 and dataset.names == tuple(sorted(dataset.names))
    assert open_data(config).names == dataset.names
    i = pairs.names.index(dataset.names[4])
    np.testing.assert_array_equal(dataset.gathers(4), pairs.gathers(i))
    np.testing.assert_array_equal(dataset.velocity(4), pairs.velocity(i))
    assert dataset.origin(4) == pairs.origin(i)
    survey = training_survey(dataset, config)
    assert survey.grid.spacing == 100 and survey.nt == pairs.survey.nt
    with pytest.raises(UserError, match=r"--data.dt 0.02 s would remove .* reaches 4\d Hz"):
        training_survey(dataset, DataConfig(dt=0.02))
    each_its_own = dataclasses.replace(dataset.survey, wavelet=np.stack([dataset.survey.wavelet] * 2))
    with pytest.raises(UserError, match="expected one for all shots"):
        training_survey(types.SimpleNamespace(path=dataset.path, survey=each_its_own), config)
    for values, message in (
        ({"read_threads": 0}, "--data.read-threads 0, expected at least 1"),
        ({"limit": 0}, "--data.limit 0"),
        ({"grid_spacing": -5.0}, "--data.grid-spacing -5.0, expected a positive number"),
    ):
        with pytest.raises(UserError, match=message):
            DataConfig(**values)


def test_unusable_requests(pairs, tmp_path):
    write_challenge_sample(tmp_path, "s", pairs.gathers(0), None)
    with pytest.raises(UserError, match="gathers without velocity models"):
        Batches(open_dataset(tmp_path), np.arange(1), pairs.survey, 1, 0)
    with pytest.raises(UserError, match="no samples to train on"):
        Batches(pairs, np.arange(0), pairs.survey, 1, 0)


def test_configuration_imports_nothing_heavy():
    code = (
        "import sys, seisvel_jax.data.pipeline, seisvel_jax.inspect\n"
        "print([m for m in ('jax', 'grain', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The numbers of a pack: what 16 bits keep, and what decimation in time keeps and stops."""

import ml_dtypes
import numpy as np
import pytest
from pack_support import write_challenge

from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.packed_codec import decode_gathers, decode_velocity, encode_gathers, encode_velocity
from seisvel_jax.data.writers import write_challenge_sample
from seisvel_jax.errors import UserError
from seisvel_jax.pack import Pack, pack
from seisvel_jax.survey import speed_and_structure


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e-2, 1.0, 1e30])
def test_float16_is_scaled_to_its_range(scale):
    gathers = (scale * np.random.default_rng(0).normal(size=(2, 50, 3))).astype(np.float32)
    stored, exponent = encode_gathers(gathers, "float16", "a")
    assert stored.dtype == np.float16 and 2**14 <= np.abs(stored).max() <= 2**15
    restored = decode_gathers(stored, "float16", exponent)
    # Half a unit in the last of eleven places; without the scale 1e-7 would keep one or two digits, 1e30 none.
    big = np.abs(gathers) > 1e-3 * scale
    assert np.abs(restored / gathers - 1)[big].max() <= 2**-11
    assert restored.dtype == np.float32


def test_other_dtypes_and_silence():
    gathers = np.random.default_rng(0).normal(size=(2, 50, 3)).astype(np.float32)
    stored, exponent = encode_gathers(gathers, "bfloat16", "a")
    assert (stored.dtype, exponent) == (np.uint16, 0)
    restored = decode_gathers(stored, "bfloat16", 0)
    np.testing.assert_array_equal(restored, gathers.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert np.abs(restored / gathers - 1).max() <= 2**-8
    stored, exponent = encode_gathers(gathers, "float32", "a")
    np.testing.assert_array_equal(decode_gathers(stored, "float32", exponent), gathers)
    for dtype in ("float16", "bfloat16", "float32"):
        assert not decode_gathers(*_swap(encode_gathers(0 * gathers, dtype, "a"), dtype)).any()
    with pytest.raises(UserError, match=r"too large for bfloat16.*float32"):
        encode_gathers(np.full((1, 2, 2), 3.4e38, np.float32), "bfloat16", "a")


def _swap(encoded, dtype):
    return encoded[0], dtype, encoded[1]


def test_bfloat16_does_not_come_back_from_an_npy_file_so_its_bits_are_stored(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3, ml_dtypes.bfloat16))
    assert np.load(tmp_path / "a.npy").dtype != ml_dtypes.bfloat16
    pack(Pack(write_challenge(tmp_path / "train", 2), tmp_path / "pack", dtype="bfloat16"))
    raw = np.load(tmp_path / "pack" / "gathers-00000.npy", mmap_mode="r")
    assert raw.dtype == np.uint16
    expected = open_dataset(tmp_path / "train").gathers(1).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(raw[1].view(ml_dtypes.bfloat16).astype(np.float32), expected)
    np.testing.assert_array_equal(open_dataset(tmp_path / "pack").gathers(1), expected)


def test_velocity_steps_keep_whole_numbers_and_half_a_step():
    whole = np.arange(100, 6554, dtype=np.float32)
    np.testing.assert_array_equal(decode_velocity(encode_velocity(whole, "uint16", "a"), "uint16"), whole)
    fine = np.random.default_rng(0).uniform(1500, 4500, 10000).astype(np.float32)
    error = np.abs(decode_velocity(encode_velocity(fine, "uint16", "a"), "uint16").astype(np.float64) - fine)
    assert 0.04 < error.max() <= 0.0503  # half a step, and float32's own half unit
    np.testing.assert_array_equal(decode_velocity(encode_velocity(fine, "float32", "a"), "float32"), fine)
    with pytest.raises(UserError, match=r"a: velocities up to 7000.*--velocity-dtype float32"):
        encode_velocity(np.array([7000.0], np.float32), "uint16", "a")


def test_decimation_keeps_what_lies_below_50_hz_and_stops_what_would_alias(tmp_path):
    survey = speed_and_structure(spacing=100)  # 10001 samples of 0.1 ms
    rng = np.random.default_rng(0)
    traces = [rng.uniform(3, 50, 5), rng.uniform(0, 2 * np.pi, 5)]

    def signal_at(times, high):
        fade = np.exp(-(((times - 0.5) / 0.12) ** 2))  # nothing is left at the ends of the record
        below = sum(np.sin(2 * np.pi * f * times + phase) for f, phase in zip(*traces))
        return fade * (below + high * np.sin(2 * np.pi * 770 * times))

    shape = survey.gather_shape
    for name, high in (("clean", 0.0), ("noisy", 1.0)):
        values = signal_at(np.arange(10001) * 1e-4, high).astype(np.float32)
        gathers = np.broadcast_to(values[None, :, None], shape)
        write_challenge_sample(tmp_path / "train", name, gathers, np.full(survey.grid.shape, 2000.0))
    pack(Pack(tmp_path / "train", tmp_path / "pack", dtype="float32", dt=1e-3))
    dataset = open_dataset(tmp_path / "pack")
    assert dataset.survey.gather_shape == (5, 1001, 31) and dataset.survey.dt == 1e-3
    expected = signal_at(np.arange(1001) * 1e-3, 0.0)
    for index in range(2):
        found = dataset.gathers(index)[2, :, 7]
        # Every tenth row of the noisy record would be off by as much as the noise: 770 Hz folds to 230 Hz.
        assert np.linalg.norm(found - expected) <= 2e-4 * np.linalg.norm(expected), dataset.names[index]

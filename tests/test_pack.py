"""Packs: the same samples in fewer bytes, every byte checked, whatever happens while they are made."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from training_support import CONFIG, SURVEY, arrays, quick_compilation, write_data

from seisvel_jax.data import packed_writer
from seisvel_jax.data.dataset import Subset, open_dataset
from seisvel_jax.data.packed import _digest, plain_name, read_info
from seisvel_jax.data.packed_codec import decode_gathers, decode_velocity, encode_gathers, encode_velocity
from seisvel_jax.data.pipeline import Batches
from seisvel_jax.data.split import split_indices
from seisvel_jax.data.velocity_files import open_velocities
from seisvel_jax.data.writers import write_challenge_sample, write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.pack import Pack, main, pack
from seisvel_jax.survey import openfwi, speed_and_structure

COARSE = speed_and_structure(spacing=20, dt=2e-3)


def write_challenge(folder: Path, count: int = 5, survey=COARSE, velocity: bool = True) -> Path:
    rng = np.random.default_rng(0)
    for index in range(count):
        gathers = 1e-2 * rng.normal(size=survey.gather_shape)
        model = rng.uniform(1500, 4500, survey.grid.shape).astype(np.float32)
        model[:3] = 1500
        write_challenge_sample(folder, f"id{index}", gathers, model if velocity else None)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_challenge(tmp_path_factory.mktemp("source") / "train")


@pytest.fixture
def made(source, tmp_path):
    assert pack(Pack(source, tmp_path / "pack", shard_size=2)) == 0
    return tmp_path / "pack"


# ---- numbers ----


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


# ---- a data set like any other ----


def test_a_pack_is_read_like_its_source(source, made):
    before, after = open_dataset(source), open_dataset(made)
    assert (after.layout, after.names, after.has_velocity) == ("packed", before.names, True)
    assert after.survey.to_dict() == before.survey.to_dict()
    for index in range(len(before)):
        gathers, velocity = after.gathers(index), after.velocity(index)
        exact = before.gathers(index)
        assert gathers.dtype == velocity.dtype == np.float32 and gathers.flags.writeable
        assert np.linalg.norm(gathers - exact) <= 3e-4 * np.linalg.norm(exact)
        assert np.abs(velocity - before.velocity(index)).max() <= 0.0503
        assert (velocity[:3] == 1500).all()
        assert after.origin(index) == made / f"gathers-{index // 2:05d}.npy" and after.origin(index).is_file()
    assert open_dataset(made / "pack.json").names == before.names
    models = open_velocities(made)
    assert (models.layout, models.names) == ("packed", before.names)
    np.testing.assert_array_equal(models.velocity(3), after.velocity(3))
    part = Subset(after, np.array([4, 1]))
    np.testing.assert_array_equal(part.gathers(0), after.gathers(4))
    assert part.group(0) == "id4"
    with pytest.raises(IndexError):
        after.gathers(5)


def test_float32_is_exact_and_spacing_is_taken_where_asked(source, tmp_path):
    pack(Pack(source, tmp_path / "pack", dtype="float32", velocity_dtype="float32"))
    before, after = open_dataset(source), open_dataset(tmp_path / "pack")
    for index in range(5):
        np.testing.assert_array_equal(after.gathers(index), before.gathers(index))
        np.testing.assert_array_equal(after.velocity(index), before.velocity(index))
    pack(Pack(source, tmp_path / "coarse", velocity_dtype="float32", spacing=40.0))
    coarse = open_dataset(tmp_path / "coarse")
    assert coarse.survey.grid.spacing == 40
    np.testing.assert_array_equal(coarse.velocity(2), before.velocity(2)[::2, ::2])
    assert coarse.survey.gather_shape == before.survey.gather_shape


def test_statistics(source, made):
    dataset, facts = open_dataset(made), read_info(made).statistics
    gathers = np.stack([dataset.gathers(i) for i in range(5)]).astype(np.float64)
    velocity = np.stack([dataset.velocity(i) for i in range(5)]).astype(np.float64)
    for found, values in ((facts["gathers"], gathers), (facts["velocity"], velocity)):
        assert found["mean"] == pytest.approx(values.mean(), rel=1e-6, abs=1e-9)
        assert found["std"] == pytest.approx(values.std(), rel=1e-6)
        assert (found["min"], found["max"]) == (values.min(), values.max())
    from scipy.signal import hilbert

    envelope = np.abs(hilbert(gathers[..., ::4], axis=2))
    for share, value in facts["envelope_percentiles"].items():
        assert value == pytest.approx(np.percentile(envelope, float(share)), rel=0.02), share
    exact = np.stack([open_dataset(source).gathers(i) for i in range(5)])
    error = np.linalg.norm(gathers - exact) / np.linalg.norm(exact)
    assert facts["storage_error"]["gathers"] == pytest.approx(error, rel=1e-3)
    assert 0.04 < facts["storage_error"]["velocity"] <= 0.0503


def test_openfwi_files_stay_together_and_split_as_before(tmp_path):
    write_data(tmp_path / "data", 40)
    pack(Pack(tmp_path / "data", tmp_path / "pack", shard_size=7))
    before, after = open_dataset(tmp_path / "data"), open_dataset(tmp_path / "pack")
    assert after.names == before.names and after.survey.to_dict() == before.survey.to_dict()
    assert not after.gathers(3)[:, -1].any()
    for seed in range(4):
        for by in ("file", "prefix", "none"):
            ours, theirs = (
                split_indices(one, split_by=by, validation_fraction=0.3, seed=seed) for one in (before, after)
            )
            np.testing.assert_array_equal(ours[1], theirs[1])
    batches = Batches(after, np.arange(40), after.survey, 4, 0).from_step(0)
    assert next(batches)["gathers"].shape == (4, 2, 32, 8)
    batches.close()


def test_gathers_without_velocity(tmp_path):
    write_challenge(tmp_path / "test", 3, velocity=False)
    pack(Pack(tmp_path / "test", tmp_path / "pack"))
    dataset = open_dataset(tmp_path / "pack")
    assert not dataset.has_velocity and not (tmp_path / "pack" / "velocity-00000.npy").exists()
    with pytest.raises(UserError, match="without velocity"):
        dataset.velocity(0)
    pack(Pack(tmp_path / "pack", tmp_path / "out", unpack=True))
    assert open_dataset(tmp_path / "out").names == dataset.names


@pytest.mark.slow
def test_inspect_train_predict_and_evaluate_work_on_a_pack(tmp_path, capsys):
    from dataclasses import replace

    from seisvel_jax.evaluate import Evaluate, evaluate
    from seisvel_jax.inspect import Inspect, inspect
    from seisvel_jax.predict import Predict, predict
    from seisvel_jax.train import train

    write_data(tmp_path / "data", 12)
    # Exact numbers, so that training on the pack is training on the files, to the bit.
    pack(Pack(tmp_path / "data", tmp_path / "pack", dtype="float32", velocity_dtype="float32"))
    assert inspect(Inspect(str(tmp_path / "pack"))) == 0
    assert "packed layout" in capsys.readouterr().out
    streams = []
    for name in ("data", "pack"):
        dataset = open_dataset(tmp_path / name)
        streams.append(Batches(dataset, np.arange(12), dataset.survey, 4, 0).from_step(0))
    for _ in range(4):
        ours, theirs = (next(stream) for stream in streams)
        assert all(np.array_equal(ours[what], theirs[what]) for what in ("gathers", "velocity"))
    config = replace(
        CONFIG,
        groups=(replace(CONFIG.groups[0], members=1),),
        steps=1,
        eval_every=1,
        data=replace(CONFIG.data, path=str(tmp_path / "pack")),
    )
    with quick_compilation(tmp_path / "cache"):
        train(config, tmp_path / "run")
        predict(Predict(checkpoint=(tmp_path / "run",), data=tmp_path / "pack", output=tmp_path / "p.npz"))
    scores = [evaluate(Evaluate(tmp_path / "p.npz", tmp_path / name))["mape"] for name in ("data", "pack")]
    assert scores[0] == scores[1]


# ---- whole or not at all ----


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(source, made, tmp_path, monkeypatch):
    output = tmp_path / "again"
    real = packed_writer.write_shard
    for error, match in ((OSError(errno.ENOSPC, "full"), r"disk is full; 1 of 3 shards"), (KeyboardInterrupt(), None)):

        def stop(where, info, number, *rest, error=error, **more):
            if number == 1 + isinstance(error, KeyboardInterrupt):
                raise error
            return real(where, info, number, *rest, **more)

        monkeypatch.setattr(packed_writer, "write_shard", stop)
        with pytest.raises((UserError, KeyboardInterrupt), match=match):
            pack(Pack(source, output, shard_size=2))
        with pytest.raises(UserError, match=r"an unfinished pack: run the pack or simulate command again"):
            open_dataset(output)
    first = (output / "gathers-00000.npy").stat().st_mtime_ns
    (output / ".gathers-00002.npy.abc.part.npy").write_bytes(b"half")
    monkeypatch.setattr(packed_writer, "write_shard", real)
    pack(Pack(source, output, shard_size=2, threads=1))
    assert contents(output) == contents(made)
    assert (output / "gathers-00000.npy").stat().st_mtime_ns == first
    pack(Pack(source, output, shard_size=2))  # nothing left to do
    assert contents(output) == contents(made)
    (output / "velocity-00001.npy").unlink()  # the cure of a damaged file
    pack(Pack(source, output, shard_size=2))
    assert contents(output) == contents(made)


@pytest.mark.slow
def test_killed_at_any_moment(source, made, tmp_path):
    output = tmp_path / "again"
    command = [sys.executable, "-m", "seisvel_jax.pack", "--data", source, "--output", output, "--shard-size", "2"]
    for attempt in range(30):
        process = subprocess.Popen(
            [str(part) for part in command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and not output.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.004 * attempt)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    assert contents(output) == contents(made)


def test_another_pack_or_other_files_in_the_output_are_left_alone(source, made, tmp_path):
    before = contents(made)
    for options, match in (
        (Pack(source, made, shard_size=2, dtype="bfloat16"), r"another pack: dtype 'float16', now 'bfloat16'"),
        (Pack(source, made, shard_size=3), r"shard_size 2, now 3"),
        (Pack(source, made, shard_size=2, spacing=40.0), r"spacing 20.0, now 40.0"),
    ):
        with pytest.raises(UserError, match=match):
            pack(options)
    write_challenge(tmp_path / "other")
    with pytest.raises(UserError, match=r"another pack: the files of the source have changed"):
        pack(Pack(tmp_path / "other", made, shard_size=2))
    assert contents(made) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"files that are not of a pack \(notes.txt\)"):
        pack(Pack(source, tmp_path / "mine"))
    with pytest.raises(UserError, match="lies within the data"):
        pack(Pack(source, source / "pack"))
    with pytest.raises(UserError, match="a file stands"):
        pack(Pack(source, tmp_path / "mine" / "notes.txt"))
    hold = (
        "from seisvel_jax.files import Path, only_one\n"
        f"with only_one(Path({str(made)!r}), 'x'):\n    print(1, flush=True)\n    input()"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdin=-1, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(UserError, match="here now"):
            pack(Pack(source, made, shard_size=2))
        holder.communicate(b"\n")


def test_bad_samples_stop_it_or_are_left_out_by_name(tmp_path, capsys):
    source = write_challenge(tmp_path / "train", 4)
    bad = source / "id2" / "receiver_data_src_150.npy"
    np.save(bad, np.full(COARSE.gather_shape[1:], np.nan, np.float32))
    with pytest.raises(UserError, match=r"id2.*NaN"):
        pack(Pack(source, tmp_path / "pack", shard_size=3))
    pack(Pack(source, tmp_path / "skipped", shard_size=3, skip_bad=True))
    assert "left out: id2" in capsys.readouterr().err
    dataset = open_dataset(tmp_path / "skipped")
    assert dataset.names == ("id0", "id1", "id3")
    np.testing.assert_allclose(dataset.gathers(2), open_dataset(source).gathers(3), atol=1e-4)
    assert pack(Pack(tmp_path / "skipped", verify=True)) == 0
    assert np.load(tmp_path / "skipped" / "gathers-00000.npy").shape[0] == 2


# ---- damage ----


def test_a_flipped_bit_anywhere_is_named(made, capsys):
    assert pack(Pack(made, verify=True)) == 0
    for name in ("gathers-00001.npy", "velocity-00000.npy"):
        path = made / name
        whole = path.read_bytes()
        path.write_bytes(whole[:120] + b"\t" + whole[121:])  # numpy would read this header as it was
        with pytest.raises(UserError, match=rf"{name}: damaged \(the checksum of its header"):
            open_dataset(made)
        rng = np.random.default_rng(0)
        for place in [0, 60, 100, 127, 128, len(whole) - 1, *rng.integers(0, len(whole), 10)]:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=rf"{name}.*(damaged|truncated|shape)"):
                dataset = open_dataset(made)
                for index in range(len(dataset)):
                    dataset.gathers(index)
                    dataset.velocity(index)
            assert pack(Pack(made, verify=True)) == 1
            assert name in capsys.readouterr().out
        path.write_bytes(whole)
    assert pack(Pack(made, verify=True)) == 0


def test_truncated_missing_linked_and_grown_files_are_named(made, tmp_path):
    path = made / "velocity-00001.npy"
    whole = path.read_bytes()
    dataset = open_dataset(made)
    dataset.velocity(3)
    for content, match in ((whole[:-7], "truncated"), (whole + b"x", "too long"), (b"", "truncated")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"velocity-00001.npy: {match}.*run the pack command again"):
            open_dataset(made)
        with pytest.raises(UserError, match=match):  # also where it was open before: no crash
            dataset.velocity(3)
    path.rename(tmp_path / "elsewhere.npy")
    with pytest.raises(UserError, match=r"velocity-00001.npy: missing"):
        open_dataset(made)
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(UserError, match=r"velocity-00001.npy: a link"):
        open_dataset(made)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"velocity-00001.npy: not a plain file"):
        open_dataset(made)


def _rewrite(folder: Path, change) -> None:
    path = folder / "pack.json"
    values = json.loads(path.read_text())
    values.pop("digest")
    change(values)
    path.write_text(json.dumps({"digest": _digest(values), **values}))


def test_pack_json_newer_damaged_or_hostile(made):
    path = made / "pack.json"
    whole = path.read_text()

    def refused(match):
        with pytest.raises(UserError, match=match):
            open_dataset(made)
        path.write_text(whole)

    _rewrite(made, lambda values: values.update(version=2))
    refused(r"pack.json: version 2, expected 1: upgrade")
    _rewrite(made, lambda values: values.update(version="x"))
    refused(r"version 'x'")
    path.write_text(whole.replace('"float16"', '"float32"'))
    refused(r"pack.json: damaged \(its checksum")
    for text in (whole[:-40], "[]", "[" * 100000, '{"format": NaN}', whole.replace("1", "1" * 5000, 1)):
        path.write_text(text)
        refused(r"pack.json: (damaged|format)")
    for name in ("../evil", "a/b", "..", ".hidden", "", "a" * 300, "a\nb", 7):
        _rewrite(made, lambda values, name=name: values["shards"][0]["names"].__setitem__(0, name))
        refused(r"pack.json: not a description of a pack")
        assert not plain_name(name)
        _rewrite(made, lambda values, name=name: values["shards"][0]["files"][0].__setitem__(0, f"x/{name}/y.npy"))
        if name != "a/b":
            refused(r"pack.json: not a description of a pack") if name != 7 else path.write_text(whole)
    path.write_text(whole)
    for change in (
        lambda values: values["survey"].update(nt=10**9),
        lambda values: values["survey"]["grid"].update(depth_count=10**15),
        lambda values: values["shards"][1].update(names=["id2", "id2"]),
        lambda values: values["shards"][1]["exponents"].__setitem__(0, 4000),
        lambda values: values["shards"][0]["arrays"].pop("velocity"),
        lambda values: values["shards"][0]["arrays"]["gathers"].update(checksums=[1]),
        lambda values: values.update(shards=[]),
        lambda values: values.update(dtype="float64"),
        lambda values: values.update(survey=None),
        lambda values: values.pop("statistics"),
    ):
        _rewrite(made, change)
        refused(r"00000.npy|pack.json: not a description of a pack")
    path.unlink()
    refused(r"pack.json: missing beside the arrays of a pack")
    with pytest.raises(UserError, match=r"one file of a pack.*give the folder"):
        open_dataset(made / "gathers-00000.npy")


# ---- back again ----


def test_unpacked_challenge_folders_are_the_packed_ones(source, tmp_path, monkeypatch):
    pack(Pack(source, tmp_path / "pack", dtype="float32", velocity_dtype="float32"))
    output = tmp_path / "out"
    from seisvel_jax.data import packed_unpack

    real = packed_unpack.write_challenge_sample
    monkeypatch.setattr(
        packed_unpack,
        "write_challenge_sample",
        lambda *a: (_ for _ in ()).throw(KeyboardInterrupt) if a[1] == "id3" else real(*a),
    )
    with pytest.raises(KeyboardInterrupt):
        pack(Pack(tmp_path / "pack", output, unpack=True))
    monkeypatch.undo()
    (output / ".id3.abc.part").mkdir()
    pack(Pack(tmp_path / "pack", output, unpack=True))
    found = contents(output)
    assert found.keys() - {".unpack.json"} == contents(source).keys()
    for name, content in contents(source).items():
        if "receiver" in name:
            assert found[name] == content
        else:
            np.testing.assert_allclose(np.load(output / name), np.load(source / name), rtol=1e-7)
    pack(Pack(source, tmp_path / "other"))
    with pytest.raises(UserError, match="another pack's samples"):
        pack(Pack(tmp_path / "other", output, unpack=True))
    with pytest.raises(UserError, match="holds other files"):
        pack(Pack(tmp_path / "other", source, unpack=True))


def test_unpacked_openfwi_files_are_the_packed_ones(tmp_path):
    rng = np.random.default_rng(0)
    shape = openfwi().gather_shape
    gathers = rng.normal(size=(2, *shape)).astype(np.float32)
    gathers[:, :, -1] = 0
    velocity = rng.integers(1500, 4500, (2, 70, 70)).astype(np.float32)
    source = tmp_path / "source"
    write_openfwi(source / "FlatVel_A", 1, gathers, velocity)
    (source / "CurveFault_B").mkdir()
    np.save(source / "CurveFault_B" / "seis6_1_0.npy", gathers[:1])
    np.save(source / "CurveFault_B" / "vel6_1_0.npy", velocity[:1, None])
    pack(Pack(source, tmp_path / "pack", dtype="float32"))
    pack(Pack(tmp_path / "pack", tmp_path / "out", unpack=True))
    found = contents(tmp_path / "out")
    found.pop(".unpack.json")
    assert found == contents(source)
    # Packed again, from a pack.
    pack(Pack(tmp_path / "pack", tmp_path / "half", shard_size=1))
    pack(Pack(tmp_path / "half", tmp_path / "back", unpack=True))
    assert open_dataset(tmp_path / "back").names == open_dataset(source).names
    np.testing.assert_array_equal(open_dataset(tmp_path / "back").velocity(2), open_dataset(source).velocity(2))
    single = tmp_path / "test"
    single.mkdir()
    np.save(single / "000039dca2.npy", gathers[0])
    pack(Pack(single, tmp_path / "pack1", dtype="float32"))
    pack(Pack(tmp_path / "pack1", tmp_path / "out1", unpack=True))
    assert contents(tmp_path / "out1")["000039dca2.npy"] == contents(single)["000039dca2.npy"]


def test_another_survey_comes_back_with_the_samples(tmp_path):
    write_data(tmp_path / "data", 4)
    write_survey(tmp_path / "data", SURVEY)
    pack(Pack(tmp_path / "data", tmp_path / "pack", dtype="float32"))
    pack(Pack(tmp_path / "pack", tmp_path / "out", unpack=True))
    assert open_dataset(tmp_path / "out").survey.to_dict() == SURVEY.to_dict()
    np.testing.assert_array_equal(open_dataset(tmp_path / "out").gathers(2)[:, :-1], arrays(4)[0][2, :, :-1])


# ---- the command ----


def test_options_that_cannot_be(source, made, tmp_path):
    for options, match in (
        (Pack(source), r"--output is missing"),
        (Pack(made, verify=True, unpack=True), r"give one of them"),
        (Pack(made, tmp_path / "x", verify=True), r"leave --output out"),
        (Pack(source, tmp_path / "x", dt=-1.0), r"--dt -1"),
        (Pack(source, tmp_path / "x", dt=0.05), r"--dt 0.05 s would remove part of a signal"),
        (Pack(source, tmp_path / "x", spacing=1e5), r"--spacing 100000 m, expected at most 150"),
        (Pack(source, tmp_path / "x", shard_size=0), r"--shard-size 0"),
        (Pack(tmp_path / "none", tmp_path / "x"), r"no such file"),
        (Pack(tmp_path / "none", verify=True), r"no such folder"),
        (Pack(source, tmp_path / "x", unpack=True), r"challenge layout, expected a pack"),
        (Pack(source, verify=True), r"pack.json: missing"),
        (Pack(made, made / "x", unpack=True), r"lies within the pack"),
    ):
        with pytest.raises(UserError, match=match):
            pack(options)
    assert not (tmp_path / "x").exists()


def test_summary_says_what_was_saved(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pack", "--data", str(source), "--output", str(tmp_path / "pack")])
    assert main() == 0
    captured = capsys.readouterr()
    assert "5 samples in 1 shard (challenge layout)" in captured.out and "times fewer" in captured.out
    assert "MB/s" in captured.err


def test_help_comes_at_once():
    code = (
        "import runpy, sys\nsys.argv = ['pack', '--help']\n"
        "try:\n    runpy.run_module('seisvel_jax.pack', run_name='__main__')\n"
        "finally:\n    print(sorted({'jax', 'grain', 'scipy', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(option in done.stdout for option in ("--verify", "--unpack", "--dt", "--shard-size", "--skip-bad"))

"""Packs: the same samples in fewer bytes, every byte checked, whatever happens while they are made."""

import errno
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pack_support import COARSE, contents, write_challenge
from training_support import CONFIG, quick_compilation, write_data

from seisvel_jax.data import packed_writer
from seisvel_jax.data.dataset import Subset, open_dataset
from seisvel_jax.data.packed_info import read_info
from seisvel_jax.data.pipeline import Batches
from seisvel_jax.data.split import split_indices
from seisvel_jax.data.velocity_files import open_velocities
from seisvel_jax.errors import UserError
from seisvel_jax.pack import Pack, main, pack


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_challenge(tmp_path_factory.mktemp("source") / "train")


@pytest.fixture
def made(source, tmp_path):
    assert pack(Pack(source, tmp_path / "pack", shard_size=2)) == 0
    return tmp_path / "pack"


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

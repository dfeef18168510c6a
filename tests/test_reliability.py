"""Killed, filled, damaged, doubled: what was whole stays whole, and what goes on ends as if nothing had happened."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from soak import soak
from training_support import CONFIG, SURVEY, arrays, write_data

from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.pipeline import Batches, SkipBad
from seisvel_jax.data.velocity_files import open_velocities
from seisvel_jax.data.writers import write_challenge_sample, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, read_json
from seisvel_jax.inference.submission import CompetitionCSV, Finished
from seisvel_jax.simulate import simulate_dataset
from seisvel_jax.survey import read_survey
from seisvel_jax.training.records import Records, log_step, read_records, write_skipped

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data(tmp_path):
    """Six samples, the third of which is damaged."""
    folder = tmp_path / "data"
    gathers, velocity = arrays(6)
    for i in range(6):
        write_challenge_sample(folder, f"s{i}", gathers[i], velocity[i])
    write_survey(folder, SURVEY)
    path = folder / "s2" / "receiver_data_src_2.npy"
    path.write_bytes(path.read_bytes()[:-8])
    return folder


def stream(dataset, *, threads=1, step=0, count=6, indices=None):
    indices = np.arange(len(dataset)) if indices is None else indices
    batches = Batches(dataset, indices, dataset.survey, 2, 0, read_threads=threads, prefetch=threads)
    source = batches.from_step(step)
    return [{key: array.copy() for key, array in next(source).items()} for _ in range(count)]


# ---- bad samples ----


def test_skip_bad_takes_the_next_good_sample_of_the_same_group_and_says_so(data, capsys):
    dataset = open_dataset(data)
    with pytest.raises(UserError, match=r"s2.*receiver_data_src_2\.npy.*truncated"):
        stream(dataset)
    skipping = SkipBad(dataset, [np.array([0, 2, 4, 5]), np.array([1, 3])])
    np.testing.assert_array_equal(skipping.gathers(2), dataset.gathers(4))
    np.testing.assert_array_equal(skipping.velocity(2), dataset.velocity(4))
    np.testing.assert_array_equal(skipping.velocity(1), dataset.velocity(1))
    assert list(skipping.skipped) == ["s2"] and "truncated" in skipping.skipped["s2"]
    said = capsys.readouterr().err
    assert said.count("s2 is skipped, the 1. of 6") == 1


def test_skip_bad_gives_the_same_batches_for_any_threads_and_from_any_step(data):
    straight = stream(SkipBad(open_dataset(data), [np.arange(6)]))
    for other in (
        stream(SkipBad(open_dataset(data), [np.arange(6)]), threads=3),
        stream(SkipBad(open_dataset(data), [np.arange(6)]), step=0, count=2)
        + stream(SkipBad(open_dataset(data), [np.arange(6)]), step=2, count=4),
    ):
        jax.tree.map(np.testing.assert_array_equal, straight, other)


def test_mostly_bad_data_are_refused_even_so(data):
    for name in ("s0", "s1", "s3"):
        (data / name / "vp_model.npy").write_bytes(b"")
    with pytest.raises(UserError, match="more than half of its samples are bad"):
        stream(SkipBad(open_dataset(data), [np.arange(6)]))


def test_the_record_of_skipped_samples_grows_over_interruptions(tmp_path):
    write_skipped(tmp_path / "skipped.json", {"a": "x"})
    write_skipped(tmp_path / "skipped.json", {"b": "y"})
    assert json.loads((tmp_path / "skipped.json").read_text()) == {"count": 2, "samples": {"a": "x", "b": "y"}}


def test_numbers_that_are_not_finite_name_the_samples_and_files(tmp_path):
    folder = write_data(tmp_path / "data", count=4)
    path = folder / "data" / "data1.npy"
    array = np.load(path)
    array[3] *= 1e30  # finite, but nothing that a network could square
    np.save(path, array)
    batches = Batches(open_dataset(folder), np.arange(4), open_dataset(folder).survey, 4, 0)
    metrics = {"loss": np.array([1.0, np.nan]), "gradient_norm": np.ones(2)}
    with pytest.raises(UserError, match=r"step 1: .* of b is not finite.*Its samples: data1-003 \(.*data1\.npy\)") as e:
        log_step(None, (1, metrics), ("a", "b"), CONFIG, rate=lambda step: 0.0, describe=batches.describe)
    assert "e+30" in str(e.value)


class _Dying:
    """A dataset whose reader dies in the middle, as of a fault in a library."""

    def __init__(self, dataset, error):
        self.dataset, self.error = dataset, error
        self.survey, self.path, self.layout = dataset.survey, dataset.path, dataset.layout
        self.names, self.has_velocity, self.calls = dataset.names, True, 0

    def __len__(self):
        return len(self.dataset)

    def gathers(self, index):
        self.calls += 1
        if self.calls > 5:
            raise self.error
        return self.dataset.gathers(index)

    def velocity(self, index):
        return self.dataset.velocity(index)


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(3), OSError(errno.EIO, "Input/output error")])
def test_a_reader_that_dies_is_noticed(tmp_path, error):
    dataset = _Dying(open_dataset(write_data(tmp_path / "data", count=8)), error)
    with pytest.raises(type(error)):
        stream(dataset, threads=2, count=20)


# ---- kills ----

TERMINATED = """
import pathlib, sys, time
from seisvel_jax.errors import run_command
from seisvel_jax.files import whole_file
def main():
    with whole_file(pathlib.Path(sys.argv[1])) as part:
        part.write_text("half")
        print("writing", flush=True)
        time.sleep(900)
run_command(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_removes_what_is_half_written(tmp_path, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINATED, str(tmp_path / "a.txt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "writing\n"
    assert [p.name for p in tmp_path.iterdir()] != []
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code and "Traceback" not in errors and "same command again" in errors
    assert list(tmp_path.iterdir()) == []


SWALLOWED = """
import gc, os, signal, sys, time
from seisvel_jax.errors import run_command
def main():
    calls = []
    def callback(phase, info):
        if not calls:
            calls.append(1)
            os.kill(os.getpid(), signal.Signals(int(sys.argv[1])))
    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(900)
run_command(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_falls_into_a_callback_is_not_lost(number, code):
    words = [sys.executable, "-c", SWALLOWED, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    assert done.returncode == code and "Traceback" not in done.stderr and "interrupted" in done.stderr


def test_a_validation_written_before_a_kill_is_not_there_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [("validation", 0), ("train", 1), ("validation", 2), ("train", 2), ("validation", 4), ("train", 4)]
    path.write_text("".join(json.dumps({"kind": kind, "step": step}) + "\n" for kind, step in lines))
    # Interrupted at step 4 and saved without a score; validated at 4 when it went on, and killed before it saved.
    with open(path, "a") as file:
        file.write('{"kind": [], "step": 5}\n{"kind": "tra')
    Records(tmp_path, 4, ("a",), tensorboard=False, validated=2).close()
    kept = [(record["kind"], record["step"]) for record in read_records(path)]
    assert kept == [("validation", 0), ("train", 1), ("validation", 2), ("train", 2), ("train", 4)]
    (tmp_path / ".metrics.jsonl.abcdefgh.part.jsonl").write_text("{")
    Records(tmp_path, 0, ("a",), tensorboard=False, validated=-1).close()
    assert read_records(path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_what_a_killed_simulation_left_is_tidied_and_what_is_cut_off_made_again(tmp_path, capsys):
    _, velocity = arrays(3)
    survey = replace(SURVEY, wavelet=100 * SURVEY.wavelet)
    simulate_dataset(velocity, survey, "challenge", tmp_path / "a", names=["x", "y", "z"])
    whole = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    cut = tmp_path / "a" / "y" / "vp_model.npy"
    cut.write_bytes(cut.read_bytes()[:-1])
    (tmp_path / "a" / ".y.abcdefgh.part").mkdir()
    (tmp_path / "a" / ".y.abcdefgh.old").mkdir()
    (tmp_path / "a" / ".simulate.json.abcdefgh.part.json").write_text("{")
    assert simulate_dataset(velocity, survey, "challenge", tmp_path / "a", names=["x", "y", "z"]) == 1
    assert "y/vp_model.npy: is truncated" in capsys.readouterr().err
    found = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert found == whole


def test_a_finished_sample_that_is_cut_off_is_predicted_again(tmp_path, capsys):
    output = tmp_path / "s.npz"
    finished = Finished(output, {"a": 1}, fields=("velocity",))
    for index in range(2):
        finished.add(index, velocity=np.ones((3, 4)))
    path = finished.folder / "velocity_000001.npy"
    path.write_bytes(path.read_bytes()[:-2])
    again = Finished(output, {"a": 1}, fields=("velocity",))
    assert 0 in again and 1 not in again
    assert "velocity_000001.npy: is truncated" in capsys.readouterr().err


def test_a_prediction_killed_before_its_first_sample_goes_on(tmp_path):
    (tmp_path / "s.npz.part").mkdir()
    (tmp_path / "s.npz.part" / ".made_with.json.abcdefgh.part.json").write_text("{")
    Finished(tmp_path / "s.npz", {"a": 1}, fields=("velocity",)).add(0, velocity=np.ones((3, 4)))
    assert 0 in Finished(tmp_path / "s.npz", {"a": 1}, fields=("velocity",))


def test_a_short_soak(tmp_path):
    report = soak(tmp_path, kills=3, seed=1, only=["pack"], say=lambda *a, **k: None)
    assert report.problems == [] and report.kills.total() == 3 and report.rounds["pack"] >= 1


@pytest.mark.slow
def test_a_soak_of_every_command(tmp_path):
    report = soak(tmp_path, kills=5, seed=3, say=lambda *a, **k: None)
    assert report.problems == [] and report.kills.total() == 5


# ---- disk full ----


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB, where we may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no permission to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_disk_that_is_really_full_keeps_the_last_good_checkpoint(small_disk):
    from test_training_checkpoint import ABSTRACT, OPTIMIZER, at, metadata

    from seisvel_jax.training.checkpoint import Checkpoints, load_run
    from seisvel_jax.training.state import init_state

    state = jax.tree.map(np.array, init_state(CONFIG.groups, SURVEY, OPTIMIZER, jax.random.key(3)))
    checkpoints = Checkpoints(small_disk / "run")
    checkpoints.save(at(state, 1), metadata(0.5))
    ballast = small_disk / "ballast"
    with pytest.raises(OSError), open(ballast, "wb") as file:
        while True:
            file.write(b"0" * 4096)
            file.flush()
    with pytest.raises(UserError, match=r"cannot be written.*is the disk full"):
        checkpoints.save(at(state, 2), metadata(0.1))
    assert [p.name for p in (small_disk / "run" / "checkpoints").iterdir()] == ["1"]
    assert load_run(small_disk / "run").step == 1
    ballast.unlink()
    checkpoints.save(at(state, 2), metadata(0.1))
    assert int(checkpoints.resume(ABSTRACT, metadata())[0].step) == 2
    checkpoints.close()


def test_a_full_disk_while_simulating_keeps_what_is_whole(small_disk):
    _, velocity = arrays(60)
    survey = replace(SURVEY, wavelet=100 * SURVEY.wavelet)
    output = small_disk / "set"
    (small_disk / "ballast").write_bytes(b"0" * (2_800 * 1024))
    with pytest.raises(OSError) as caught:
        simulate_dataset(velocity, survey, "challenge", output, batch_size=4)
    assert caught.value.errno in (errno.ENOSPC, None)
    (small_disk / "ballast").unlink()
    left = [p.name for p in output.iterdir() if p.name.startswith("sample")]
    assert 0 < len(left) < 60
    dataset = open_dataset(output)
    assert all(np.isfinite(dataset.gathers(i)).all() for i in range(len(left)))
    assert simulate_dataset(velocity, survey, "challenge", output, batch_size=4) == 60 - len(left)


# ---- hostile files ----


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def npy(array):
    stream_ = io.BytesIO()
    np.save(stream_, array)
    return stream_.getvalue()


def claims(shape, body=b""):
    stream_ = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream_, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream_.getvalue() + body


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", "..", "a\nb", "\x1b[31mred", ".hidden", "a" * 201])
def test_names_out_of_an_archive_never_lead_elsewhere(tmp_path, name):
    path = archive(tmp_path / "s.npz", **{f"{name}.npy": npy(np.full((3, 4), 2.0))})
    with pytest.raises(UserError, match=r"an array named .*expected the name of a sample") as error:
        open_velocities(path)
    assert "\n" not in str(error.value)


def test_an_archive_that_would_unpack_to_gigabytes_is_refused_before(tmp_path):
    size = 8 * 2**27  # 1 GiB of zeros in a megabyte
    path = tmp_path / "s.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file, file.open("a.npy", "w") as member:
        member.write(claims((2**14, 2**13)))
        for _ in range(size // 2**24):
            member.write(bytes(2**24))
    begun = time.process_time()
    with pytest.raises(UserError, match=r"s\.npz: a: shape \(16384, 8192\), expected a model of at most"):
        open_velocities(path).velocity(0)
    assert time.process_time() - begun < 1
    lies = archive(tmp_path / "lies.npz", **{"a.npy": claims((2**20, 2**20), bytes(100))})
    with pytest.raises(UserError, match=r"lies\.npz: a: is truncated"):
        open_velocities(lies).velocity(0)


def test_pipes_and_devices_are_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x_seis.npy")
    (tmp_path / "survey.json").symlink_to("/dev/zero")
    for use in (
        lambda: load_npy(tmp_path / "x_seis.npy"),
        lambda: read_json(tmp_path / "survey.json"),
        lambda: read_survey(tmp_path / "survey.json"),
    ):
        with pytest.raises(UserError, match="a pipe or device, expected a file"):
            use()


def test_sparse_files_claim_no_memory(tmp_path):
    path = tmp_path / "v.npy"
    header = claims((2**20, 2**20))
    path.write_bytes(header)
    try:
        os.truncate(path, len(header) + 8 * 2**40)
    except OSError:
        pytest.skip("no sparse files of this size here")
    with pytest.raises(UserError, match=r"GiB, expected one sample"):
        load_npy(path)
    with pytest.raises(UserError, match="expected at most"):
        open_velocities(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nt": 10**12}, "expected at most"),
        ({"grid": {"depth_count": 10**7, "x_count": 10**7, "spacing": 1.0}}, "expected at most"),
        ({"sources": []}, "positions"),
        ({"boundary": []}, "not a survey description"),
        ({"wavelet": [1e300] * 9}, "NaN or infinite"),
    ],
)
def test_a_survey_claims_no_memory(tmp_path, change, message):
    path = tmp_path / "survey.json"
    path.write_text(json.dumps(SURVEY.to_dict() | change))
    with pytest.raises(UserError, match=rf"survey\.json: .*{message}"):
        read_survey(path)


@pytest.mark.parametrize("content", ["[" * 100_000, "1" * 10_000, "\ud800".encode("utf-8", "surrogatepass"), "{"])
def test_json_of_any_kind_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"a\.json: not JSON") as error:
        read_json(path)
    assert "\n" not in str(error.value)
    path.rename(tmp_path / "metrics.jsonl")
    assert read_records(tmp_path / "metrics.jsonl") in ([],)


def test_a_competition_file_with_an_endless_field(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("oid_ypos," + ",".join(f"x_{x}" for x in range(1, 70, 2)) + "\n" + "a" * 140_000)
    with pytest.raises(UserError, match=r"s\.csv: line \d+: field larger"):
        CompetitionCSV(path)


def test_a_name_that_is_no_text_is_refused_at_the_door(tmp_path):
    gathers, velocity = arrays(1)
    sample = write_challenge_sample(tmp_path, "a", gathers[0], velocity[0])
    write_survey(tmp_path, SURVEY)
    try:
        os.rename(sample, os.fsencode(tmp_path) + b"/a\xff")
    except OSError:
        pytest.skip("this file system takes text only")
    with pytest.raises(UserError, match=r"a sample named 'a\\udcff', expected a plain name"):
        open_dataset(tmp_path)

"""The report says what is really there: against numbers known by construction and the genuine files' README."""

import json
import subprocess
import sys

import numpy as np
import pytest

from seisvel_jax.data.writers import write_challenge_sample, write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.inspect import Inspect, inspect
from seisvel_jax.survey import openfwi, speed_and_structure

SURVEY = speed_and_structure(spacing=50, dt=5e-3)


def sample(seed):
    rng = np.random.default_rng(seed)
    velocity = rng.uniform(1510, 4490, SURVEY.grid.shape).astype(np.float32)
    velocity[:4] = 1500
    return rng.normal(size=SURVEY.gather_shape).astype(np.float32), velocity


def write(folder, count, first=0):
    for i in range(first, first + count):
        write_challenge_sample(folder, f"s{i:02d}", *sample(i))


def found(folder, **options):
    code = inspect(Inspect(str(folder), json=folder / "found.json", **options))
    return code, json.loads((folder / "found.json").read_text())


def test_statistics_are_those_of_the_arrays(tmp_path, capsys):
    write(tmp_path, 3)
    gathers, velocity = sample(3)
    velocity[10:12] = 4500
    write_challenge_sample(tmp_path, "s03", gathers, velocity)
    code, report = found(tmp_path)
    assert code == 0 and report["usable"]
    ours = report["sets"][0]
    all_gathers = np.stack([sample(i)[0] for i in range(4)]).astype(np.float64)
    all_velocity = np.stack([sample(i)[1] for i in range(3)] + [velocity]).astype(np.float64)
    for name, values in (("gathers", all_gathers), ("velocity", all_velocity)):
        for key, expected in (
            ("mean", values.mean()),
            ("std", values.std()),
            ("min", values.min()),
            ("max", values.max()),
        ):
            assert ours[name][key] == pytest.approx(expected, rel=1e-5, abs=1e-7), (name, key)
    assert ours["velocity"]["water_share"] == pytest.approx(np.mean(all_velocity == 1500))
    assert ours["velocity"]["salt_share"] == pytest.approx(np.mean(all_velocity == 4500))
    assert ours["velocity"]["samples_with_salt"] == 0.25
    assert ours["gathers"]["dtypes"] == {"float32": 4} and ours["velocity"]["dtypes"] == {"float64": 4}
    assert ours["survey"]["record_length"] == pytest.approx(1.0)
    assert ours["survey"]["wavelet_peak_frequency"] == pytest.approx(15, abs=0.2)
    assert ours["survey"]["source_x"] == [0, 74, 149, 224, 299]
    printed = capsys.readouterr().out
    assert "usable: 4 good samples" in printed and "float64 km/s, lateral first" in printed


def test_genuine_files(shared_data, tmp_path, capsys):
    assert inspect(Inspect(str(shared_data / "challenge_like" / "full"), json=tmp_path / "a.json")) == 0
    ours = json.loads((tmp_path / "a.json").read_text())["sets"][0]
    # README of the data: global standard deviation 0.01551.
    assert ours["gathers"]["std"] == pytest.approx(0.01551, rel=2e-3)
    assert ours["velocity"]["min"] == 1500 and ours["velocity"]["max"] == 4500
    assert inspect(Inspect(str(shared_data / "openfwi" / "curvefault_b_sample0_seis.npy"))) == 0
    assert "openfwi layout" in capsys.readouterr().out


def test_silent_shots_and_traces_are_bad(tmp_path, capsys):
    write(tmp_path, 1)
    gathers, velocity = sample(1)
    write_challenge_sample(tmp_path, "zero", 0 * gathers, velocity)
    gathers[2] = 0
    write_challenge_sample(tmp_path, "shot", gathers, sample(2)[1])
    gathers, velocity = sample(3)
    gathers[1, :, 4] = 0
    write_challenge_sample(tmp_path, "trace", gathers, velocity)
    code, report = found(tmp_path)
    assert code == 1 and not report["usable"]
    reasons = {entry["name"]: entry["reason"] for entry in report["sets"][0]["bad"]}
    assert set(reasons) == {"zero", "shot", "trace"}
    assert reasons["zero"].startswith("all gathers are zero")
    assert reasons["shot"].startswith("the gather of shot 2 (counted from 0) is zero")
    assert reasons["trace"] == "1 of 155 traces are zero, (shot, receiver) (1, 4)"
    assert "NOT USABLE: 3 of 4 samples are bad" in capsys.readouterr().out


def test_duplicates_are_found_by_contents(tmp_path, capsys):
    write(tmp_path, 3)
    write_challenge_sample(tmp_path, "copy", *sample(1))
    write_challenge_sample(tmp_path, "same_model", sample(9)[0], sample(2)[1])
    code, report = found(tmp_path)
    assert code == 0
    assert report["sets"][0]["duplicates"] == [["copy", "s01"]]
    assert sorted(map(sorted, report["sets"][0]["velocity_duplicates"])) == [["copy", "s01"], ["s02", "same_model"]]
    printed = capsys.readouterr().out
    assert "DUPLICATE gathers: copy = s01" in printed and "1 copies of other samples" in printed


def test_root_with_train_and_test_and_their_overlap(tmp_path, capsys):
    write(tmp_path / "train", 3)
    for i in (10, 11):
        write_challenge_sample(tmp_path / "test", f"t{i}", sample(i)[0], None)
    write_survey(tmp_path, SURVEY)
    code, report = found(tmp_path)
    assert code == 0 and [s["samples"] for s in report["sets"]] == [3, 2]
    assert "velocity" not in report["sets"][1]
    write_challenge_sample(tmp_path / "test", "leak", sample(2)[0], None)
    code, report = found(tmp_path)
    assert code == 1 and report["overlap"] == {"train/test": [["s02", "leak"]]}
    printed = capsys.readouterr().out
    assert "OVERLAP train/s02 = test/leak" in printed and "1 samples are on both sides" in printed


def test_openfwi_batches_and_limit(tmp_path, capsys):
    survey, rng = openfwi(), np.random.default_rng(0)
    for n in (1, 2):
        gathers = rng.normal(size=(3, *survey.gather_shape)).astype(np.float32)
        write_openfwi(tmp_path, n, gathers, rng.integers(1500, 4500, (3, 70, 70)).astype(np.float32))
    code, report = found(tmp_path, limit=2)
    assert code == 0 and report["sets"][0]["samples"] == 6 and report["sets"][0]["inspected"] == 2
    assert "6, 2 looked at" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--limit 0, expected at least 1"):
        inspect(Inspect(str(tmp_path), limit=0))


def test_figures(tmp_path):
    write(tmp_path / "train", 5)
    write_challenge_sample(tmp_path / "test", "t", sample(10)[0], None)
    write_survey(tmp_path, SURVEY)
    assert inspect(Inspect(str(tmp_path), figures=tmp_path / "figures")) == 0
    for name in ("samples_train.png", "samples_test.png"):
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_unwritable_places_are_found_before_reading(tmp_path, capsys):
    write(tmp_path / "data", 1)
    (tmp_path / "file").write_text("")
    for options in ({"json": tmp_path / "file" / "a.json"}, {"figures": tmp_path / "file"}):
        with pytest.raises(OSError, match=r"(?i)exists|not a directory"):
            inspect(Inspect(str(tmp_path / "data"), **options))
    assert capsys.readouterr().out == ""


def test_command_results_on_stdout_help_without_jax(tmp_path):
    write(tmp_path, 2)
    done = subprocess.run(
        [sys.executable, "-m", "seisvel_jax.inspect", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "usable: 2 good samples"
    assert "inspect" in done.stderr
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "seisvel_jax.inspect", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--figures" in done.stdout and "jax._src" not in done.stderr

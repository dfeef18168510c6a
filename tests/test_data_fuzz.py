"""Malformed inputs: each gives one clear line that names file, value, expectation and cure; never a traceback."""

import io
import json
import resource
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.velocity_files import open_velocities
from seisvel_jax.data.writers import write_challenge_sample, write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.files import load_npy, npy_header
from seisvel_jax.inspect import Inspect, inspect
from seisvel_jax.survey import openfwi, speed_and_structure

SURVEY = speed_and_structure(spacing=50, dt=5e-3)
DEPTH, WIDTH = SURVEY.grid.shape


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    rng = np.random.default_rng(0)
    for i in range(4):
        write_challenge_sample(
            folder / "challenge",
            f"s{i}",
            rng.normal(size=SURVEY.gather_shape).astype(np.float32),
            rng.uniform(1500, 4500, SURVEY.grid.shape).astype(np.float32),
        )
    survey = openfwi()
    for n in (1, 2, 3, 4):
        write_openfwi(
            folder / "openfwi",
            n,
            rng.normal(size=(2, *survey.gather_shape)).astype(np.float32),
            rng.integers(1500, 4500, (2, 70, 70)).astype(np.float32),
        )
    return folder


@pytest.fixture
def data(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "data")
    return tmp_path / "data"


def truncate(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def save_objects(path):
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


def damage(path, change):
    array = np.load(path)
    np.save(path, change(array))


def with_value(value, where=(3, 4)):
    def change(array):
        array[where] = value
        return array

    return change


S, M = "challenge/s1/receiver_data_src_75.npy", "challenge/s1/vp_model.npy"
G, V = "openfwi/data/data2.npy", "openfwi/model/model2.npy"

BAD_SAMPLES = {
    # file, what is done to it, what the line must say, sample named by inspect
    "missing shot": (S, lambda p: p.unlink(), r"missing, expected the shots .*: complete the sample", "s1"),
    "truncated shot": (
        S,
        truncate,
        r"is truncated: \d+ bytes of data, expected 24924 .*: copy or write it again",
        "s1",
    ),
    "cut inside the header": (S, lambda p: truncate(p, 0.003), r"truncated or not a \.npy file", "s1"),
    "empty file": (S, lambda p: p.write_bytes(b""), r"truncated or not a \.npy file", "s1"),
    "text": (S, lambda p: p.write_text("a,b\n1,2\n"), r"truncated or not a \.npy file", "s1"),
    "folder for a file": (
        S,
        lambda p: (p.unlink(), p.mkdir()),
        r"a folder stands where a \.npy file is needed: check the path",
        "s1",
    ),
    "objects": (S, save_objects, r"holds Python objects, which are never unpickled: save it as", "s1"),
    "complex": (S, lambda p: damage(p, lambda a: a.astype(complex)), r"dtype complex128, expected real numbers", "s1"),
    "strings": (S, lambda p: damage(p, lambda a: a.astype(str)), r"dtype <U32, expected real numbers", "s1"),
    "booleans": (S, lambda p: damage(p, lambda a: a > 0), r"dtype bool, expected real numbers", "s1"),
    "integers": (S, lambda p: damage(p, lambda a: a.astype(np.int16)), r"dtype int16, expected float32: save it", "s1"),
    "transposed": (
        S,
        lambda p: damage(p, lambda a: a.T),
        r"shape \(31, 201\), expected \(201, 31\) \(time, receiver\): .* transpose it",
        "s1",
    ),
    "receiver short": (S, lambda p: damage(p, lambda a: a[:, :30]), r"shape \(201, 30\), expected \(201, 31\)", "s1"),
    "row short": (S, lambda p: damage(p, lambda a: a[:-1]), r"shape \(200, 31\), expected \(201, 31\)", "s1"),
    "one dimension": (S, lambda p: damage(p, np.ravel), r"shape \(6231,\), expected \(201, 31\)", "s1"),
    "no elements": (S, lambda p: damage(p, lambda a: a[:0]), r"shape \(0, 31\) without elements", "s1"),
    "NaN": (
        S,
        lambda p: damage(p, with_value(np.nan)),
        r"1 of 6231 values are NaN or infinite, the first at \[3, 4\]",
        "s1",
    ),
    "infinite": (S, lambda p: damage(p, with_value(-np.inf)), r"1 of 6231 values are NaN or infinite", "s1"),
    "too large for float32": (
        S,
        lambda p: damage(p, lambda a: with_value(1e300)(a.astype(float))),
        r"1 of 6231 values are NaN or infinite",
        "s1",
    ),
    "missing model": (M, lambda p: p.unlink(), r"missing, expected the sample's velocity model", "s1"),
    "truncated model": (M, truncate, r"is truncated", "s1"),
    "model in m/s": (
        M,
        lambda p: damage(p, lambda a: 1000 * a),
        r"velocities from 15\d\d\.\d* to 4\d+\.?\d*, expected km/s: these look like m/s; divide the file by 1000",
        "s1",
    ),
    "model depth first": (
        M,
        lambda p: damage(p, lambda a: a.T),
        r"shape \(26, 6\), expected \(6, 26\) \(lateral, depth\): it is depth-first, transpose it",
        "s1",
    ),
    "model of another grid": (
        M,
        lambda p: damage(p, lambda a: np.repeat(a, 2, 0)),
        r"shape \(12, 26\), expected \(6, 26\).*survey\.json",
        "s1",
    ),
    "model integers": (M, lambda p: damage(p, lambda a: a.astype(int)), r"dtype int64, expected float64 km/s", "s1"),
    "model NaN": (M, lambda p: damage(p, with_value(np.nan)), r"1 of 156 values are NaN", "s1"),
    "model normalised": (M, lambda p: damage(p, lambda a: a / 4.5 - 0.5), r"these look normalised", "s1"),
    "model negative": (
        M,
        lambda p: damage(p, lambda a: -10 * a),
        r"expected km/s within 0\.1 to 20 km/s: check",
        "s1",
    ),
    "model of three dimensions": (M, lambda p: damage(p, lambda a: a[None]), r"expected \(lateral, depth\)", "s1"),
    "batch truncated": (G, truncate, r"is truncated", "data2"),
    "batch text": (G, lambda p: p.write_text("not numpy"), r"truncated or not a \.npy file", "data2"),
    "batch objects": (G, save_objects, r"holds Python objects", "data2"),
    "batch NaN": (
        G,
        lambda p: damage(p, with_value(np.nan, (1, 0, 5, 6))),
        r"data2\.npy: sample 1: 1 of 350000",
        "data2-001",
    ),
    "batch shape": (
        G,
        lambda p: damage(p, lambda a: a[..., :69]),
        r"shape \(2, 5, 1000, 69\), expected \(samples, \*\(5, 1000, 70\)\)",
        "data2-000",
    ),
    "batch integers": (G, lambda p: damage(p, lambda a: a.astype(int)), r"dtype int64, expected float32", "data2-000"),
    "model missing": (V, lambda p: p.unlink(), r"data2\.npy: has no velocity file beside it", "data2-000"),
    "model count": (
        V,
        lambda p: damage(p, lambda a: a[:1]),
        r"model2\.npy: shape \(1, 1, 70, 70\), expected \(2, 1, 70, 70\) .* holds 2 gathers: check the pair",
        "data2-001",
    ),
    "model km/s": (
        V,
        lambda p: damage(p, lambda a: a / 1000),
        r"model2\.npy: sample 0: velocities from 1\.5\d* to 4\.\d+, expected m/s: these look like km/s; multiply",
        "data2-000",
    ),
    "velocity truncated": (V, truncate, r"model2\.npy: is truncated", "data2-000"),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_a_bad_sample_is_named_and_the_others_are_read(data, capsys, case):
    name, change, message, sample = BAD_SAMPLES[case]
    path = data / name
    change(path)
    folder = data / name.split("/")[0]
    dataset = open_dataset(folder)
    failed = {}
    for i in range(len(dataset)):
        try:
            dataset.gathers(i)
            dataset.velocity(i)
        except UserError as error:
            failed[dataset.names[i]] = str(error)
    assert sample in failed and all(key.startswith(sample.split("-")[0]) for key in failed)
    pattern = rf"^{folder}.*{message}"
    assert __import__("re").search(pattern, failed[sample]), failed[sample]
    assert "\n" not in failed[sample]
    # The command names the same samples, with the same reasons, and says no.
    assert inspect(Inspect(str(folder))) == 1
    printed = capsys.readouterr().out
    for bad, reason in failed.items():
        assert f"BAD {bad}: {reason}" in printed
    assert printed.count("BAD ") == len(failed)
    assert "NOT USABLE" in printed


def stray(folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    return folder


def only_models(folder):
    write_challenge_sample(folder, "a", np.zeros((5, 3, 31)), np.full(SURVEY.grid.shape, 2000.0))
    for path in (folder / "a").glob("receiver*"):
        path.unlink()
    return folder


def saved(path, array):
    np.save(path, array)
    return path


def with_text(path, text):
    path.write_text(text)
    return path


def bad_survey(data, text):
    (data / "challenge" / "survey.json").write_text(text)
    return data / "challenge"


def odd_survey(data):
    folder = data / "odd"
    write_challenge_sample(folder, "a", np.ones((5, 50, 24)), None)
    return folder


def other_grid(data):
    write_challenge_sample(data / "odd", "a", np.ones((5, 50, 31)), np.full((70, 70), 2000.0))
    return data / "odd"


WRONG_INPUTS = {
    "no path": (lambda d: "", r"no data given"),
    "nothing there": (lambda d: d / "nowhere", r"no such file or folder: check the path"),
    "empty folder": (lambda d: (d / "e").mkdir() or d / "e", r"an empty folder, expected samples"),
    "stray files": (lambda d: stray(d / "e"), r"holds no samples \(only notes\.txt\), expected challenge folders"),
    "a text file": (lambda d: with_text(d / "a.txt", "x"), r"a file of kind '\.txt', expected a \.npy file"),
    "file where a folder should be": (lambda d: d / S, r"one file of a challenge sample: give the sample's folder"),
    "velocity given as gathers": (lambda d: d / V, r"shape \(2, 1, 70, 70\), expected gathers"),
    "one folder too high": (
        lambda d: (d / "up").mkdir() or ((d / "challenge").rename(d / "up" / "c") and d / "up"),
        r"lie one folder deeper \(it holds c/\)",
    ),
    "models without gathers": (lambda d: only_models(d / "m"), r"velocity models alone are no shot gathers"),
    "objects": (
        lambda d: (save_objects(d / "x_seis.npy"), d / "x_seis.npy")[1],
        r"x_seis\.npy: holds Python objects",
    ),
    "single truncated": (
        lambda d: (saved(d / "x_seis.npy", np.ones((5, 1000, 70))), truncate(d / "x_seis.npy"), d / "x_seis.npy")[2],
        r"is truncated: 1399936 bytes of data, expected 2800000",
    ),
    "gathers of another survey": (
        lambda d: saved(d / "x_seis.npy", np.ones((5, 800, 70))),
        r"gathers of shape \(5, 800, 70\), expected \(5, 1000, 70\).*put a survey\.json beside",
    ),
    "shots of another survey": (odd_survey, r"shape \(50, 24\), expected \(time, 31\).*survey\.json"),
    "grid of another survey": (other_grid, r"shape \(70, 70\), expected \(70, 294\).*survey\.json"),
    "survey not json": (lambda d: bad_survey(d, "{"), r"survey\.json: "),
    "survey without fields": (lambda d: bad_survey(d, "{}"), r"survey\.json: not a survey description"),
    "survey with a negative grid": (
        lambda d: bad_survey(d, json.dumps(SURVEY.to_dict()).replace('"depth_count": 26', '"depth_count": -26')),
        r"survey\.json: survey grid \(-26, 6\), expected whole numbers above 0: correct it",
    ),
    "survey with text for a number": (
        lambda d: bad_survey(d, json.dumps(SURVEY.to_dict()).replace('"spacing": 50', '"spacing": "50"')),
        r"survey\.json: survey grid and boundary \('50'",
    ),
    "survey that never ends": (
        lambda d: bad_survey(d, json.dumps(SURVEY.to_dict()).replace('"nt": 201', '"nt": Infinity')),
        r"survey\.json: not a survey description: OverflowError",
    ),
    "survey without time": (
        lambda d: bad_survey(d, json.dumps(SURVEY.to_dict()).replace('"dt": 0.005', '"dt": 0.0')),
        r"survey\.json: survey dt 0\.0, expected seconds above 0",
    ),
    "survey too deep": (lambda d: bad_survey(d, "[" * 100_000), r"survey\.json: "),
    "survey a list": (lambda d: bad_survey(d, "[1]"), r"survey\.json: not a survey description"),
    "survey of bytes": (
        lambda d: (d / "challenge/survey.json").write_bytes(b"\xff\x00") and d / "challenge",
        r"survey\.json",
    ),
    "split root": (
        lambda d: (d / "challenge").rename(d / "train") and (d / "openfwi").rename(d / "test") and d,
        r"holds the folders of a split, expected one of them",
    ),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_wrong_input_is_one_line(data, case):
    make, message = WRONG_INPUTS[case]
    path = make(data)
    with pytest.raises(UserError, match=message) as caught:
        dataset = open_dataset(path)
        dataset.gathers(0)
    assert "\n" not in str(caught.value)
    if path:
        assert str(data) in str(caught.value)


VELOCITY_FILES = {
    "km/s": (lambda d: saved(d / "v.npy", np.full((9, 7), 2.0)), r"these look like km/s; multiply the file by 1000"),
    "four": (lambda d: saved(d / "v.npy", np.full((2, 3, 9, 7), 2e3)), r"expected velocities \(N, 1, depth, x\)"),
    "text": (lambda d: with_text(d / "v.csv", "1"), r"a file of kind '\.csv', expected velocities"),
    "damaged archive": (lambda d: with_text(d / "v.npz", "PK nothing"), r"truncated or not an \.npz archive"),
    "empty archive": (lambda d: np.savez(d / "v.npz") or d / "v.npz", r"an archive without arrays"),
    "submission in m/s": (
        lambda d: np.savez(d / "v.npz", a=np.full((3, 4), 2e3)) or d / "v.npz",
        r"v\.npz: a: velocities .* look like m/s; divide",
    ),
    "submission of objects": (
        lambda d: np.savez(d / "v.npz", a=np.array([None])) or d / "v.npz",
        r"v\.npz: a: holds Python objects",
    ),
    "submission of three dimensions": (
        lambda d: np.savez(d / "v.npz", a=np.full((1, 3, 4), 2.0)) or d / "v.npz",
        r"v\.npz: a: shape \(1, 3, 4\), expected \(lateral, depth\)",
    ),
    "empty folder": (lambda d: (d / "e").mkdir() or d / "e", r"an empty folder"),
    "absent": (lambda d: d / "absent.npy", r"no such file or folder"),
    "gathers alone": (
        lambda d: saved(d / "000039dca2.npy", np.ones((5, 1000, 70))),
        r"velocities from 1 to 1, expected m/s",
    ),
}


@pytest.mark.parametrize("case", VELOCITY_FILES)
def test_wrong_velocity_files(tmp_path, case):
    make, message = VELOCITY_FILES[case]
    path = make(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        open_velocities(path).velocity(0)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_damaged_member_of_a_submission_is_named(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, good=np.full((300, 50), 2.0), bad=np.full((300, 50), 3.0))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("bad.npy").header_offset
    content[at + 5000] ^= 255
    path.write_bytes(content)
    velocities = open_velocities(path)
    assert velocities.velocity(0)[0, 0] == 2000
    with pytest.raises(UserError, match=r"v\.npz: bad: damaged"):
        velocities.velocity(1)


def test_every_sample_bad_still_names_every_one(data, capsys):
    for path in (data / "challenge").rglob("*.npy"):
        truncate(path)
    assert inspect(Inspect(str(data / "challenge"))) == 1
    printed = capsys.readouterr().out
    assert all(f"BAD s{i}: " in printed for i in range(4)) and "4 of 4 samples are bad" in printed


def test_exit_codes_and_no_traceback(data):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "seisvel_jax.inspect", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )

    wrong = run(data / "nowhere")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
    (data / S).unlink()
    bad = run(data / "challenge", "--json", data / "found.json")
    assert bad.returncode == 1 and "Traceback" not in bad.stderr
    assert json.loads((data / "found.json").read_text())["sets"][0]["bad"][0]["name"] == "s1"


def npy(shape, descr="'<f4'", version=b"\x01\x00", body=b"", padding=b""):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + padding + b"\n"
    size = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + header + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**12, 5)), r"is truncated: 0 bytes of data, expected 2\d+ for shape"),
        (npy((2**62, 2**62)), r"is truncated"),
        (npy((2**63, 4)), r"is truncated"),
        (npy((-4, 5), body=b"0" * 100), r"shape \(-4, 5\) in its header"),
        (npy("(1,", body=b"0" * 100), r"truncated or not"),
        (npy("'a'", body=b"0" * 100), r"truncated or not"),
        (npy((3,), "'|O'", body=b"0" * 100), r"holds Python objects"),
        (npy((3,), "[('a', '|O')]", body=b"0" * 100), r"holds Python objects"),
        (npy((3,), "[('a', '<f4')]", body=b"0" * 100), r"dtype .* expected real numbers"),
        (npy((3,), "'<M8[s]'", body=b"0" * 100), r"dtype datetime64"),
        (npy((3,), padding=b" " * 60000, version=b"\x02\x00", body=b"0" * 12), r"truncated or not"),
        (npy((3,), version=b"\x09\x00", body=b"0" * 12), r"truncated or not"),
        (npy("(" * 500), r"truncated or not"),
    ],
)
def test_headers_that_lie(tmp_path, content, message):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (npy_header, load_npy, lambda p: load_npy(p, memory_map=True)):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert "\n" not in str(caught.value) and "a.npy" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


HEADERS = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=120).map(lambda tail: b"\x93NUMPY\x01\x00" + tail),
    st.builds(
        npy,
        shape=st.lists(st.integers(-3, 2**64), max_size=5).map(tuple),
        descr=st.sampled_from(["'<f4'", "'>f8'", "'|O'", "'<c8'", "'<U9'", "'|V8'", "'<i2'", "'x'", "'<f16'", "3"]),
        version=st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x00\x07"]),
        body=st.binary(max_size=64),
    ),
    st.text(max_size=60).map(lambda text: npy((3,), text, body=b"0" * 12)),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=HEADERS)
def test_random_files_are_read_or_refused_with_their_name(tmp_path, content):
    path = tmp_path / "x_seis.npy"
    path.write_bytes(content)
    try:
        array = load_npy(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        assert array.dtype.kind in "fiu" and array.nbytes <= len(content)
    for use in (lambda: open_dataset(path).gathers(0), lambda: open_velocities(path).velocity(0)):
        try:
            use()
        except UserError as error:
            assert str(path) in str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), change=st.integers(1, 255), cut=st.integers(0, 3000))
def test_flipped_bytes_in_every_door(tmp_path, position, change, cut):
    stream = io.BytesIO()
    np.save(stream, np.linspace(1.5, 4.5, 35 * 7).reshape(35, 7))
    content = bytearray(stream.getvalue())
    content[position % len(content)] ^= change
    content = content[: len(content) - cut % 50]
    for name in ("vp_model.npy", "receiver_data_src_1.npy", "x_vel.npy"):
        path = tmp_path / "set" / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for use in (
        lambda: open_dataset(tmp_path / "set").gathers(0),
        lambda: open_velocities(tmp_path / "set").velocity(0),
        lambda: open_velocities(tmp_path / "set" / "a" / "x_vel.npy").velocity(0),
    ):
        try:
            use()
        except UserError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)


def test_a_survey_that_does_not_fit_the_files_names_both(data):
    write_survey(data / "challenge", speed_and_structure(spacing=50, dt=1e-2))
    with pytest.raises(UserError, match=r"receiver_data_src_1\.npy: shape \(201, 31\), expected \(101, 31\)"):
        open_dataset(data / "challenge").gathers(0)

"""The predict command end to end on small files: formats, resume, and everything that can go wrong on the way."""

import csv
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from test_inference_tta import equivariant
from training_support import quick_compilation

from seisvel_jax.config import Config, to_dict
from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.writers import write_challenge_sample, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.inference import pretrained, submission
from seisvel_jax.inference.predictor import Ensemble, Predictor
from seisvel_jax.inference.pretrained import load
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.models.ensemble import init_params, predict_members
from seisvel_jax.predict import Predict, predict
from seisvel_jax.survey import openfwi, ricker, speed_and_structure
from seisvel_jax.training.checkpoint import Checkpoints
from seisvel_jax.training.state import TrainState

SURVEY = speed_and_structure(spacing=20.0, dt=0.01)
COUNT = 7


def write_samples(folder: Path, count: int = COUNT, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for index in range(count):
        gathers = rng.normal(size=SURVEY.gather_shape).astype(np.float32)
        velocity = rng.uniform(1500, 4500, SURVEY.grid.shape).astype(np.float32)
        write_challenge_sample(folder, f"sample_{index:03d}", gathers, velocity)
    write_survey(folder, SURVEY)
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    return write_samples(tmp_path / "data")


@pytest.fixture
def fake(monkeypatch):
    """Runs without networks: `fake.calls` counts batches, `fake.fail_at` interrupts before that one."""

    class Fake:
        calls, fail_at, strength, survey = 0, None, 1.0, SURVEY

        def predict(self, gathers, survey):
            self.calls += 1
            if self.calls == self.fail_at:
                raise KeyboardInterrupt
            # Depends on what else is in the batch, as floating point on a GPU may.
            return (self.strength * equivariant(gathers, survey) + 1e-3 * gathers[0].sum()).astype(np.float32)

        def load(self, paths):
            names = ("net/0", "net/1")
            fingerprint = f"{[str(p) for p in paths]} {self.strength}"
            return Predictor([Ensemble(self.predict, self.survey, np.array([0.5, 0.5]), {}, names, fingerprint)])

    fake = Fake()
    monkeypatch.setattr(pretrained, "load", fake.load)
    return fake


def options(data: Path, output: Path, **changes) -> Predict:
    return Predict(**{"checkpoint": (Path("RUN"),), "data": data, "output": output, "batch_size": 2, **changes})


def test_npz_is_the_challenges_submission(fake, data, tmp_path):
    output = tmp_path / "new" / "submission.npz"
    predict(options(data, output))
    dataset = open_dataset(data)
    gathers = np.stack([dataset.gathers(i) for i in range(COUNT)])
    with np.load(output, allow_pickle=False) as archive:
        assert sorted(archive.files) == sorted(dataset.names)
        for index, name in enumerate(dataset.names):
            array = archive[name]
            assert array.shape == (15, 63) and array.dtype == np.float64
            first = gathers[index - index % 2]
            expected = equivariant(gathers[index][None], SURVEY).mean(0)[0] + 1e-3 * first.sum()
            np.testing.assert_allclose(array.T, expected / 1000, rtol=1e-5)
    assert sorted(p.name for p in output.parent.iterdir()) == ["submission.npz"]


def test_full_size_files_get_full_size_answers(fake, tmp_path, monkeypatch):
    """A network on a coarse grid, challenge files as they come, no model beside them: float64 (300, 1259)."""
    survey = speed_and_structure()
    gathers = np.zeros(survey.gather_shape, np.float32)
    gathers[:, 100] = 1
    write_challenge_sample(tmp_path / "test", "01BOBpFpr5YkZhAs32", gathers, None)
    output = tmp_path / "submission.npz"
    predict(options(tmp_path / "test", output))
    with np.load(output, allow_pickle=False) as archive:
        assert archive.files == ["01BOBpFpr5YkZhAs32"]
        assert archive["01BOBpFpr5YkZhAs32"].shape == (300, 1259)
        assert archive["01BOBpFpr5YkZhAs32"].dtype == np.float64


def test_shards_and_a_last_command_make_what_one_makes(fake, data, tmp_path, capsys):
    straight, output = tmp_path / "straight.npz", tmp_path / "submission.npz"
    predict(options(data, straight))
    fake.calls = 0
    for i in (2, 0, 1, 5):
        predict(options(data, output, shard=(i, 6)))
        assert not output.exists()
    assert fake.calls == 3  # batches 2, 0 and 1 of four
    predict(options(data, output))
    assert fake.calls == 4 and output.read_bytes() == straight.read_bytes()
    with pytest.raises(UserError, match="--shard"):
        predict(options(data, output, shard=(3, 3)))


def test_a_shard_predicts_what_the_sponge_is_estimated_by_too(fake, data):
    """Three samples, where the data do not say how wide their sponge was; each shard finds the same width."""
    from seisvel_jax.predict import _needed_for_refining

    dataset = open_dataset(data)
    wanted, last = options(data, Path("out.npz"), refine=1), [range(6, 7)]
    assert _needed_for_refining(last, wanted, dataset, dataset.names) == last
    (data / "survey.json").unlink()
    assert _needed_for_refining(last, wanted, dataset, dataset.names) == [range(0, 2), range(2, 4), range(6, 7)]


def test_npy_and_deviation(fake, data, tmp_path):
    output, deviation = tmp_path / "velocity.npy", tmp_path / "deviation.npz"
    predict(options(data, output, deviation=deviation, figures=tmp_path / "figures", figure_count=2, limit=3))
    array = np.load(output, allow_pickle=False)
    assert array.shape == (3, 1, 63, 15) and array.dtype == np.float32
    with np.load(deviation, allow_pickle=False) as archive:
        assert sorted(archive.files) == ["sample_000", "sample_001", "sample_002"]
        # Two members k apart at depth index k, weighted alike: k/2 m/s of deviation.
        np.testing.assert_allclose(1000 * archive["sample_001"].T[:, 3], np.arange(63) / 2, atol=1e-2)
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["sample_000.png", "sample_001.png"]


def test_csv_is_the_competitions(fake, tmp_path):
    survey = fake.survey = openfwi()
    rng = np.random.default_rng(0)
    folder = tmp_path / "test"
    folder.mkdir()
    for name in ("000039dca2", "0000fd8ec8"):
        np.save(folder / f"{name}.npy", rng.normal(size=survey.gather_shape).astype(np.float32))
    predict(options(folder, tmp_path / "submission.csv"))
    predict(options(folder, tmp_path / "velocity.npy"))
    with open(tmp_path / "submission.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["oid_ypos", *(f"x_{x}" for x in range(1, 70, 2))] and len(rows) == 1 + 2 * 70
    assert [row[0] for row in rows[1:3]] == ["000039dca2_y_0", "000039dca2_y_1"] and rows[-1][0] == "0000fd8ec8_y_69"
    velocity = np.load(tmp_path / "velocity.npy", allow_pickle=False)
    np.testing.assert_allclose(np.float64(rows[1 + 70 + 5][1:]), velocity[1, 0, 5, 1::2], atol=6e-4)


def test_interrupted_and_resumed_equals_straight(fake, data, tmp_path, capsys):
    straight, resumed = tmp_path / "straight.npz", tmp_path / "resumed.npz"
    predict(options(data, straight, deviation=tmp_path / "straight_deviation.npz"))
    calls, fake.calls, fake.fail_at = fake.calls, 0, 3
    resume = options(data, resumed, deviation=tmp_path / "resumed_deviation.npz")
    with pytest.raises(KeyboardInterrupt):
        predict(resume)
    assert not resumed.exists() and (tmp_path / "resumed.npz.part").is_dir()
    # The kill may also fall between the two samples of a batch.
    (tmp_path / "resumed.npz.part" / "velocity_000003.npy").unlink()
    predict(resume)
    assert "2 of 7 samples are done already" in capsys.readouterr().err
    assert fake.calls == calls + 2  # one interrupted, one repeated
    assert resumed.read_bytes() == straight.read_bytes()
    assert resume.deviation.read_bytes() == (tmp_path / "straight_deviation.npz").read_bytes()
    assert not (tmp_path / "resumed.npz.part").exists()


@pytest.mark.parametrize("change", ["options", "data", "checkpoint"])
def test_what_was_made_otherwise_is_not_resumed(fake, data, tmp_path, capsys, change):
    output = tmp_path / "submission.npz"
    fake.fail_at = 3
    with pytest.raises(KeyboardInterrupt):
        predict(options(data, output))
    again = options(data, output)
    if change == "options":
        again = options(data, output, tta=True)
    elif change == "data":
        write_samples(data, 1, seed=5)
    else:
        fake.strength = 2.0
    predict(again)
    message = capsys.readouterr().err
    assert f"other {change}: starting anew" in message and "done already" not in message
    straight = tmp_path / "straight.npz"
    predict(options(data, straight, tta=change == "options"))
    assert output.read_bytes() == straight.read_bytes()


def test_a_bad_sample_is_named_and_earlier_output_stays(fake, data, tmp_path):
    output = tmp_path / "submission.npz"
    output.write_bytes(b"earlier")
    path = data / "sample_004" / "receiver_data_src_75.npy"
    gather = np.load(path, allow_pickle=False)
    gather[3, 4] = np.nan
    np.save(path, gather)
    with pytest.raises(UserError, match=r"sample_004.*receiver_data_src_75.npy.*NaN"):
        predict(options(data, output))
    np.save(path, np.full(gather.shape, None), allow_pickle=True)
    with pytest.raises(UserError, match=r"receiver_data_src_75.npy.*Python objects"):
        predict(options(data, output))
    path.unlink()
    with pytest.raises(UserError, match=r"receiver_data_src_75.npy"):
        predict(options(data, output))
    assert output.read_bytes() == b"earlier"


def test_a_full_disk_leaves_the_earlier_output(fake, data, tmp_path, monkeypatch):
    output = tmp_path / "submission.npz"
    output.write_bytes(b"earlier")

    def full(file, array, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", full)
        with pytest.raises(OSError, match="No space") as caught:
            predict(options(data, output))
    assert caught.value.errno == errno.ENOSPC
    assert output.read_bytes() == b"earlier"
    # Space again: what was finished is used.
    calls = fake.calls
    predict(options(data, output))
    assert zipfile.is_zipfile(output) and fake.calls >= calls
    with monkeypatch.context() as patch:
        patch.setattr(submission.shutil, "disk_usage", lambda path: _Usage())
        with pytest.raises(UserError, match=r"MB are free"):
            predict(options(data, output))


class _Usage:
    free = 1000


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("submission.zip", "expected one of: .npz"),
        ("submission", "expected one of"),
        ("file/submission.npz", "file/submission.npz: cannot be written there"),
        ("folder.npz", "a folder stands where the file"),
        ("/proc/nowhere/submission.npz", "cannot be written"),
        ("/dev/null.npz/x.npz", "cannot be written"),
        ("submission.csv", "holds models of .70, 70., these are .63, 15."),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_any_work(fake, data, tmp_path, output, message):
    (tmp_path / "file").write_bytes(b"earlier")
    (tmp_path / "folder.npz").mkdir()
    if output.startswith("/dev"):
        output = "file/deeper/x.npz"
    with pytest.raises(UserError, match=message):
        predict(options(data, tmp_path / output))
    assert fake.calls == 0 and (tmp_path / "file").read_bytes() == b"earlier"


def test_a_device_is_not_replaced(data, tmp_path):
    (tmp_path / "full.npz").symlink_to("/dev/full")
    with pytest.raises(UserError, match="a device or pipe"):
        predict(options(data, tmp_path / "full.npz"))
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": ()}, "--checkpoint: empty"),
        ({"batch_size": 0}, "--batch-size: 0"),
        ({"limit": 0}, "--limit: 0"),
        ({"tta_noise": -1}, "--tta-noise"),
        ({"output": None}, "both needed"),
        ({"sample": Path("x")}, "one or the other"),
        ({"data": Path("/nowhere")}, "/nowhere: no such"),
    ],
)
def test_wrong_options_are_refused(fake, data, tmp_path, changes, message):
    changes = {"data": data, "output": tmp_path / "s.npz", **changes}
    with pytest.raises(UserError, match=message):
        predict(options(changes.pop("data"), changes.pop("output"), **changes))


def test_an_empty_folder_and_another_experiment_are_refused(fake, data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        predict(options(tmp_path / "empty", tmp_path / "s.npz"))
    fake.survey = openfwi()
    with pytest.raises(UserError, match="another experiment"):
        predict(options(data, tmp_path / "s.npz"))


# With networks, from the disk


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run as training leaves it, two tiny members with unequal weights."""
    path = tmp_path_factory.mktemp("run") / "RUN"
    network = VelocityNetConfig(
        width=8,
        heads=1,
        encoder_layers=1,
        decoder_layers=1,
        stem_channels=(4,),
        stem_blocks=(1,),
        patch_duration=0.1,
        token_duration=0.5,
        receiver_tokens=2,
        patch_shape=(21, 15),
        refine_channels=0,
        spacing=20.0,
        dt=0.01,
    )
    config = Config(name="tiny", groups=(GroupConfig(network, 2),))
    params = jax.jit(lambda key: init_params(config.groups, SURVEY, key))(jax.random.key(0))
    checkpoints = Checkpoints(path)
    metadata = {
        "config": to_dict(config),
        "survey": SURVEY.to_dict(),
        "samples": {},
        "weights": [0.25, 0.75],
        "postprocess": {"high": 3000.0},
        "validation": {"mape": 0.1},
    }
    checkpoints.save(TrainState(jax.numpy.int32(3), params, (), params), metadata)
    checkpoints.close()
    return path


def test_load_gives_what_the_networks_say(run, data):
    from seisvel_jax.training.checkpoint import load_run

    predictor, trained = load(run), load_run(run)
    dataset = open_dataset(data)
    gathers = np.stack([dataset.gathers(i) for i in range(2)])
    together = jax.jit(lambda params, gathers: predict_members(trained.graphdefs, params, gathers, SURVEY))
    expected = np.asarray(together(trained.params, gathers))
    np.testing.assert_allclose(predictor.predict_members(gathers), expected, rtol=1e-5)
    mean = 0.25 * expected[0] + 0.75 * expected[1]
    np.testing.assert_allclose(predictor.predict(gathers), mean, rtol=1e-5)
    np.testing.assert_allclose(predictor.predict(gathers, post_process=True), np.minimum(mean, 3000), rtol=1e-5)
    np.testing.assert_allclose(predictor.weights, [0.25, 0.75])
    assert predictor.member_names == ("velocity_net/0", "velocity_net/1")
    both = load([run, run / "checkpoints" / "3"])
    np.testing.assert_allclose(both.predict(gathers), mean, rtol=1e-5)
    assert both.fingerprint != predictor.fingerprint


def test_quick_look_at_one_sample(run, data, tmp_path, capsys):
    predict(Predict(checkpoint=(run,), sample=data / "sample_001", figures=tmp_path))
    shown = capsys.readouterr().out
    assert "gathers (5, 101, 31)" in shown and "MAPE" in shown and "predicted velocity (63, 15)" in shown
    assert (tmp_path / "sample_001.png").stat().st_size > 5000


def test_what_is_no_run_is_refused(data, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "nothing", data, tmp_path / "file"):
        with pytest.raises(UserError, match=str(path)):
            load(path)


def test_killed_by_the_scheduler_and_run_again(run, tmp_path):
    """SIGTERM in a process of its own: one line, no traceback, and the second run has the straight run's bytes."""
    data = write_samples(tmp_path / "data", 30)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def start(output: Path, patience: str = "0") -> subprocess.Popen:
        # Slowed down by the reader, so that the kill falls amid the samples.
        code = (
            "import sys, time; from seisvel_jax.data.challenge import ChallengeDataset as D; read = D.gathers; "
            f"D.gathers = lambda self, i: (time.sleep({patience}), read(self, i))[1]; "
            "from seisvel_jax.errors import run_command; from seisvel_jax.predict import main; run_command(main)"
        )
        arguments = ["--checkpoint", run, "--data", data, "--output", output, "--batch-size", "1"]
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    output = tmp_path / "submission.npz"
    process = start(output, "0.2")
    part = tmp_path / "submission.npz.part"
    deadline = time.monotonic() + 120
    while len(list(part.glob("velocity_*.npy"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=30)[1]
    assert process.returncode == 143 and "interrupted" in message and "Traceback" not in message
    assert not output.exists() and 3 <= len(list(part.glob("velocity_*.npy"))) < 30
    told = json.loads((part / "made_with.json").read_text())
    assert told["options"]["batch_size"] == 1

    process = start(output)
    process.communicate(timeout=120)
    assert process.returncode == 0
    predict(Predict((run,), data, tmp_path / "straight.npz", batch_size=1))
    assert output.read_bytes() == (tmp_path / "straight.npz").read_bytes()
    assert not part.exists()


def test_refine_afterwards_is_the_refine_command(fake, data, tmp_path, capsys):
    """`--refine` writes what predicting and refining one after the other do; a kill in between is gone on from."""
    from seisvel_jax.inference import refining
    from seisvel_jax.refine import Refine, refine

    fake.survey = dataclasses.replace(SURVEY, wavelet=ricker(3.0, 0.01, SURVEY.nt, 1 / 3))
    write_survey(data, fake.survey)
    whole, calls = refining.Refiner.__call__, []

    def stopping(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    wanted = options(data, tmp_path / "both.npz", refine=2, limit=5)
    with quick_compilation(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(refining.Refiner, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            predict(wanted)
        assert fake.calls == 3 and not wanted.output.exists()
        predict(wanted)
        assert fake.calls == 3 and len(calls) == 4  # nothing is predicted again, of three batches two are refined
        predict(options(data, tmp_path / "first.npz", limit=5))
        refine(Refine(data, tmp_path / "first.npz", tmp_path / "then.npz", iterations=2, limit=5))
        # Shards refine what they predict; the last look does neither.
        fake.calls = 0
        shares = dataclasses.replace(wanted, output=tmp_path / "shares.npz")
        for shard in ((1, 2), (0, 2)):
            predict(dataclasses.replace(shares, shard=shard))
        calls.clear()
        predict(shares)
        assert fake.calls == 3 and not calls
    assert "2 of 5 samples are done already" in capsys.readouterr().err
    assert (tmp_path / "both.npz").read_bytes() != (tmp_path / "first.npz").read_bytes()
    assert (tmp_path / "both.npz").read_bytes() == (tmp_path / "shares.npz").read_bytes()
    table = json.loads((tmp_path / "both.json").read_text())
    assert [row["evaluations"] for row in table["samples"]] == [2] * 5 and table["settings"]["misfit"] == "l2"
    with np.load(tmp_path / "both.npz") as both, np.load(tmp_path / "then.npz") as then:
        assert both.files == then.files
        for name in both.files:
            np.testing.assert_allclose(both[name], then[name], atol=1e-3)
    assert sorted(p.name for p in tmp_path.glob("both*")) == ["both.json", "both.npz"]
    for output in ("s.csv", None):
        with pytest.raises(UserError, match=r"--refine|both needed"):
            predict(options(data, output and tmp_path / output, refine=2))

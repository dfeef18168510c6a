"""Checkpoints: what is loaded is what was saved, and what is damaged or foreign is named."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from training_support import CONFIG, SURVEY, arrays

from seisvel_jax.config import to_dict
from seisvel_jax.errors import UserError
from seisvel_jax.models.ensemble import predict_members
from seisvel_jax.training import checkpoint as module
from seisvel_jax.training import manifest
from seisvel_jax.training.checkpoint import Checkpoints, load_run, step_folders
from seisvel_jax.training.manifest import write_manifest
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.runs import load_diffusion
from seisvel_jax.training.state import TrainState, abstract_state, init_state

OPTIMIZER = make_optimizer(CONFIG.optim, CONFIG.steps)
ABSTRACT = abstract_state(CONFIG.groups, SURVEY, OPTIMIZER)


@pytest.fixture(scope="module")
def state():
    return jax.tree.map(np.array, init_state(CONFIG.groups, SURVEY, OPTIMIZER, jax.random.key(3)))


def at(state, step):
    """The state of step `step`: every float raised by the step, so that steps can be told apart."""
    moved = jax.tree.map(lambda leaf: leaf + step if leaf.dtype == np.float32 else leaf, state)
    ema = jax.tree.map(lambda leaf: leaf + np.float32(0.25), moved.ema)  # a new run's equals its params
    moved = TrainState(np.int32(step), moved.params, moved.opt_state, ema)
    return jax.tree.map(jax.numpy.asarray, moved)


def metadata(mape=None, config=CONFIG, **others):
    return {
        "config": to_dict(config),
        "survey": SURVEY.to_dict(),
        "samples": {"train": 9, "validation": 3, "digest": "abc"},
        "weights": [0.25, 0.75],
        "postprocess": {"low": 1500.0},
        "validation": {} if mape is None else {"mape": mape, "step": 0},
    } | others


def save(run, state, mapes):
    checkpoints = Checkpoints(run)
    for step, mape in mapes.items():
        checkpoints.save(at(state, step), metadata(mape))
    checkpoints.close()


def resume(run, values=None):
    checkpoints = Checkpoints(run)
    try:
        return checkpoints.resume(ABSTRACT, values or metadata())
    finally:
        checkpoints.close()


def damage(step):
    """Cut the largest file of a checkpoint in half."""
    largest = max((p for p in step.rglob("*") if p.is_file() and "/d/" in str(p)), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_latest_two_and_the_best_are_kept_and_the_best_is_loaded(tmp_path, state):
    save(tmp_path, state, {0: 0.5, 10: 0.1, 20: 0.3, 30: None, 40: 0.2})
    assert [int(p.name) for p in step_folders(tmp_path)] == [10, 30, 40]
    run = load_run(tmp_path)
    assert run.step == 10 and run.metrics["mape"] == 0.1 and run.config == CONFIG
    np.testing.assert_array_equal(run.weights, [0.25, 0.75])
    assert run.postprocess == {"low": 1500.0}
    assert run.survey.grid == SURVEY.grid
    jax.tree.map(np.testing.assert_array_equal, run.params, at(state, 10).ema)
    assert load_run(tmp_path / "checkpoints" / "40").step == 40
    velocity = predict_members(run.graphdefs, run.params, arrays(1)[0], run.survey)
    assert velocity.shape == (2, 1, 8, 8)


def test_a_checkpoint_copied_elsewhere_is_enough(tmp_path, state):
    save(tmp_path / "run", state, {5: 0.1})
    (tmp_path / "run" / "checkpoints" / "5").rename(tmp_path / "5")
    assert load_run(tmp_path / "5").step == 5
    with pytest.raises(UserError, match=r"holds an ensemble, expected a diffusion model: .*seisvel_jax\.predict"):
        load_diffusion(tmp_path / "5")


def test_resume_gives_the_latest_state_back_bit_by_bit(tmp_path, state):
    assert resume(tmp_path) is None
    save(tmp_path, state, {1: 0.1, 2: 0.2})
    found, values = resume(tmp_path)
    want = at(state, 2)
    assert jax.tree.structure(found) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, found, want)
    assert values["weights"] == [0.25, 0.75]


def test_another_config_survey_or_data_is_refused_with_the_differences(tmp_path, state):
    save(tmp_path, state, {1: 0.1})
    other = replace(CONFIG, seed=5, log_every=9, optim=replace(CONFIG.optim, learning_rate=0.5))
    with pytest.raises(UserError, match=r"(?s)optim.learning_rate: 0.01 -> 0.5.*seed: 0 -> 5") as error:
        resume(tmp_path, metadata(config=other))
    assert "log_every" not in str(error.value)
    for change in (
        {"samples": {"train": 9, "validation": 3, "digest": "xyz"}},
        {"survey": {**SURVEY.to_dict(), "dt": 0.1}},
    ):
        with pytest.raises(UserError, match=next(iter(change))):
            resume(tmp_path, metadata(**change))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, state, capsys):
    save(tmp_path, state, {1: 0.3, 2: 0.1})
    damage(tmp_path / "checkpoints" / "2" / "ema")
    assert load_run(tmp_path).step == 1
    assert "checkpoints/2" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"checkpoints/2.*damaged"):
        load_run(tmp_path / "checkpoints" / "2")
    found, _ = resume(tmp_path)
    assert int(found.step) == 1
    assert (tmp_path / "damaged-2").is_dir()
    save(tmp_path, state, {2: 0.2})
    assert load_run(tmp_path).step == 2


def test_damaged_metadata(tmp_path, state):
    save(tmp_path, state, {1: 0.3})
    path = tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="none of its 1 checkpoints"):
        load_run(tmp_path)


@pytest.mark.parametrize("weight", [1e308, 10**400, float("nan"), True, "1"])
def test_numbers_that_no_checkpoint_has_are_refused(tmp_path, weight):
    parts = {"config": {}, "survey": {}, "samples": {}, "weights": [0.5, weight], "postprocess": {}, "validation": {}}
    (tmp_path / "_CHECKPOINT_METADATA").write_text(json.dumps({"custom_metadata": parts}))
    with pytest.raises(UserError, match="wrong kinds"):
        module.read_metadata(tmp_path)
    parts["weights"], parts["postprocess"] = [1.0], {"low": weight}
    (tmp_path / "_CHECKPOINT_METADATA").write_text(json.dumps({"custom_metadata": parts}))
    with pytest.raises(UserError, match="wrong kinds"):
        module.read_metadata(tmp_path)


def test_a_half_written_checkpoint_does_not_count(tmp_path, state):
    save(tmp_path, state, {1: 0.3})
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "ema").mkdir(parents=True)
    (tmp_path / "checkpoints" / "3").mkdir()
    assert load_run(tmp_path).step == 1
    assert int(resume(tmp_path)[0].step) == 1


def test_wrong_shapes_are_named(tmp_path, state):
    save(tmp_path, state, {1: 0.3})
    path = tmp_path / "checkpoints" / "1" / "_CHECKPOINT_METADATA"
    values = json.loads(path.read_text())
    values["custom_metadata"]["config"]["groups"][0]["model"]["width"] = 16
    path.write_text(json.dumps(values))
    (path.parent / "manifest.json").unlink()
    write_manifest(path.parent, 1)
    with pytest.raises(UserError, match=r"do not fit the model.*ema/"):
        load_run(tmp_path / "checkpoints" / "1")


def test_what_is_no_run_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "empty").mkdir()
    for path, words in ((file, "a file stands"), (tmp_path / "empty", "no finished"), (tmp_path / "no", "no such")):
        with pytest.raises(UserError, match=words) as error:
            load_run(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("call", ["save_trees", "write_manifest"])
def test_a_full_disk_keeps_the_last_good_one(tmp_path, state, monkeypatch, call):
    save(tmp_path, state, {1: 0.3})
    checkpoints = Checkpoints(tmp_path)
    original = getattr(module, call)

    def full(*arguments):
        original(*arguments)
        raise OSError(28, "No space left")

    monkeypatch.setattr(module, call, full)
    with pytest.raises(UserError, match=r"checkpoints/2.*cannot be written"):
        checkpoints.save(at(state, 2), metadata(0.1))
    monkeypatch.undo()
    checkpoints.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert load_run(tmp_path).step == 1
    save(tmp_path, state, {2: 0.1})
    assert load_run(tmp_path).step == 2


def files_of(step):
    return sorted(p for p in step.rglob("*") if p.is_file())


def test_every_changed_byte_is_noticed_before_anything_is_parsed(tmp_path, state, monkeypatch):
    save(tmp_path, state, {1: 0.3, 2: 0.1})
    step = tmp_path / "checkpoints" / "2"
    monkeypatch.setattr(module, "load_tree", lambda *a: pytest.fail("parsed"))
    for path in files_of(step):
        content = path.read_bytes()
        if not content:
            continue
        for at_byte in (0, len(content) // 2, len(content) - 1):
            changed = bytearray(content)
            changed[at_byte] ^= 4
            path.write_bytes(changed)
            with pytest.raises(UserError, match=r"damaged|not JSON"):
                resume_step(step)
            path.write_bytes(content)
        path.unlink()
        with pytest.raises(UserError, match=r"damaged|not a checkpoint"):
            resume_step(step)
        path.write_bytes(content)
    (step / "ema" / "more").write_text("x")
    with pytest.raises(UserError, match="ema/more is not of it"):
        resume_step(step)


def resume_step(step):
    return Checkpoints(step.parents[1])._read(step, ABSTRACT, metadata())


def test_a_renamed_checkpoint_and_swapped_arrays_are_noticed(tmp_path, state):
    save(tmp_path, state, {1: 0.3, 2: 0.1})
    folder = tmp_path / "checkpoints"
    (folder / "2" / "ema").rename(tmp_path / "ema")
    (folder / "1" / "ema").rename(folder / "2" / "ema")
    (tmp_path / "ema").rename(folder / "1" / "ema")
    for step in ("1", "2"):
        with pytest.raises(UserError, match=rf"checkpoints/{step}: damaged"):
            load_run(folder / step)
    with pytest.raises(UserError, match="none of the 2 checkpoints can be read: choose another --workdir"):
        resume(tmp_path)
    assert [p.name for p in step_folders(tmp_path)] == ["1", "2"]  # not moved away: somebody may mend them
    (folder / "1" / "ema").rename(tmp_path / "ema")
    (folder / "2" / "ema").rename(folder / "1" / "ema")
    (folder / "2").rename(tmp_path / "2")
    (folder / "1").rename(folder / "9")
    with pytest.raises(UserError, match=r"holds step 1, expected 9: its name was changed"):
        load_run(folder / "9")


def test_a_file_that_grew_by_terabytes_is_not_read(tmp_path, state, monkeypatch):
    save(tmp_path, state, {1: 0.3})
    (file,) = (tmp_path / "checkpoints" / "1" / "ema" / "d").iterdir()
    os.truncate(file, 2**42)
    read = manifest._size_and_checksum
    monkeypatch.setattr(
        manifest, "_size_and_checksum", lambda path: read(path) if path != file else pytest.fail("reads terabytes")
    )
    with pytest.raises(UserError, match=rf"contents of ema/d/{file.name} have changed"):
        load_run(tmp_path / "checkpoints" / "1")


def test_a_checkpoint_from_a_newer_version_is_refused_not_skipped(tmp_path, state, monkeypatch):
    save(tmp_path, state, {1: 0.3})
    monkeypatch.setattr(manifest, "VERSION", 3)
    save(tmp_path, state, {2: 0.1})
    monkeypatch.undo()
    for use in (lambda: load_run(tmp_path), lambda: resume(tmp_path)):
        with pytest.raises(
            UserError, match=r"made by seisvel_jax .*, format 3, expected at most 2: update seisvel_jax"
        ):
            use()
    assert [p.name for p in step_folders(tmp_path)] == ["1", "2"]


def test_checkpoints_from_before_checksums_are_read(tmp_path, state):
    save(tmp_path, state, {1: 0.3})
    step = tmp_path / "checkpoints" / "1"
    (step / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"damaged: its manifest\.json is missing"):
        load_run(step)
    path = step / "_CHECKPOINT_METADATA"
    values = json.loads(path.read_text())
    del values["custom_metadata"]["version"]
    del values["custom_metadata"]["config"]["log_every"]  # a field that a later version added
    path.write_text(json.dumps(values))
    assert load_run(step).step == 1
    assert int(resume(tmp_path)[0].step) == 1
    values["custom_metadata"]["config"]["forgotten"] = 1  # and one that it dropped
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="forgotten"):
        resume(tmp_path)
    assert step.is_dir()


def test_links_inside_a_checkpoint_are_not_followed(tmp_path, state):
    save(tmp_path, state, {1: 0.3})
    step = tmp_path / "checkpoints" / "1"
    target = step / "ema" / "manifest.ocdbt"
    target.rename(tmp_path / "elsewhere")
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"a link inside a checkpoint"):
        load_run(step)
    target.unlink()
    os.mkfifo(target)  # to open it would be to wait for ever
    with pytest.raises(UserError, match=r"a pipe or device inside a checkpoint"):
        load_run(step)


def test_what_a_kill_leaves_is_tidied(tmp_path, state):
    save(tmp_path, state, {1: 0.3, 2: 0.2})
    folder = tmp_path / "checkpoints"
    for name in (".3.part", ".3.part.orbax-checkpoint-tmp", ".0.gone", "4.orbax-checkpoint-tmp-1"):
        (folder / name / "ema").mkdir(parents=True)
    (folder / "2").rename(folder / ".2.old")  # killed between the two renames
    assert int(resume(tmp_path)[0].step) == 2
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2"]


def test_a_step_is_saved_again(tmp_path, state):
    """Interrupted between validations, then going on with another `eval_every`, which validates this very step."""
    save(tmp_path, state, {3: None})
    save(tmp_path, state, {3: 0.1})
    assert load_run(tmp_path).metrics["mape"] == 0.1
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_a_second_process_is_kept_out(tmp_path):
    script = (
        "import sys, pathlib\n"
        "from seisvel_jax.files import only_one\n"
        "with only_one(pathlib.Path(sys.argv[1]), 'training'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"process {other.pid} is training here now"):
        resume(tmp_path)
    other.kill()
    other.communicate()
    assert resume(tmp_path) is None

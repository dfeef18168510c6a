"""The mesh: how it is chosen, that it changes no number, that states move between meshes; dry run; out of memory."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from sample_support import RUN
from training_support import CONFIG, LIGHT, MODEL, SURVEY

from seisvel_jax import train as train_module
from seisvel_jax import train_diffusion as diffusion_module
from seisvel_jax.config import differences, to_dict
from seisvel_jax.config import replace as change
from seisvel_jax.data.online import OnlineConfig
from seisvel_jax.errors import UserError
from seisvel_jax.models.config import GroupConfig
from seisvel_jax.training import memory
from seisvel_jax.training.checkpoint import read_metadata, step_folders
from seisvel_jax.training.dry_run import dry_run, dry_run_diffusion
from seisvel_jax.training.memory import Memory, lower_step, memory_limit, memory_of, out_of_memory_explained
from seisvel_jax.training.mesh import choose_shape, my_rows, one_device
from seisvel_jax.training.state import abstract_params

TESTS = Path(__file__).resolve().parent


@pytest.fixture(
    scope="module", params=["quick", pytest.param("full", marks=pytest.mark.slow)], ids=["two shapes", "all shapes"]
)
def four(request, tmp_path_factory):
    """What tests/devices_worker.py leaves on four CPU devices."""
    folder = tmp_path_factory.mktemp(request.param)
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}"}
    line = [sys.executable, str(TESTS / "devices_worker.py"), request.param, str(folder)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def meshes(folder, kind):
    names = [path.stem.removeprefix(kind) for path in folder.glob(f"{kind}*.npz")]
    assert len(names) >= 1
    return sorted(names)


def load(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


def assert_same_training(one, other):
    """Losses, and the parameters after 10 steps (of the largest of their array), to 1e-5.

    Left out are the biases of attention's keys and queries: shifting a key changes no attention at all, so their
    gradients are rounding errors, which Adam scales up to whole steps.
    """
    count = len(other["losses"])
    np.testing.assert_allclose(one["losses"][-count:], other["losses"], rtol=1e-5)
    names = [name for name in other if name.startswith("[0]")]
    assert len(names) > 20
    for name in names:
        if "bias" in name and ("keys" in name or "queries" in name):
            continue
        scale = np.abs(one[name]).max()
        np.testing.assert_allclose(one[name] / scale, other[name] / scale, rtol=0, atol=1e-5, err_msg=name)


def test_training_is_the_same_on_every_mesh(four):
    one = load(four, "straight11")
    shapes = meshes(four, "straight")
    assert one["losses"].shape == (10, len(shapes)) and len(np.unique(one["losses"])) == one["losses"].size
    assert shapes in (["11", "22"], ["11", "14", "22", "41"])
    for shape in shapes[1:]:
        assert_same_training(one, load(four, f"straight{shape}"))
        if len(shapes) == 4:
            ours, theirs = (load(four, f"predicted{name}")["velocity"] for name in ("11", shape))
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_work_is_really_divided(four):
    """A quarter of the arithmetic each, but for the optimiser where members are not divided."""
    one = load(four, "straight11")
    for shape in meshes(four, "straight")[1:]:
        other = load(four, f"straight{shape}")
        assert 0.2 < other["flops"] / one["flops"] < 0.45, shape
        assert other["divided"], shape


def test_parts_of_a_batch_are_the_same_on_every_mesh(four):
    """Losses of three steps in two parts, on all meshes those of one device and one part."""
    if not (four / "parts.npz").exists():
        pytest.skip("with all shapes only")
    found = load(four, "parts")
    whole = found.pop("whole")
    assert len(found) == 3
    for name, losses in found.items():
        np.testing.assert_allclose(losses, whole, rtol=1e-5, err_msg=name)


def test_prediction_divides_its_rows_over_the_devices(four):
    found = load(four, "rows")
    assert found["together"].shape[1:] == (4, 8, 8)
    assert len(np.unique(found["together"][:, :, 0, 0])) == 4 * len(found["together"])
    np.testing.assert_allclose(found["together"], found["alone"], rtol=1e-5)


def test_refinement_divides_its_shots_over_the_devices(four):
    """Four shots on four devices and on one: the same models but for rounding, which L-BFGS carries on."""
    found = load(four, "refined")
    moved = np.abs(found["alone"] - found["start"])
    assert moved.max() > 30
    np.testing.assert_allclose(found["together"], found["alone"], rtol=0, atol=1e-3 * moved.max())


def test_checkpoints_move_between_devices(four):
    one = load(four, "straight11")
    for move in meshes(four, "moved"):
        assert_same_training(one, load(four, f"moved{move}"))


def test_going_on_with_the_same_devices_is_exact(four):
    straight, moved = load(four, "straight22"), load(four, "moved2222")
    np.testing.assert_array_equal(straight.pop("losses")[4:], moved.pop("losses"))
    for name, value in moved.items():
        np.testing.assert_array_equal(value, straight[name], err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ((1, 1, (5,), 8, None), (1, 1)),
        ((8, 1, (5,), 8, None), (8, 1)),
        ((4, 1, (4,), 8, None), (1, 4)),
        ((4, 1, (4,), 8, 1), (4, 1)),
        ((8, 1, (4, 2), 8, None), (4, 2)),
        ((8, 2, (8,), 8, None), (2, 4)),  # a process holds whole rows: its own part of the batch
        ((6, 1, (6,), 4, None), (1, 6)),
        ((16, 4, (5,), 16, None), (16, 1)),
        ((4, 1, (2,), 6, None), (2, 2)),
    ],
)
def test_the_mesh_that_is_chosen(arguments, shape):
    assert choose_shape(*arguments) == shape


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((8, 1, (5,), 6, None), "--batch-size 6 .*over 8 devices.* multiple of 8"),
        ((4, 1, (5,), 8, 2), "--mesh-member 2: expected a divisor .*5.* 4 devices of a process: 1"),
        ((8, 4, (8,), 8, 4), "--mesh-member 4"),
        ((4, 1, (4,), 2, 1), "--batch-size 2 .* multiple of 4"),
    ],
)
def test_meshes_that_cannot_be(arguments, words):
    with pytest.raises(UserError, match=words):
        choose_shape(*arguments)


def test_mesh_member_may_change_when_a_run_goes_on():
    assert differences(to_dict(CONFIG), to_dict(replace(CONFIG, mesh_member=1))) == []
    assert my_rows(one_device(), 6) == slice(0, 6)


def test_dry_run_tells_and_leaves_nothing(programs, data, tmp_path, monkeypatch, capsys):
    file = tmp_path / "c.py"
    file.write_text("from training_support import LIGHT as config\n")
    run = tmp_path / "run"
    words = ["train", str(file), "--data.path", str(data), "--workdir", str(run), "--dry-run"]
    monkeypatch.setattr(sys, "argv", words)
    assert train_module.main() == 0
    assert not run.exists()
    said = capsys.readouterr()
    found = json.loads(said.out)
    _, (params,) = abstract_params(LIGHT.groups, SURVEY)
    member = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found["parameters"] == [member] and found["mesh"] == {"data": 1, "member": 1}
    # Parameters, average and two moments of a member, float32; the batch and a few counters besides.
    assert 16 * member <= found["state_bytes"] < 16 * member + 20_000
    assert found["peak_bytes"] > found["state_bytes"] and found["advice"] == ""
    assert found["flop_a_step"] > 6 * LIGHT.batch_size * member
    estimate = LIGHT.batch_size * found["matmul_flop_a_second"] / found["flop_a_step"]
    assert found["samples_a_second_at_most"] == pytest.approx(estimate)
    for words in ("group 0", "FLOP", "GiB", "XLA's analysis", "an estimate"):
        assert words in said.err


def test_a_dry_run_that_does_not_fit_says_what_to_lower(programs, data, monkeypatch, capsys):
    monkeypatch.setattr("seisvel_jax.training.dry_run.memory_limit", lambda device: 1000)
    monkeypatch.setattr("seisvel_jax.training.dry_run.advice", lambda *words: f"give {words[-1]}")
    assert dry_run(change(LIGHT, data__path=str(data)))["advice"] == "give 1000"
    assert "does not fit: give 1000" in capsys.readouterr().err


DIFFUSION = replace(
    RUN, denoiser=replace(RUN.denoiser, encoder=replace(MODEL, encoder_layers=0, dropout=0.0)), members=1, batch_size=4
)


def test_dry_run_of_a_diffusion_model_tells_and_leaves_nothing(programs, data, tmp_path, monkeypatch, capsys):
    file = tmp_path / "c.py"
    file.write_text("from test_devices import DIFFUSION as config\n")
    run = tmp_path / "run"
    words = ["train_diffusion", str(file), "--data.path", str(data), "--workdir", str(run), "--dry-run"]
    monkeypatch.setattr(sys, "argv", words)
    assert diffusion_module.main() == 0
    assert not run.exists()
    said = capsys.readouterr()
    found = json.loads(said.out)
    _, (params,) = abstract_params(DIFFUSION.groups, SURVEY)
    member = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found["parameters"] == [member] and found["mesh"] == {"data": 1, "member": 1} and found["advice"] == ""
    assert 16 * member <= found["state_bytes"] < 16 * member + 30_000
    assert found["peak_bytes"] > found["state_bytes"]
    assert found["flop_a_step"] > 6 * DIFFUSION.batch_size * member
    assert found["seconds_a_step_at_least"] == pytest.approx(found["flop_a_step"] / found["matmul_flop_a_second"])
    assert found["samples_a_second_at_most"] == pytest.approx(4 / found["seconds_a_step_at_least"])
    assert "online_samples_a_second" not in found
    for words in (f"members     1 of {member:,} parameters", "FLOP", "GiB", "XLA's analysis", "s a step at least"):
        assert words in said.err


class Lowered:
    """A step that needs 600 bytes."""

    def cost_analysis(self):
        return {"flops": 1e6}

    def compile(self):
        return self

    def memory_analysis(self):
        sizes = {"argument": 400, "temp": 200, "output": 300, "alias": 300, "generated_code": 0}
        return SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})


@pytest.mark.parametrize(("limit", "fits"), [(600, True), (599, False), (None, True)])
def test_a_diffusion_model_that_does_not_fit_is_told_with_a_cure(limit, fits, data, monkeypatch, capsys):
    monkeypatch.setattr("seisvel_jax.training.dry_run.memory_limit", lambda device: limit)
    monkeypatch.setattr("seisvel_jax.training.dry_run.lower_diffusion_step", lambda *words: Lowered())
    found = dry_run_diffusion(change(DIFFUSION, data__path=str(data)))
    assert (found["advice"] == "") == fits and found["peak_bytes"] == 600 and found["flop_a_step"] == 1e6
    assert ("does not fit: give --denoiser.encoder.remat, a smaller --batch-size" in capsys.readouterr().err) != fits


@pytest.mark.parametrize(("pool", "often"), [(0, "2 s of every step"), (10, "5 s for the 10 of the pool, once")])
def test_dry_run_of_a_diffusion_model_times_its_simulation(pool, often, monkeypatch, capsys):
    """As training draws: with the families' labels, and a pool at the experiment's own sampling."""
    drawn = []

    def seconds(simulated, rows):
        drawn.append((simulated.survey.dt, simulated.numbers, rows))
        return 2.0

    monkeypatch.setattr("seisvel_jax.training.dry_run.simulation_seconds", seconds)
    monkeypatch.setattr("seisvel_jax.training.dry_run.lower_diffusion_step", lambda *words: Lowered())
    online = OnlineConfig(survey="openfwi", family="flatvel-a,curvefault-b", pool=pool)
    labels = replace(DIFFUSION.denoiser, families=("curvefault-b",))
    config = replace(DIFFUSION, data=replace(DIFFUSION.data, online=online, dt=2e-3 if pool else None), denoiser=labels)
    assert dry_run_diffusion(config)["online_samples_a_second"] == 2
    assert drawn == [(1e-3, (0, 1), 4)]
    assert often in capsys.readouterr().err


class Linear:
    """A step whose memory is known: 100 bytes of state, 50 a sample, 20 where activations are recomputed."""

    def __init__(self, config):
        self.config = config
        each = 20 if config.groups[0].model.remat else 50
        self.memory = Memory(100 + 8 * (config.parts > 1), each * config.batch_size // config.parts)

    def compile(self):
        if self.memory.peak > 4000:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while compiling")
        return self


@pytest.mark.parametrize(
    ("batch", "limit", "answer"),
    [
        (16, 900, ""),
        (16, 899, "give --groups.0.model.remat (4.2e-07 or 3.91e-07 GiB)"),
        (16, 419, "give --groups.0.model.remat --parts 2"),
        (16, 200, "--parts 4 "),
        (12, 230, "--parts 2 "),
        (12, 227, "--parts 3 "),
        (16, 110, "fewer members"),
        (128, 3000, "--groups.0.model.remat"),
        (512, 1500, "more than can be compiled needed"),
    ],
)
def test_advice_fits_and_changes_as_little_as_can_be(linear, batch, limit, answer):
    config = replace(CONFIG, batch_size=batch)
    said = memory.advice(config, SURVEY, one_device(), limit)
    assert (said == "") if answer == "" else (answer.split(" (")[0] in said), said
    if answer.startswith("give --groups") and limit > 419:
        assert "parts" not in said
    if batch == 512:
        assert "--parts 8 " in said


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setattr(memory, "lower_step", lambda config, *words: Linear(config))
    monkeypatch.setattr(memory, "memory_of", lambda compiled: compiled.memory)


def test_what_does_not_fit_is_made_to_fit_and_says_so(linear, monkeypatch, capsys):
    """Chosen by itself where that is wished; going on, what was chosen first is kept, on a larger device too."""
    monkeypatch.setattr(memory, "memory_limit", lambda device: 200)
    config = replace(CONFIG, batch_size=16)
    chosen, step = memory.fit(config, SURVEY, one_device())
    assert chosen == replace(memory._with_remat(config), parts=4) and step.config == chosen
    assert "--groups.0.model.remat --parts 4" in capsys.readouterr().err
    assert differences(to_dict(chosen), to_dict(config)) == []
    monkeypatch.setattr(memory, "memory_limit", lambda device: 10_000)
    assert memory.fit(config, SURVEY, one_device())[0] == config
    assert memory.keep(config, chosen) == chosen
    assert memory.fit(memory.keep(config, chosen), SURVEY, one_device())[0] == chosen
    monkeypatch.setattr(memory, "memory_limit", lambda device: 110)
    assert memory.fit(config, SURVEY, one_device())[0] == config
    assert "trying all the same" in capsys.readouterr().err
    given = replace(config, memory="given")
    assert memory.fit(given, SURVEY, one_device())[0] == given == memory.keep(given, chosen)
    assert capsys.readouterr().err == ""


def test_what_was_chosen_is_in_the_checkpoint_and_stays(programs, data, tmp_path, monkeypatch, capsys):
    """A step of 100 bytes in 50, of 10 with recomputed activations; then the run goes on where there is more."""
    peaks = iter([100, 10, 10])
    monkeypatch.setattr(memory, "memory_of", lambda compiled: Memory(0, next(peaks)))
    monkeypatch.setattr(memory, "memory_limit", lambda device: 50)
    for steps, chosen in ((2, True), (4, False)):
        train_module.train(change(LIGHT, data__path=str(data), steps=steps, eval_every=2), tmp_path / "run")
        assert ("goes on as with --groups.0.model.remat" in capsys.readouterr().err) == chosen
        saved = read_metadata(step_folders(tmp_path / "run")[-1])["config"]
        assert saved["groups"][0]["model"]["remat"] is True and saved["parts"] == 1 and saved["steps"] == steps
    assert next(peaks, None) is None


def test_chosen_parts_divide_the_rows_of_every_device_and_other_errors_go_through(linear, monkeypatch):
    """Four devices of a batch of 16: eight parts would fit into 150 bytes, but leave a device half a sample."""
    config = replace(CONFIG, batch_size=16)
    four = SimpleNamespace(shape={"data": 4, "member": 1})
    assert "--parts 8 " in memory.advice(config, SURVEY, one_device(), 150)
    said = memory.advice(config, SURVEY, four, 150)
    assert "needed for 4 samples at a time" in said and "fewer members" in said
    assert memory.keep(replace(config, parts=8), replace(config, parts=4)).parts == 8

    def broken(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(Linear, "compile", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        memory.choose(config, SURVEY, one_device(), 100)


def test_what_a_compiled_step_needs(monkeypatch):
    """The outputs that take the place of donated arguments count once, what is beside them, and the code, too."""
    sizes = {"argument": 100, "output": 70, "alias": 60, "temp": 30, "generated_code": 5}
    analysis = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    found = memory_of(SimpleNamespace(memory_analysis=lambda: analysis))
    assert (found.arguments, found.temporary, found.peak) == (100, 45, 145)
    # What is lowered is the step for such batches as are given.
    monkeypatch.setattr(memory, "make_step", lambda *words: SimpleNamespace(lower=lambda state, batch: batch))
    assert lower_step(LIGHT, SURVEY, one_device(), {"more": 1}) == {"more": 1}
    usual = lower_step(LIGHT, SURVEY, one_device())
    assert usual["gathers"].shape == (2, 2, 32, 8) and usual["velocity"].shape == (2, 8, 8)


def test_what_a_device_has(monkeypatch):
    """Its own word, or a CPU's share of the machine or of the container; else nothing is known."""
    silent = {"memory_stats": lambda: None}
    cpu, other = SimpleNamespace(platform="cpu", **silent), SimpleNamespace(platform="tpu", **silent)
    gpu = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 7})
    assert memory_limit(gpu) == 7 and memory_limit(other) is None
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    for said, limit in (("max\n", machine), (f"{2**60}\n", machine), ("4000\n", 1000)):
        monkeypatch.setattr(memory.Path, "read_text", lambda self, encoding, said=said: said)
        assert memory_limit(cpu) == limit
    # Several processes must choose the same: for the one with the least.
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for all_of_them, least in (([8.0, 5.0], 5), ([0.0, 5.0], None)):
        monkeypatch.setattr(multihost_utils, "process_allgather", lambda own, them=all_of_them: np.array(them))
        assert memory._least_limit(SimpleNamespace(local_devices=[gpu])) == least


def test_memory_grows_with_the_batch(programs):
    """The analysis itself: what XLA states for one device, and what the advice is made of."""
    small, large = (
        memory_of(lower_step(replace(LIGHT, batch_size=size), SURVEY, one_device()).compile()) for size in (2, 8)
    )
    sample = 4 * (np.prod(SURVEY.gather_shape) + np.prod(SURVEY.grid.shape))
    assert large.arguments - small.arguments == pytest.approx(6 * sample, abs=64)
    assert large.temporary > 2 * small.temporary
    assert (memory_limit(jax.devices()[0]) or 0) > 2**30


def test_out_of_memory_is_one_line_with_the_cure(programs, monkeypatch):
    monkeypatch.setattr(memory, "advice", lambda config, survey, mesh, limit: "give --parts 2")
    with (
        pytest.raises(UserError, match=r"out of memory: give --parts 2\. JAX said: RESOURCE_EXHAUSTED"),
        out_of_memory_explained(CONFIG, SURVEY, one_device()),
    ):
        jax.numpy.zeros(2**46).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError), out_of_memory_explained(CONFIG, SURVEY, one_device()):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_groups_of_models_that_cannot_recompute_are_left_alone():
    from seisvel_jax.models.config import InversionNetConfig

    config = replace(CONFIG, groups=(GroupConfig(InversionNetConfig()), GroupConfig(MODEL)))
    changed = memory._with_remat(config)
    assert changed.groups[0] == config.groups[0] and changed.groups[1].model.remat
    assert memory.Choice(changed, None, None, None, 0).words(config) == "--groups.1.model.remat"

"""The sample command end to end on the tiny experiment: what is told, formats, resume, shards, and bad input."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_support import DENOISER, RUN, write_run
from training_support import SURVEY, arrays, quick_environment, write_data

from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.writers import write_openfwi, write_survey
from seisvel_jax.diffusion.sampler import SamplerConfig
from seisvel_jax.errors import UserError
from seisvel_jax.inference import posterior as posterior_module
from seisvel_jax.inference.posterior import Drawing, Posterior, shares, solver_of
from seisvel_jax.inference.pretrained import load
from seisvel_jax.inference.refined import simulated
from seisvel_jax.inference.sample_files import SampleFile
from seisvel_jax.inference.sampling import Knowledge
from seisvel_jax.inference.told import Cells, open_wells
from seisvel_jax.sample import Sample, sample
from seisvel_jax.survey import Boundary, ricker
from seisvel_jax.training import runs
from seisvel_jax.training.checkpoint import step_folders
from seisvel_jax.wave.scheme import scheme_of

COUNT = 3
LOADED = functools.cache(runs.load_diffusion)
pytestmark = pytest.mark.usefixtures("programs")


@pytest.fixture(scope="module")
def run(programs, tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "RUN")


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """Reading a checkpoint takes longer than all the rest: each is read once."""
    monkeypatch.setattr(runs, "load_diffusion", LOADED)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), COUNT)


@pytest.fixture
def options(run, data, tmp_path):
    def make(output: str = "out.npz", **changes) -> Sample:
        given = {"checkpoint": run, "data": data, "output": tmp_path / output, "samples": 5, "steps": 3}
        return Sample(**{**given, "batch_size": 2, **changes})

    return make


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_what_is_written(options, tmp_path, capsys):
    sample(options(figures=tmp_path / "figures", figure_count=1, temperature=0.5))
    shown = capsys.readouterr()
    assert "CRPS" in shown.out and "cover" in shown.out and "sample" in shown.err
    found = read(tmp_path / "out.npz")
    names = SampleFile(tmp_path / "out.npz").names
    assert names == ("data1-000", "data1-001", "data1-002")
    for name in names:
        samples = found[f"{name}/samples"]
        assert samples.shape == (5, 8, 8) and samples.dtype == np.float32
        assert samples.min() >= 1500 and samples.max() <= 4500 and len(np.unique(samples, axis=0)) == 5
        np.testing.assert_allclose(found[f"{name}/mean"], samples.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found[f"{name}/deviation"], samples.std(0, ddof=1), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(found[f"{name}/quantiles"][1], np.median(samples, 0), rtol=1e-5)
    assert (tmp_path / "figures" / "data1-000.png").stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figures", "out.npz"]
    # Half the temperature is half the distance to the mean, where nothing meets the bounds.
    sample(options("wide.npz", temperature=1.0))
    wide = read(tmp_path / "wide.npz")["data1-001/samples"]
    half = found["data1-001/samples"]
    inside = ((wide > 1500) & (wide < 4500)).all(0)
    assert inside.sum() > 10
    np.testing.assert_allclose((half - half.mean(0))[:, inside], 0.5 * (wide - wide.mean(0))[:, inside], atol=0.01)


def test_the_temperature_is_that_of_what_is_told(run, options, tmp_path, monkeypatch):
    fitted = {"gathers": 0.5, "wells": 0.25, "nothing": 0.75}
    monkeypatch.setattr(runs, "load_diffusion", lambda path: replace(LOADED(path), temperatures=fitted))
    for number, (told, factor) in enumerate(
        (({}, 0.5), ({"family": "flat"}, 0.5), ({"without": "gathers"}, 0.75), ({"wells": "0,3"}, 0.5))
    ):  # the last has none of its own, and takes that of gathers
        one, other = f"{number}.npz", f"{number}-wide.npz"
        sample(options(one, limit=1, **told))
        sample(options(other, limit=1, temperature=1.0, **told))
        cool, wide = (read(tmp_path / name)["data1-000/samples"] for name in (one, other))
        inside = ((wide > 1500) & (wide < 4500)).all(0)
        away = (wide - wide.mean(0))[:, inside]
        assert inside.sum() > 5 and np.abs(away).max() > 10
        np.testing.assert_allclose((cool - cool.mean(0))[:, inside], factor * away, atol=0.01)
    assert replace(LOADED(run), temperatures={}).temperature("wells") == 1.0


@pytest.mark.parametrize("wrong", [0.0, -1.0])
def test_a_damaged_temperature_is_refused(tmp_path, wrong):
    (step,) = step_folders(write_run(tmp_path / "RUN", gathers=1.0, wells=wrong))
    with pytest.raises(UserError, match=f"{step.name}: damaged: a temperature of {wrong} given wells"):
        LOADED(step)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_sample_depends_on_seed_name_and_number_alone(options, tmp_path, size):
    """Other counts, fewer models, other batches: the same numbers, but for rounding. Another seed: others."""
    sample(options())
    straight = read(tmp_path / "out.npz")
    sample(options("other.npz", batch_size=size, samples=7, limit=2))
    other = read(tmp_path / "other.npz")
    for name in ("data1-000", "data1-001"):
        np.testing.assert_allclose(other[f"{name}/samples"][:5], straight[f"{name}/samples"], atol=0.05)
    sample(options("seed.npz", seed=1, limit=1))
    assert np.abs(read(tmp_path / "seed.npz")["data1-000/samples"] - straight["data1-000/samples"]).mean() > 10
    assert shares(5, 2, 2) == [(0, [0, 2]), (0, [4, 6]), (1, [1, 3])]


def test_shards_and_an_interruption_make_what_one_command_makes(options, tmp_path, monkeypatch, capsys):
    sample(options("straight.npz"))
    whole, calls = posterior_module.Posterior.draw, []

    def stopping(self, jobs, survey=None):
        calls.append(len(jobs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, jobs, survey)

    monkeypatch.setattr(posterior_module.Posterior, "draw", stopping)
    with pytest.raises(KeyboardInterrupt):
        sample(options())
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(UserError, match=r"drawing noise.*|seed 0, now 1.*remove that folder"):
        sample(options(seed=1))
    for shard in ((2, 3), (0, 3), (1, 3)):
        sample(options(shard=shard))
        assert not (tmp_path / "out.npz").exists()
    calls.clear()
    sample(options())
    assert not calls and "drawn already" in capsys.readouterr().err
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "straight.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.npz", "straight.npz"]


@pytest.mark.parametrize(
    "changes",
    [
        {"wells": "1,6"},
        {"wells": "logs.csv"},
        pytest.param({"water": 25.0}, marks=pytest.mark.slow),
        {"background": "background.npy", "background_blur": 20.0},
        {"family": "curved"},
        {"without": "gathers"},
        {"shots": "1"},
        pytest.param({"weight": 2.0}, marks=pytest.mark.slow),
        pytest.param({"sampler": "heun", "stochastic": 0.5}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_source_is_heard_and_what_is_known_is_exact(options, tmp_path, changes):
    _, truth = arrays(COUNT)
    sample(options("gathers.npz"))
    plain = read(tmp_path / "gathers.npz")
    np.save(tmp_path / "background.npy", np.clip(truth, 1600, 3000)[:, None])
    (tmp_path / "logs.csv").write_text(
        "sample,x,depth,velocity\n"
        + "".join(
            f"data1-00{i},{x},{depth},{1700 + i + depth}\n" for i in range(3) for x in (10, 52) for depth in (0, 31)
        )
    )
    if "background" in changes:
        changes = {**changes, "background": tmp_path / changes["background"]}
    if changes.get("wells") == "logs.csv":
        changes = {"wells": str(tmp_path / "logs.csv")}
    sample(options(**changes))
    found = read(tmp_path / "out.npz")
    for index in range(COUNT):
        samples = found[f"data1-00{index}/samples"]
        assert np.abs(samples - plain[f"data1-00{index}/samples"]).mean() > 0.05, changes
        if changes.get("wells") == "1,6":
            held = np.broadcast_to(truth[index][None, :, [1, 6]], (5, 8, 2))
            np.testing.assert_array_equal(samples[:, :, [1, 6]], held)
        elif "wells" in changes:
            for column in (1, 5):
                np.testing.assert_array_equal(samples[:, 0, column], 1700 + index)
                np.testing.assert_array_equal(samples[:, 3, column], 1731 + index)
        elif "water" in changes:
            np.testing.assert_array_equal(samples[:, :3], 1500)
            assert (samples[:, 3] != 1500).any()


def test_data_on_a_finer_grid_get_models_on_theirs_and_wells_stay_exact(options, tmp_path):
    """The run's cells are 10 m, the data's 5: between them models are interpolated, and the log holds to the digit."""
    fine = SURVEY.resampled(spacing=5.0)
    gathers, _ = arrays(1)
    truth = 1800 + 9 * np.arange(fine.grid.depth_count)[None, :, None] * np.ones((1, 1, fine.grid.x_count))
    write_openfwi(tmp_path / "data", 1, gathers, truth.astype(np.float32))
    write_survey(tmp_path / "data", fine)
    sample(options(data=tmp_path / "data", wells="3"))
    samples = read(tmp_path / "out.npz")["data1-000/samples"]
    assert samples.shape == (5, *fine.grid.shape) and samples.shape[1] > 14
    np.testing.assert_array_equal(samples[:, :, 3], np.tile(np.float32(truth[0, :, 3]), (5, 1)))
    between, around = samples[:, 4, 7], samples[:, 4, [6, 8]]
    np.testing.assert_allclose(between, around.mean(1), rtol=1e-5)


def test_columns_of_another_truth_are_other_wells(data, tmp_path):
    """The gathers unchanged, a velocity file written anew between two commands: the first one's draws do not count."""
    dataset = open_dataset(shutil.copytree(data, tmp_path / "data"))
    before = open_wells("1,6", dataset, dataset.names).fingerprint
    assert open_wells("1,6", dataset, dataset.names).fingerprint == before
    velocity = sorted((tmp_path / "data" / "model").glob("*.npy"))[0]
    np.save(velocity, np.load(velocity, allow_pickle=False) + 10)
    assert open_wells("1,6", open_dataset(tmp_path / "data"), dataset.names).fingerprint != before


def test_guidance_solves_with_the_wavelet_and_the_boundary_of_the_gathers():
    """Gathers of another wavelet behind another boundary, at half the time step: on the run's grid and times."""
    boundary = Boundary("pml", 100.0, (70.0, 70.0))
    other = replace(SURVEY, wavelet=ricker(10.0, 4e-3, 32, 0.06), boundary=boundary).resampled(spacing=5.0, dt=2e-3)
    solver = solver_of(SURVEY, other)
    assert (solver.grid, solver.nt, solver.boundary) == (SURVEY.grid, SURVEY.nt, boundary)
    np.testing.assert_allclose(solver.wavelet, ricker(10.0, 4e-3, 32, 0.06), atol=0.05)
    np.testing.assert_array_equal(solver_of(SURVEY, SURVEY).wavelet, SURVEY.wavelet)
    drawn = Drawing(guidance="sda")
    run = types.SimpleNamespace(
        survey=SURVEY, params=np.zeros(1), config=types.SimpleNamespace(members=1, denoiser=DENOISER, process="edm")
    )
    plan = Posterior(run, drawn, other)._plan
    assert plan is not None and plan.boundary == boundary
    # A wide sponge is solved as a PML by its own scheme where its echo is less than the noise, and only there.
    wide = Boundary("openfwi", 1200.0, (70.0, 70.0))
    for survey, noise, guides in (
        (replace(SURVEY, boundary=wide), 0.05, boundary),
        (replace(SURVEY, boundary=wide), 0.01, wide),
        (SURVEY, 0.05, SURVEY.boundary),
    ):
        plan = Posterior(run, Drawing(guidance="sda", noise=noise), survey)._plan
        assert plan is not None and plan.boundary == guides and plan.scheme == scheme_of(SURVEY)
    assert Posterior(run, drawn)._plan.boundary == SURVEY.boundary


def test_what_is_given_is_said_in_words():
    water = Cells.none(SURVEY.grid)
    assert Knowledge().text(pulled=False) == "gathers"
    assert Knowledge(gathers=False).text(pulled=False).startswith("nothing")
    assert Knowledge(gathers=False, water=water).text(pulled=True) == "gathers through the wave solver, water"


@pytest.mark.slow
def test_water_of_the_background_is_kept(options, tmp_path):
    background = np.full((COUNT, 8, 8), 2000, np.float32)
    background[:, :6] = 1500
    np.save(tmp_path / "background.npy", background)
    sample(options(background=tmp_path / "background.npy"))
    for name in ("data1-000", "data1-002"):
        samples = read(tmp_path / "out.npz")[f"{name}/samples"]
        np.testing.assert_array_equal(samples[:, :3], 1500)  # to 30 m above its seabed
        assert (samples[:, 4] != 1500).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wells": "0,8"}, "column 8, expected 0 to 7"),
        ({"wells": "a"}, r"expected numbers of columns such as 0,24,48"),
        ({"wells": "no.csv"}, "no.csv: expected a .csv of logs"),
        ({"wells": "nan.csv"}, "line 3: '10,20,nan'.*a velocity of nan"),
        ({"wells": "far.csv"}, "line 2: '100,20,2000'.*outside of the model"),
        ({"wells": "words.csv"}, "expected x,depth,velocity"),
        ({"background": "wide.npy"}, r"shape \(8, 20\)"),
        ({"background": "few.npy"}, "2 models, expected 3"),
        ({"background": "nan.npy"}, "NaN"),
        ({"background": "good.npy", "background_blur": -1.0}, "--background-blur -1.0: expected a number above 0"),
        ({"background_blur": 20.0}, "there is none"),
        ({"family": "salt"}, "family 'salt', expected one that this network was trained with: flat, curved"),
        ({"checkpoint": "nothing"}, "no such folder"),
        ({"data": "nothing"}, "no such file or folder"),
        ({"output": "out.npy"}, r"expected .npz"),
        ({"output": "file/out.npz"}, "file"),
        ({"steps": 0}, "--steps: 0, expected at least 1"),
        ({"samples": 0}, "--samples: 0"),
        ({"shard": (3, 3)}, "expected I N"),
        ({"shots": "2"}, "shot 2, expected 0 to 1"),
        ({"guidance": "daps", "stochastic": 1.0}, "--guidance daps: draws in a way of its own"),
        ({"guidance": "daps", "sampler": "heun"}, "--guidance daps: draws in a way of its own"),
        ({"guidance": "physics", "well_iterations": 2}, "--well-iterations 2: with --guidance physics"),
        ({"without": "gathers", "shots": "1"}, "--shots: needs the gathers"),
        ({"water": 1000.0}, "--water 1000"),
        ({"weight": float("nan")}, "--weight nan"),
        ({"noise": 0.0}, "--noise"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"seed": 2**32}, "--seed"),
    ],
)
def test_bad_input_is_one_line_before_any_work(options, tmp_path, changes, message):
    (tmp_path / "nan.csv").write_text("x,depth,velocity\n10,10,2000\n10,20,nan\n")
    (tmp_path / "far.csv").write_text("x,depth,velocity\n100,20,2000\n")
    (tmp_path / "words.csv").write_text("north,east\n1,2\n")
    (tmp_path / "file").write_text("")
    models = np.full((3, 1, 8, 8), 2000, np.float32)
    for name, model in (("good", models), ("few", models[:2]), ("wide", np.full((3, 1, 8, 20), 2000, np.float32))):
        np.save(tmp_path / f"{name}.npy", model)
    models[1, 0, 2, 2] = np.nan
    np.save(tmp_path / "nan.npy", models)
    for name in ("checkpoint", "data", "output", "background"):
        if name in changes:
            changes = {**changes, name: tmp_path / changes[name]}
    if changes.get("wells", "").endswith(".csv"):
        changes = {**changes, "wells": str(tmp_path / changes["wells"])}
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UserError, match=message) as error:
        sample(options(**changes))
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_truncated_checkpoint_and_an_ensemble_are_refused(options, run, tmp_path):
    broken = tmp_path / "RUN"
    shutil.copytree(run, broken)
    largest = max((broken / "checkpoints" / "1" / "ema").rglob("*"), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-3])
    with pytest.raises(UserError, match="checkpoints"):
        sample(options(checkpoint=broken))


def test_a_run_predicts_and_its_samples_start_a_refinement(run, data, options, tmp_path, monkeypatch):
    """`load` takes a diffusion run for an ensemble of 16 samples; `refine` starts from the mean of a file."""
    from seisvel_jax.refine import Refine, open_starts

    gathers, _ = arrays(2)
    monkeypatch.setattr(posterior_module, "BATCH", 2)
    with monkeypatch.context() as patch:
        drawing = Drawing(SamplerConfig(steps=3), well_iterations=0)  # a program that is compiled already
        patch.setattr(posterior_module, "Drawing", lambda: drawing)
        predictor = load(run)
    members = predictor.predict_members(gathers)
    assert members.shape == (16, 2, 8, 8) and predictor.member_names[3] == "sample/3"
    np.testing.assert_allclose(predictor.predict(gathers), members.mean(0), rtol=1e-5)
    # The noise is keyed by the gathers: alone, and in another order, the same.
    np.testing.assert_allclose(predictor.predict_members(gathers[::-1])[:, 1], members[:, 0], atol=0.05)
    assert np.abs(members[0] - members[1]).mean() > 1

    sample(options())
    starts, _ = open_starts(Refine(data, tmp_path / "out.npz", tmp_path / "refined.npy"), open_dataset(data), COUNT)
    mean = read(tmp_path / "out.npz")["data1-001/mean"]
    np.testing.assert_allclose(starts([1], gathers)[0], mean, rtol=1e-5)


@pytest.mark.slow
def test_a_run_is_the_prior_of_a_refinement(run, data, tmp_path):
    """Both kinds pull the answer; no misfit above the start's; what does not go together is refused."""
    from seisvel_jax.refine import Refine, refine

    np.save(tmp_path / "start.npy", np.full((COUNT, 1, 8, 8), 2500, np.float32))

    def refined(**changes) -> np.ndarray:
        output = tmp_path / f"{changes.get('prior', 'none')}{changes.get('prior_weight', '')}.npy"
        refine(Refine(data, tmp_path / "start.npy", output, iterations=3, limit=1, optimizer="adam", **changes))
        table = json.loads(output.with_suffix(".json").read_text())["samples"]
        assert all(row["misfit_after"] <= row["misfit_before"] for row in table)
        return np.load(output, allow_pickle=False)

    plain = refined()
    for kind, weight in (("red-diffeq", 1.0), ("proximal", 0.5)):
        found = refined(prior=kind, prior_weight=weight, prior_checkpoint=run)
        assert np.isfinite(found).all() and np.abs(found - plain).max() > 0.1, kind
    for changes, message in (
        ({"prior": "proximal"}, "give both or neither"),
        ({"prior_checkpoint": run}, "give both or neither"),
        ({"prior": "proximal", "prior_weight": 2.0, "prior_checkpoint": run}, "at most 1"),
        ({"prior": "red-diffeq", "prior_checkpoint": data}, "checkpoint"),
        ({"prior": "red-diffeq", "prior_checkpoint": run, "grid_spacing": 20.0}, "--grid-spacing 10"),
    ):
        with pytest.raises(UserError, match=message):
            refined(**changes)


def test_help_needs_no_jax():
    code = """if True:
        import runpy, sys
        sys.argv = ["sample", "--help"]
        try:
            runpy.run_module("seisvel_jax.sample", run_name="__main__")
        except SystemExit as left:
            assert not left.code
        assert "jax" not in sys.modules and "flax" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--well-iterations" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["physics", "moment-matching", "daps"])
@pytest.mark.parametrize("without", ["nothing", "gathers"])
def test_physics_guidance_lowers_the_misfit(options, tmp_path, kind, without, capsys):
    """Simulated gathers of layered models: what is drawn fits them better than without the pull; wells stay exact.

    Behind a PML: the tiny survey's sponge of 100 m makes the solver unstable where a rough model reaches 4500 m/s.
    """
    survey = replace(SURVEY, boundary=Boundary("pml", 100.0, (70.0, 70.0)))
    truth = np.stack([np.where(np.arange(8)[:, None] < 3 + i, 1800, 2600) * np.ones((1, 8)) for i in range(2)])
    gathers = simulated(truth.astype(np.float32), survey, 4500.0)
    gathers[:, :, -1] = 0
    write_openfwi(tmp_path / "data", 1, gathers, truth.astype(np.float32))
    write_survey(tmp_path / "data", survey)
    wanted = {"data": tmp_path / "data", "misfit": True, "steps": 6, "samples": 4, "wells": "2"}
    wanted |= {"without": without}
    sample(options("plain.npz", **wanted))
    sample(options(guidance=kind, guidance_iterations=4, **wanted))
    plain, pulled = read(tmp_path / "plain.npz"), read(tmp_path / "out.npz")
    assert "least misfit" in capsys.readouterr().out
    before, after = (np.mean([np.median(d[f"data1-00{i}/misfit"]) for i in range(2)]) for d in (plain, pulled))
    assert after < 0.9 * before < 1, kind
    for index in range(2):
        name = f"data1-00{index}"
        best = pulled[f"{name}/samples"][np.argmin(pulled[f"{name}/misfit"])]
        np.testing.assert_array_equal(pulled[f"{name}/best"], best)
        np.testing.assert_array_equal(pulled[f"{name}/samples"][:, :, 2], np.tile(truth[index][:, 2], (4, 1)))


@pytest.mark.slow
def test_killed_and_run_again_and_devices(run, programs, options, tmp_path):
    """SIGTERM in a process of its own, then again on three devices: the straight file but for rounding."""
    data = write_data(tmp_path / "data", 12)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **quick_environment(programs)}

    def start(output: str, devices: int) -> subprocess.Popen:
        words = ["--checkpoint", run, "--data", data, "--output", tmp_path / output, "--samples", 5, "--steps", 3]
        command = [sys.executable, "-m", "seisvel_jax.sample", *map(str, words), "--batch-size", "2"]
        forced = {**environment, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        return subprocess.Popen(command, env=forced, stderr=subprocess.PIPE, text=True)

    process = start("out.npz", 1)
    part, deadline = tmp_path / "out.npz.part", time.monotonic() + 120
    while len(list(part.glob("drawn_*.npy"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=60)[1]
    assert process.returncode in (0, 143) and "Traceback" not in message
    for output, devices in (("out.npz", 3), ("straight.npz", 1)):
        process = start(output, devices)
        message = process.communicate(timeout=300)[1]
        assert process.returncode == 0, message
    one, other = read(tmp_path / "out.npz"), read(tmp_path / "straight.npz")
    assert len(one) == 4 * 12
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=0.05, err_msg=name)


assert RUN.members == 2 and SURVEY.grid.shape == (8, 8)

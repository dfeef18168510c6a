"""The evaluate command: the challenge's score, ids, formats, baselines, figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from seisvel_jax import metrics
from seisvel_jax.data.writers import write_challenge_sample, write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.evaluate import Evaluate, evaluate
from seisvel_jax.inference.sample_files import write_samples
from seisvel_jax.inference.submission import CompetitionCSV, write_predictions
from seisvel_jax.survey import openfwi, speed_and_structure

SURVEY = speed_and_structure(spacing=20.0, dt=0.01)
IDS = ("01BOBpFpr5YkZhAs32", "9zZ", "abc")


def earth(seed: int, sea: int = 10) -> np.ndarray:
    rng = np.random.default_rng(seed)
    depth = np.arange(SURVEY.grid.depth_count)[:, None]
    rock = rng.uniform(1800, 4500, SURVEY.grid.shape)
    return np.where(depth < sea + np.arange(15) // 5, 1500, rock).astype(np.float32)


@pytest.fixture
def truth(tmp_path) -> Path:
    for index, name in enumerate(IDS):
        gathers = np.random.default_rng(index).normal(size=SURVEY.gather_shape).astype(np.float32)
        write_challenge_sample(tmp_path / "test", name, gathers, earth(index))
    write_survey(tmp_path / "test", SURVEY)
    return tmp_path / "test"


def submission(path: Path, models: dict[str, np.ndarray]) -> Path:
    """Written with numpy alone, as a stranger would."""
    np.savez(path, **{name: model.T.astype(np.float64) / 1000 for name, model in models.items()})
    return path


def challenge_score(truth: Path, prediction: Path) -> float:
    """The published metric on the files themselves."""
    scores = []
    with np.load(prediction, allow_pickle=False) as archive:
        for folder in sorted(p for p in truth.iterdir() if p.is_dir()):
            true, predicted = np.load(folder / "vp_model.npy", allow_pickle=False), archive[folder.name]
            scores.append(np.mean(np.abs(true - predicted) / (np.abs(true) + 1e-8)))
    return float(np.mean(scores))


def test_scores_are_the_challenges(truth, tmp_path, capsys):
    rng = np.random.default_rng(9)
    models = {name: earth(i) * rng.uniform(0.9, 1.1, SURVEY.grid.shape) for i, name in enumerate(IDS)}
    path = submission(tmp_path / "submission.npz", models)
    result = evaluate(Evaluate(path, truth, json=tmp_path / "score.json", figures=tmp_path / "figures", worst=1))
    assert result["mape"] == pytest.approx(challenge_score(truth, path), rel=1e-6)
    written = json.loads((tmp_path / "score.json").read_text())
    assert written == result and written["count"] == 3
    assert [row["name"] for row in written["samples"]] == sorted(IDS)
    assert np.mean([row["mape"] for row in written["samples"]]) == pytest.approx(result["mape"])
    difference = np.stack([np.float64(models[name]) - earth(i) for i, name in enumerate(IDS)])
    assert result["mae"] == pytest.approx(np.abs(difference).mean(), rel=1e-6)
    assert result["rmse"] == pytest.approx(np.sqrt(np.square(difference).mean()), rel=1e-6)
    assert result["by_depth"]["depth"][1] == 20.0
    np.testing.assert_allclose(result["by_depth"]["mae"], np.abs(difference).mean((0, 2)), rtol=1e-5)
    table = capsys.readouterr().out
    assert all(name in table for name in IDS) and f"{100 * result['mape']:.3f}" in table
    assert {p.name for p in (tmp_path / "figures").iterdir()} >= {"error_by_depth.png"}
    assert len(list((tmp_path / "figures").iterdir())) == 3


def test_missing_samples_are_all_named_and_extra_ones_too(truth, tmp_path, capsys):
    path = submission(tmp_path / "some.npz", {IDS[0]: earth(0), "stranger": earth(1)})
    with pytest.raises(UserError, match=r"no prediction for 2 of 3 .*9zZ, abc .*stranger"):
        evaluate(Evaluate(path, truth))
    path = submission(tmp_path / "more.npz", {name: earth(i) for i, name in enumerate((*IDS, "stranger"))})
    assert evaluate(Evaluate(path, truth))["mape"] == pytest.approx(0, abs=1e-7)
    assert "1 predictions without a sample: stranger" in capsys.readouterr().err


def test_npy_is_compared_in_order(truth, tmp_path):
    write_predictions(tmp_path / "p.npy", [(name, earth(i)) for i, name in enumerate(IDS)], 3)
    assert evaluate(Evaluate(tmp_path / "p.npy", truth))["mae"] == pytest.approx(0, abs=1e-3)
    write_predictions(tmp_path / "p.npy", [(name, earth(i)) for i, name in enumerate(IDS[:2])], 2)
    with pytest.raises(UserError, match="2 models, expected 3"):
        evaluate(Evaluate(tmp_path / "p.npy", truth))


def test_another_grid_and_broken_files_are_refused(truth, tmp_path):
    path = submission(tmp_path / "coarse.npz", {name: earth(i)[::2, ::2] for i, name in enumerate(IDS)})
    with pytest.raises(UserError, match=r"01BOBpFpr5YkZhAs32 is \(32, 8\) \(depth, x\), the truth \(63, 15\)"):
        evaluate(Evaluate(path, truth))
    path = submission(tmp_path / "nan.npz", {name: earth(i) + np.nan for i, name in enumerate(IDS)})
    with pytest.raises(UserError, match=r"nan.npz: 01BOBpFpr5YkZhAs32.*NaN"):
        evaluate(Evaluate(path, truth))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match=r"text.npz: truncated or not"):
        evaluate(Evaluate(tmp_path / "text.npz", truth))
    np.savez(tmp_path / "objects.npz", **{name: np.array([None]) for name in IDS})
    with pytest.raises(UserError, match=r"objects.npz.*Python objects"):
        evaluate(Evaluate(tmp_path / "objects.npz", truth))
    with pytest.raises(UserError, match="a folder stands where the file of scores"):
        evaluate(Evaluate(path, truth, json=tmp_path))


def test_baselines_are_those_of_the_training_models(truth, tmp_path):
    train = np.stack([earth(10 + i, sea=8 + i) for i in range(6)])
    for index, model in enumerate(train):
        write_challenge_sample(tmp_path / "train", f"t{index}", np.zeros(SURVEY.gather_shape, np.float32), model)
    write_survey(tmp_path / "train", SURVEY)
    path = submission(tmp_path / "s.npz", {name: earth(i) for i, name in enumerate(IDS)})
    result = evaluate(Evaluate(path, truth, baseline_from=tmp_path / "train"))
    models = np.stack([earth(i) for i in range(3)])
    profile = np.broadcast_to(metrics.profile_baseline(train)[None, :, None], models.shape)
    hung = metrics.hung_baseline(train, models)
    assert list(result["baselines"].values()) == pytest.approx(
        [metrics.mape(profile, models).mean(), metrics.mape(hung, models).mean()], rel=1e-5
    )
    assert list(result["baselines"]) == ["best constant depth profile", "mean model hung from the water bottom"]


def test_competition_csv_is_scored_on_odd_columns(tmp_path):
    survey = openfwi()
    rng = np.random.default_rng(0)
    velocity = rng.uniform(1500, 4500, (2, 70, 70)).astype(np.float32)
    write_openfwi(tmp_path, 1, np.zeros((2, *survey.gather_shape), np.float32), velocity)
    wrong = velocity + 100.0
    wrong[:, :, ::2] = 0  # even columns do not count
    path = tmp_path / "submission.csv"
    write_predictions(path, [("data1-000", wrong[0]), ("data1-001", wrong[1])], 2)
    result = evaluate(Evaluate(path, tmp_path, figures=tmp_path / "figures"))
    assert result["mae"] == pytest.approx(100, abs=1e-3) and result["by_depth"]["depth"][1] == 10.0
    np.testing.assert_allclose(CompetitionCSV(path).velocity(1), wrong[1][:, 1::2], atol=6e-4)

    lines = path.read_text().splitlines()
    for broken, message in (
        ([lines[0].replace("x_1,", "x_0,"), *lines[1:]], "odd columns"),
        ([*lines[:5], lines[5].replace("y_4", "y_x"), *lines[6:]], "line 6"),
        ([*lines[:5], "data1-000_y_4,1,2", *lines[6:]], "line 6"),
        ([*lines[:5], *lines[6:]], "data1-000 has 69 rows"),
    ):
        path.write_text("\n".join(broken) + "\n")
        with pytest.raises(UserError, match=message):
            evaluate(Evaluate(path, tmp_path))


def test_deviations_below_any_velocity_are_drawn(truth, tmp_path):
    path = submission(tmp_path / "s.npz", {name: earth(i) for i, name in enumerate(IDS)})
    deviation = submission(tmp_path / "d.npz", {name: earth(i) / 1000 for i, name in enumerate(IDS)})
    evaluate(Evaluate(path, truth, figures=tmp_path / "figures", deviation=deviation, worst=2))
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    (tmp_path / "d.npz").write_text("nothing")
    with pytest.raises(UserError, match=r"d.npz: truncated or not an .npz archive"):
        evaluate(Evaluate(path, truth, figures=tmp_path / "figures", deviation=deviation))


def test_the_genuine_openfwi_pair(shared_data, tmp_path):
    """RED-DiffEq's result for it, scored through the command: its own MAE, RMSE and SSIM."""
    folder = shared_data / "openfwi"
    with np.load(folder / "red_diffeq_curvefault_b_sample0_result.npz", allow_pickle=False) as theirs:
        result = (theirs["result"] + 1) * 1500 + 1500
        expected = {name: float(theirs[name][-1]) for name in ("mae", "rmse", "ssim")}
    write_predictions(tmp_path / "result.npy", [("", result)], 1)
    scores = evaluate(Evaluate(tmp_path / "result.npy", folder / "curvefault_b_sample0_seis.npy"))
    assert scores["mae"] == pytest.approx(1500 * expected["mae"], rel=1e-5)
    assert scores["rmse"] == pytest.approx(1500 * expected["rmse"], rel=1e-5)
    assert scores["ssim"] == pytest.approx(expected["ssim"], abs=1e-5)


def test_samples_are_scored_by_their_mean_and_their_calibration(truth, tmp_path, capsys):
    rng = np.random.default_rng(3)
    # One draw moves a whole model: truth and samples alike, about a guess; the samples twice as wide as they should be.
    guesses = {name: earth(i) + 300 * rng.normal(size=SURVEY.grid.shape) for i, name in enumerate(IDS)}
    samples = {name: guess + 600 * rng.normal(size=(24, *SURVEY.grid.shape)) for name, guess in guesses.items()}
    path = tmp_path / "samples.npz"
    write_samples(path, ((name, {"samples": values, "mean": values.mean(0)}) for name, values in samples.items()))
    scores = evaluate(Evaluate(path, truth, json=tmp_path / "scores.json", figures=tmp_path / "figures", worst=1))
    true = {name: earth(i) for i, name in enumerate(IDS)}
    errors = [metrics.mae(samples[name].mean(0).astype(np.float32), true[name]) for name in IDS]
    assert scores["mae"] == pytest.approx(np.mean(errors), rel=1e-5)
    found = scores["calibration"]
    assert found["samples"] == 24 and found["coverage"]["0.9"] > 0.97
    assert found["temperature"] == pytest.approx(0.53, abs=0.03)
    assert found["crps"] == pytest.approx(np.mean([row["crps"] for row in scores["samples"]]))
    assert (tmp_path / "figures" / "calibration.png").stat().st_size > 10_000
    assert "24 samples each: CRPS" in capsys.readouterr().out
    cooler = evaluate(Evaluate(path, truth, temperature=found["temperature"]))["calibration"]
    assert cooler["crps"] < found["crps"] and cooler["coverage"]["0.9"] == pytest.approx(0.9, abs=0.03)
    assert "intervals of" in capsys.readouterr().out
    # Of one sample every interval would hold what it should, whatever the sample: nothing is said.
    write_samples(tmp_path / "one.npz", ((name, {"samples": values[:1]}) for name, values in samples.items()))
    evaluate(Evaluate(tmp_path / "one.npz", truth))
    said = capsys.readouterr().out
    assert "1 samples each: CRPS" in said and "intervals of" not in said


def test_samples_that_are_none(truth, tmp_path):
    path = submission(tmp_path / "submission.npz", {name: earth(i) for i, name in enumerate(IDS)})
    with pytest.raises(UserError, match="holds no samples"):
        evaluate(Evaluate(path, truth, temperature=2.0))
    write_samples(tmp_path / "bad.npz", ((name, {"samples": np.full((2, 3, 3), np.nan)}) for name in IDS))
    with pytest.raises(UserError, match="not finite"):
        evaluate(Evaluate(tmp_path / "bad.npz", truth))
    write_samples(tmp_path / "flat.npz", ((name, {"samples": np.zeros((3, 3))}) for name in IDS))
    with pytest.raises(UserError, match=r"\(sample, depth, x\)"):
        evaluate(Evaluate(tmp_path / "flat.npz", truth))
    uneven = ((name, {"samples": np.stack([earth(i)] * (2 + i))}) for i, name in enumerate(IDS))
    write_samples(tmp_path / "uneven.npz", uneven)
    with pytest.raises(UserError, match=rf"uneven.npz: {IDS[1]}: 3 samples where others have 2"):
        evaluate(Evaluate(tmp_path / "uneven.npz", truth))

"""Predictor: several runs, other samplings, other grids, padding, weights, and what it refuses."""

import dataclasses

import numpy as np
import pytest
from test_inference_tta import equivariant, gathers

from seisvel_jax.data.resample import resample_gathers, resample_velocity
from seisvel_jax.errors import UserError
from seisvel_jax.inference.experiment import other_experiment
from seisvel_jax.inference.predictor import Ensemble, Options, Predictor
from seisvel_jax.survey import Grid, openfwi, speed_and_structure

COARSE = speed_and_structure(spacing=20.0, dt=0.01)
FINE = speed_and_structure(spacing=10.0, dt=0.005)


def ensemble(survey=COARSE, weights=(0.25, 0.75), predict=equivariant, postprocess=None) -> Ensemble:
    names = tuple(f"net/{i}" for i in range(len(weights)))
    return Ensemble(predict, survey, np.asarray(weights), postprocess or {}, names, fingerprint=repr(weights))


def constants(*values: float):
    """A prediction function whose members answer one value each."""

    def predict(gathers, survey):
        return np.stack([np.full((len(gathers), *survey.grid.shape), v, np.float32) for v in values])

    return predict


def test_weights_uniform_and_median():
    predictor = Predictor([ensemble(weights=(0.5, 0.3, 0.2), predict=constants(2000, 3000, 4000))])
    data = gathers(2)
    assert predictor.predict(data).shape == (2, *COARSE.grid.shape)
    for combine, value in (("weighted", 2700), ("uniform", 3000), ("median", 3000)):
        np.testing.assert_allclose(predictor.predict(data, combine=combine), value, rtol=1e-6)
    members = predictor.predict_members(data[0])
    assert members.shape == (3, *COARSE.grid.shape) and members[:, 0, 0].tolist() == [2000, 3000, 4000]
    fields = predictor.predict_fields(data, COARSE, Options(), batch_size=3)
    np.testing.assert_allclose(fields["deviation"], np.sqrt(0.5 * 700**2 + 0.3 * 300**2 + 0.2 * 1300**2), rtol=1e-5)


def test_runs_have_equal_shares_on_the_asked_grid():
    one = ensemble(COARSE, (0.25, 0.75), constants(2000, 2400))
    two = ensemble(FINE, (1.0,), constants(3000))
    predictor = Predictor([one, two])
    np.testing.assert_allclose(predictor.weights, [0.125, 0.375, 0.5])
    assert predictor.member_names == ("0/net/0", "0/net/1", "1/net/0")
    data = gathers(2)
    np.testing.assert_allclose(predictor.predict(data), (2300 + 3000) / 2)
    np.testing.assert_allclose(predictor.predict(data, combine="uniform"), (2000 + 2400 + 3000) / 3, rtol=1e-6)
    assert predictor.predict(data, grid=FINE.grid).shape == (2, *FINE.grid.shape)
    assert predictor.predict_members(data).shape == (3, 2, *COARSE.grid.shape)


def test_gathers_are_resampled_to_the_run_and_the_answer_to_the_data():
    data = gathers(2, FINE)
    predictor = Predictor([ensemble(COARSE)])
    expected = equivariant(resample_gathers(data, FINE.dt, COARSE), COARSE)
    expected = resample_velocity(0.25 * expected[0] + 0.75 * expected[1], COARSE.grid, FINE.grid)
    np.testing.assert_allclose(predictor.predict(data, survey=FINE), expected, rtol=1e-5)
    # Without a survey the sampling is found from the length of the record, and the answer is on the run's grid.
    assert predictor.predict(data).shape == (2, *COARSE.grid.shape)
    np.testing.assert_allclose(predictor.predict(data), predictor.predict(data, survey=FINE, grid=COARSE.grid))
    np.testing.assert_allclose(predictor.predict(data), predictor.predict(data, dt=0.005))


def test_every_call_of_the_network_has_the_same_shape():
    shapes = []

    def watch(gathers, survey):
        shapes.append(gathers.shape)
        return equivariant(gathers, survey)

    predictor, data = Predictor([ensemble(predict=watch)]), gathers(7)
    in_threes = predictor.predict(data, batch_size=3)
    assert shapes == [(3, *COARSE.gather_shape)] * 3
    np.testing.assert_array_equal(in_threes, predictor.predict(data, batch_size=7))


def test_tta_and_post_processing_take_part():
    predictor = Predictor([ensemble(postprocess={"low": 1500.0, "high": 2100.0})])
    data = gathers(2)
    plain = predictor.predict(data)
    np.testing.assert_allclose(predictor.predict(data, tta=True), plain, rtol=1e-6)
    assert plain.max() > 2100
    np.testing.assert_array_equal(predictor.predict(data, post_process=True), np.clip(plain, 1500, 2100))


def test_openfwi_gathers_have_their_last_row_zeroed():
    survey, seen = openfwi(), []

    def watch(gathers, survey):
        seen.append(gathers)
        return constants(2000)(gathers, survey)

    data = np.ones((1, *survey.gather_shape), np.float32)
    Predictor([ensemble(survey, (1.0,), watch)]).predict(data)
    assert (seen[0][:, :, -1] == 0).all() and (seen[0][:, :, :-1] == 1).all() and (data == 1).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((1, 4, 101, 31), np.float32), "4 sources and 31 receivers, expected 5 and 31"),
        (np.zeros((1, 5, 101, 30), np.float32), "30 receivers"),
        (np.zeros((101, 31), np.float32), "shape .101, 31., expected"),
        (np.zeros((0, 5, 101, 31), np.float32), "none of them empty"),
        (np.full((1, 5, 101, 31), None), "dtype object"),
        (np.full((2, 5, 101, 31), np.nan, np.float32), "sample 0 hold NaN"),
    ],
)
def test_wrong_gathers_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        Predictor([ensemble()]).predict(data)


def test_wrong_times_surveys_and_answers_are_refused():
    predictor, data = Predictor([ensemble()]), gathers(1)
    with pytest.raises(UserError, match="check dt"):
        predictor.predict(data, dt=0.02)
    with pytest.raises(UserError, match="give one of them"):
        predictor.predict(data, dt=0.02, survey=COARSE)
    with pytest.raises(UserError, match=r"expected .5, 201, 31."):
        predictor.predict(data, survey=FINE)
    with pytest.raises(UserError, match="at least one run"):
        Predictor([])
    with pytest.raises(UserError, match="answer NaN to sample 0"):
        Predictor([ensemble(weights=(1.0,), predict=constants(np.nan))]).predict(data)
    survey = openfwi()
    with pytest.raises(UserError, match=r"another experiment than run 1 \('speed-and-structure'\)"):
        predictor.predict(np.zeros((1, *survey.gather_shape), np.float32), survey=survey)


def test_another_experiment_is_one_that_differs_in_the_ground():
    assert other_experiment(FINE, COARSE) is None
    assert other_experiment(speed_and_structure(), speed_and_structure(spacing=5, dt=1e-3, sponge=500)) is None
    moved = dataclasses.replace(COARSE, receivers=COARSE.receivers + np.float32([15, 0]))
    assert "15 m" in other_experiment(moved, COARSE)
    longer = dataclasses.replace(COARSE, nt=201)
    assert "records of 2 s" in other_experiment(longer, COARSE)
    wider = dataclasses.replace(COARSE, grid=Grid(63, 30, 20.0))
    assert "600 m" in other_experiment(wider, COARSE)
    # Allowed by name: the network then gets the data's own experiment at the run's sampling.
    seen = []

    def watch(gathers, survey):
        seen.append(survey)
        return constants(2000)(gathers, survey)

    data = gathers(1, longer)
    answer = Predictor([ensemble(weights=(1.0,), predict=watch)]).predict(data, survey=longer, other_survey=True)
    assert seen[0].nt == 201 and answer.shape == (1, *COARSE.grid.shape)

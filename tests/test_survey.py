import json

import jax
import numpy as np
import pytest

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey, openfwi, read_survey, ricker, speed_and_structure


def test_challenge_survey_is_the_published_one():
    survey = speed_and_structure()
    assert survey.gather_shape == (5, 10001, 31)
    assert survey.grid.shape == (1259, 300)
    np.testing.assert_array_equal(survey.sources[:, 0], [0, 74, 149, 224, 299])
    np.testing.assert_array_equal(survey.receivers[:, 0], 10 * np.arange(31))
    assert np.argmax(survey.wavelet) == 667


def test_resampling_keeps_the_experiment():
    full, coarse = speed_and_structure(), speed_and_structure(spacing=5, dt=1e-3)
    resampled = full.resampled(spacing=5, dt=1e-3)
    assert resampled.grid == coarse.grid and resampled.nt == coarse.nt == 1001
    assert coarse.grid.shape == np.zeros(full.grid.shape)[::5, ::5].shape == (252, 60)
    np.testing.assert_allclose(resampled.wavelet, coarse.wavelet, atol=2e-6)
    back = coarse.resampled(dt=1e-4)
    np.testing.assert_allclose(back.wavelet, full.wavelet, atol=2e-5)


def test_openfwi_wavelet_gives_the_published_first_sample():
    survey = openfwi()
    assert survey.wavelet[0] / 100 == pytest.approx(-1.6444e-4, rel=2e-4)
    np.testing.assert_array_equal(survey.sources[:, 0] / 10, [0, 17, 34, 52, 69])


def test_mirror_is_its_own_inverse_and_maps_34_to_35():
    survey = openfwi()
    mirrored = survey.mirrored()
    np.testing.assert_array_equal(mirrored.sources[:, 0] / 10, [0, 17, 35, 52, 69])
    np.testing.assert_array_equal(mirrored.mirrored().sources, survey.sources)


def test_survey_is_a_pytree_with_static_grid():
    survey = openfwi()
    doubled = jax.jit(lambda s: jax.tree.map(lambda x: 2 * x, s))(survey)
    assert doubled.grid is survey.grid or doubled.grid == survey.grid
    np.testing.assert_array_equal(doubled.sources, 2 * survey.sources)
    assert len(jax.tree.leaves(survey)) == 3


def test_json_round_trip_and_bad_files(tmp_path):
    survey = speed_and_structure(spacing=5, dt=1e-3)
    path = tmp_path / "survey.json"
    path.write_text(json.dumps(survey.to_dict()))
    again = read_survey(path)
    assert jax.tree.structure(again) == jax.tree.structure(survey)
    jax.tree.map(np.testing.assert_array_equal, again, survey)
    for text in (
        "{",
        "{}",
        json.dumps({**survey.to_dict(), "sources": [1, 2]}),
        json.dumps({**survey.to_dict(), "grid": 3}),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"survey\.json"):
            read_survey(path)
    assert isinstance(Survey.from_dict(survey.to_dict()), Survey)


def test_ricker_peak_and_zero_mean():
    wavelet = ricker(15, 1e-3, 1001, 0.5)
    assert wavelet[500] == 1
    assert abs(wavelet.sum()) < 1e-4

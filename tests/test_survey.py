import dataclasses
import json

import jax
import numpy as np
import pytest

from seisvel_jax.errors import UserError
from seisvel_jax.survey import (
    Boundary,
    Grid,
    Survey,
    from_arrays,
    openfwi,
    read_survey,
    ricker,
    speed_and_structure,
)


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


# ---- surveys of one's own: PML, free surface, wavelets of their own, encoded shots ---------------------------------


SOURCES = [[20.0, 10.0], [50.0, 10.0], [65.0, 12.5]]
RECEIVERS = [[0.0, 10.0], [70.0, 20.0]]
WAVELETS = np.stack([[ricker(f, 2e-3, 250, 0.1) for f in (8, 10, 12)], [ricker(f, 2e-3, 250, 0.2) for f in (5, 6, 7)]])


def own_survey(rank=1, **changed) -> Survey:
    wavelet = {1: WAVELETS[0, 0], 2: WAVELETS[0], 3: WAVELETS}[rank]
    values = {"sources": SOURCES, "receivers": RECEIVERS, "wavelet": wavelet, "dt": 2e-3}
    return from_arrays(**{**values, "shape": (9, 8), "spacing": 10.0, **changed})


def test_from_arrays_fills_in_what_is_left_out():
    survey = own_survey()
    assert survey.grid == Grid(9, 8, 10.0) and survey.nt == 250 and survey.record_start == 0
    assert survey.boundary == Boundary("pml", 100.0, (80.0, 70.0), free_surface=False)
    sponge = own_survey(boundary="devito", width=350, free_surface=True, nt=99, record_start=1)
    assert sponge.boundary == Boundary("devito", 350.0, (80.0, 70.0), free_surface=True)
    assert (sponge.nt, sponge.record_start, sponge.gather_shape) == (99, 1, (3, 99, 2))
    batched = own_survey(sources=np.stack([SOURCES, SOURCES]))
    assert batched.sources.shape == (2, 3, 2) and batched.gather_shape == (3, 250, 2)


@pytest.mark.parametrize(("rank", "shots"), [(1, 3), (2, 3), (3, 2)])
def test_shots_are_sources_unless_encoded(rank, shots):
    survey = own_survey(rank)
    assert survey.shot_count == shots and survey.gather_shape == (shots, 250, 2)


def test_wavelets_go_with_their_sources_into_the_mirror():
    for rank in (1, 2, 3):
        survey = own_survey(rank)
        mirrored = survey.mirrored()
        fires = np.broadcast_to(survey.wavelet, (2, 3, 250))
        fires_mirrored = np.broadcast_to(mirrored.wavelet, (2, 3, 250))
        for shot in (0, 1):  # whatever fires at x fires at 70 - x in the same shot
            there = {70 - x: fires[shot, i] for i, (x, _) in enumerate(survey.sources)}
            for i, (x, _) in enumerate(mirrored.sources):
                np.testing.assert_array_equal(fires_mirrored[shot, i], there[x])
        np.testing.assert_array_equal(mirrored.mirrored().wavelet, survey.wavelet)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_wavelet_is_resampled_in_time(rank):
    fine = own_survey(rank).resampled(dt=5e-4)
    assert (fine.nt, fine.wavelet.shape) == (997, (*own_survey(rank).wavelet.shape[:-1], 997))
    exact = np.stack([[ricker(f, 5e-4, 997, 0.1) for f in (8, 10, 12)], [ricker(f, 5e-4, 997, 0.2) for f in (5, 6, 7)]])
    np.testing.assert_allclose(fine.wavelet, {1: exact[0, 0], 2: exact[0], 3: exact}[rank], atol=2e-5)


def test_a_pml_keeps_its_cells_and_a_sponge_its_metres():
    coarse = own_survey().resampled(spacing=20.0)
    assert coarse.grid == Grid(5, 4, 20.0)
    assert coarse.boundary == Boundary("pml", 200.0, (80.0, 60.0))
    coarse = own_survey(boundary="devito", width=130.0, free_surface=True).resampled(spacing=20.0)
    assert coarse.boundary == Boundary("devito", 130.0, (80.0, 70.0), free_surface=True)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_field_survives_json(rank, tmp_path):
    survey = own_survey(rank, free_surface=True)
    path = tmp_path / "survey.json"
    path.write_text(json.dumps(survey.to_dict()))
    again = read_survey(path)
    assert jax.tree.structure(again) == jax.tree.structure(survey) and again.boundary.free_surface is True
    jax.tree.map(np.testing.assert_array_equal, again, survey)


def test_files_from_before_free_surfaces_are_read():
    values = openfwi().to_dict()
    del values["boundary"]["free_surface"]
    assert Survey.from_dict(values).boundary == openfwi().boundary


@pytest.mark.parametrize(
    "change",
    [
        {"boundary": {"kind": "mur", "width": 100.0, "start": [80.0, 70.0]}},
        {"boundary": {"kind": "pml", "width": 105.0, "start": [80.0, 70.0]}},
        {"boundary": {"kind": "pml", "width": 0.0, "start": [80.0, 70.0]}},
        {"boundary": {"kind": "openfwi", "width": 10.0, "start": [80.0, 70.0]}},
        {"boundary": {"kind": "pml", "width": 100.0, "start": [80.0, 70.0], "free_surface": "no"}},
        {"wavelet": WAVELETS[0, :2].tolist()},
        {"wavelet": WAVELETS[:, :2].tolist()},
        {"wavelet": [[[[1.0, 2.0]]]]},
        {"wavelet": []},
        {"wavelet": 1.0},
    ],
)
def test_surveys_that_make_no_sense_are_not_read(change):
    with pytest.raises(UserError, match="survey"):
        Survey.from_dict({**own_survey().to_dict(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": [[10.0, 20.0, 30.0]]}, r"sources of shape \(1, 3\), expected \(source, 2\)"),
        ({"sources": []}, r"sources of shape \(0,\)"),
        ({"sources": [["a", "b"]]}, "sources: values of type"),
        ({"sources": [[1.0, 2.0], [3.0]]}, "sources: .*expected an array"),
        ({"sources": [[10.0, float("nan")]]}, r"sources\[0, 1\] is nan"),
        ({"sources": [[10.0, 1e300]]}, r"sources\[0, 1\] is 1e\+300"),
        ({"receivers": None}, "receivers: values of type object"),
        ({"receivers": [[10.0, 20.0], [80.0, 20.0]]}, "receivers at x 80 m, depth 20 m, expected x from 0 to 70 m"),
        ({"receivers": [[10.0, -1.0]]}, "depth -1 m"),
        ({"receivers": [[10.0, 0.0]], "free_surface": True}, "receivers at depth 0 on a free surface"),
        ({"sources": np.zeros((2, 1, 2)), "receivers": np.zeros((3, 1, 2))}, "positions for 2 and 3 samples"),
        ({"wavelet": []}, r"wavelet of shape \(0,\)"),
        ({"wavelet": 1.0}, r"wavelet of shape \(\)"),
        ({"wavelet": [1.0, np.inf, 0.0]}, r"wavelet\[1\] is inf"),
        ({"wavelet": np.ones(9, complex)}, "wavelet: values of type complex128"),
        ({"wavelet": WAVELETS[0, :2]}, r"wavelet \(2, 250\), expected \(time,\), \(3 sources, time\)"),
        ({"wavelet": WAVELETS[:, :1]}, r"wavelet \(2, 1, 250\)"),
        ({"dt": 0.0}, r"dt 0\.0, expected seconds above 0"),
        ({"dt": "1 ms"}, "dt '1 ms'"),
        ({"dt": float("nan")}, "dt nan"),
        ({"nt": 1}, "nt 1, expected 2 samples"),
        ({"nt": 10.0}, r"nt 10\.0, expected a whole number"),
        ({"shape": (9,)}, r"shape \(9,\), expected \(depth, x\)"),
        ({"shape": (9, 0)}, r"shape \(9, 0\)"),
        ({"shape": 9}, "shape 9"),
        ({"shape": (9, 8.5)}, "shape"),
        ({"spacing": -10.0}, r"spacing -10\.0, expected metres above 0"),
        ({"spacing": True}, "spacing True"),
        ({"boundary": "none"}, "boundary none, expected devito or openfwi or pml"),
        ({"width": 0}, "width 0, expected metres"),
        ({"width": 95.0}, "whole number of cells for a PML: use 100 m|whole number of cells for a PML: use 90 m"),
        ({"boundary": "openfwi", "width": 10.0}, "more than one cell"),
        ({"free_surface": 1}, "free_surface 1, expected true or false"),
        ({"record_start": 2}, "record_start 2, expected 0 or 1"),
        ({"record_start": True}, "record_start True"),
    ],
)
def test_every_bad_argument_is_named(change, message):
    with pytest.raises(UserError, match=message):
        own_survey(**change)


def test_traced_arrays_are_refused_and_replaced_ones_are_not():
    def shot_count(wavelet):
        return dataclasses.replace(own_survey(), wavelet=wavelet).mirrored().shot_count

    assert jax.jit(lambda w: w.sum() + shot_count(w))(np.zeros((2, 3, 5), np.float32)) == 2
    with pytest.raises(UserError, match="wavelet"):
        jax.jit(lambda w: own_survey(wavelet=w).wavelet)(np.zeros(5, np.float32))


@pytest.mark.parametrize(
    "sampling",
    [{"dt": 1e-12}, {"dt": 1e-300}, {"dt": 0.0}, {"spacing": 1e-9}, {"spacing": 1e-320}, {"spacing": 0.0}],
)
def test_a_sampling_that_nothing_could_hold_is_refused(sampling):
    for sample in (openfwi().resampled, speed_and_structure):
        with pytest.raises(UserError, match="expected at most 1073741824 of each"):
            sample(**sampling)

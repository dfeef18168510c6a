"""Figures: drawn from awkward input without a warning, in SI units, nothing left behind."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from seisvel_jax import plotting
from seisvel_jax.survey import Grid, openfwi, speed_and_structure

SURVEY = speed_and_structure(spacing=20.0, dt=0.01)


def gathers(survey=SURVEY) -> np.ndarray:
    return np.random.default_rng(0).normal(size=survey.gather_shape).astype(np.float32)


def velocity(survey=SURVEY) -> np.ndarray:
    return np.random.default_rng(1).uniform(1500, 4500, survey.grid.shape).astype(np.float32)


def is_png(path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000


def test_every_figure_is_drawn_and_no_state_is_left(tmp_path):
    one = velocity()
    plotting.draw_gathers(tmp_path / "new" / "gathers.png", gathers(), SURVEY, "a title")
    plotting.draw_comparison(tmp_path / "all.png", gathers(), one, 1.1 * one, SURVEY, "all", deviation=one / 50)
    plotting.draw_comparison(tmp_path / "bare.png", None, None, one, None, grid=SURVEY.grid)
    plotting.draw_samples(tmp_path / "samples.png", [one, one], [gathers(), gathers()], ["one", "two"], SURVEY)
    plotting.draw_history(tmp_path / "history.png", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": [1.0, 3.0]}])
    plotting.draw_by_depth(tmp_path / "depth.png", {"a": np.linspace(0, 9, 63)}, SURVEY.grid)
    pngs = sorted(tmp_path.rglob("*.png"))
    assert len(pngs) == 6 and all(map(is_png, pngs))
    assert sorted(tmp_path.rglob("*")) == sorted([*pngs, tmp_path / "new"])
    assert matplotlib._pylab_helpers.Gcf.get_all_fig_managers() == []


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_dead_gathers_and_constant_models_are_drawn(tmp_path, value):
    dead = np.full(SURVEY.gather_shape, value, np.float32)
    flat = np.full(SURVEY.grid.shape, 1500.0, np.float32)
    plotting.draw_comparison(tmp_path / "dead.png", dead, flat, flat, SURVEY, deviation=0 * flat)
    plotting.draw_history(tmp_path / "empty.png", [])
    plotting.draw_history(tmp_path / "nan.png", [{"step": 1, "loss": np.nan, "mape": [0.1, np.inf]}])
    assert all(map(is_png, tmp_path.glob("*.png")))


def test_axes_are_in_seconds_and_metres():
    figure = Figure()
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    survey = openfwi()
    plotting.gather_panel(left, gathers(survey)[2], survey, 2)
    assert left.get_ylabel() == "time (s)" and left.get_xlabel() == "receiver x (m)"
    assert left.get_ylim() == pytest.approx((0.9995, -0.0005))
    assert left.get_xlim() == pytest.approx((-5, 695))
    assert left.get_title() == "shot at x = 340 m"
    plotting.velocity_panel(right, np.zeros((70, 35)), 10.0)
    assert right.get_ylabel() == "depth (m)" and right.get_xlabel() == "x (m)"
    assert right.get_ylim() == pytest.approx((695, -5)) and right.get_xlim() == pytest.approx((-5, 345))
    assert right.get_aspect() == 1.0


def test_history_separates_members_and_kinds():
    records = [
        {"step": 10, "loss": [3.0, 4.0], "validation": {"skipped": 1}, "note": "text"},
        {"step": 20, "loss": [1.0, 2.0], "mape_member": [0.2, np.nan], "mape": 0.1},
    ]
    loss, mape = plotting._series(records, "loss"), plotting._series(records, "mape")
    kinds = [{"kind": kind, "step": 1, "mape": 0.5} for kind in ("train", "validation")]
    assert list(plotting._series(kinds, "mape")) == ["train mape", "validation mape"]
    assert list(loss) == ["loss 0", "loss 1"] and loss["loss 1"][1].tolist() == [4.0, 2.0]
    assert list(mape) == ["mape_member 0", "mape_member 1", "mape"] and np.isnan(mape["mape_member 1"][1]).all()


def test_long_records_are_averaged_not_skipped():
    spike = np.zeros((10_001, 1))
    spike[5_003] = 10.0
    shrunk = plotting._shrunk(spike)
    assert shrunk.shape == (1000, 1) and shrunk.sum() == pytest.approx(1.0)


def test_a_failed_drawing_keeps_the_earlier_figure(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(Figure, "savefig", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        plotting.draw_by_depth(path, {"a": np.zeros(3)}, Grid(3, 3, 1.0))
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]

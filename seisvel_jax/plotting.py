"""Figures in the field's habit: time downwards in seconds, depth downwards in metres, colour bars with units.

Matplotlib's object interface with the Agg canvas: no global state, nothing to close, safe in threads. Every function
writes one PNG, whole or not at all, and makes the folder.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import FormatStrFormatter, LogFormatter

from seisvel_jax import metrics
from seisvel_jax.files import whole_file
from seisvel_jax.survey import Grid, Survey

Path = str | os.PathLike[str]

GATHER_COLOURS = "gray"
VELOCITY_COLOURS = "turbo"
ERROR_COLOURS = "RdBu_r"
DEVIATION_COLOURS = "magma"
CLIP_PERCENTILE = 90.0
"""Amplitudes beyond this percentile of |amplitude| are drawn black or white: the direct wave would hide the rest."""
VELOCITY_LABEL = "P-wave velocity (m/s)"


def draw_gathers(path: Path, gathers: np.ndarray, survey: Survey, title: str = "") -> None:
    """Shot gathers `[source, time, receiver]` side by side, on one amplitude scale."""
    gathers = np.asarray(gathers)
    count = gathers.shape[0]
    figure = _figure(1.2 + 2.3 * count, 5.0, title)
    panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    clip = _clip(gathers)
    for source, axes in enumerate(panels):
        image = gather_panel(axes, gathers[source], survey, source, clip=clip)
        if source:
            axes.set_ylabel("")
    _colour_bar(figure, image, list(panels), "amplitude", extend="both")
    _write(figure, path)


def draw_comparison(  # noqa: PLR0917
    path: Path,
    gathers: np.ndarray | None,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    survey: Survey | None,
    title: str = "",
    *,
    deviation: np.ndarray | None = None,
    grid: Grid | None = None,
) -> None:
    """One sheet of a sample: the middle shot gather, truth, prediction, their difference, and the deviation.

    `gathers` `[source, time, receiver]`; `truth`, `prediction`, `deviation` `[depth, x]` m/s on `grid` (the survey's
    where it is None). What is None gets no panel; truth and prediction share one colour scale. Without gathers and
    with a `grid` the survey may be None.
    """
    grid = grid or (survey.grid if survey is not None else None)
    if grid is None or (gathers is not None and survey is None):
        raise ValueError("a survey is needed, or a grid where no gathers are drawn")
    spacing = grid.spacing
    fields = [field for field in (truth, prediction) if field is not None]
    low, high = min(float(np.min(f)) for f in fields), max(float(np.max(f)) for f in fields)
    names = [
        name
        for name, there in (
            ("gather", gathers is not None),
            ("truth", truth is not None),
            ("prediction", True),
            ("error", truth is not None),
            ("deviation", deviation is not None),
        )
        if there
    ]
    depth_count, x_count = prediction.shape
    panel, height = _panel_size(depth_count, x_count, 5.0)
    figure = _figure(1.0 + sum(3.2 if name == "gather" else panel + 1.0 for name in names), height + 1.2, title)
    row = figure.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, row):
        if name == "gather" and survey is not None:
            gathers = np.asarray(gathers)
            middle = gathers.shape[0] // 2
            image = gather_panel(axes, gathers[middle], survey, middle)
            _colour_bar(figure, image, [axes], "amplitude", extend="both")
        elif name in ("truth", "prediction"):
            field = np.asarray(truth if name == "truth" else prediction)
            image = velocity_panel(axes, field, spacing, low=low, high=high)
            _colour_bar(figure, image, [axes], VELOCITY_LABEL)
            axes.set_title(name)
        elif name == "error" and truth is not None:
            difference = np.asarray(prediction, np.float64) - np.asarray(truth, np.float64)
            limit = max(float(np.percentile(np.abs(difference), 99)), 1.0)
            image = velocity_panel(axes, difference, spacing, low=-limit, high=limit, colours=ERROR_COLOURS)
            _colour_bar(figure, image, [axes], "prediction - truth (m/s)", extend="both")
            mape, mae = metrics.mape(prediction, truth), metrics.mae(prediction, truth)
            axes.set_title(f"error: MAPE {100 * mape:.2f} %\nMAE {mae:.0f} m/s")
        elif deviation is not None:
            image = velocity_panel(axes, deviation, spacing, low=0.0, colours=DEVIATION_COLOURS)
            _colour_bar(figure, image, [axes], "standard deviation (m/s)")
            axes.set_title("deviation")
    for axes in row[2 if "gather" in names else 1 :]:
        axes.set_ylabel("")
    _write(figure, path)


def draw_samples(  # noqa: PLR0917
    path: Path,
    velocities: Sequence[np.ndarray] | np.ndarray | None,
    gathers: Sequence[np.ndarray] | np.ndarray | None,
    names: Sequence[str],
    survey: Survey,
    title: str = "",
) -> None:
    """A sheet of samples, one a column: velocity `[depth, x]` above, middle gather below; either may be None."""
    rows = int(velocities is not None) + int(gathers is not None)
    if not rows or not names:
        raise ValueError("nothing to draw: no velocities, no gathers or no names")
    width = 3.0
    if velocities is not None:
        depth_count, x_count = np.shape(velocities[0])
        width = max(2.0, _panel_size(depth_count, x_count, 4.0)[0]) + 0.4
    figure = _figure(1.6 + width * len(names), 0.4 + 4.4 * rows, title)
    panels = figure.subplots(rows, len(names), squeeze=False)
    if velocities is not None:
        low, high = min(float(np.min(v)) for v in velocities), max(float(np.max(v)) for v in velocities)
        for axes, velocity in zip(panels[0], velocities):
            image = velocity_panel(axes, np.asarray(velocity), survey.grid.spacing, low=low, high=high)
        _colour_bar(figure, image, list(panels[0]), VELOCITY_LABEL)
    if gathers is not None:
        for axes, gather in zip(panels[-1], gathers):
            middle = np.shape(gather)[0] // 2
            image = gather_panel(axes, np.asarray(gather)[middle], survey, middle)
        _colour_bar(figure, image, list(panels[-1]), "amplitude (each its own clip)", extend="both", ticks=False)
    for axes, name in zip(panels[0], names):
        axes.set_title(f"{name}\n{axes.get_title()}".strip(), fontsize=9)
    for row in panels:
        for axes in row[1:]:
            axes.set_ylabel("")
    _write(figure, path)


def draw_history(path: Path, records: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Training history from the records of `metrics.jsonl`: losses, and validation MAPE, against the step.

    A record is a dict with "step", perhaps "kind" ("train", "validation"), and numbers, or lists of numbers with one
    entry a member. Every key with "mape" in it goes to the MAPE panel (in per cent), every key with "loss" in it to the
    loss panel; others are not drawn. Values that are not finite leave gaps. The ensemble's own "mape" is the bold line.
    """
    panels = {"loss": _series(records, "loss"), "mape": _series(records, "mape")}
    figure = _figure(11.0, 4.5, title)
    for axes, (kind, series) in zip(figure.subplots(1, 2), panels.items()):
        for name, (steps, values) in series.items():
            scaled = 100 * values if kind == "mape" else values
            style: dict[str, Any] = {"lw": 1.2}
            if name in ("mape", "validation mape"):
                style = {"lw": 2.8, "color": "black", "zorder": 3}
            elif name.startswith("train ") and kind == "mape":
                style = {"lw": 0.8, "ls": ":"}
            axes.plot(steps, scaled, label=name, marker="." if len(steps) < 50 else None, **style)
        axes.set_xlabel("step")
        axes.set_ylabel("MAPE (per cent)" if kind == "mape" else "loss")
        axes.grid(alpha=0.3)
        positive = [v for _, v in series.values() if np.isfinite(v).any() and np.nanmin(v) > 0]
        if series and len(positive) == len(series):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        if series:
            axes.legend(fontsize=7, ncols=1 + len(series) // 12)
        else:
            axes.text(0.5, 0.5, "nothing recorded", ha="center", transform=axes.transAxes)
    _write(figure, path)


def draw_by_depth(
    path: Path,
    curves: Mapping[str, np.ndarray],
    grid: Grid,
    title: str = "",
    *,
    label: str = "MAPE (per cent)",
) -> None:
    """Curves over depth, each `[depth]` on `grid`: where in the ground the error sits. Depth downwards, in metres."""
    figure = _figure(5.0, 6.0, title)
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(curve, np.arange(len(curve)) * grid.spacing, label=name)
    axes.set_ylim(grid.extent[0], 0)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.set_ylabel("depth (m)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _write(figure, path)


def draw_fit(
    path: Path,
    gathers: tuple[np.ndarray, np.ndarray, np.ndarray],
    survey: Survey,
    velocities: tuple[np.ndarray, np.ndarray],
    title: str = "",
    *,
    truth: np.ndarray | None = None,
) -> None:
    """What a refinement did to a sample: gathers of the middle shot above, velocity models below.

    `gathers` `[source, time, receiver]` three times: recorded, simulated in the start, simulated in the refined model;
    the residuals are drawn on the same amplitude scale. `velocities`: start and refined, `[depth, x]` m/s, and
    the `truth` where it is known, all on one grid of the extent of the survey's.
    """
    observed, before, after = gathers
    start, refined = velocities
    middle = observed.shape[0] // 2
    fields = [field for field in (start, refined, truth) if field is not None]
    low, high = min(float(f.min()) for f in fields), max(float(f.max()) for f in fields)
    spacing = survey.grid.extent[1] / start.shape[1]
    panel, height = _panel_size(start.shape[0], start.shape[1], 5.0)
    figure = _figure(max(16.0, 4 * (panel + 1.0)), 5.0 + height + 1.2, title)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[5.0, height])[:, 0]
    rows = above.subplots(1, 5, sharey=True)
    clip = _clip(observed[middle])
    shots = (observed, before, after, observed - before, observed - after)
    names = ("observed", "predicted: start", "predicted: refined", "residual: start", "residual: refined")
    for axes, gather, name in zip(rows, shots, names):
        image = gather_panel(axes, gather[middle], survey, middle, clip=clip)
        axes.set_title(f"{name}\nshot at x = {float(np.asarray(survey.sources)[middle, 0]):g} m", fontsize=10)
    _colour_bar(above, image, list(rows), "amplitude", extend="both")
    change = refined.astype(np.float64) - start
    shown = [("start", start), ("refined", refined), ("refined - start", change)]
    shown += [("truth", truth)] if truth is not None else []
    for axes, (name, field) in zip(below.subplots(1, len(shown)), shown):
        if name == "refined - start":
            limit = max(float(np.percentile(np.abs(field), 99)), 1.0)
            image = velocity_panel(axes, field, spacing, low=-limit, high=limit, colours=ERROR_COLOURS)
            _colour_bar(below, image, [axes], "change (m/s)", extend="both")
        else:
            image = velocity_panel(axes, field, spacing, low=low, high=high)
            _colour_bar(below, image, [axes], VELOCITY_LABEL)
        axes.set_title(name)
    for axes in rows[1:]:
        axes.set_ylabel("")
    _write(figure, path)


def draw_calibration(path: Path, found: Mapping[str, Any]) -> None:
    """Coverage of central intervals, ranks of the truth, and error against spread (`Calibration.summary`)."""
    figure = _figure(13.0, 4.4, f"{found['samples']} samples a model, CRPS {found['crps']:.1f} m/s")
    curve, ranks, error = figure.subplots(1, 3)
    levels = [0.0, *(float(level) for level in found["coverage"]), 1.0]
    curve.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    curve.plot(levels, [0.0, *found["coverage"].values(), 1.0], marker="o")
    curve.set_xlabel("probability of the central interval")
    curve.set_ylabel("share of the truth inside")
    shares = np.asarray(found["rank_histogram"])
    ranks.bar(np.arange(len(shares)), shares * len(shares), width=1.0)
    ranks.axhline(1.0, color="0.3", linewidth=1)
    ranks.set_xlabel("rank of the truth among the samples")
    ranks.set_ylabel("frequency (calibrated = 1)")
    spread, rmse = np.asarray(found["spread_bins"]), np.asarray(found["rmse_bins"])
    longest = float(max(spread.max(), rmse.max(), 1e-6))
    error.plot([0, longest], [0, longest], color="0.6", linewidth=1)
    error.plot(spread, rmse, marker="o")
    error.set_xlabel("spread of the samples (m/s)")
    error.set_ylabel("RMSE of their mean (m/s)")
    _write(figure, path)


def draw_posterior(
    path: Path, samples: np.ndarray, truth: np.ndarray | None, grid: Grid, title: str = "", *, count: int = 4
) -> None:
    """Samples `[sample, depth, x]` m/s of one model: truth, mean, spread and error above, the first samples below.

    Where the truth `[depth, x]` is known, the last panel has the error of the mean against the samples' spread in bins
    of equally many cells: on the diagonal is calibrated.
    """
    samples = np.asarray(samples, np.float64)
    mean, deviation = samples.mean(0), samples.std(0, ddof=1) if len(samples) > 1 else np.zeros(samples.shape[1:])
    shown = [sample for sample in samples[:count]]
    fields = [mean, *shown] + ([truth] if truth is not None else [])
    low, high = min(float(np.min(f)) for f in fields), max(float(np.max(f)) for f in fields)
    panel, height = _panel_size(mean.shape[0], mean.shape[1], 4.0)
    above: list[tuple[str, np.ndarray]] = [("truth", truth)] if truth is not None else []
    above += [("mean of the samples", mean), ("standard deviation", deviation)]
    above += [("absolute error of the mean", np.abs(mean - truth))] if truth is not None else []
    columns = max(len(above), len(shown) + (truth is not None))
    figure = _figure(1.0 + columns * (panel + 1.2), 2 * (height + 1.2), title)
    panels = figure.subplots(2, columns, squeeze=False)
    widest = max(float(np.percentile(deviation, 99)), 1.0)
    if truth is not None:
        widest = max(widest, float(np.percentile(np.abs(mean - truth), 99)))
    for axes, (name, field) in zip(panels[0], above):
        if name in ("truth", "mean of the samples"):
            image = velocity_panel(axes, field, grid.spacing, low=low, high=high)
            _colour_bar(figure, image, [axes], VELOCITY_LABEL)
        else:
            image = velocity_panel(axes, field, grid.spacing, low=0.0, high=widest, colours=DEVIATION_COLOURS)
            _colour_bar(figure, image, [axes], f"{name} (m/s)", extend="max")
        axes.set_title(name)
    for number, (axes, field) in enumerate(zip(panels[1], shown)):
        image = velocity_panel(axes, field, grid.spacing, low=low, high=high)
        _colour_bar(figure, image, [axes], VELOCITY_LABEL)
        axes.set_title(f"sample {number}")
    used = len(shown)
    if truth is not None:
        _error_against_spread(panels[1][used], deviation, np.abs(mean - truth))
        used += 1
    for axes in [*panels[0][len(above) :], *panels[1][used:]]:
        axes.set_axis_off()
    _write(figure, path)


def _error_against_spread(axes: Axes, deviation: np.ndarray, error: np.ndarray, bins: int = 12) -> None:
    order = np.argsort(deviation, axis=None, kind="stable")
    parts = np.array_split(order, min(bins, order.size))
    root = [[float(np.sqrt(np.mean(np.ravel(v)[part] ** 2))) for part in parts] for v in (deviation, error)]
    longest = max(*root[0], *root[1], 1e-6)
    axes.plot([0, longest], [0, longest], color="0.6", linewidth=1)
    axes.plot(root[0], root[1], marker="o")
    axes.set_xlabel("spread of the samples (m/s)")
    axes.set_ylabel("RMS error of their mean (m/s)")
    axes.set_box_aspect(1)


def gather_panel(axes: Axes, gather: np.ndarray, survey: Survey, source: int, *, clip: float | None = None) -> Any:
    """One shot gather `[time, receiver]` into `axes`: time in s downwards, receiver x in m; the shot as a star."""
    gather = np.asarray(gather)
    clip = clip or _clip(gather)
    receivers = np.asarray(survey.receivers)[..., 0].reshape(-1, survey.receivers.shape[-2])[0]
    shot = float(np.asarray(survey.sources)[..., source, 0].reshape(-1)[0])
    half = abs(float(receivers[-1] - receivers[0])) / max(2 * (len(receivers) - 1), 1) or 0.5
    step = survey.dt / 2
    end = (gather.shape[0] - 1) * survey.dt
    image = axes.imshow(
        _shrunk(gather),
        cmap=GATHER_COLOURS,
        vmin=-clip,
        vmax=clip,
        aspect="auto",
        interpolation="bilinear",
        extent=(float(receivers[0]) - half, float(receivers[-1]) + half, end + step, -step),
    )
    axes.plot([shot], [0.0], marker="*", color="tab:red", ms=9, clip_on=False, ls="none")
    axes.set_title(f"shot at x = {shot:g} m", fontsize=10)
    axes.set_xlabel("receiver x (m)")
    axes.set_ylabel("time (s)")
    return image


def velocity_panel(
    axes: Axes,
    field: np.ndarray,
    spacing: float,
    *,
    low: float | None = None,
    high: float | None = None,
    colours: str = VELOCITY_COLOURS,
) -> Any:
    """A field `[depth, x]` into `axes` with x and depth in metres, true to scale."""
    depth_count, x_count = np.shape(field)
    low = float(np.min(field)) if low is None else low
    high = float(np.max(field)) if high is None else high
    image = axes.imshow(
        field,
        cmap=colours,
        vmin=low,
        vmax=high if high > low else low + 1.0,
        aspect="equal",
        interpolation="nearest",
        extent=(-spacing / 2, (x_count - 0.5) * spacing, (depth_count - 0.5) * spacing, -spacing / 2),
    )
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("x (m)")
    axes.set_ylabel("depth (m)")
    return image


def _series(records: Sequence[Mapping[str, Any]], word: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    points: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        kind = f"{record['kind']} " if "kind" in record else ""
        for key, value in record.items():
            if word not in key.lower() or isinstance(value, str | bool | Mapping) or "step" not in record:
                continue
            several = np.ndim(value) > 0
            for member, number in enumerate(np.ravel(np.asarray(value, np.float64))):
                name = kind + (f"{key} {member}" if several else key)
                points.setdefault(name, []).append((float(record["step"]), float(number)))
    series = {}
    for name, pairs in points.items():
        table = np.asarray(pairs)
        table[~np.isfinite(table[:, 1]), 1] = np.nan
        series[name] = (table[:, 0], table[:, 1])
    return series


def _clip(gathers: np.ndarray) -> float:
    finite = np.abs(gathers[np.isfinite(gathers)])
    if not finite.size or not finite.max() > 0:
        return 1.0
    # Where nearly all samples are zero the percentile is too: fall back to the largest amplitude.
    return float(np.percentile(finite, CLIP_PERCENTILE)) or float(finite.max())


def _shrunk(gather: np.ndarray) -> np.ndarray:
    # 10,001 rows on 500 pixels: averages of whole groups of rows, so that nothing is drawn that is not there.
    group = gather.shape[0] // 1000
    if group < 2:
        return gather
    whole = gather.shape[0] // group * group
    return gather[:whole].reshape(-1, group, gather.shape[1]).mean(1)


def _panel_size(depth_count: int, x_count: int, height: float) -> tuple[float, float]:
    # Inches of a panel true to scale, `height` at the most, neither a ribbon nor wider than a sheet can bear.
    width = float(np.clip(height * x_count / depth_count, 1.5, 5.0))
    return width, float(np.clip(width * depth_count / x_count, 3.0, height))


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    return figure


def _colour_bar(
    figure: FigureBase, image: Any, panels: list[Axes], label: str, *, extend: str = "neither", ticks: bool = True
) -> None:
    bar = figure.colorbar(image, ax=panels, label=label, extend=extend, fraction=0.05, pad=0.02, aspect=35)
    if not ticks:
        bar.set_ticks([])


def _write(figure: Figure, path: Path) -> None:
    with whole_file(path) as part, open(part, "wb") as file:
        figure.savefig(file, format="png")

"""The experiment: where the sources and receivers are, what was fired, how it was recorded, on which grid it is solved.

Everything is physical. The challenge's experiment is 300 m x 1259 m whatever the sampling, so a gather at 1 ms
and a model on a 5 m grid belong to the SAME survey as the 0.1 ms, 1 m files.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import numpy as np

from seisvel_jax.arrays import Array
from seisvel_jax.errors import UserError
from seisvel_jax.files import read_json

MAX_VALUES = 2**30
"""Samples of all gathers of one sample, and nodes of its grid, that a description may claim: 4 GiB as float32."""


@dataclass(frozen=True)
class Grid:
    """A regular grid of nodes; node `[i, j]` lies at depth `i * spacing`, x `j * spacing`. Static and hashable."""

    depth_count: int
    x_count: int
    spacing: float
    """Metres between nodes, the same in both directions."""

    @property
    def shape(self) -> tuple[int, int]:
        """`(depth, x)` node counts."""
        return self.depth_count, self.x_count

    @property
    def extent(self) -> tuple[float, float]:
        """Depth and width in metres of the ground the nodes stand for, one cell a node."""
        return self.depth_count * self.spacing, self.x_count * self.spacing

    def resampled(self, spacing: float) -> "Grid":
        """The grid of another spacing whose nodes lie within the same extent: `model[::k, ::k]` for whole ratios."""
        depth, width = self.extent
        return Grid(_nodes(depth, spacing), _nodes(width, spacing), spacing)


def _nodes(length: float, spacing: float) -> int:
    return max(1, math.ceil(length / spacing - 1e-6))


BoundaryKind = Literal["devito", "openfwi", "pml"]
PML_CELLS = 10
"""Cells of a convolutional PML where no width is given: it reflects about -50 dB (docs/physics.md)."""


@dataclass(frozen=True)
class Boundary:
    """What ends the model: a sponge as the organisers of a data set built it, whose echo is part of their data, or a
    layer that absorbs. Static."""

    kind: BoundaryKind
    """`devito`: Devito's "damp" profile. `openfwi`: the quadratic profile of the OpenFWI solver. `pml`: a
    convolutional perfectly matched layer, which hardly echoes."""
    width: float
    """Metres of absorbing layer on each side, top included; for `pml` a whole number of cells."""
    start: tuple[float, float]
    """Depth and x in metres of the last node of the data set's own grid: the lower and the right-hand layer begin
    there (the others at 0), whatever grid the experiment is solved on."""
    free_surface: bool = False
    """Pressure is 0 on the nodes at depth 0, and nothing absorbs on top."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["sources", "receivers", "wavelet"],
    meta_fields=["dt", "nt", "grid", "boundary", "record_start", "name"],
)
@dataclass(frozen=True)
class Survey:
    """One acquisition geometry with its wavelet, time axis, grid and boundary. A pytree: arrays are leaves."""

    sources: Array
    """`[..., source, 2]` metres, `(x, depth)`; a leading batch axis where samples differ (mirrored ones)."""
    receivers: Array
    """`[..., receiver, 2]` metres, `(x, depth)`; every shot is recorded by all of them."""
    wavelet: Array
    """Source strength at `dt`: m^2 times the right-hand side, so it does not depend on the grid.
    A solver on spacing h adds `(v dt)^2 wavelet / h^2` to the cell of the source.
    `[time]`: all sources alike. `[source, time]`: each its own. In both cases each source is one shot.
    `[shot, source, time]`: encoded shots, of which each fires all sources at once."""
    dt: float
    """Seconds between recorded samples."""
    nt: int
    """Recorded samples a trace."""
    grid: Grid
    boundary: Boundary
    record_start: int
    """What row 0 holds: 0 the field at t = 0, before anything was injected (Devito), 1 the field after the first
    wavelet sample was injected (OpenFWI)."""
    name: str

    @property
    def shot_count(self) -> int:
        """Gathers a sample: one a source, unless the shots are encoded."""
        return self.wavelet.shape[0] if self.wavelet.ndim == 3 else self.sources.shape[-2]

    @property
    def gather_shape(self) -> tuple[int, int, int]:
        """`(shot, time, receiver)`."""
        return self.shot_count, self.nt, self.receivers.shape[-2]

    def resampled(self, *, spacing: float | None = None, dt: float | None = None) -> "Survey":
        """The same experiment on another grid spacing (m) and/or another sampling interval (s).

        The wavelet is resampled along its time axis: it must be band-limited below both Nyquist frequencies. A
        sponge keeps its metres, since it is part of the data; a PML keeps its cells and ends the new grid. Raises
        UserError for samplings so fine that nothing could hold them, 0 among them.
        """
        cell = self.grid.spacing if spacing is None else spacing
        depth, width = (_parts(length, cell) for length in self.grid.extent)
        rows = _parts((self.nt - 1) * self.dt, self.dt if dt is None else dt) + 1
        _refuse_too_large(self.sources.shape[-2] * self.receivers.shape[-2] * rows, depth * width)
        survey = self
        if spacing is not None and spacing != self.grid.spacing:
            grid, boundary = self.grid.resampled(spacing), self.boundary
            if boundary.kind == "pml":
                width = round(boundary.width / self.grid.spacing) * spacing
                boundary = dataclasses.replace(boundary, width=width, start=_last_node(grid))
            survey = dataclasses.replace(survey, grid=grid, boundary=boundary)
        if dt is not None and not math.isclose(dt, self.dt, rel_tol=1e-6):
            nt = round((self.nt - 1) * self.dt / dt) + 1
            times = np.arange(nt) * dt
            survey = dataclasses.replace(
                survey, dt=dt, nt=nt, wavelet=_interpolate_band_limited(np.asarray(self.wavelet), self.dt, times)
            )
        return survey

    def mirrored(self) -> "Survey":
        """The survey seen from behind: x -> last node - x, then sources and receivers in ascending x again.

        Reversing source order, receiver order and the lateral axis of data AND using these positions is exact.
        Wavelets of their own go with their sources. Encoded shots keep their order: there the gathers' first axis
        must not be reversed.
        """
        last = (self.grid.x_count - 1) * self.grid.spacing

        def flip(positions: Array) -> Array:
            rank = (1,) * (positions.ndim - 1)
            turn, move = (np.asarray(pair, np.float32).reshape(*rank, 2) for pair in ((-1, 1), (last, 0)))
            return (positions * turn + move)[..., ::-1, :]

        wavelet = self.wavelet if self.wavelet.ndim == 1 else self.wavelet[..., ::-1, :]
        return dataclasses.replace(self, sources=flip(self.sources), receivers=flip(self.receivers), wavelet=wavelet)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `Survey.from_dict` is its inverse."""
        return {
            "name": self.name,
            "sources": np.asarray(self.sources).tolist(),
            "receivers": np.asarray(self.receivers).tolist(),
            "wavelet": np.asarray(self.wavelet).tolist(),
            "dt": self.dt,
            "nt": self.nt,
            "grid": dataclasses.asdict(self.grid),
            "boundary": dataclasses.asdict(self.boundary),
            "record_start": self.record_start,
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Survey":
        """The survey of `to_dict`. Raises UserError where a field is missing or of the wrong kind."""
        try:
            with np.errstate(over="ignore"):  # what overflows is refused below
                sources, receivers, wavelet = (
                    np.asarray(values[which], np.float32) for which in ("sources", "receivers", "wavelet")
                )
            survey = Survey(
                sources=sources,
                receivers=receivers,
                wavelet=wavelet,
                dt=float(values["dt"]),
                nt=int(values["nt"]),
                grid=Grid(**values["grid"]),
                boundary=Boundary(**{**values["boundary"], "start": tuple(values["boundary"]["start"])}),
                record_start=int(values["record_start"]),
                name=str(values["name"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            reason = f"{error!r:.200}"
            raise UserError(f"not a survey description: {reason}; write one with Survey.to_dict()") from error
        for positions in (survey.sources, survey.receivers):
            if (
                positions.ndim != 2
                or positions.shape[-1] != 2
                or len(positions) == 0
                or not np.isfinite(positions).all()
            ):
                raise UserError(
                    f"survey positions have shape {positions.shape}, expected (count, 2), finite: x and depth in m"
                )
        _refuse_senseless(survey)
        return survey


def _refuse_senseless(survey: Survey) -> None:
    """Raises UserError where a survey that somebody wrote down could not have been recorded."""
    grid, boundary = survey.grid, survey.boundary
    counts = (grid.depth_count, grid.x_count)
    lengths = (grid.spacing, boundary.width, *boundary.start)
    sources, kinds = survey.sources.shape[-2], get_args(BoundaryKind)
    shape = survey.wavelet.shape
    fits = survey.wavelet.size > 0 and len(shape) in (1, 2, 3) and shape[-2:-1] in ((), (sources,))
    for what, value, sensible, expected in (
        ("dt", survey.dt, 0 < survey.dt < math.inf, "seconds above 0"),
        ("nt", survey.nt, survey.nt >= 2, "2 samples or more"),
        ("record_start", survey.record_start, survey.record_start in (0, 1), "0 or 1"),
        ("grid", counts, all(isinstance(n, int) and n > 0 for n in counts), "whole numbers above 0"),
        ("grid and boundary", lengths, all(isinstance(n, int | float) for n in lengths), "numbers in metres"),
        ("boundary", boundary.kind, boundary.kind in kinds, " or ".join(kinds)),
        ("free_surface", boundary.free_surface, isinstance(boundary.free_surface, bool), "true or false"),
        ("wavelet", shape, fits, f"(time,), ({sources} sources, time) or (shot, {sources} sources, time)"),
    ):
        if not sensible:
            raise UserError(f"survey {what} {value!s:.100}, expected {expected}: correct it")
    _refuse_too_large(sources * survey.nt * survey.receivers.shape[-2], math.prod(counts))
    if not (0 < grid.spacing < math.inf and 0 <= boundary.width < math.inf and len(boundary.start) == 2):
        raise UserError(
            f"survey grid and boundary {lengths}, expected spacing, width, two starts in metres: correct it"
        )
    cells = boundary.width / grid.spacing
    if boundary.kind == "pml" and (round(cells) < 1 or abs(cells - round(cells)) > 1e-3):
        raise UserError(
            f"survey boundary {boundary.width:g} m on a spacing of {grid.spacing:g} m, expected a whole number of "
            f"cells for a PML: use {max(1, round(cells)) * grid.spacing:g} m"
        )
    if boundary.kind == "openfwi" and boundary.width <= grid.spacing:
        raise UserError(
            f"survey boundary {boundary.width:g} m, expected more than one cell of openfwi sponge: widen it"
        )
    if not np.isfinite(survey.wavelet).all():
        raise UserError("survey wavelet holds NaN or infinite values: correct it")


def _parts(length: float, part: float) -> float:
    # A denormal part is > 0 or 0, by whether a library has set the thread to flush denormals.
    return length / part if part > 0 else math.inf


def _refuse_too_large(samples: float, nodes: float) -> None:
    if samples > MAX_VALUES or nodes > MAX_VALUES:
        samples, nodes = min(samples, 1e300), min(nodes, 1e300)  # whole numbers may be too large to be formatted
        raise UserError(
            f"survey of {samples:.3g} samples and {nodes:.3g} nodes, expected at most {MAX_VALUES} of each: correct "
            "nt, dt or the spacing of the grid"
        )


def _last_node(grid: Grid) -> tuple[float, float]:
    return (grid.depth_count - 1) * grid.spacing, (grid.x_count - 1) * grid.spacing


def from_arrays(
    sources: Any,
    receivers: Any,
    wavelet: Any,
    *,
    dt: float,
    nt: int | None = None,
    shape: tuple[int, int],
    spacing: float,
    boundary: BoundaryKind = "pml",
    width: float | None = None,
    free_surface: bool = False,
    record_start: int = 0,
    name: str = "survey",
) -> Survey:
    """A survey of your own; every value is checked.

    sources `[..., source, 2]` and receivers `[..., receiver, 2]`: metres, `(x, depth)`, on or between the nodes of the
    model. wavelet: `[time]`, `[source, time]` or `[shot, source, time]` at `dt` seconds (`Survey.wavelet`). nt:
    recorded samples a trace, default as long as the wavelet. shape: `(depth, x)` nodes; spacing in metres. width:
    metres of the absorbing layer, default 10 cells (a sponge needs many times as many). The arrays are kept as float32.
    Raises UserError naming the argument, its value, what was expected and the cure.
    """
    places = _floats("sources", sources), _floats("receivers", receivers)
    fired = _floats("wavelet", wavelet)
    spacing = _above_zero("spacing", spacing, "metres")
    grid = Grid(*_whole_pair(shape), spacing)
    width = PML_CELLS * spacing if width is None else _above_zero("width", width, "metres")
    survey = Survey(
        *places,
        wavelet=fired,
        dt=_above_zero("dt", dt, "seconds"),
        nt=_whole("nt", fired.shape[-1] if nt is None else nt),
        grid=grid,
        boundary=Boundary(boundary, width, _last_node(grid), free_surface),
        record_start=_whole("record_start", record_start),
        name=str(name),
    )
    _refuse_misplaced(survey)
    _refuse_senseless(survey)
    return survey


def _above_zero(which: str, value: Any, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise UserError(f"{which} {value!r}, expected {unit} above 0: correct it")
    return float(value)


def _whole(which: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UserError(f"{which} {value!r}, expected a whole number: correct it")
    return int(value)


def _whole_pair(shape: Any) -> tuple[int, int]:
    try:
        depth_count, x_count = (int(count) for count in shape if count == int(count) and count > 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"shape {shape!r}, expected (depth, x), two whole numbers above 0: correct it") from error
    return depth_count, x_count


def _floats(which: str, values: Any) -> np.ndarray:
    axes = "(time,), (source, time) or (shot, source, time)" if which == "wavelet" else f"({which[:-1]}, 2)"
    try:
        given = np.asarray(values)
        if not (np.issubdtype(given.dtype, np.floating) or np.issubdtype(given.dtype, np.integer)):
            raise TypeError(f"values of type {given.dtype}")
        with np.errstate(over="ignore"):  # what overflows is refused below
            array = given.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{which}: {error}, expected an array {axes} of numbers: correct it") from error
    if array.size == 0 or array.ndim == 0:
        raise UserError(f"{which} of shape {array.shape}, expected {axes}: correct it")
    if not np.isfinite(array).all():
        bad = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise UserError(f"{which}{list(bad)} is {given[bad]}, expected finite numbers: correct it")
    return array


def _refuse_misplaced(survey: Survey) -> None:
    """Raises UserError where positions are of the wrong shape, off the model or on a surface that keeps them silent."""
    last_depth, last_x = _last_node(survey.grid)
    batches = set()
    for which, positions in (("sources", survey.sources), ("receivers", survey.receivers)):
        if positions.ndim not in (2, 3) or positions.shape[-1] != 2:
            raise UserError(f"{which} of shape {positions.shape}, expected ({which[:-1]}, 2): x and depth in metres")
        batches |= {len(positions)} if positions.ndim == 3 else set()
        outside = (positions < 0) | (positions > np.asarray([last_x, last_depth]) * (1 + 1e-6))
        if outside.any():
            place = positions[outside.any(-1)][0]
            raise UserError(
                f"{which} at x {place[0]:g} m, depth {place[1]:g} m, expected x from 0 to {last_x:g} m and depth from "
                f"0 to {last_depth:g} m: positions are (x, depth) in metres; correct them or enlarge the model"
            )
        if survey.boundary.free_surface and (positions[..., 1] == 0).any():
            raise UserError(
                f"{which} at depth 0 on a free surface, where pressure is always 0: put them at least part of a cell "
                f"({survey.grid.spacing:g} m) deeper"
            )
    if len(batches) > 1:
        raise UserError(
            f"positions for {' and '.join(map(str, sorted(batches)))} samples, expected one batch: correct it"
        )


def read_survey(path: Any) -> Survey:
    """The survey stored as JSON at `path`. Raises UserError naming the file."""
    values = read_json(path)
    try:
        return Survey.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def ricker(frequency: float, dt: float, nt: int, delay: float) -> np.ndarray:
    """Ricker wavelet `(1 - 2 b) exp(-b)`, `b = (pi f (t - delay))^2`, `[nt]` float32. Ricker (1953)."""
    b = (np.pi * frequency * (np.arange(nt) * dt - delay)) ** 2
    return ((1 - 2 * b) * np.exp(-b)).astype(np.float32)


def _interpolate_band_limited(signal: np.ndarray, dt: float, times: np.ndarray) -> np.ndarray:
    # Quintic splines resolve what lies well below Nyquist to 1e-5 and, unlike an FFT, do not wrap the ends around.
    from scipy.interpolate import make_interp_spline

    # Nothing is fired before or after the wavelet, so that a short one may be lengthened by zeros.
    short = max(0, 6 - signal.shape[-1])
    signal = np.pad(signal.astype(np.float64), [(0, 0)] * (signal.ndim - 1) + [(0, short)])
    have = np.arange(signal.shape[-1]) * dt
    inside = times <= have[-1]
    out = np.zeros((*signal.shape[:-1], times.size), np.float32)
    out[..., inside] = make_interp_spline(have, signal, k=5, axis=-1)(times[inside])
    return out


SOURCE_IDS = (1, 75, 150, 225, 300)
"""Numbers in the challenge's file names; source `id` lies at x = id - 1 metres."""


def speed_and_structure(*, spacing: float = 1.0, dt: float = 1e-4, sponge: float = 350.0) -> Survey:
    """The 2025 Speed and Structure challenge: 300 m x 1259 m, five shots, 31 receivers, 1 s, Ricker 15 Hz at 1/15 s.

    Devito's scheme on a 1 m grid at 0.1 ms; `sponge` is the width in metres (350 in an entrant's account; about 500
    fits the published figure best). Other `spacing` and `dt` describe the same experiment.
    """
    _refuse_too_large(5 * 31 * _parts(1.0, dt), _parts(1259, spacing) * _parts(300, spacing))
    nt = round(1.0 / dt) + 1
    return Survey(
        sources=np.asarray([[source - 1, 20] for source in SOURCE_IDS], np.float32),
        receivers=np.asarray([[10 * i, 10] for i in range(31)], np.float32),
        wavelet=ricker(15.0, dt, nt, 1 / 15),
        dt=dt,
        nt=nt,
        grid=Grid(1259, 300, 1.0).resampled(spacing),
        boundary=Boundary("devito", sponge, (1258.0, 299.0)),
        record_start=0,
        name="speed-and-structure",
    )


def openfwi(*, x_count: int = 70, source_columns: tuple[int, ...] | None = None) -> Survey:
    """OpenFWI: 700 m x 700 m on a 10 m grid, five shots, a receiver a column, 1 ms, Ricker 15 Hz centred at 73 ms.

    The wavelet carries the grid's 100 m^2 so that `(v dt)^2 wavelet / h^2` is the published injection. `x_count`
    other than 70 gives the wider models of the same solver (Marmousi 190).
    """
    columns = source_columns or tuple(int(c) for c in np.round(np.linspace(0, x_count - 1, 5)))
    wavelet = np.zeros(1000, np.float32)
    wavelet[:147] = ricker(15.0, 1e-3, 147, 0.073)
    return Survey(
        sources=np.asarray([[10 * c, 10] for c in columns], np.float32),
        receivers=np.asarray([[10 * c, 10] for c in range(x_count)], np.float32),
        wavelet=100 * wavelet,
        dt=1e-3,
        nt=1000,
        grid=Grid(70, x_count, 10.0),
        boundary=Boundary("openfwi", 1200.0, (690.0, 10.0 * (x_count - 1))),
        record_start=1,
        name="openfwi",
    )

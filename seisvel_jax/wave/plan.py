"""What a survey means to the solver, worked out once on the host."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from seisvel_jax.arrays import Array
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Boundary, Grid, Survey
from seisvel_jax.wave import absorber, checks, sampling
from seisvel_jax.wave.boundary import DEVITO_CELL, Pad, pad_of
from seisvel_jax.wave.scheme import Scheme, scheme_of


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "source_nodes",
        "source_weights",
        "receiver_nodes",
        "receiver_weights",
        "wavelet",
        "layer",
        "rows",
        "readout",
    ],
    meta_fields=["grid", "boundary", "scheme", "substeps", "dt", "room", "distinct", "nt", "record_start"],
)
@dataclass(frozen=True)
class Plan:
    """Everything the time loop needs but the velocity. A pytree; programs are compiled once per its static part.

    The leading axis of the positions is 1, or batch where the samples of a batch differ in them.
    """

    source_nodes: Array
    """`[batch or 1, shot, source, point, 2]` padded (depth, x) indices; source is 1 unless shots are encoded."""
    source_weights: Array
    """`[batch or 1, shot, source, point]`."""
    receiver_nodes: Array
    """`[batch or 1, receiver, point, 2]`."""
    receiver_weights: Array
    """`[batch or 1, receiver, point]`."""
    wavelet: Array
    """`[shot or 1, source, step]` at the solver's step, divided by the cell's area."""
    layer: tuple
    """`(a, b)` of the PML for top, bottom, left and right, `[cells]` outwards; empty without one."""
    rows: Array
    """Rows the time loop records, a scalar: not part of the program, which has room for more."""
    grid: Grid
    boundary: Boundary
    scheme: Scheme
    substeps: int
    """Steps of the solver a recorded row."""
    dt: float
    """Seconds a step of the solver."""
    room: int
    """Rows the program has room for. Lengths of record share a program where this is equal."""
    distinct: tuple[bool, bool]
    """Whether the nodes of a shot's sources, and of its receivers, are all different."""
    nt: int
    """Rows of a gather."""
    record_start: int
    readout: Array | None
    """`[nt, row]` filter that removes the time dispersion, or None."""

    @property
    def pad(self) -> Pad:
        """Nodes beyond the model."""
        return pad_of(self.grid, self.boundary)

    @property
    def to_the_letter(self) -> bool:
        """Whether this is Devito's scheme as the challenge ran it, roundings included (boundary.spring)."""
        same = self.boundary.kind == "devito" and self.grid.spacing == DEVITO_CELL and self.substeps == 1
        return same and self.scheme.order == 4 and self.scheme.precision == "float32" and not self.boundary.free_surface

    @property
    def shot_count(self) -> int:
        """Shots a model."""
        return self.source_nodes.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the fields."""
        return np.dtype(self.scheme.precision)


def make_plan(survey: Survey, max_velocity: float, scheme: Scheme | None = None) -> Plan:
    """Plan for models up to `max_velocity` m/s. The survey must hold concrete arrays (not traced ones).

    Raises UserError where positions lie outside the grid, or what is asked for does not go together.
    """
    scheme = scheme or scheme_of(survey)
    grid, boundary = survey.grid, survey.boundary
    if scheme.precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError('precision float64 needs jax.config.update("jax_enable_x64", True) before anything is computed')
    if boundary.free_surface and boundary.kind == "openfwi":
        raise UserError(
            f"survey {survey.name}: a free surface with the openfwi boundary, expected devito or pml: OpenFWI has none"
        )
    if min(grid.shape) < scheme.order:
        raise UserError(
            f"survey {survey.name}: a model of {grid.depth_count} x {grid.x_count} nodes, expected at least "
            f"{scheme.order} each way for order {scheme.order}: use a lower order or a finer grid"
        )
    k = checks.substeps(survey, scheme.order, max_velocity, coefficients=scheme.coefficients)
    pad = pad_of(grid, boundary)
    dtype = np.dtype(scheme.precision)
    nodes, weights = {}, {}
    for name, positions in (("sources", survey.sources), ("receivers", survey.receivers)):
        places = np.asarray(positions)
        places = places[None] if places.ndim == 2 else places
        index, weight = sampling.position_weights(
            places, grid.spacing, (pad.top, pad.left), free_surface=boundary.free_surface
        )
        limits = np.asarray([grid.depth_count + pad.top + pad.bottom, grid.x_count + pad.left + pad.right])
        beyond = (index < 0) | (index >= limits)
        if (beyond.any(-1) & (weight != 0)).any():
            raise UserError(
                f"survey {survey.name}: {name} at x, depth from {places.min((0, 1))} to {places.max((0, 1))} m lie "
                f"outside the grid of {grid.extent[1]:g} m x {grid.extent[0]:g} m: correct the positions or the grid"
            )
        nodes[name], weights[name] = np.where(beyond, 0, index).astype(np.int32), weight.astype(dtype)

    wavelet = np.asarray(survey.wavelet, np.float64)
    fine = np.stack(
        [
            sampling.fine_wavelet(one, survey.dt, k, correct_dispersion=scheme.correct_dispersion)
            for one in wavelet.reshape(-1, wavelet.shape[-1])
        ]
    )
    if wavelet.ndim == 3:  # every shot fires every source
        fine = fine.reshape(*wavelet.shape[:2], -1)
        shots = fine.shape[0]
        source_nodes, source_weights = (
            np.repeat(a[:, None], shots, axis=1) for a in (nodes["sources"], weights["sources"])
        )
    else:  # a shot is a source
        fine = fine[:, None]
        source_nodes, source_weights = nodes["sources"][:, :, None], weights["sources"][:, :, None]

    recorded = survey.nt + (sampling.TAIL if scheme.correct_dispersion else 0) - (1 - survey.record_start)
    room = room_for(recorded)
    steps = room * k
    fine = np.pad(fine[..., :steps], ((0, 0), (0, 0), (0, max(0, steps - fine.shape[-1]))))
    layer: tuple = ()
    if boundary.kind == "pml":
        frequency = peak_frequency(wavelet, survey.dt)
        layer = tuple(
            tuple(p.astype(dtype) for p in absorber.profile(n, survey.dt / k, grid.spacing, max_velocity, frequency))
            for n in (pad.top, pad.bottom, pad.left, pad.right)
        )
    return Plan(
        source_nodes,
        source_weights,
        nodes["receivers"],
        weights["receivers"],
        wavelet=(fine / grid.spacing**2).astype(dtype),
        layer=layer,
        rows=np.asarray(recorded, np.int32),
        grid=grid,
        boundary=boundary,
        scheme=scheme,
        substeps=k,
        dt=survey.dt / k,
        room=room,
        distinct=(_distinct(source_nodes.reshape(-1, *source_nodes.shape[2:])), _distinct(nodes["receivers"])),
        nt=survey.nt,
        record_start=survey.record_start,
        readout=sampling.readout(survey.nt, survey.dt, k).astype(dtype) if scheme.correct_dispersion else None,
    )


def room_for(rows: int) -> int:
    """Rows of the program for a record of that many: up to an eighth more, so that lengths near it share one."""
    step = max(12, 3 * 2 ** (math.floor(math.log2(max(rows, 1))) - 4))
    return step * math.ceil(rows / step)


def peak_frequency(wavelet: np.ndarray, dt: float) -> float:
    """Frequency in Hz of the largest amplitude in the summed spectra of wavelets `[..., time]`."""
    spectrum = np.abs(np.fft.rfft(wavelet, 4 * wavelet.shape[-1])).reshape(-1, 2 * wavelet.shape[-1] + 1).sum(0)
    return float(np.fft.rfftfreq(4 * wavelet.shape[-1], dt)[spectrum.argmax()])


def _distinct(nodes: np.ndarray) -> bool:
    """Whether no node is named twice in any entry of the leading axis."""
    flat = nodes.reshape(nodes.shape[0], -1, 2)
    return all(len(np.unique(one, axis=0)) == len(one) for one in flat)

"""Gauss-Newton steps with the whole curvature, for models of some thousand cells. What L-BFGS leaves, these find.

Deep and badly lit cells show in the gathers a thousand times more weakly than the others. L-BFGS gets to them after
thousands of gradients; a step that divides by the curvature J^T J treats all alike. J comes from one run of as many
shots as there are sources and receivers (inversion/jacobian.py). Each step lowers

    |r + J dm|^2 / 2 + weight TV(m + dm)        r the residual of the survey's own solver, at m

by iterated reweighting: TV's squares divided by their size at the last iterate, each a symmetric system of all cells
(Vogel & Oman 1996; Pratt, Shin & Hicks 1998 for the curvature in full). The weight falls from step to step.

A long step in what is badly seen bends away from the valley of models that fit: the cells that are well seen have to
follow. So each trial is corrected with the same J and its own residual, in the stiff directions alone, before it is
judged (second-order corrections: Transtrum & Sethna 2012).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg, sparse
from scipy.linalg import blas

from seisvel_jax.errors import UserError
from seisvel_jax.inversion.cheaper import with_pml
from seisvel_jax.inversion.jacobian import frames, jacobian
from seisvel_jax.inversion.priors import CORNER
from seisvel_jax.survey import Survey
from seisvel_jax.wave.propagate import propagate
from seisvel_jax.wave.scheme import Scheme, scheme_of

MOST_CELLS = 10_000
"""The curvature holds the square of that in float64."""
REWEIGHTINGS = 8
SHARES = (1.0, 0.5, 0.2)
"""Of a step: the first that lowers misfit plus prior is taken."""
CORRECTIONS = 2
STIFF = 1e-3
"""Of the mean curvature: what corrections are held with, so that they move what the gathers see well."""


@dataclass(frozen=True)
class Stepped:
    """What an accepted or refused step found."""

    step: int
    """Counted from 1."""
    velocity: np.ndarray
    """`[depth, x]` m/s."""
    misfit: float
    """Half the share of the energy that is not explained."""
    weight: float
    share: float
    """Of the step that was taken; 0: none lowered the objective."""
    forward_runs: int
    """So far, each of all shots of the survey; a run of all sources and receivers counts as so many of them."""


@dataclass(frozen=True)
class Curvature:
    """Misfit around a model: `misfit + gradient . dm + dm . hessian dm / 2` for changes dm in m/s `[cell]`."""

    hessian: np.ndarray
    gradient: np.ndarray
    columns: tuple[np.ndarray, ...] = ()
    """Of each shot, `[receiver * frame, cell]` float32."""
    rows: np.ndarray | None = None
    receivers: int = 1
    share: float = 1.0
    """What a sample of the columns counts in the misfit."""

    def elsewhere(self, residual: np.ndarray) -> "Curvature":
        """The same curvature with the gradient of residuals `[shot, time, receiver]` of another model."""
        gradient = np.zeros(len(self.hessian))
        for shot, columns in enumerate(self.columns):
            gradient += residual[shot, self.rows, :: self.receivers].T.ravel() @ columns
        return replace(self, gradient=self.share * gradient)


def gauss_newton(
    observed: np.ndarray,
    start: np.ndarray,
    survey: Survey,
    *,
    weights: Sequence[float],
    bounds: tuple[float, float] = (1500.0, 4500.0),
    every: int = 8,
    receivers: int = 2,
    corner: float = CORNER,
    labels: np.ndarray | None = None,
    scheme: Scheme | None = None,
    on_step: Callable[[Stepped], bool | None] | None = None,
) -> Stepped:
    """From a start `[depth, x]` m/s with gathers `[shot, time, receiver]`, a step for each weight of total variation.

    The start must be near: the steps take the gathers as linear in the velocity. Residuals are those of the survey's
    own boundary, derivatives those within a PML. every: rows a frame of the Jacobian; half of 1 / (every dt) must be
    above what the wavelet holds. receivers: every how manieth is in the steps; the misfit has all.
    corner: m/s a cell, see `priors.total_variation`. labels `[depth, x]`: regions of one value each, such as
    `regions.segment` finds; the weights then do nothing. on_step stops by returning True. Never returns a larger misfit
    than the start's. Raises UserError for shapes that do not fit and too large grids.
    """
    observed, start = np.asarray(observed, np.float32), np.asarray(start, np.float32)
    if observed.shape != survey.gather_shape or start.shape != survey.grid.shape:
        raise UserError(
            f"gathers {observed.shape} and start {start.shape}, expected {survey.gather_shape} and "
            f"{survey.grid.shape} of survey {survey.name}, without a batch: resample them"
        )
    if start.size > MOST_CELLS:
        raise UserError(f"{start.size} cells, expected at most {MOST_CELLS} for the whole curvature: use L-BFGS")
    scheme = scheme or scheme_of(survey)
    live = np.asarray(observed.any((0, 2)))[None, :, None]
    energy = float(np.square(observed, dtype=np.float64).sum()) or 1.0

    def look(velocity: np.ndarray) -> tuple[np.ndarray, float]:
        found = np.asarray(propagate(velocity[None], survey, scheme=scheme, max_velocity=bounds[1]))[0]
        residual = np.where(live, found - observed, 0)
        return residual, 0.5 * float(np.square(residual, dtype=np.float64).sum()) / energy

    # Shots of a Jacobian are those of all sources and receivers.
    price = -(-(len(survey.sources) + len(survey.receivers[::receivers])) // survey.shot_count)
    velocity = np.clip(start, *bounds)
    residual, misfit = look(velocity)
    runs, best = 1, (misfit, velocity)
    stepped = Stepped(0, velocity, misfit, 0.0, 0.0, runs)
    for step, asked in enumerate(weights, start=1):
        weight = asked if labels is None else 0.0
        around = curvature(
            velocity, residual, survey, energy, bounds=bounds, every=every, receivers=receivers, scheme=scheme
        )
        if labels is None:
            aim = lowest(around, velocity, weight, bounds=bounds, corner=corner)
        else:
            aim = lowest_tied(around, velocity, labels, bounds=bounds)
        runs, taken = runs + price, 0.0
        before = misfit + weight * _variation(velocity, corner)
        for share in SHARES:
            trial = (velocity + share * (aim - velocity)).astype(np.float32)
            found, its_misfit = look(trial)
            value = its_misfit + weight * _variation(trial, corner)
            runs += 1
            for _ in range(CORRECTIONS if labels is None else 0):
                there = around.elsewhere(found)
                nearer = lowest(there, trial, weight, bounds=bounds, corner=corner, stiff=STIFF, reweightings=3)
                nearer = nearer.astype(np.float32)
                its_found, of_nearer = look(nearer)
                runs += 1
                lower = of_nearer + weight * _variation(nearer, corner)
                if not lower < value:
                    break
                trial, found, its_misfit, value = nearer, its_found, of_nearer, lower
            if value < before:
                velocity, residual, misfit, taken = trial, found, its_misfit, share
                break
        if misfit < best[0]:
            best = (misfit, velocity)
        stepped = Stepped(step, velocity, misfit, weight, taken, runs)
        if on_step is not None and on_step(stepped):
            break
    return Stepped(stepped.step, best[1], best[0], stepped.weight, stepped.share, runs)


def curvature(
    velocity: np.ndarray,
    residual: np.ndarray,
    survey: Survey,
    energy: float,
    *,
    bounds: tuple[float, float],
    every: int = 8,
    receivers: int = 2,
    scheme: Scheme | None = None,
) -> Curvature:
    """Gradient and Gauss-Newton Hessian of `sum residual^2 / (2 energy)` at a velocity `[depth, x]`, float64.

    Of every `receivers`-th receiver and every `every`-th row, for all of them.
    """
    rows = frames(survey, every)
    share = every * receivers / energy
    hessian = np.zeros((velocity.size,) * 2, order="F")
    kept = []
    cheap = replace(with_pml(survey), receivers=np.asarray(survey.receivers)[::receivers])
    shots = jacobian(velocity, cheap, max_velocity=bounds[1], every=every, scheme=scheme or scheme_of(survey))
    for columns in shots:
        kept.append(columns.reshape(-1, velocity.size))
        hessian = blas.dsyrk(share, kept[-1].T.astype(np.float64), beta=1.0, c=hessian, overwrite_c=1)  # upper half
    hessian = np.triu(hessian) + np.triu(hessian, 1).T
    nothing = np.zeros(velocity.size)
    return Curvature(hessian, nothing, tuple(kept), rows, receivers, share).elsewhere(residual)


def lowest(
    around: Curvature,
    velocity: np.ndarray,
    weight: float,
    *,
    bounds: tuple[float, float],
    corner: float = CORNER,
    stiff: float = 1e-10,
    reweightings: int = REWEIGHTINGS,
) -> np.ndarray:
    """The model `[depth, x]` m/s where the quadratic around `velocity` plus `weight` total variation is least.

    stiff: directions of less than this share of the mean curvature stay where they are.
    """
    center = velocity.astype(np.float64).ravel()
    down, across = differences(velocity.shape)
    right = around.hessian @ center - around.gradient
    model, diagonal = center, np.arange(center.size)
    hold = stiff * around.hessian[diagonal, diagonal].mean()
    for _ in range(reweightings):
        size = np.sqrt((down @ model) ** 2 + (across @ model) ** 2 + corner**2)
        each = sparse.diags(weight / (1000 * center.size * size))
        smooth = (down.T @ each @ down + across.T @ each @ across).tocoo()
        system = around.hessian.copy(order="F")
        system[smooth.row, smooth.col] += smooth.data
        system[diagonal, diagonal] += hold
        factor = linalg.cho_factor(system, overwrite_a=True, check_finite=False)
        found = np.clip(linalg.cho_solve(factor, right + hold * center, check_finite=False), *bounds)
        change, model = np.abs(found - model).mean(), found
        if change < 0.05:
            break
    return model.reshape(velocity.shape)


def lowest_tied(
    around: Curvature, velocity: np.ndarray, labels: np.ndarray, *, bounds: tuple[float, float]
) -> np.ndarray:
    """The model `[depth, x]` m/s where the quadratic is least among those that change by one value in each region.

    labels `[depth, x]`: 0, 1, ... A change is the same for all cells of a region: where they were equal they stay so.
    """
    member = np.eye(labels.max() + 1)[labels.ravel()]
    system, right = member.T @ around.hessian @ member, -(member.T @ around.gradient)
    change = linalg.lstsq(system, right)[0]
    return np.clip(velocity + (member @ change).reshape(velocity.shape), *bounds)


def differences(shape: tuple[int, int]) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Forward differences of `[cell]` down and across, 0 beyond the last cell."""

    def along(count: int) -> sparse.dia_array:
        ones = np.ones(count)
        ones[-1] = 0
        return sparse.diags_array([-ones, np.ones(count - 1)], offsets=[0, 1])

    down = sparse.kron(along(shape[0]), sparse.eye_array(shape[1]))
    return down.tocsr(), sparse.kron(sparse.eye_array(shape[0]), along(shape[1])).tocsr()


def _variation(velocity: np.ndarray, corner: float) -> float:
    """`priors.total_variation`, in float64 on the host."""
    down, across = (d @ velocity.astype(np.float64).ravel() for d in differences(velocity.shape))
    return float(np.mean(np.sqrt(down**2 + across**2 + corner**2) - corner)) / 1000

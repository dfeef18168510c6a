"""Gradient-free iteration with a trained network: m <- m - strength (M(F(m)) - m).

M is the network, F the solver. M's answer to the simulated gathers of m, whose ground is known, shows how wrong M is
there: that error is taken out of m. One network pass and one forward run a step; used by several entrants of the 2025
Geophysical Waveform Inversion competition (17.2 to 13.5 m/s in three steps).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey


@dataclass(frozen=True)
class Iterated:
    """What the iteration found; never worse than the start."""

    velocity: np.ndarray
    """`[batch, depth, x]` m/s, of every sample the model of the smallest misfit."""
    misfit_before: np.ndarray
    """`[batch]`: squared residual over squared data, of the start."""
    misfit_after: np.ndarray
    """`[batch]`, of `velocity`."""
    history: dict[str, np.ndarray]
    """`misfit` `[evaluation, batch]`: of every model that was simulated, the start first."""
    evaluations: int
    """Forward runs a sample."""


def gradient_free(
    predict_fn: Callable[[np.ndarray], np.ndarray],
    gathers: np.ndarray,
    start: np.ndarray,
    survey: Survey,
    *,
    strength: float = 0.7,
    iterations: int = 3,
    bounds: tuple[float, float] = (1500.0, 4500.0),
    mask: np.ndarray | None = None,
    water: np.ndarray | None = None,
    on_step: Callable[[int, np.ndarray], None] | None = None,
) -> Iterated:
    """`iterations` steps m <- m - strength (M(F(m)) - m) from `start`, each kept only if it lowers the misfit.

    predict_fn: gathers `[batch, shot, time, receiver]` of `survey` to velocity `[member, batch, depth, x]` m/s on its
    grid; the mean over the members is M. gathers: the recorded ones. start: `[batch, depth, x]` m/s. A sample whose
    misfit a step would raise goes back to its best model and tries half the strength along the same direction. mask
    `[shot, time, receiver]` or with batch in front: 0 where nothing was recorded. water `[batch, depth, x]` bool: kept
    as it is in the start. on_step: called with the number of forward runs and the misfits `[batch]`. Raises UserError.
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength {strength:g}, expected above 0 and at most 1: 0.6 to 0.85 are usual")
    if gathers.shape != (len(start), *survey.gather_shape) or start.shape[1:] != survey.grid.shape:
        raise UserError(
            f"gathers {gathers.shape} and start {start.shape}, expected (batch, {survey.gather_shape}) and "
            f"(batch, {survey.grid.shape}) of survey {survey.name}: resample them"
        )
    weight = np.ones((), np.float32) if mask is None else np.asarray(mask, np.float32)
    simulate = _simulator(survey, max(bounds[1], float(start.max())))
    low, high = np.minimum(start, bounds[0]), np.maximum(start, bounds[1])

    def misfit_of(simulated: np.ndarray) -> np.ndarray:
        residual = (weight * (simulated - gathers)).astype(np.float64)
        energy = (weight * gathers).astype(np.float64)
        return np.square(residual).sum((1, 2, 3)) / np.maximum(np.square(energy).sum((1, 2, 3)), 1e-300)

    best, simulated = start.astype(np.float32), simulate(start)
    before = lowest = misfit_of(simulated)
    direction = np.zeros_like(best)
    share = np.full(len(start), strength)
    stale = np.ones(len(start), bool)  # whose direction belongs to an earlier best model
    history = [before]
    for step in range(1, iterations + 1):
        if stale.any():
            said = np.asarray(predict_fn(np.where(weight > 0, simulated, 0).astype(np.float32))).mean(0)
            direction = np.where(stale[:, None, None], said - best, direction)
        trial = np.clip(best - share[:, None, None] * direction, low, high).astype(np.float32)
        if water is not None:
            trial = np.where(water, start, trial).astype(np.float32)
        found = simulate(trial)
        misfit = misfit_of(found)
        history.append(misfit)
        lower = misfit < lowest
        best = np.where(lower[:, None, None], trial, best)
        simulated = np.where(lower[:, None, None, None], found, simulated)
        lowest = np.where(lower, misfit, lowest)
        share, stale = np.where(lower, strength, share / 2), lower
        if on_step is not None:
            on_step(step, lowest)
    return Iterated(best, before, lowest, {"misfit": np.stack(history)}, iterations + 1)


def _simulator(survey: Survey, fastest: float) -> Callable[[np.ndarray], np.ndarray]:
    from seisvel_jax.wave.plan import make_plan
    from seisvel_jax.wave.propagate import run_plan

    plan = make_plan(survey, fastest)
    return lambda velocity: np.array(run_plan(velocity.astype(np.float32), plan))

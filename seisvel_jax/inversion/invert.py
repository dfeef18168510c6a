"""Full-waveform inversion of a batch of models: from a start, the velocity whose gathers are the observed ones."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Array, Bool, Gathers, Velocity, typed
from seisvel_jax.errors import UserError
from seisvel_jax.inversion import adam, lbfgs
from seisvel_jax.inversion.config import InversionConfig, Parameter
from seisvel_jax.inversion.objective import (
    LearnedPrior,
    Objective,
    Values,
    evaluate,
    make_objective,
    response_of,
)
from seisvel_jax.inversion.parameters import Space, from_velocity, make_space, slope, to_velocity
from seisvel_jax.inversion.tie import tie
from seisvel_jax.survey import Survey
from seisvel_jax.wave import checks
from seisvel_jax.wave.scheme import Scheme, scheme_of
from seisvel_jax.wave.wavefield import illumination

ALL_SHOTS_EVERY = 10
"""Where shots are drawn, every so many evaluations all of them are used: only such can be the best."""


class Stage(NamedTuple):
    """A stretch of evaluations with one objective."""

    frequency: float
    """Corner of the low-pass filter in Hz; inf: none."""
    weight: float
    """Of the prior."""
    evaluations: int


@dataclass
class State:
    """Everything between two evaluations, for `invert(..., state=)` with the other arguments as before."""

    optimizer: Any
    best: Array
    """`[batch, depth, x]` m/s."""
    score: Array
    """Of the best: misfit of all frequencies plus the last weight times the prior, `[batch]`."""
    misfit_before: Array
    misfit_after: Array
    evaluations: int = 0
    stage: int = 0
    stage_evaluations: int = 0
    quiet: int = 0
    """Evaluations since the objective last fell by `stop_change`."""
    lowest: Array | None = None
    """Objective of this stage to fall below, `[batch]`."""
    history: dict[str, list[np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What `on_step` is told after each evaluation."""

    evaluation: int
    """Counted from 1."""
    velocity: Array
    """The best so far, `[batch, depth, x]` m/s."""
    misfit: np.ndarray
    """Of the best so far, `[batch]`."""
    state: State


@dataclass(frozen=True)
class Inversion:
    """What came out. Misfits are those of all frequencies, means over the samples that count, of gathers over the RMS
    value of the observed ones: for l2 half the share of the energy that is not explained."""

    velocity: jax.Array
    """`[batch, depth, x]` m/s: of all evaluated, that of the least misfit plus prior whose misfit is not above the
    start's."""
    misfit_before: np.ndarray
    """`[batch]`."""
    misfit_after: np.ndarray
    history: dict[str, np.ndarray]
    """`[evaluation, batch]`: objective, misfit, prior, best (the misfit of the best so far), frequency, weight."""
    evaluations: int
    """Of misfit and gradient, all shots of all models each."""
    state: State


def stages_of(config: InversionConfig, evaluations: int) -> list[Stage]:
    """The stages of that many evaluations, which are shared out evenly, the last ones getting what remains."""
    corners = (*config.frequencies, np.inf) if config.frequencies else (np.inf,) * config.stages
    count = min(len(corners), evaluations)
    corners = corners[len(corners) - count :]
    end = config.prior_weight if config.prior_weight_end is None else config.prior_weight_end
    stages = []
    for i, corner in enumerate(corners):
        share = evaluations // count + (i >= count - evaluations % count)
        part = i / max(count - 1, 1)
        weight = config.prior_weight if count == 1 or config.prior_weight == 0 else config.prior_weight ** (1 - part)
        weight = weight * end**part if count > 1 and config.prior_weight > 0 else weight
        stages.append(Stage(float(corner), float(weight), share))
    return stages


@typed
def invert(
    observed: Gathers,
    start: Velocity,
    survey: Survey,
    config: InversionConfig,
    *,
    mask: Array | None = None,
    water: Bool[Array, "batch depth x"] | None = None,
    prior: LearnedPrior | None = None,
    prior_weight: float = 1.0,
    proximal: Callable[[Array], Array] | None = None,
    scheme: Scheme | None = None,
    on_step: Callable[[Step], bool | None] | None = None,
    state: State | None = None,
) -> Inversion:
    """Invert observed gathers `[batch, shot, time, receiver]` from a start `[batch, depth, x]` m/s.

    mask: 1 where a sample counts, 0 in dead traces and mutes; broadcasts to the gathers. water: cells that keep the
    start's velocity exactly (water, salt). The start is clipped to `config.bounds`. prior: a learned one, velocity m/s
    -> (values `[batch]`, gradients), times `prior_weight`, besides the one of `config`. proximal: applied to the
    velocity after each step of Adam. scheme: of the solver, default the survey's own. on_step is called after each
    evaluation and stops the inversion by returning True. state: of an inversion that was stopped, to go on from.
    The result's misfit is never above the start's. Raises UserError for shapes that do not fit and values that are no
    velocities or that the grid cannot carry.
    """
    observed, start = np.asarray(observed), np.asarray(start)
    _check(observed, start, survey, config, mask=mask, scheme=scheme)
    if proximal is not None and config.optimizer != "adam":
        raise UserError("a proximal prior with optimizer lbfgs, expected adam: L-BFGS needs one smooth objective")
    start = np.where(False if water is None else water, start, np.clip(start, *config.bounds))
    objective = make_objective(observed, start, survey, config, mask=mask, scheme=scheme)
    start = jnp.asarray(start, objective.plan.dtype)
    light = None
    if config.precondition > 0:
        light = illumination(start, survey, scheme=scheme, max_velocity=config.bounds[1])
    space = make_space(
        start,
        config.parameter,
        config.bounds,
        known=water,
        illumination=light,
        exponent=config.precondition,
        smooth=config.smooth,
    )
    search = _Search(
        objective,
        space,
        survey,
        config,
        start=start,
        known=water,
        prior=prior,
        prior_weight=prior_weight,
        proximal=proximal,
    )
    state = search.begin(start) if state is None else state
    kept = min(config.tie_iterations, config.iterations - 1) if config.tie != "none" else 0
    stages = stages_of(config, config.iterations - kept)
    while state.stage < len(stages):
        stage = stages[state.stage]
        while state.stage_evaluations < stage.evaluations:
            search.advance(state, stage, stages[-1].weight)
            if on_step is not None and on_step(
                Step(state.evaluations, state.best, np.asarray(state.misfit_after), state)
            ):
                return _result(state)
            if bool((np.asarray(state.misfit_after) <= config.stop_misfit).all()):
                return _result(state)
            if config.stop_change > 0 and state.quiet >= config.patience:
                break
        search.next_stage(state)
    if kept and state.stage == len(stages):
        state.stage += 1
        search.tie(state, kept, on_step)
    return _result(state)


def _result(state: State) -> Inversion:
    history = {name: np.stack(values) for name, values in state.history.items()}
    return Inversion(
        jnp.asarray(state.best),
        np.asarray(state.misfit_before),
        np.asarray(state.misfit_after),
        history,
        state.evaluations,
        state,
    )


class _Search:
    """One optimiser at work on one objective."""

    def __init__(
        self,
        objective: Objective,
        space: Space,
        survey: Survey,
        config: InversionConfig,
        *,
        start: jax.Array,
        known: Array | None,
        prior: LearnedPrior | None,
        prior_weight: float,
        proximal: Callable[[Array], Array] | None,
    ) -> None:
        self.objective, self.space, self.survey, self.config = objective, space, survey, config
        self.known, self.prior, self.prior_weight, self.proximal = known, prior, prior_weight, proximal
        self.least, self.most = (jnp.full_like(start, limit) for limit in config.bounds)
        if known is not None:
            self.least, self.most = jnp.where(known, start, self.least), jnp.where(known, start, self.most)
        slowest = jnp.full((1, 1, 1), config.bounds[0], objective.plan.dtype)
        self.unit = jnp.abs(1 / slope(slowest, config.parameter))[0, 0, 0]  # of the parameter, a m/s

    def begin(self, start: Array) -> State:
        point = self.space.clip(from_velocity(start, self.config.parameter))
        optimizer: Any = (
            adam.begin(point) if self.config.optimizer == "adam" else lbfgs.begin(point, self.config.memory)
        )
        nothing = jnp.full(start.shape[0], jnp.inf, start.dtype)
        return State(optimizer, start, nothing, nothing, nothing)

    def advance(self, state: State, stage: Stage, last_weight: float) -> None:
        """One evaluation, and where to look next."""
        config = self.config
        whole = not 0 < config.shots_per_step < self.objective.plan.shot_count
        whole = whole or state.evaluations % ALL_SHOTS_EVERY == 0 or state.evaluations + 1 == config.iterations
        objective = self.objective if whole else self.objective.shots(self._shots(state.evaluations))
        velocity = self.velocity(state.optimizer.trial, config.parameter)
        values, learned = self.look(velocity, objective, stage)
        if state.evaluations == 0:
            self._first(state, velocity, values)
        if whole:
            dtype = objective.plan.dtype
            self._keep_best(state, velocity, values, learned + jnp.asarray(last_weight, dtype) * values.prior)
        self.record(state, stage, values)
        self._step(state, velocity, values)

    def velocity(self, point: Array, parameter: Parameter) -> jax.Array:
        """m/s, with no rounding at the bounds and where it is known."""
        return jnp.clip(to_velocity(jnp.asarray(point), parameter), self.least, self.most)

    def look(self, velocity: Array, objective: Objective, stage: Stage) -> tuple[Values, jax.Array]:
        """Values at a velocity, those of a learned prior, times its weight, among them and once more `[batch]`."""
        dtype = objective.plan.dtype
        response = response_of(objective, stage.frequency, self.survey)
        values = evaluate(objective, jnp.asarray(velocity), response, jnp.asarray(stage.weight, dtype))
        if self.prior is None:
            return values, jnp.zeros_like(values.misfit)
        weight = jnp.asarray(self.prior_weight, dtype)
        value, gradient = self.prior(jnp.asarray(velocity))
        learned = weight * value
        return values._replace(
            objective=values.objective + learned, gradient=values.gradient + weight * gradient
        ), learned

    def _step(self, state: State, velocity: jax.Array, values: Values) -> None:
        config, dtype = self.config, self.objective.plan.dtype
        gradient = values.gradient * slope(velocity, config.parameter)
        if config.optimizer == "adam":
            turned = 0.55 + 0.45 * np.cos(np.pi * state.evaluations / config.iterations)
            rate = jnp.asarray(config.learning_rate * turned, dtype) * self.unit
            state.optimizer = adam.update(state.optimizer, gradient, self.space, rate)
            if self.proximal is not None:
                nearer = self.proximal(to_velocity(state.optimizer.trial, config.parameter))
                nearer = self.space.clip(from_velocity(nearer, config.parameter))
                state.optimizer = state.optimizer._replace(trial=nearer)
        else:
            first = jnp.asarray(config.first_step, dtype) * self.unit
            state.optimizer = lbfgs.update(state.optimizer, values.objective, gradient, self.space, first)
        state.evaluations += 1
        state.stage_evaluations += 1

    def next_stage(self, state: State) -> None:
        """Go on from where the optimiser is; the objective is another one from here."""
        state.stage, state.stage_evaluations, state.quiet, state.lowest = state.stage + 1, 0, 0, None
        if self.config.optimizer == "lbfgs":
            state.optimizer = lbfgs.renew(state.optimizer, state.optimizer.point)

    def tie(self, state: State, evaluations: int, on_step: Callable[[Step], bool | None] | None) -> None:
        """Regions of one value, and whole numbers, where they lower the misfit."""
        stage = Stage(np.inf, 0.0, evaluations)
        objective = replace(self.objective, prior=None)

        def look(velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
            response = response_of(objective, np.inf, self.survey)
            values = evaluate(objective, velocity, response, jnp.zeros((), objective.plan.dtype))
            better = values.misfit < state.misfit_after
            state.misfit_after = jnp.where(better, values.misfit, state.misfit_after)
            state.best = jnp.where(better[:, None, None], velocity, state.best)
            state.evaluations += 1
            self.record(state, stage, values)
            if on_step is not None:
                on_step(Step(state.evaluations, state.best, np.asarray(state.misfit_after), state))
            return values.misfit, values.gradient

        space = make_space(state.best, "velocity", self.config.bounds, known=self.known)
        whole = self.config.tie == "integers"
        tie(
            look,
            lambda: np.asarray(state.best),
            space,
            partial(self.velocity, parameter="velocity"),
            evaluations=evaluations,
            whole=whole,
        )

    def _shots(self, evaluation: int) -> jax.Array:
        draw = np.random.default_rng((self.config.seed, evaluation))
        count = self.objective.plan.shot_count
        return jnp.asarray(np.sort(draw.permutation(count)[: self.config.shots_per_step]), jnp.int32)

    def _first(self, state: State, velocity: jax.Array, values: Values) -> None:
        if not bool(jnp.isfinite(values.misfit).all()):
            bad = np.flatnonzero(~np.isfinite(np.asarray(values.misfit))).tolist()
            raise UserError(f"the start's misfit of samples {bad} is not finite: check their gathers and velocities")
        state.best, state.misfit_before, state.misfit_after = velocity, values.misfit, values.misfit

    def _keep_best(self, state: State, velocity: jax.Array, values: Values, prior: jax.Array) -> None:
        score = values.misfit + prior
        done = jnp.asarray(state.misfit_after) <= self.config.stop_misfit
        better = (score < state.score) & (values.misfit <= state.misfit_before) & ~done
        state.score = jnp.where(better, score, state.score)
        state.misfit_after = jnp.where(better, values.misfit, state.misfit_after)
        state.best = jnp.where(better[:, None, None], velocity, state.best)

    def record(self, state: State, stage: Stage, values: Values) -> None:
        batch = np.shape(values.misfit)
        for name, value in (
            ("objective", values.objective),
            ("misfit", values.misfit),
            ("prior", values.prior),
            ("best", state.misfit_after),
            ("frequency", np.full(batch, stage.frequency)),
            ("weight", np.full(batch, stage.weight)),
        ):
            state.history.setdefault(name, []).append(np.asarray(value))
        lowest = values.objective if state.lowest is None else state.lowest
        fell = np.asarray(values.objective) < (1 - self.config.stop_change) * np.asarray(lowest)
        state.quiet = 0 if state.lowest is None or bool(fell.any()) else state.quiet + 1
        state.lowest = np.where(fell, values.objective, lowest)


def _check(
    observed: np.ndarray,
    start: np.ndarray,
    survey: Survey,
    config: InversionConfig,
    *,
    mask: Array | None,
    scheme: Scheme | None,
) -> None:
    if observed.shape[1:] != survey.gather_shape:
        raise UserError(
            f"observed gathers of shape {observed.shape}, expected (batch, {', '.join(map(str, survey.gather_shape))}) "
            f"for survey {survey.name}: resample the gathers or the survey"
        )
    if start.shape != (observed.shape[0], *survey.grid.shape):
        raise UserError(
            f"start of shape {start.shape}, expected ({observed.shape[0]}, {survey.grid.depth_count}, "
            f"{survey.grid.x_count}) for these gathers and survey {survey.name}: resample the model"
        )
    if not np.isfinite(observed).all():
        raise UserError("observed gathers hold NaN or infinite values, expected finite ones: mask and zero dead traces")
    if mask is not None:
        try:
            np.broadcast_shapes(np.shape(mask), observed.shape)
        except ValueError as error:
            raise UserError(
                f"mask of shape {np.shape(mask)}, expected one that broadcasts to the gathers {observed.shape}"
            ) from error
    checks.check_velocity(start, "start")
    order = (scheme or scheme_of(survey)).order
    checks.check_sampling(survey, order, float(np.clip(start, *config.bounds).min()))

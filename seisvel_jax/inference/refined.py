"""Refinement at prediction time: from a starting model to one whose simulated gathers look like the recorded ones.

The solver's grid may be coarser than the answer (the challenge: 5 m and 1 ms for files of 1 m and 0.1 ms). What is
solved for there is a correction; interpolated, it is added to the full-size start, so that what is finer stays.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seisvel_jax.data.coarsen import add_correction, solving_survey, to_solver
from seisvel_jax.data.resample import resample_gathers, resample_velocity
from seisvel_jax.errors import UserError
from seisvel_jax.inference import refine_state
from seisvel_jax.inference.predictor import Predictor
from seisvel_jax.inversion.config import InversionConfig, Prior
from seisvel_jax.inversion.invert import Inversion, Step, invert
from seisvel_jax.inversion.iterate import Iterated, gradient_free
from seisvel_jax.inversion.objective import evaluate, make_objective, response_of
from seisvel_jax.logging import say
from seisvel_jax.survey import Survey

if TYPE_CHECKING:
    from seisvel_jax.inference.learned import Learned

Method = Literal["gradient", "network"]
CHALLENGE_SPACING, CHALLENGE_DT = 5.0, 1e-3
"""m and s on which the challenge is solved: enough for its 15 Hz, and 500 times cheaper than its own 1 m and 0.1 ms."""
SPONGE_WIDTHS = (350.0, 400.0, 450.0, 500.0, 550.0, 600.0)
"""Metres tried for the challenge's sponge, which nobody published: 350 in an entrant's account, 500 fits a figure."""
USUAL_WEIGHTS: dict[Prior, float] = {"none": 0.0, "tv": 1e-4, "tv1d": 1e-4, "tikhonov": 1e-5, "gaussian": 1e-5}
"""For gathers without much noise (docs/refine.md)."""
USUAL_LEARNED: dict[str, float] = {"red-diffeq": 1e-4, "proximal": 0.1}
"""The same of learned priors."""
MARGIN = 30.0
"""Metres by which the start's seabed may lie too deep: water this near to it may turn into rock."""
SAVE_EVERY = 60.0
"""Seconds between two records of the batch that is being refined."""
SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of the interpolated correction that are tried until the full-size model fits no worse than its start."""


@dataclass(frozen=True)
class Settings:
    """What a refinement is asked to do."""

    inversion: InversionConfig = dataclasses.field(default_factory=InversionConfig)
    method: Method = "gradient"
    """`gradient`: full-waveform inversion. `network`: m <- m - strength (M(F(m)) - m), `inversion.iterations` times."""
    strength: float = 0.7
    spacing: float | None = None
    """Metres between the solver's nodes; None: the data's own, for the challenge 5."""
    dt: float | None = None
    """Seconds between the samples compared; None: the data's own, for the challenge 1e-3."""
    sponge_width: float | None = None
    """Metres; None: the survey's."""
    learned: str = "none"
    """`red-diffeq` or `proximal`: the learned prior's kind (inference/learned.py)."""
    learned_weight: float = 0.0
    keep_water: bool = True
    """What is exactly 1500 m/s from the top of the start down to 30 m above its seabed stays so."""


@dataclass(frozen=True)
class Refined:
    """A refined batch."""

    velocity: np.ndarray
    """`[batch, depth, x]` float32 m/s on the data's grid."""
    misfit_before: np.ndarray
    """`[batch]`: of the start, by the misfit asked for, on the solver's grid."""
    misfit_after: np.ndarray
    """`[batch]`: of `velocity`, taken to the solver's grid again; never larger."""
    evaluations: int
    history: np.ndarray
    """`[evaluation, batch]`: misfit of every model evaluated (frequency bands each by their own)."""


def usual_inversion(*, prior_weight: float | None = None, **wanted: Any) -> InversionConfig:
    """The inversion asked for, with the usual weight of its prior where none is given."""
    weight = USUAL_WEIGHTS[wanted.get("prior", "none")] if prior_weight is None else prior_weight
    return InversionConfig(prior_weight=weight, **wanted)


class Refiner:
    """Refines batches of one experiment."""

    def __init__(
        self,
        survey: Survey,
        settings: Settings,
        predictor: Predictor | None = None,
        learned: "Learned | None" = None,
    ):
        """`survey` of the data as they lie; the predictor is needed by the method `network`. Raises UserError."""
        if settings.method == "network" and predictor is None:
            raise UserError("--method network needs a trained run: give one with --start or --network")
        self.data_survey, self.settings, self.predictor = survey, settings, predictor
        self.survey, self._learned = solver_survey(survey, settings), learned
        self.heard = survey.resampled(dt=self.survey.dt)
        """The data's own grid with the solver's times."""

    def __call__(
        self,
        gathers: np.ndarray,
        start: np.ndarray,
        *,
        on_step: Callable[[int, np.ndarray], None] | None = None,
        state_file: Path | None = None,
    ) -> Refined:
        """Refine `start` `[batch, depth, x]` m/s on the data's grid by `gathers` `[batch, shot, time, receiver]`.

        Traces without any signal do not count. on_step: called with the evaluations done and the misfits `[batch]`.
        state_file: where an inversion leaves its state every `SAVE_EVERY` seconds, and goes on from.
        """
        settings, grid, target = self.settings, self.data_survey.grid, self.survey.grid
        observed = on_solver_times(gathers, self.data_survey, self.survey)
        mask = live(gathers, self.survey)
        solved = to_solver(start, grid, target)
        kept = water_above(start, grid.spacing) if settings.keep_water else np.zeros(start.shape, bool)
        # Of the start itself: on the solver's grid the low-pass of its seabed rings by some m/s far up into the water.
        water = resample_velocity(kept.astype(np.float32), grid, target) == 1 if settings.keep_water else None
        if settings.method == "network":
            found: Iterated | Inversion = gradient_free(
                self._predict,
                observed,
                solved,
                self.survey,
                strength=settings.strength,
                iterations=settings.inversion.iterations,
                bounds=settings.inversion.bounds,
                mask=mask,
                water=water,
                on_step=on_step,
            )
        else:
            found = self._invert(observed, solved, mask, water, on_step=on_step, state_file=state_file)
        before, after = np.asarray(found.misfit_before), np.asarray(found.misfit_after)
        correction = np.asarray(found.velocity) - solved
        velocity = self._full_size(start, correction, kept)
        if grid != target:
            velocity, after = self._no_worse(start, correction, kept, (observed, mask), before)
        worse = ~(after <= before)
        velocity[worse], after = start[worse], np.where(worse, before, after)
        return Refined(velocity, before, after, int(found.evaluations), np.asarray(found.history["misfit"]))

    def _invert(
        self,
        observed: np.ndarray,
        solved: np.ndarray,
        mask: np.ndarray,
        water: np.ndarray | None,
        *,
        on_step: Callable[[int, np.ndarray], None] | None,
        state_file: Path | None,
    ) -> Inversion:
        config = self.settings.inversion
        file = state_file if config.tie == "none" else None  # tying has a state of its own
        saved = time.monotonic()

        def tell(step: Step) -> None:
            nonlocal saved
            if on_step is not None:
                on_step(step.evaluation, step.misfit)
            if file is not None and time.monotonic() - saved > SAVE_EVERY:
                refine_state.save(file, step.state)
                saved = time.monotonic()

        state = refine_state.read(file, solved.shape, config) if file is not None else None
        if state is not None:
            say(f"{file}: {state.evaluations} evaluations of this batch are done already, going on from there")
        more = {} if self._learned is None else self._learned.arguments(self.survey.grid, len(solved))
        return invert(observed, solved, self.survey, config, mask=mask, water=water, on_step=tell, state=state, **more)

    def _full_size(self, start: np.ndarray, correction: np.ndarray, kept: np.ndarray) -> np.ndarray:
        full = add_correction(
            start, correction, self.data_survey.grid, self.survey.grid, self.settings.inversion.bounds
        )
        return np.where(kept, start, full)

    def _no_worse(
        self,
        start: np.ndarray,
        correction: np.ndarray,
        kept: np.ndarray,
        recorded: tuple[np.ndarray, np.ndarray],
        before: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The full-size models and their misfits: of each the largest share of its correction that is no worse.

        Interpolated and averaged again, a correction is not quite what was solved for.
        """
        velocity, after = start.copy(), before.copy()
        open_ones = np.ones(len(start), bool)
        for share in SHARES:
            trial = self._full_size(start, np.float32(share) * correction, kept)
            misfit = self.misfit(trial, *recorded)
            taken = open_ones & (misfit < before)
            velocity[taken], after[taken] = trial[taken], misfit[taken]
            open_ones &= ~taken
            if not open_ones.any():
                break
        return velocity, after

    def misfit(self, velocity: np.ndarray, observed: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """`[batch]` of models `[batch, depth, x]` on the data's grid, by the misfit asked for; `observed` as solved."""
        solved = to_solver(velocity, self.data_survey.grid, self.survey.grid)
        if self.settings.method == "network":
            return relative_residual(self.simulate(solved), observed, mask)
        return misfit_of(solved, observed, self.survey, self.settings.inversion, mask)

    def simulate(self, solved: np.ndarray) -> np.ndarray:
        """Gathers `[batch, shot, time, receiver]` of models `[batch, depth, x]` on the solver's grid."""
        return simulated(solved, self.survey, self.settings.inversion.bounds[1])

    def _predict(self, gathers: np.ndarray) -> np.ndarray:
        assert self.predictor is not None
        # As a start is predicted (starts.PREDICTED): its errors are what is taken out.
        answer = self.predictor.predict(
            gathers, survey=self.heard, tta=True, post_process=True, batch_size=len(gathers)
        )
        return to_solver(answer, self.data_survey.grid, self.survey.grid)[None]


def solver_survey(survey: Survey, settings: Settings) -> Survey:
    """The experiment as it is solved: other grid (to where the boundary begins), sampling, sponge. Raises UserError."""
    for name, value in (
        ("--grid-spacing", settings.spacing),
        ("--dt", settings.dt),
        ("--sponge-width", settings.sponge_width),
    ):
        if value is not None and not 0 < value < np.inf:
            raise UserError(f"{name} {value}: expected a number above 0")
    if settings.sponge_width is not None:
        if survey.boundary.kind != "devito":
            raise UserError(
                f"--sponge-width: the boundary of survey {survey.name} is '{survey.boundary.kind}', whose width is "
                "given; expected a survey with Devito's sponge: leave it out"
            )
        boundary = dataclasses.replace(survey.boundary, width=settings.sponge_width)
        survey = dataclasses.replace(survey, boundary=boundary)
    spacing, dt = settings.spacing, settings.dt
    if survey.name == "speed-and-structure":
        spacing = spacing or max(CHALLENGE_SPACING, survey.grid.spacing)
        dt = dt or max(CHALLENGE_DT, survey.dt)
    return solving_survey(survey.resampled(spacing=spacing, dt=dt))


def on_solver_times(gathers: np.ndarray, survey: Survey, solved: Survey) -> np.ndarray:
    """Gathers `[batch, shot, time, receiver]` of `survey` on the time axis of `solved`, float32."""
    return np.stack([resample_gathers(np.asarray(one, np.float32), survey.dt, solved) for one in gathers])


def live(gathers: np.ndarray, solved: Survey) -> np.ndarray:
    """`[batch, shot, time, receiver]` float32 for the solver's times: 0 in traces without any signal, else 1.

    The last row of OpenFWI's files is zero by convention and counts for nothing either.
    """
    mask = np.zeros((len(gathers), *solved.gather_shape), np.float32)
    mask[:] = np.any(gathers != 0, axis=2)[:, :, None, :]
    if solved.record_start == 1:
        mask[:, :, -1] = 0
    return mask


def water_above(velocity: np.ndarray, spacing: float, water: float = 1500.0) -> np.ndarray:
    """`[..., depth, x]` bool: what is `water` m/s (to 0.01) from the top down to `MARGIN` above the first that is not.

    Nearer to the seabed the start may be wrong; `spacing` in metres.
    """
    wet = np.logical_and.accumulate(np.abs(velocity - water) < 0.01, axis=-2)
    margin = min(round(MARGIN / spacing), wet.shape[-2])
    return np.concatenate([wet[..., margin:, :], np.zeros_like(wet[..., :margin, :])], axis=-2)


def simulated(solved: np.ndarray, survey: Survey, fastest: float) -> np.ndarray:
    """Gathers of models `[batch, depth, x]` on the grid of `survey`; `fastest` m/s fixes the time step."""
    from seisvel_jax.wave.plan import make_plan
    from seisvel_jax.wave.propagate import run_plan

    return np.array(run_plan(np.asarray(solved, np.float32), make_plan(survey, max(fastest, float(solved.max())))))


def misfit_of(
    solved: np.ndarray, observed: np.ndarray, survey: Survey, config: InversionConfig, mask: np.ndarray
) -> np.ndarray:
    """`[batch]`: the misfit of models `[batch, depth, x]`, all frequencies, by the program that inverted them."""
    clipped = np.clip(np.asarray(solved, np.float32), *config.bounds)
    objective = make_objective(observed, clipped, survey, config, mask=mask)
    weight = np.asarray(0, objective.plan.dtype)
    return np.asarray(evaluate(objective, clipped, response_of(objective, np.inf, survey), weight).misfit)


def relative_residual(predicted: np.ndarray, observed: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`[batch]`: squared residual over squared data, both where the mask is 1."""
    residual, data = (mask * (predicted - observed)).astype(np.float64), (mask * observed).astype(np.float64)
    return np.square(residual).sum((1, 2, 3)) / np.maximum(np.square(data).sum((1, 2, 3)), 1e-300)


def estimate_sponge(gathers: np.ndarray, start: np.ndarray, survey: Survey, settings: Settings) -> float:
    """The width in metres, of `SPONGE_WIDTHS` and the survey's own, behind which the starts fit the gathers best.

    gathers `[batch, shot, time, receiver]` and start `[batch, depth, x]` as the data lie. The echo of the sponge is as
    strong as the reflections, and does not depend much on the model. Says what it tried.
    """
    tried = {}
    for width in sorted({*SPONGE_WIDTHS, survey.boundary.width}):
        solved = solver_survey(survey, dataclasses.replace(settings, sponge_width=width))
        predicted = simulated(to_solver(start, survey.grid, solved.grid), solved, settings.inversion.bounds[1])
        observed = on_solver_times(gathers, survey, solved)
        tried[width] = float(relative_residual(predicted, observed, live(gathers, solved)).mean())
    best = min(tried, key=lambda width: tried[width])
    told = ", ".join(f"{width:g} m {100 * residual:.1f} %" for width, residual in tried.items())
    say(f"sponge: {best:g} m fits the starts of {len(start)} samples best (residual energy: {told}); --sponge-width")
    return best

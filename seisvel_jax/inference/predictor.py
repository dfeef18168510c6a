"""The predictor: one or several trained ensembles behind one function, numpy in and numpy out.

Several runs are one larger ensemble: every run has an equal share, divided within the run by its learned weights. Each
run sees the gathers resampled to its own time axis and answers on its own grid; answers are brought to the asked grid.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.inference.experiment import other_experiment, survey_of_gathers
from seisvel_jax.inference.postprocess import Parameters, smooth, snap
from seisvel_jax.inference.tta import PredictFn, with_mirror, with_noise
from seisvel_jax.logging import chunks
from seisvel_jax.survey import Grid, Survey

Combine = Literal["weighted", "uniform", "median"]


@dataclass(frozen=True)
class Options:
    """How a prediction is made from what the networks say."""

    tta: bool = False
    """Mean with the mirrored experiment's prediction."""
    tta_noise: int = 0
    """Mean over this many noisy copies of the gathers besides."""
    tta_noise_snr_db: float = 40.0
    """Signal-to-noise ratio of those copies in decibels of each sample's own energy."""
    post_process: bool = False
    """Apply the post-processing fitted on validation data, each run's own to its own prediction."""
    combine: Combine = "weighted"
    """Members by the weights fitted on validation data, or alike, or their median."""


@dataclass(frozen=True)
class Ensemble:
    """One run's networks as a function, and what was fitted for them."""

    predict: PredictFn
    """Gathers `[batch, source, time, receiver]` on the survey's time axis, and the survey, to velocity
    `[member, batch, depth, x]` m/s on the survey's grid."""
    survey: Survey
    weights: np.ndarray
    """`[member]`, sums to 1."""
    postprocess: Parameters
    names: tuple[str, ...]
    """One a member."""
    fingerprint: str = ""
    """Of the parameters and all that was fitted: other numbers, other fingerprint."""


@dataclass(frozen=True)
class _Task:
    """Checked gathers `[batch, source, time, receiver]` of `survey`, wanted on `grid`."""

    gathers: np.ndarray
    survey: Survey
    grid: Grid
    names: tuple[str, ...]

    def rows(self, some: range) -> "_Task":
        return _Task(self.gathers[some.start : some.stop], self.survey, self.grid, self.names[some.start : some.stop])


class Predictor:
    """One or several trained ensembles. Numpy in, numpy out."""

    def __init__(self, ensembles: Sequence[Ensemble]):
        if not ensembles:
            raise UserError("no checkpoint given: name at least one run")
        self.ensembles = tuple(ensembles)

    @property
    def survey(self) -> Survey:
        """What the (first) run was trained on: its positions, time axis and grid."""
        return self.ensembles[0].survey

    @property
    def weights(self) -> np.ndarray:
        """`[member]` over all runs in order, sums to 1: equal shares of the runs times each run's learned weights."""
        return np.concatenate([ensemble.weights for ensemble in self.ensembles]) / len(self.ensembles)

    @property
    def member_names(self) -> tuple[str, ...]:
        """One a member over all runs, such as `velocity_net/0`; with several runs the run's number before it."""
        if len(self.ensembles) == 1:
            return self.ensembles[0].names
        return tuple(f"{run}/{name}" for run, ensemble in enumerate(self.ensembles) for name in ensemble.names)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of everything that decides the numbers, order of the runs included."""
        return hashlib.sha256("\n".join(e.fingerprint for e in self.ensembles).encode()).hexdigest()

    def predict(
        self,
        gathers: np.ndarray,
        *,
        dt: float | None = None,
        survey: Survey | None = None,
        tta: bool = False,
        post_process: bool = False,
        grid: Grid | None = None,
        tta_noise: int = 0,
        combine: Combine = "weighted",
        batch_size: int = 8,
        other_survey: bool = False,
    ) -> np.ndarray:
        """Velocity `[batch, depth, x]` float32 m/s of gathers `[batch, source, time, receiver]`.

        A single sample `[source, time, receiver]` gives `[depth, x]`. `survey` describes the gathers as they lie;
        without it they are of the run's survey, sampled every `dt` s (default: so that the record is as long as the
        run's). The result lies on `grid`, default the grid of `survey`, else the run's. The other options are those of
        `Options`. Raises UserError on other shapes, NaN, or another experiment than the run was trained on (unless
        `other_survey`, for networks that can read it).
        """
        options = Options(tta=tta, tta_noise=tta_noise, post_process=post_process, combine=combine)
        task = self._task(gathers, dt, survey, grid, other_survey=other_survey)
        velocity = self._fields(task, options, min(batch_size, len(task.gathers)), deviation=False)["velocity"]
        return velocity if np.ndim(gathers) == 4 else velocity[0]

    def predict_fields(
        self,
        gathers: np.ndarray,
        survey: Survey,
        options: Options,
        *,
        batch_size: int,
        deviation: bool = True,
        members: bool = False,
        other_survey: bool = False,
        names: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """`velocity` and, where asked, `deviation`, each `[batch, depth, x]` float32 m/s on the grid of `survey`.

        Where asked also `members` `[batch, member, depth, x]`: what each says, before weights and post-processing.

        The deviation is the weighted standard deviation between the members, before post-processing; 0 for a single
        member. Exactly `batch_size` samples go through a network at a time, a smaller batch being filled up, so that
        equal sizes mean equal programs. `names` of the samples appear in messages.
        """
        task = self._task(gathers, None, survey, None, other_survey=other_survey, names=names)
        return self._fields(task, options, batch_size, deviation=deviation, members=members)

    def predict_members(
        self,
        gathers: np.ndarray,
        *,
        dt: float | None = None,
        survey: Survey | None = None,
        tta: bool = False,
        grid: Grid | None = None,
        tta_noise: int = 0,
        batch_size: int = 8,
        other_survey: bool = False,
    ) -> np.ndarray:
        """`[member, batch, depth, x]` float32 m/s: what each member of each run says; arguments as for `predict`.

        A single sample `[source, time, receiver]` gives `[member, depth, x]`.
        """
        options = Options(tta=tta, tta_noise=tta_noise)
        task = self._task(gathers, dt, survey, grid, other_survey=other_survey)
        size = min(batch_size, len(task.gathers))
        batches = [self._members(task.rows(some), options, size) for some in chunks(len(task.gathers), size)]
        members = np.concatenate([self._gridded(answers, task) for answers in batches], axis=1)
        return members if np.ndim(gathers) == 4 else members[:, 0]

    def check_experiment(self, survey: Survey, *, other_survey: bool = False) -> None:
        """Raise UserError where a run was trained on another experiment than `survey`, unless that is allowed."""
        for number, ensemble in enumerate(self.ensembles):
            difference = other_experiment(survey, ensemble.survey)
            if difference and not other_survey:
                raise UserError(
                    f"these gathers are of another experiment than run {number + 1} ('{ensemble.survey.name}') was "
                    f"trained on: {difference}; predict with a run trained for them, or allow it (other_survey, "
                    "--other-survey) knowing that the result is a guess"
                )

    def check(
        self,
        sample: str | Path,
        *,
        options: Options = Options(),
        figure: str | Path | None = None,
        other_survey: bool = False,
    ) -> dict[str, float]:
        """A quick look at one sample: print shapes and, where the truth is there, the errors; draw `figure` (PNG).

        `sample`: the folder of a challenge sample, or a file of gathers (the first of it is taken). Returns `mape`
        (fraction), `mae` and `rmse` (m/s), empty without the truth.
        """
        from seisvel_jax import metrics
        from seisvel_jax.data.dataset import open_dataset

        data = open_dataset(sample)
        name, gathers = data.names[0], data.gathers(0)
        fields = self.predict_fields(
            gathers[None], data.survey, options, batch_size=1, other_survey=other_survey, names=[name]
        )
        velocity, deviation = fields["velocity"][0], fields["deviation"][0]
        truth = data.velocity(0) if data.has_velocity else None
        print(f"{name}: gathers {gathers.shape} (source, time, receiver) every {1e3 * data.survey.dt:g} ms")
        print(
            f"predicted velocity {velocity.shape} (depth, x) every {data.survey.grid.spacing:g} m, "
            f"{velocity.min():.0f} to {velocity.max():.0f} m/s; "
            f"mean deviation between {len(self.weights)} members {deviation.mean():.0f} m/s"
        )
        scores = {}
        if truth is not None:
            measures = {"mape": metrics.mape, "mae": metrics.mae, "rmse": metrics.rmse}
            scores = {measure: float(function(velocity, truth)) for measure, function in measures.items()}
            print(f"MAPE {100 * scores['mape']:.2f} %, MAE {scores['mae']:.1f} m/s, RMSE {scores['rmse']:.1f} m/s")
        if figure is not None:
            from seisvel_jax.plotting import draw_comparison

            draw_comparison(figure, gathers, truth, velocity, data.survey, name, deviation=deviation)
            print(f"figure {figure}")
        return scores

    def _task(
        self,
        gathers: np.ndarray,
        dt: float | None,
        survey: Survey | None,
        grid: Grid | None,
        *,
        other_survey: bool,
        names: Sequence[str] = (),
    ) -> "_Task":
        batch = np.asarray(gathers)
        if batch.dtype.kind not in "fiu":
            raise UserError(f"gathers of dtype {batch.dtype}, expected real numbers (float32)")
        if batch.ndim == 3:
            batch = batch[None]
        if batch.ndim != 4 or 0 in batch.shape:
            raise UserError(
                f"gathers of shape {np.shape(gathers)}, expected [batch, source, time, receiver] or "
                "[source, time, receiver], none of them empty"
            )
        if survey is None:
            survey = survey_of_gathers(batch, self.survey, dt)
        elif dt is not None and not math.isclose(dt, survey.dt, rel_tol=1e-6):
            raise UserError(f"dt = {dt:g} s, but the survey given says {survey.dt:g} s: give one of them")
        if batch.shape[1:] != survey.gather_shape:
            raise UserError(
                f"gathers of shape {batch.shape[1:]}, expected {survey.gather_shape} (source, time, receiver) of the "
                f"survey '{survey.name}': give the survey of these gathers"
            )
        names = tuple(names) or tuple(str(index) for index in range(len(batch)))
        bad = np.flatnonzero(~np.isfinite(batch).all((1, 2, 3)))
        if bad.size:
            raise UserError(f"gathers of sample {names[bad[0]]} hold NaN or infinite values: leave it out")
        self.check_experiment(survey, other_survey=other_survey)
        return _Task(batch, survey, grid or survey.grid, names)

    def _fields(
        self, task: "_Task", options: Options, batch_size: int, *, deviation: bool, members: bool = False
    ) -> dict[str, np.ndarray]:
        fields = ("velocity", "deviation") if deviation else ("velocity",)
        found = {field: np.empty((len(task.gathers), *task.grid.shape), np.float32) for field in fields}
        if members:
            found["members"] = np.empty((len(task.gathers), len(self.weights), *task.grid.shape), np.float32)
        for some in chunks(len(task.gathers), batch_size):
            rows = slice(some.start, some.stop)
            answers = self._members(task.rows(some), options, batch_size)
            found["velocity"][rows] = self._combined(answers, task, options)
            if deviation:
                found["deviation"][rows] = self._deviation(answers, task, options)
            if members:
                found["members"][rows] = self._gridded(answers, task).swapaxes(0, 1)
        bad = np.flatnonzero(~np.isfinite(found["velocity"]).all((1, 2)))
        if bad.size:
            raise UserError(
                f"the networks answer NaN to sample {task.names[bad[0]]}: check the checkpoint, and that the "
                "amplitudes are those of the training data"
            )
        return found

    def _network_survey(self, ensemble: Ensemble, survey: Survey) -> Survey:
        if other_experiment(survey, ensemble.survey) is None:
            return ensemble.survey
        return survey.resampled(spacing=ensemble.survey.grid.spacing, dt=ensemble.survey.dt)

    def _members(self, task: "_Task", options: Options, batch_size: int) -> list[np.ndarray]:
        """One `[member, batch, depth, x]` a run, on the run's own grid."""
        from seisvel_jax.data.resample import resample_gathers

        answers = []
        for ensemble in self.ensembles:
            target = self._network_survey(ensemble, task.survey)
            batch = np.empty((batch_size, *target.gather_shape), np.float32)
            for index, sample in enumerate(task.gathers):
                batch[index] = resample_gathers(np.asarray(sample, np.float32), task.survey.dt, target)
            # The last batch is filled up: the same program for every batch, and no strange numbers in the padding.
            batch[len(task.gathers) :] = batch[0]
            if target.record_start == 1:
                batch[:, :, -1] = 0  # OpenFWI's last row: zero in its training files, a field in others
            predict = ensemble.predict
            if options.tta:
                predict = with_mirror(predict)
            if options.tta_noise:
                predict = with_noise(predict, options.tta_noise, snr_db=options.tta_noise_snr_db)
            answers.append(np.asarray(predict(batch, target))[:, : len(task.gathers)])
        return answers

    def _gridded(self, answers: list[np.ndarray], task: "_Task") -> np.ndarray:
        """`[member, batch, depth, x]` of all runs, on the asked grid."""
        grids = [self._network_survey(ensemble, task.survey).grid for ensemble in self.ensembles]
        return np.concatenate([_on_grid(members, grid, task.grid) for members, grid in zip(answers, grids)])

    def _combined(self, answers: list[np.ndarray], task: "_Task", options: Options) -> np.ndarray:
        """One velocity from the members of all runs. The median is taken within each run, then over the runs."""
        results, shares = [], []
        for ensemble, members in zip(self.ensembles, answers):
            own_grid = self._network_survey(ensemble, task.survey).grid
            if options.combine == "median":
                velocity, share = np.median(members, axis=0), 1.0
            elif options.combine == "uniform":
                velocity, share = members.mean(0), float(len(members))
            else:
                velocity, share = _weighted(members, ensemble.weights), 1.0
            parameters = ensemble.postprocess if options.post_process else {}
            # Smoothing where it was fitted, exact values where the result is read: sharp on the finest grid.
            velocity = _on_grid(smooth(velocity, parameters, own_grid), own_grid, task.grid)
            results.append(snap(velocity, parameters))
            shares.append(share)
        if options.combine == "median":
            return np.median(np.stack(results), axis=0)
        return _weighted(np.stack(results), np.asarray(shares) / np.sum(shares)) if len(results) > 1 else results[0]

    def _deviation(self, answers: list[np.ndarray], task: "_Task", options: Options) -> np.ndarray:
        members = self._gridded(answers, task)
        weights = self.weights if options.combine == "weighted" else np.full(len(members), 1 / len(members))
        centre = _weighted(members, weights)
        variance = np.zeros_like(centre)
        for weight, member in zip(weights, members):
            variance += np.float32(weight) * np.square(member - centre)
        return np.sqrt(variance)


def _on_grid(velocity: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    from seisvel_jax.data.resample import resample_velocity

    return velocity if grid == target else resample_velocity(velocity, grid, target)


def _weighted(members: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = np.zeros(members.shape[1:], np.float32)
    for weight, member in zip(weights, members):
        total += np.float32(weight) * member
    return total

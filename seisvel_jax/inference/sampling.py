"""A whole data set sampled job by job: what is told of each model, draws kept on the way, results at the end."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seisvel_jax.calibration import coverage, crps, rank_histogram, tempered
from seisvel_jax.data.checks import finite_float32
from seisvel_jax.data.resample import resample_gathers
from seisvel_jax.diffusion.condition import SOURCES
from seisvel_jax.errors import UserError
from seisvel_jax.inference.experiment import other_experiment
from seisvel_jax.inference.posterior import Job, Posterior, Told, gathered, sample_keys, shares, shots_of
from seisvel_jax.inference.refined import Settings, live, on_solver_times, relative_residual, simulated, solver_survey
from seisvel_jax.inference.shards import Shard
from seisvel_jax.inference.submission import Finished, files_digest
from seisvel_jax.inference.told import Background, Cells, Wells, on_grid, water_of
from seisvel_jax.logging import progress, say

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset
    from seisvel_jax.survey import Survey

QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Knowledge:
    """What is told of a data set's models."""

    gathers: bool = True
    shots: tuple[int, ...] | None = None
    """Numbers of the shots that are used; None: all."""
    wells: Wells | None = None
    background: Background | None = None
    blur: float = 0.0
    """Metres: standard deviation of the Gaussian by which the background is smoother than the ground."""
    family: str | None = None
    water: Cells | None = None
    """The same of every model; where it is None, what the background says."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Those of `condition.SOURCES` that the network is told."""
        told = (self.gathers, self.wells is not None, self.background is not None, self.family is not None)
        return tuple(source for source, known in zip(SOURCES, told, strict=True) if known)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Other knowledge, other fingerprint."""
        water = None if self.water is None else int(self.water.known.sum())
        return {
            "gathers": self.gathers,
            "shots": None if self.shots is None else list(self.shots),
            "wells": None if self.wells is None else self.wells.fingerprint,
            "background": None if self.background is None else self.background.fingerprint,
            "blur": None if self.background is None else self.blur,
            "family": self.family,
            "water": water,
        }

    def check(self, survey: "Survey") -> None:
        """Raise UserError for shots that the survey does not have."""
        count = survey.gather_shape[0]
        outside = [shot for shot in self.shots or () if not 0 <= shot < count]
        if outside:
            raise UserError(f"--shots: shot {outside[0]}, expected 0 to {count - 1}")

    def text(self, *, pulled: bool) -> str:
        """In words, for the user; `pulled` by the gathers through the wave solver."""
        gathers = "gathers" if self.shots is None else f"shots {', '.join(map(str, self.shots))} of the gathers"
        told = [gathers] * self.gathers + [f"{gathers} through the wave solver"] * pulled
        told += [name for name in ("wells", "background", "water") if getattr(self, name) is not None]
        told += [f"family {self.family}"] if self.family is not None else []
        return ", ".join(told) or "nothing: these are samples of the prior"


@dataclass(frozen=True)
class Sampling:
    """What is sampled, how often, from what."""

    dataset: "Dataset"
    names: tuple[str, ...]
    """The data set's first samples."""
    posterior: Posterior
    knowledge: Knowledge
    samples: int
    seed: int = 0
    batch_size: int = 8
    temperature: float = 1.0
    """Factor on the samples' distance to their mean."""

    def __post_init__(self) -> None:
        run = self.posterior.run
        difference = other_experiment(self.dataset.survey, run.survey)
        if difference:
            raise UserError(
                f"{self.dataset.path}: gathers of another experiment than the run ('{run.survey.name}') was trained "
                f"on: {difference}; sample with a run trained for them"
            )

    @property
    def given(self) -> str:
        """What the samples are given, in words."""
        return self.knowledge.text(pulled=self.posterior.drawing.guidance is not None)

    @functools.cached_property
    def parts(self) -> list[tuple[int, list[int]]]:
        """`(member, numbers of samples)` of the jobs of each model."""
        return shares(self.samples, self.posterior.members, self.batch_size)

    def run(self, output: Path, shard: Shard | None = None) -> Finished:
        """Draw what is not drawn yet; the jobs wait in `<output>.part/`. With a shard only its share.

        A folder left by other settings is refused (UserError naming them).
        """
        made_with = {
            "checkpoint": self.posterior.fingerprint,
            "data": files_digest(self.dataset, self.names),
            "samples": self.samples,
            "seed": self.seed,
            "batch_size": self.batch_size,
            **self.knowledge.fingerprint,
            **{f"drawing {name}": value for name, value in dataclasses.asdict(self.posterior.drawing).items()},
        }
        finished = Finished(output, made_with, fields=("drawn",), keep_others=True)
        ours = [batch.start for batch in (shard or Shard()).batches(len(self.names) * len(self.parts), 1)]
        to_do = [job for job in ours if job not in finished]
        counts = [self._count(job) for job in ours]
        done = sum(counts) - sum(self._count(job) for job in to_do)
        if done:
            say(f"{finished.folder}: {done} of {sum(counts)} samples are drawn already, going on from there")
        with progress(None, "sample", total=sum(counts), initial=done) as bar:
            for first in range(0, len(to_do), self.posterior.together):
                some = to_do[first : first + self.posterior.together]
                for number, drawn in zip(some, self.posterior.draw([self.job(number) for number in some])):
                    finished.add(number, drawn=drawn)
                    bar.update(self._count(number))
        return finished

    def _count(self, job: int) -> int:
        """Samples of a job that are kept."""
        return sum(number < self.samples for number in self.parts[job % len(self.parts)][1])

    def job(self, number: int) -> Job:
        """One job; jobs are numbered model after model."""
        index, part = divmod(number, len(self.parts))
        member, numbers = self.parts[part]
        return Job(self.told(index), member, sample_keys(self.seed, self.names[index], numbers))

    def told(self, index: int) -> Told:
        """What is told of one model, on the run's grid and times. Raises UserError naming the sample."""
        survey, target, known = self.dataset.survey, self.posterior.survey, self.knowledge
        nothing = Cells.none(target.grid)
        gathers, shots = np.zeros(target.gather_shape, np.float32), np.zeros(target.gather_shape[0], np.float32)
        if known.gathers or self.posterior.drawing.guidance is not None:
            lying = finite_float32(self.dataset.gathers(index), f"{self.dataset.path}: {self.names[index]}")
            if known.shots is not None:
                unused = sorted(set(range(len(lying))) - set(known.shots))
                lying = lying.copy()
                lying[unused] = 0
            gathers = np.asarray(resample_gathers(lying, survey.dt, target), np.float32)
            shots = shots_of(lying)
            if target.record_start == 1:
                gathers = gathers.copy()
                gathers[:, -1] = 0  # as in OpenFWI's files, whose last row is zero
        background = None if known.background is None else known.background(index)
        family = self.posterior.run.config.denoiser.family(known.family)
        wells = nothing if known.wells is None else known.wells(index).on(survey.grid, target.grid)
        water = known.water
        if water is None and background is not None:
            water = water_of(background, survey.grid)
        return Told(
            gathers,
            shots,
            wells,
            nothing if water is None else water.on(survey.grid, target.grid),
            None if background is None else on_grid(background, survey.grid, target.grid),
            known.blur,
            family,
            heard=known.gathers,
        )

    def held(self, index: int) -> Cells:
        """What every sample of a model has, on the grid of the data."""
        grid, known = self.dataset.survey.grid, self.knowledge
        water = known.water
        if water is None and known.background is not None:
            water = water_of(known.background(index), grid)
        held = Cells.none(grid) if water is None else water
        return held if known.wells is None else known.wells(index).over(held)

    def drawn(self, index: int, finished: Finished) -> np.ndarray:
        """All samples `[sample, depth, x]` float32 m/s of one model on the grid of the data, tempered."""
        first = index * len(self.parts)
        found = [finished.read("drawn", first + part) for part in range(len(self.parts))]
        return self.on_data_grid(index, gathered(self.parts, found, self.samples))

    def on_data_grid(self, index: int, samples: np.ndarray) -> np.ndarray:
        """Samples on the run's grid as they are given out: on the data's, tempered, within the bounds, wells exact."""
        samples = on_grid(samples, self.posterior.survey.grid, self.dataset.survey.grid)
        samples = np.clip(tempered(samples, self.temperature), *self.posterior.scale.bounds)
        return np.asarray(self.held(index).imposed(samples), np.float32)


@dataclass
class Results:
    """What is made of the samples of each model; the rows of the table gather on the way."""

    sampling: Sampling
    finished: Finished
    misfit: bool = False
    """Simulate every sample."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    _ranks: Any = 0

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
        """Each model's name and arrays, as they are written."""
        sampling = self.sampling
        self.rows, self._ranks = [], 0
        fit = Fit(sampling.dataset) if self.misfit else None
        for index in progress(range(len(sampling.names)), "results"):
            samples = sampling.drawn(index, self.finished)
            arrays = summarised(samples)
            row = {"name": sampling.names[index], "spread": float(np.sqrt(np.mean(arrays["deviation"] ** 2)))}
            if sampling.dataset.has_velocity:
                row |= self._against(sampling.dataset.velocity(index), samples, arrays["mean"])
            if fit is not None:
                misfits = fit(index, samples)
                best = int(np.argmin(misfits))
                arrays |= {"misfit": misfits, "best": samples[best]}
                row |= {"misfit_best": float(misfits[best]), "misfit_median": float(np.median(misfits))}
            self.rows.append(row)
            yield sampling.names[index], arrays

    def _against(self, truth: np.ndarray, samples: np.ndarray, mean: np.ndarray) -> dict[str, float]:
        self._ranks = self._ranks + rank_histogram(samples, truth)
        return {"mae": float(np.abs(mean - truth).mean()), "crps": float(crps(samples, truth).mean())}

    def table(self) -> str:
        """Lines for people: spread, error and CRPS where the truth is there, misfits where they were asked for."""
        heads = {
            "spread": "spread m/s",
            "mae": "MAE m/s",
            "crps": "CRPS m/s",
            "misfit_best": "least misfit",
            "misfit_median": "median misfit",
        }
        heads = {key: head for key, head in heads.items() if key in self.rows[0]}
        width = max(6, *(len(row["name"]) for row in self.rows))
        mean = {"name": "mean"} | {key: float(np.mean([row[key] for row in self.rows])) for key in heads}
        shown = self.rows if len(self.rows) <= 30 else self.rows[:20]
        lines = [f"{'sample':<{width}s}" + "".join(f"  {head:>13s}" for head in heads.values())]
        for row in [*shown, mean]:
            lines.append(f"{row['name']:<{width}s}" + "".join(f"  {row[key]:13.5g}" for key in heads))
        if "mae" in heads and self.sampling.samples > 1:
            covered = ", ".join(f"{100 * coverage(self._ranks, level):.1f}" for level in (0.5, 0.9))
            lines.append(f"intervals of 50, 90 % cover {covered} % of the truth")
        return "\n".join(lines)


def summarised(samples: np.ndarray) -> dict[str, np.ndarray]:
    """`samples` `[sample, depth, x]`, `mean`, `deviation` `[depth, x]`, `quantiles` `[3, depth, x]` of 5, 50, 95 %."""
    wide = samples.astype(np.float64)
    deviation = wide.std(0, ddof=1) if len(samples) > 1 else np.zeros(samples.shape[1:])
    quantiles = np.quantile(wide, QUANTILES, axis=0)
    return {"samples": samples, "mean": wide.mean(0), "deviation": deviation, "quantiles": quantiles}


class Fit:
    """How well models explain their gathers, by the solver on the grid that refine takes."""

    def __init__(self, dataset: "Dataset"):
        self._dataset, self.survey = dataset, solver_survey(dataset.survey, Settings())

    def __call__(self, index: int, samples: np.ndarray) -> np.ndarray:
        """`[sample]`: squared residual over squared gathers of models `[sample, depth, x]` on the data's grid."""
        from seisvel_jax.data.coarsen import to_solver

        gathers = self._dataset.gathers(index)[None]
        observed = on_solver_times(gathers, self._dataset.survey, self.survey)
        solved = to_solver(samples, self._dataset.survey.grid, self.survey.grid)
        predicted = simulated(solved, self.survey, float(solved.max()))
        mask = live(gathers, self.survey)
        return np.asarray(relative_residual(predicted, observed, mask), np.float32)

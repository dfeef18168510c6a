"""A whole data set refined batch by batch: progress, results kept on the way, the table and figures at the end."""

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seisvel_jax.data.coarsen import to_solver
from seisvel_jax.files import whole_file
from seisvel_jax.inference.predictor import Predictor
from seisvel_jax.inference.refined import Refiner, Settings, estimate_sponge, on_solver_times
from seisvel_jax.inference.shards import Shard, remaining
from seisvel_jax.inference.starts import Starts
from seisvel_jax.inference.submission import Finished, files_digest
from seisvel_jax.logging import progress, say

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset
    from seisvel_jax.inference.learned import Learned

FIELDS = ("velocity", "summary", "history")
"""Kept of a sample: `[depth, x]` m/s; misfit before, after, evaluations, seconds; misfit of each evaluation."""
SPONGE_SAMPLES = 3
"""Samples by which the width of the sponge is estimated."""


@dataclass(frozen=True)
class Refinement:
    """What is refined, from where, and how."""

    dataset: "Dataset"
    names: tuple[str, ...]
    """The data set's first samples."""
    starts: Starts
    settings: Settings
    predictor: Predictor | None = None
    """For the method `network`."""
    learned: "Learned | None" = None
    """The prior that a diffusion run is."""

    def run(
        self, output: Path, batch_size: int, batches: list[range] | None = None, *, keep_others: bool = True
    ) -> Finished:
        """Refine what is not done yet of `batches` (default: all); the samples wait in `<output>.part/`.

        A batch goes on from its last record, and what is resumed equals the straight run. With `keep_others` a folder
        left by other settings is refused (UserError naming them), else begun anew.
        """
        refiner = Refiner(self.dataset.survey, self.settings, self.predictor, self.learned)
        network = self.predictor if self.settings.method == "network" else None
        made_with = {
            "data": files_digest(self.dataset, self.names),
            "start": self.starts.fingerprint,
            "network": network.fingerprint if network is not None else None,
            "prior checkpoint": self.learned.fingerprint if self.learned is not None else None,
            "batch_size": batch_size,
            **described(self.settings),
        }
        finished = Finished(output, made_with, fields=FIELDS, keep_others=keep_others)
        if batches is None:
            batches = Shard().batches(len(self.names), batch_size)
        to_do, steps = remaining(batches, finished), self.settings.inversion.iterations
        wanted, left = (steps * sum(len(batch) for batch in some) for some in (batches, to_do))
        with progress(None, "refine", total=wanted, initial=wanted - left, unit="evaluation") as bar:
            for batch in to_do:
                self._refine(batch, refiner, finished, bar)
        return finished

    def _refine(self, batch: range, refiner: Refiner, finished: Finished, bar: Any) -> None:
        began, seen = time.monotonic(), 0
        gathers = np.stack([self.dataset.gathers(index) for index in batch])

        def on_step(evaluations: int, misfit: np.ndarray) -> None:
            nonlocal seen
            bar.set_postfix(misfit=f"{float(np.mean(misfit)):.3g}", refresh=False)
            bar.update((evaluations - seen) * len(batch))
            seen = evaluations

        state_file = finished.folder / f"state_{batch.start:06d}.npy"
        found = refiner(gathers, self.starts(batch, gathers), on_step=on_step, state_file=state_file)
        bar.update((self.settings.inversion.iterations - seen) * len(batch))
        seconds = (time.monotonic() - began) / len(batch)
        for row, index in enumerate(batch):
            summary = np.array([found.misfit_before[row], found.misfit_after[row], found.evaluations, seconds])
            finished.add(index, velocity=found.velocity[row], summary=summary, history=found.history[:, row])
        state_file.unlink(missing_ok=True)

    def draw(self, folder: Path, count: int, finished: Finished) -> None:
        """A sheet of the fit for each of the first `count` samples."""
        from seisvel_jax.plotting import draw_fit

        refiner = Refiner(self.dataset.survey, dataclasses.replace(self.settings, method="gradient"))
        count = min(count, len(self.names))
        for index, name in enumerate(self.names[:count]):
            gathers = self.dataset.gathers(index)[None]
            start, refined = self.starts([index], gathers)[0], finished.read("velocity", index)
            solved = to_solver(np.stack([start, refined]), self.dataset.survey.grid, refiner.survey.grid)
            before, after = refiner.simulate(solved)
            observed = on_solver_times(gathers, self.dataset.survey, refiner.survey)[0]
            misfits = finished.read("summary", index)
            title = f"{name}: misfit {misfits[0]:.4g} before, {misfits[1]:.4g} after"
            draw_fit(folder / f"{name}.png", (observed, before, after), refiner.heard, (start, refined), title)
        say(f"{folder}: figures of the fit of {count} samples")


def with_known_sponge(refinement: Refinement) -> Refinement:
    """The same with the width of the sponge estimated, where the data do not say it and the settings neither."""
    settings, dataset = refinement.settings, refinement.dataset
    if settings.sponge_width is not None or not sponge_is_unknown(dataset):
        return refinement
    first = range(min(SPONGE_SAMPLES, len(refinement.names)))
    gathers = np.stack([dataset.gathers(index) for index in first])
    width = estimate_sponge(gathers, refinement.starts(first, gathers), dataset.survey, settings)
    return dataclasses.replace(refinement, settings=dataclasses.replace(settings, sponge_width=width))


def sponge_is_unknown(dataset: "Dataset") -> bool:
    """Whether the data are the challenge's own files, which do not say how wide their sponge was."""
    folder = dataset.path.resolve()
    places = [folder, *list(folder.parents)[:2]]
    return dataset.layout == "challenge" and not any((place / "survey.json").is_file() for place in places)


def described(settings: Settings) -> dict[str, Any]:
    """The settings as one level of plain values, for records and for messages on what differs."""
    values = dataclasses.asdict(settings)
    inversion = values.pop("inversion")
    return {**values, **inversion}


def json_path(output: Path) -> Path:
    """Where the table of misfits lies: beside the output."""
    return output.with_suffix(".json")


def report(
    finished: Finished, names: tuple[str, ...], settings: Settings, output: Path, paths: Mapping[str, Any]
) -> None:
    """Print the table of misfits before and after, and write it beside `output` with the settings and `paths`."""
    rows = []
    for index, name in enumerate(names):
        before, after, evaluations, seconds = (float(value) for value in finished.read("summary", index))
        row: dict[str, Any] = {"name": name, "misfit_before": before, "misfit_after": after}
        rows.append(row | {"evaluations": int(evaluations), "seconds": round(seconds, 3)})
    width = max(10, *(len(name) for name in names))
    print(f"{'sample':<{width}s}  {'misfit before':>13s}  {'after':>11s}  {'after/before':>12s}  evaluations")
    for row in rows:
        print(_line(row, width))
    mean: dict[str, Any] = {"name": "mean", "evaluations": max(row["evaluations"] for row in rows)}
    mean |= {key: float(np.mean([row[key] for row in rows])) for key in ("misfit_before", "misfit_after", "seconds")}
    print(_line(mean, width))
    still = [row["name"] for row in rows if row["misfit_after"] >= row["misfit_before"]]
    if still:
        say(f"{len(still)} of {len(rows)} samples stay as they were, nothing found fits better: {', '.join(still[:5])}")
    values = {**paths, "settings": described(settings), "mean": mean, "samples": rows}
    with whole_file(json_path(output)) as part:
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _line(row: dict[str, Any], width: int) -> str:
    share = row["misfit_after"] / row["misfit_before"] if row["misfit_before"] > 0 else 1.0
    return (
        f"{row['name']:<{width}s}  {row['misfit_before']:13.5g}  {row['misfit_after']:11.5g}  {share:12.4f}  "
        f"{row['evaluations']:11d}"
    )

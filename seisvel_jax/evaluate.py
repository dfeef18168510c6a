"""`python -m seisvel_jax.evaluate`: predictions against the truth.

MAPE exactly as the Speed and Structure challenge scores it, MAE, RMSE, SSIM as OpenFWI defines it; per sample, by
depth and over all. The table goes to stdout, everything to --json. A sample of the truth without a prediction is an
error, as it is for the challenge's scorer. Of a file of samples (diffusion, or an ensemble's members) the mean is
scored, and their calibration: CRPS, coverage, ranks, error against spread.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tyro

from seisvel_jax import metrics
from seisvel_jax.calibration import Calibration, tempered
from seisvel_jax.errors import UserError, run_command

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset
    from seisvel_jax.survey import Grid

MEASURES = {"mape": metrics.mape, "mae": metrics.mae, "rmse": metrics.rmse, "ssim": metrics.ssim}
UNITS = {"mape": "fraction", "mae": "m/s", "rmse": "m/s", "ssim": "1 = equal", "depth": "m"}
BASELINE_MODELS = 2000
"""Training models that the baselines are made of at the most: more change nothing in the third digit."""
BASELINE_COLUMNS = 60
"""Columns of each of them, evenly spaced."""


class Models(Protocol):
    """Velocity models by index (`data.velocity_files.Velocities`, `inference.submission.CompetitionCSV`)."""

    path: Path
    layout: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Models."""
        ...

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` float32 m/s."""
        ...


@dataclass(frozen=True)
class Evaluate:
    """Score predictions against the truth."""

    prediction: Path
    """submission.npz, samples.npz, competition .csv, .npy (N,1,depth,x) m/s, or a folder of velocity models."""
    truth: Path
    """Folder of challenge samples, OpenFWI gathers or velocities, or one such file."""
    json: Path | None = None
    """Write the scores here."""
    figures: Path | None = None
    """Folder for one sheet a sample (gather, truth, prediction, error) and the error by depth."""
    worst: int = 4
    """Draw so many of the worst samples, and as many typical ones."""
    deviation: Path | None = None
    """Standard deviations written by predict --deviation, drawn on the sheets."""
    temperature: float = 1.0
    """Factor on the samples' distance to their mean: the one that was fitted on validation data ("temperature" in the
    JSON of such an evaluation)."""
    baseline_from: Path | None = None
    """Training data: also score the best constant depth profile and the mean model hung from each water bottom."""


@dataclass(frozen=True)
class Comparison:
    """What is compared with what."""

    prediction: Models
    truth: Models
    pairs: list[tuple[str, int, int]]
    """Name, index in the prediction, index in the truth; in the truth's order."""
    grid: "Grid"
    """Of the truth."""
    dataset: "Dataset | None"
    """The gathers, where they lie beside the truth."""

    def models(self, sample: int) -> tuple[np.ndarray, np.ndarray]:
        """`(prediction, truth)` `[depth, x]` m/s; of the truth the columns that a competition file holds."""
        name, index, true_index = self.pairs[sample]
        predicted, true = self.prediction.velocity(index), self.truth.velocity(true_index)
        true = true[:, 1::2] if self.prediction.layout == "csv" else true
        if predicted.shape != true.shape:
            raise UserError(
                f"{self.prediction.path}: {name} is {predicted.shape} (depth, x), the truth {true.shape}: "
                "predict on the grid of the truth"
            )
        return predicted, true


def evaluate(options: Evaluate) -> dict[str, Any]:
    """Score, print, write, draw; returns what is written as JSON."""
    from seisvel_jax.data.velocity_files import open_velocities
    from seisvel_jax.inference.sample_files import SampleFile
    from seisvel_jax.logging import progress, say

    for path in (options.json, options.figures):
        _check_place(path, folder=path is options.figures)
    prediction, truth = open_prediction(options.prediction), open_velocities(options.truth)
    pairs = match(prediction, truth)
    grid, dataset = _grid_and_gathers(truth)
    comparison = Comparison(prediction, truth, pairs, grid, dataset)
    baselines = _Baselines(options.baseline_from, grid) if options.baseline_from is not None else None

    calibration = Calibration(len(pairs)) if isinstance(prediction, SampleFile) else None
    if calibration is None and options.temperature != 1.0:
        raise UserError(f"--temperature: {options.prediction} holds no samples, expected a file of sample or predict")

    rows: list[dict[str, Any]] = []
    by_depth: dict[str, list[np.ndarray]] = {"mape": [], "mae": []}
    curves: dict[str, list[np.ndarray]] = {"prediction": by_depth["mape"]}
    for sample in progress(range(len(pairs)), "evaluate"):
        predicted, true = comparison.models(sample)
        row: dict[str, Any] = {"name": pairs[sample][0]}
        row |= {measure: float(function(predicted, true)) for measure, function in MEASURES.items()}
        by_depth["mape"].append(metrics.mape_by_depth(predicted, true))
        by_depth["mae"].append(metrics.mae_by_depth(predicted, true))
        if isinstance(prediction, SampleFile) and calibration is not None:
            samples = tempered(prediction.samples(pairs[sample][1]), options.temperature)
            try:
                row["crps"] = calibration.add(samples, true)
            except UserError as error:
                raise UserError(f"{options.prediction}: {row['name']}: {error}") from error
        if baselines is not None:
            row["baselines"] = {}
            for label, model in baselines.of(true):
                row["baselines"][label] = float(metrics.mape(model, true))
                curves.setdefault(f"baseline: {label}", []).append(metrics.mape_by_depth(model, true))
        rows.append(row)

    scores: dict[str, Any] = {measure: float(np.mean([row[measure] for row in rows])) for measure in MEASURES}
    # Over all cells, as benchmarks quote it; the mean over samples of a root would be smaller.
    scores["rmse"] = float(np.sqrt(np.mean([row["rmse"] ** 2 for row in rows])))
    scores |= {"count": len(rows), "prediction": str(options.prediction), "truth": str(options.truth), "units": UNITS}
    if baselines is not None:
        labels = rows[0]["baselines"]
        scores["baselines"] = {label: float(np.mean([row["baselines"][label] for row in rows])) for label in labels}
    scores["by_depth"] = {measure: np.mean(values, axis=0).tolist() for measure, values in by_depth.items()}
    scores["by_depth"]["depth"] = [row * grid.spacing for row in range(len(scores["by_depth"]["mape"]))]
    if calibration is not None:
        scores["calibration"] = {"applied_temperature": options.temperature, **calibration.summary()}
    scores["samples"] = rows

    _print_table(scores)
    if options.json is not None:
        _write_json(options.json, scores)
        say(f"{options.json}: scores")
    if options.figures is not None:
        _draw(options, comparison, rows, {name: np.mean(values, axis=0) for name, values in curves.items()})
        if calibration is not None:
            from seisvel_jax.plotting import draw_calibration

            draw_calibration(options.figures / "calibration.png", scores["calibration"])
            say(f"{options.figures / 'calibration.png'}: coverage, ranks, error against spread")
    return scores


def open_prediction(path: Path) -> Models:
    """A competition CSV, a file of samples, or whatever `open_velocities` reads."""
    from seisvel_jax.data.velocity_files import open_velocities
    from seisvel_jax.inference.sample_files import SampleFile, holds_samples
    from seisvel_jax.inference.submission import CompetitionCSV

    if path.suffix == ".csv" and path.is_file():
        return CompetitionCSV(path)
    return SampleFile(path) if holds_samples(path) else open_velocities(path)


def match(prediction: Models, truth: Models) -> list[tuple[str, int, int]]:
    """`(name, index in prediction, index in truth)` of every sample of the truth.

    By name; an array file holds no names and is matched by order. Raises UserError naming all that miss.
    """
    from seisvel_jax.logging import say

    if "array" in (prediction.layout, truth.layout) and not set(truth.names) <= set(prediction.names):
        if len(prediction) != len(truth):
            raise UserError(
                f"{prediction.path}: {len(prediction)} models, expected {len(truth)} as in {truth.path}; without "
                "names they are compared in order"
            )
        return [(name, index, index) for index, name in enumerate(truth.names)]
    where = {name: index for index, name in enumerate(prediction.names)}
    missing = [name for name in truth.names if name not in where]
    extra = sorted(where.keys() - set(truth.names))
    if missing:
        raise UserError(
            f"{prediction.path}: no prediction for {len(missing)} of {len(truth)} samples of {truth.path}: "
            f"{', '.join(missing)}"
            + (f" (but {len(extra)} that are not there: {', '.join(extra[:5])})" if extra else "")
            + ": the challenge's scorer fails too; predict them all"
        )
    if extra:
        say(f"warning: {prediction.path}: {len(extra)} predictions without a sample: {', '.join(extra)}")
    return [(name, where[name], index) for index, name in enumerate(truth.names)]


class _Baselines:
    """What one can say without looking at a gather, from the training models."""

    def __init__(self, path: Path, grid: "Grid"):
        from seisvel_jax.data.velocity_files import open_velocities

        models = open_velocities(path)
        some = np.unique(np.linspace(0, len(models) - 1, min(len(models), BASELINE_MODELS)).round().astype(int))
        columns = []
        for index in some:
            velocity = models.velocity(int(index))
            keep = np.linspace(0, velocity.shape[1] - 1, min(velocity.shape[1], BASELINE_COLUMNS)).round().astype(int)
            columns.append(velocity[:, keep])
            if columns[-1].shape != columns[0].shape:
                raise UserError(
                    f"{path}: {models.names[index]} is {velocity.shape} (depth, x), others differ: one grid is needed"
                )
        self._spacing = _grid_and_gathers(models)[0].spacing
        self._grid = grid
        stack = np.stack(columns)
        self._profile = metrics.profile_baseline(stack)
        self._hung = metrics.hung_profile(stack)

    def of(self, truth: np.ndarray) -> list[tuple[str, np.ndarray]]:
        depths = np.arange(truth.shape[0]) * self._grid.spacing
        have = np.arange(len(self._profile)) * self._spacing
        profile = np.interp(depths, have, self._profile)
        hung = np.interp(depths, have, self._hung)
        return [
            ("best constant depth profile", np.broadcast_to(profile[:, None], truth.shape)),
            ("mean model hung from the water bottom", metrics.hang(hung, truth)),
        ]


def _grid_and_gathers(truth: Models) -> tuple["Grid", "Dataset | None"]:
    """The grid of the truth, and its gathers where they lie there too."""
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.survey import Grid, openfwi

    try:
        dataset: Dataset | None = open_dataset(truth.path)
    except UserError:
        dataset = None
    if dataset is not None and set(truth.names) <= set(dataset.names):
        return dataset.survey.grid, dataset
    depth_count, x_count = truth.velocity(0).shape
    if truth.layout in ("challenge", "submission"):
        return Grid(depth_count, x_count, 300.0 / x_count), None
    return Grid(depth_count, x_count, openfwi().grid.spacing), None


def _print_table(scores: dict[str, Any]) -> None:
    width = max(10, *(len(row["name"]) for row in scores["samples"]))
    print(f"{'sample':<{width}s}  {'MAPE %':>8s}  {'MAE m/s':>8s}  {'RMSE m/s':>8s}  {'SSIM':>6s}")
    rows = scores["samples"]
    shown = rows if len(rows) <= 30 else sorted(rows, key=lambda row: -row["mape"])[:20]
    for row in shown:
        print(_line(row["name"], row, width))
    if len(shown) < len(rows):
        print(f"(the {len(shown)} worst of {len(rows)}; all of them are in the JSON)")
    print(_line("all", scores, width))
    for label, value in scores.get("baselines", {}).items():
        print(f"baseline: {label}: MAPE {100 * value:.3f} %")
    if "calibration" in scores:
        found = scores["calibration"]
        covered = ", ".join(f"{100 * found['coverage'][level]:.1f}" for level in ("0.5", "0.9", "0.95"))
        intervals = f"intervals of 50, 90, 95 % cover {covered} %; " * (found["samples"] > 1)
        print(
            f"{found['samples']} samples each: CRPS {found['crps']:.1f} m/s; {intervals}"
            f"spread {found['spread']:.1f}, RMSE of the mean {found['rmse_of_mean']:.1f} m/s; "
            f"a temperature of {found['temperature']:.2f} would score best here"
        )
    depths, mape = np.asarray(scores["by_depth"]["depth"]), np.asarray(scores["by_depth"]["mape"])
    print("MAPE by depth: ", end="")
    for part in np.array_split(np.arange(len(depths)), min(5, len(depths))):
        print(f"{depths[part[0]]:g}-{depths[part[-1]]:g} m {100 * mape[part].mean():.2f} %", end="; ")
    print()


def _line(name: str, row: dict[str, Any], width: int) -> str:
    return f"{name:<{width}s}  {100 * row['mape']:8.3f}  {row['mae']:8.1f}  {row['rmse']:8.1f}  {row['ssim']:6.3f}"


def _write_json(path: Path, scores: dict[str, Any]) -> None:
    from seisvel_jax.files import whole_file

    with whole_file(path) as part:
        part.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


def _check_place(path: Path | None, *, folder: bool) -> None:
    if path is None:
        return
    if folder and path.exists() and not path.is_dir():
        raise UserError(f"{path}: a file stands where the folder for figures is needed: choose another name")
    if not folder and path.is_dir():
        raise UserError(f"{path}: a folder stands where the file of scores is to be written: choose another name")
    (path if folder else path.parent).mkdir(parents=True, exist_ok=True)


def _draw(options: Evaluate, comparison: Comparison, rows: list[dict[str, Any]], curves: dict[str, np.ndarray]) -> None:
    from seisvel_jax.inference.submission import read_field
    from seisvel_jax.logging import say
    from seisvel_jax.plotting import draw_by_depth, draw_comparison

    assert options.figures is not None
    grid, dataset = comparison.grid, comparison.dataset
    per_cent = {name: 100 * curve for name, curve in curves.items()}
    draw_by_depth(options.figures / "error_by_depth.png", per_cent, grid, f"MAPE by depth, {len(rows)} samples")
    order = sorted(range(len(rows)), key=lambda sample: -rows[sample]["mape"])
    rest = order[options.worst :]
    middle = max(0, (len(rest) - options.worst) // 2)
    chosen = order[: options.worst] + rest[middle : middle + options.worst]
    where = {name: index for index, name in enumerate(dataset.names)} if dataset is not None else {}
    for sample in chosen:
        name, index, _ = comparison.pairs[sample]
        predicted, true = comparison.models(sample)
        deviation = read_field(options.deviation, name, index) if options.deviation is not None else None
        if comparison.prediction.layout == "csv":
            # Every other column is there: drawn two columns wide.
            predicted, true, deviation = predicted.repeat(2, axis=1), true.repeat(2, axis=1), None
        draw_comparison(
            options.figures / f"{name}.png",
            dataset.gathers(where[name]) if dataset is not None else None,
            true,
            predicted,
            dataset.survey if dataset is not None else None,
            name,
            deviation=deviation,
            grid=grid,
        )
    say(f"{options.figures}: error by depth, and sheets of {len(chosen)} samples, the worst and typical ones")


def main() -> None:
    """Entry point."""
    evaluate(tyro.cli(Evaluate, prog="python -m seisvel_jax.evaluate", description=__doc__))


if __name__ == "__main__":
    run_command(main)

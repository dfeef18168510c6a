"""`python -m seisvel_jax.predict`: velocity models of a folder of gathers, as a submission or plain arrays.

The suffix of --output decides: .npz the challenge's submission, .csv the OpenFWI competition's, .npy (N,1,depth,x) m/s.
Run the same command again to resume an interrupted prediction.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from seisvel_jax.errors import UserError, run_command
from seisvel_jax.inference.shards import THEN, Shard, ShardOption

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset
    from seisvel_jax.inference.predictor import Options, Predictor
    from seisvel_jax.inference.submission import Finished


REFINED_TOGETHER = 4
"""Samples refined together, as the refine command does."""


@dataclass(frozen=True)
class Predict:
    """Predict velocity models with one or several trained runs."""

    checkpoint: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Training runs (their best checkpoint) or RUN/checkpoints/STEP; several make one larger ensemble."""
    data: Path | None = None
    """Folder of gathers: challenge samples, or OpenFWI files (or one of them)."""
    output: Path | None = None
    """File to write: .npz, .csv or .npy."""
    sample: Path | None = None
    """Instead of --data and --output: a quick look at one sample (a challenge sample's folder, a file of gathers)."""
    tta: bool = False
    """Test-time augmentation: the mean with the prediction for the mirrored experiment."""
    tta_noise: int = 0
    """Test-time augmentation: the mean over this many slightly noisy copies besides."""
    tta_noise_snr_db: float = 40.0
    """Signal-to-noise ratio of those copies, in decibels of each sample's own energy."""
    post_process: bool = False
    """Smoothing, bounds, exact water and salt, as fitted on the run's validation data."""
    combine: Literal["weighted", "uniform", "median"] = "weighted"
    """Members by their learned weights, alike, or their median."""
    batch_size: int = 8
    """Samples that go through a network together."""
    deviation: Path | None = None
    """Also write the standard deviation between the members, in the format of this file's suffix."""
    members: Path | None = None
    """Also write what each member says, before weights and post-processing, to this .npz: evaluate reads the ensemble's
    calibration from it."""
    figures: Path | None = None
    """Folder for figures of the first samples (or of --sample)."""
    figure_count: int = 8
    """How many samples to draw."""
    limit: int | None = None
    """Only the first so many samples."""
    refine: int | None = None
    """Afterwards refine with so many evaluations of misfit and gradient a sample, as python -m seisvel_jax.refine does
    with its defaults; its table goes to stdout and, with the settings, to OUTPUT.json."""
    other_survey: bool = False
    """Allow data of another experiment than the runs were trained on (other positions, record length, extent)."""
    shard: ShardOption = (0, 1)
    """Only batch I, I + N, I + 2 N... into OUTPUT.part/. When the N commands with I = 0..N-1 are through, the same
    command without --shard writes the file from what they did."""


def predict(options: Predict) -> None:
    """Check everything that can be checked, predict what is not done yet, write."""
    _check(options)
    if options.sample is not None:
        _quick_look(options)
        return

    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.files import only_one
    from seisvel_jax.inference.submission import check_output

    assert options.data is not None and options.output is not None
    if options.refine is not None:
        from seisvel_jax.simulation.simulator import use_all_cores

        use_all_cores()
    outputs = {"velocity": options.output} | ({"deviation": options.deviation} if options.deviation else {})
    outputs |= {"members": options.members} if options.members else {}
    dataset = open_dataset(options.data)
    names = dataset.names[: options.limit]
    if not names:
        raise UserError(f"{options.data}: holds no samples, expected gathers to predict from")
    for output in outputs.values():
        check_output(output, names=names, shape=dataset.survey.grid.shape)
    predictor = _load(options)
    predictor.check_experiment(dataset.survey, other_survey=options.other_survey)
    lock = Shard(*options.shard).lock(options.output)
    with only_one(options.output.parent, f"predicting {options.output.name}", lock):
        _predict_and_write(options, predictor, dataset, outputs, names)


def _predict_and_write(
    options: Predict, predictor: "Predictor", dataset: "Dataset", outputs: dict[str, Path], names: tuple[str, ...]
) -> None:
    from seisvel_jax.files import remove_parts
    from seisvel_jax.inference.sample_files import write_samples
    from seisvel_jax.inference.shards import remaining
    from seisvel_jax.inference.submission import Finished, write_predictions
    from seisvel_jax.logging import progress, say

    assert options.output is not None
    finished = Finished(options.output, _made_with(options, predictor, dataset, names), fields=tuple(outputs))

    # A batch is predicted whole or not at all: resumed, every sample sits where it sat in the straight run.
    shard = Shard(*options.shard)
    ours = shard.batches(len(names), options.batch_size)
    needed = ours if options.refine is None else _needed_for_refining(ours, options, dataset, names)
    batches = remaining(needed, finished)
    wanted, left = (sum(len(batch) for batch in some) for some in (needed, batches))
    with progress(None, "predict", total=wanted, initial=wanted - left) as bar:
        for batch, gathers in _read_ahead(dataset, batches):
            fields = predictor.predict_fields(
                gathers,
                dataset.survey,
                _options(options),
                batch_size=options.batch_size,
                deviation=options.deviation is not None,
                members=options.members is not None,
                other_survey=options.other_survey,
                names=[names[index] for index in batch],
            )
            for position, index in enumerate(batch):
                finished.add(index, **{field: array[position] for field, array in fields.items()})
                bar.update(1)

    refined = _refine(options, dataset, names, finished, ours) if options.refine is not None else None
    if not shard.is_all:
        count = sum(len(batch) for batch in ours)
        say(f"{finished.folder}: {count} of {len(names)} samples, {shard}: {THEN}")
        return
    for field, output in outputs.items():
        remove_parts(output.parent, {output.name, f".{output.name}.probe"})  # of a run that was killed
        source = refined if refined is not None and field == "velocity" else finished
        samples = ((name, source.read(field, index)) for index, name in enumerate(names))
        if field == "members":
            write_samples(output, ((name, {"samples": members}) for name, members in samples))
        else:
            write_predictions(output, samples, len(names))
        say(f"{output}: {field} of {len(names)} samples")
    if options.figures is not None:
        kept = {field: finished for field in outputs}
        _draw(options, dataset, kept if refined is None else {**kept, "velocity": refined}, names)
    finished.remove()
    if refined is not None:
        refined.remove()
    if len(names) < len(dataset):
        say(f"{options.output}: the first {len(names)} of {len(dataset)} samples only (--limit): no full submission")


def _needed_for_refining(
    ours: list[range], options: Predict, dataset: "Dataset", names: tuple[str, ...]
) -> list[range]:
    """Our batches, and those by which every shard estimates the challenge's sponge for itself, to the same width."""
    from seisvel_jax.inference.refining import SPONGE_SAMPLES, sponge_is_unknown

    first = SPONGE_SAMPLES if sponge_is_unknown(dataset) else 0
    return [batch for batch in Shard().batches(len(names), options.batch_size) if batch in ours or batch.start < first]


def _refine(
    options: Predict, dataset: "Dataset", names: tuple[str, ...], predicted: "Finished", ours: list[range]
) -> "Finished":
    """Refine what was predicted of our batches; the refined samples wait in a folder of their own."""
    import hashlib

    from seisvel_jax.inference.refined import Settings, usual_inversion
    from seisvel_jax.inference.refining import Refinement, report, with_known_sponge
    from seisvel_jax.inference.starts import OfFinished
    from seisvel_jax.logging import chunks

    assert options.output is not None and options.refine is not None
    told = (predicted.folder / "made_with.json").read_bytes()
    starts = OfFinished(predicted, hashlib.sha256(told).hexdigest())
    settings = Settings(usual_inversion(iterations=options.refine))
    refinement = with_known_sponge(Refinement(dataset, names, starts, settings))
    place = options.output.with_name(options.output.name + ".refined")
    batches = [batch[first.start : first.stop] for batch in ours for first in chunks(len(batch), REFINED_TOGETHER)]
    refined = refinement.run(place, REFINED_TOGETHER, batches, keep_others=False)
    if not Shard(*options.shard).is_all:
        return refined
    paths = {"data": str(options.data), "start": [str(run) for run in options.checkpoint]}
    report(refined, names, settings=refinement.settings, output=options.output, paths=paths)
    return refined


def _check(options: Predict) -> None:
    if not options.checkpoint:
        raise UserError("--checkpoint: empty, expected at least one trained run")
    if options.sample is not None:
        if options.data is not None or options.output is not None:
            raise UserError("--sample is a quick look and goes without --data and --output: give one or the other")
    elif options.data is None or options.output is None:
        raise UserError("--data and --output are both needed (or --sample for a quick look at one sample)")
    for name, value, least in (
        ("--batch-size", options.batch_size, 1),
        ("--tta-noise", options.tta_noise, 0),
        ("--limit", options.limit if options.limit is not None else 1, 1),
        ("--figure-count", options.figure_count, 0),
        ("--refine", options.refine if options.refine is not None else 1, 1),
    ):
        if value < least:
            raise UserError(f"{name}: {value}, expected at least {least}")
    Shard(*options.shard)
    if options.deviation and options.output and options.deviation.absolute() == options.output.absolute():
        raise UserError(f"{options.deviation}: is --output too: give the deviation its own file")
    if options.members is not None:
        taken = [path.absolute() for path in (options.output, options.deviation) if path is not None]
        if options.members.suffix != ".npz" or options.members.absolute() in taken:
            raise UserError(f"{options.members}: expected the name of an .npz of its own for --members: choose another")
    if options.refine is not None and (options.output is None or options.output.suffix == ".csv"):
        raise UserError("--refine: goes with --output FILE.npz or FILE.npy: give one")
    if options.figures is not None and options.figures.exists() and not options.figures.is_dir():
        raise UserError(f"{options.figures}: a file stands where the folder for figures is needed: choose another")


def _load(options: Predict) -> "Predictor":
    from seisvel_jax.inference.pretrained import load
    from seisvel_jax.logging import say

    predictor = load(options.checkpoint)
    members = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(predictor.member_names, predictor.weights))
    say(f"{len(predictor.weights)} members (weight): {members}")
    if options.post_process:
        for path, ensemble in zip(options.checkpoint, predictor.ensembles):
            fitted = ", ".join(f"{name} {value:g}" for name, value in ensemble.postprocess.items())
            say(f"{path}: post-processing: {fitted or 'nothing helped on the validation data, so nothing is done'}")
    return predictor


def _options(options: Predict) -> "Options":
    from seisvel_jax.inference.predictor import Options

    return Options(
        tta=options.tta,
        tta_noise=options.tta_noise,
        tta_noise_snr_db=options.tta_noise_snr_db,
        post_process=options.post_process,
        combine=options.combine,
    )


def _made_with(options: Predict, predictor: "Predictor", dataset: "Dataset", names: tuple[str, ...]) -> dict[str, Any]:
    """Everything that decides a number of the result: finished samples may be used again only where it is the same."""
    from dataclasses import asdict

    from seisvel_jax.inference.submission import files_digest

    return {
        "checkpoint": predictor.fingerprint,
        "data": files_digest(dataset, names),
        "options": {**asdict(_options(options)), "batch_size": options.batch_size, "other": options.other_survey},
        "kept": ["velocity"]
        + ["deviation"] * (options.deviation is not None)
        + ["members"] * (options.members is not None),
    }


def _read_ahead(dataset: "Dataset", batches: list[range]) -> Iterator[tuple[range, Any]]:
    """Batches with their gathers, the next one being read while the network works on this one: two in memory."""
    import numpy as np

    def read(batch: range) -> Any:
        return np.stack([dataset.gathers(index) for index in batch])

    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(read, batches[0]) if batches else None
        for number, batch in enumerate(batches):
            assert following is not None
            gathers = following.result()
            following = reader.submit(read, batches[number + 1]) if number + 1 < len(batches) else None
            yield batch, gathers


def _draw(options: Predict, dataset: "Dataset", finished: dict[str, Any], names: tuple[str, ...]) -> None:
    from seisvel_jax.logging import say
    from seisvel_jax.plotting import draw_comparison

    assert options.figures is not None
    for index in range(min(options.figure_count, len(names))):
        truth = dataset.velocity(index) if dataset.has_velocity else None
        deviation = finished["deviation"].read("deviation", index) if "deviation" in finished else None
        draw_comparison(
            options.figures / f"{names[index]}.png",
            dataset.gathers(index),
            truth,
            finished["velocity"].read("velocity", index),
            dataset.survey,
            names[index],
            deviation=deviation,
        )
    say(f"{options.figures}: figures of {min(options.figure_count, len(names))} samples")


def _quick_look(options: Predict) -> None:
    assert options.sample is not None
    figure = (options.figures or Path(".")) / f"{options.sample.resolve().stem}.png"
    _load(options).check(options.sample, options=_options(options), figure=figure, other_survey=options.other_survey)


def main() -> None:
    """Entry point."""
    options = tyro.cli(Predict, prog="python -m seisvel_jax.predict", description=__doc__)
    predict(options)


if __name__ == "__main__":
    run_command(main)

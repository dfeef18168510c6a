"""`python -m seisvel_jax.refine`: velocity models made to fit their gathers, by the wave equation.

From a submission, an array of models, or what a trained run says. The suffix of --output decides the format: .npz the
challenge's submission, .npy (N,1,depth,x) m/s. A model is never returned with a larger misfit than its start. The table
of misfits goes to stdout and, with the settings, to OUTPUT.json. Stopped runs go on with the same command.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from seisvel_jax.errors import UserError, run_command
from seisvel_jax.inference.shards import THEN, Shard, ShardOption
from seisvel_jax.inversion.config import Estimate, Misfit, Optimizer, Prior, Tie

if TYPE_CHECKING:
    from seisvel_jax.data.dataset import Dataset
    from seisvel_jax.inference.learned import Learned
    from seisvel_jax.inference.predictor import Predictor
    from seisvel_jax.inference.refined import Settings
    from seisvel_jax.inference.starts import Starts

LEARNED = ("red-diffeq", "proximal")
ITERATIONS = {"gradient": 60, "network": 3}


@dataclass(frozen=True)
class Refine:
    """Refine velocity models until their simulated gathers look like the recorded ones."""

    data: Path
    """Gathers: a folder of challenge samples, OpenFWI files (or one of them), a pack."""
    start: Path
    """Models to start from: a submission .npz, velocities .npy, a folder of them; or a trained run (or one of its
    checkpoints), which then predicts first, with its mirror and its post-processing."""
    output: Path
    """File to write: .npz or .npy."""
    iterations: int | None = None
    """Evaluations of misfit and gradient a sample (default 60); with --method network steps of the iteration (3)."""
    method: Literal["gradient", "network"] = "gradient"
    """gradient: full-waveform inversion. network: m <- m - strength (M(F(m)) - m) with the trained network M."""
    misfit: Misfit = "l2"
    """How simulated and recorded gathers are compared."""
    prior: Prior | Literal["red-diffeq", "proximal"] = "none"
    """What is held against the misfit: total variation (tv, tv1d), distance to the start (tikhonov, gaussian), or a
    diffusion run: its noise residual (red-diffeq), or a step towards its denoised model each iteration (proximal)."""
    prior_checkpoint: Path | None = None
    """The diffusion run of --prior red-diffeq and proximal."""
    prior_weight: float | None = None
    """Weight of the prior (default: its usual one, docs/refine.md)."""
    optimizer: Optimizer | None = None
    """lbfgs, or adam for rough misfits (default: lbfgs; adam with a diffusion run for the prior)."""
    frequencies: tuple[float, ...] = ()
    """Corners in Hz of low-pass filters, ascending, one stage each before everything is compared."""
    precondition: float = 0.0
    """Exponent on the inverse illumination that scales the gradient."""
    estimate_wavelet: Estimate = "none"
    """Where the wavelet is not known: fit its amplitude, or a filter, to each sample's gathers."""
    tie: Tie = "none"
    """For layered models: regions of nearly equal velocity get one value (integers: whole m/s), where that fits
    better."""
    bounds: tuple[float, float] = (1500.0, 4500.0)
    """Slowest and fastest velocity, m/s."""
    move_water: bool = False
    """Let what is exactly 1500 m/s, from the top of the start down to 30 m above its seabed, change too."""
    strength: float = 0.7
    """Of --method network."""
    network: Path | None = None
    """Trained run for --method network where --start is a file."""
    survey: Annotated[str | None, tyro.conf.arg(metavar="openfwi|speed-and-structure|SURVEY.json")] = None
    """The experiment, where neither the layout nor a survey.json beside the data says it."""
    grid_spacing: float | None = None
    """Metres between the solver's nodes (default: the data's own; 5 for the challenge). The answer is as fine as the
    start."""
    dt: float | None = None
    """Seconds between compared samples (default: the data's own; 1e-3 for the challenge)."""
    sponge_width: float | None = None
    """Metres of the challenge's absorbing boundary (default: what fits the starts best among 350 to 600)."""
    batch_size: int = 4
    """Samples refined together."""
    limit: int | None = None
    """Only the first so many samples."""
    shard: ShardOption = (0, 1)
    """Only batch I, I + N, I + 2 N... into OUTPUT.part/. When the N commands with I = 0..N-1 are through, the same
    command without --shard writes the file from what they did."""
    figures: Path | None = None
    """Folder for figures of the fit: gathers recorded, simulated, their residual; velocity before and after."""
    figure_count: int = 8
    """How many samples to draw."""


def refine(options: Refine) -> None:
    """Check everything that can be checked, refine what is not done yet, write."""
    from seisvel_jax.files import only_one, remove_parts
    from seisvel_jax.inference.refining import Refinement, json_path, report, with_known_sponge
    from seisvel_jax.inference.submission import check_output, write_predictions
    from seisvel_jax.logging import say
    from seisvel_jax.simulation.simulator import use_all_cores

    settings, shard = settings_of(options), Shard(*options.shard)
    dataset = open_data(options)
    names = dataset.names[: options.limit]
    if not names:
        raise UserError(f"{options.data}: holds no samples, expected gathers to refine by")
    if options.output.suffix == ".csv":
        raise UserError(f"{options.output}: a competition file cannot be refined into yet, expected .npz or .npy")
    check_output(options.output, names=names, shape=dataset.survey.grid.shape)
    _check_beside(options)
    use_all_cores()
    with only_one(options.output.parent, f"refining {options.output.name}", shard.lock(options.output)):
        starts, predictor = open_starts(options, dataset, len(names))
        learned = open_prior(options, settings)
        refinement = with_known_sponge(Refinement(dataset, names, starts, settings, predictor, learned))
        finished = refinement.run(options.output, options.batch_size, shard.batches(len(names), options.batch_size))
        if not shard.is_all:
            say(f"{finished.folder}: {shard}: {THEN}")
            return
        remove_parts(options.output.parent, {options.output.name, f".{options.output.name}.probe"})
        paths = {name: str(getattr(options, name)) for name in ("data", "start", "output")}
        report(finished, names, refinement.settings, options.output, paths)
        if options.figures is not None:
            refinement.draw(options.figures, options.figure_count, finished)
        samples = ((name, finished.read("velocity", index)) for index, name in enumerate(names))
        write_predictions(options.output, samples, len(names))
        finished.remove()
    say(f"{options.output}: velocity of {len(names)} samples; misfits and settings in {json_path(options.output)}")
    if len(names) < len(dataset):
        say(f"{options.output}: the first {len(names)} of {len(dataset)} samples only (--limit): no full submission")


def settings_of(options: Refine) -> "Settings":
    """The settings that the options ask for. Raises UserError."""
    from seisvel_jax.inference.refined import USUAL_LEARNED, Settings, usual_inversion

    learned = options.prior in LEARNED
    if learned and (options.method == "network" or options.tie != "none"):
        raise UserError(f"--prior {options.prior}: goes with --method gradient and without --tie: leave those out")
    if learned != (options.prior_checkpoint is not None):
        raise UserError(
            f"--prior {options.prior} and --prior-checkpoint {options.prior_checkpoint}: a diffusion run goes with "
            f"--prior {' or '.join(LEARNED)}: give both or neither"
        )
    if options.prior == "proximal" and options.optimizer == "lbfgs":
        raise UserError("--prior proximal with --optimizer lbfgs: expected adam, L-BFGS needs one smooth objective")
    weight = USUAL_LEARNED.get(options.prior, 0.0) if options.prior_weight is None else options.prior_weight
    for name, value, least in (
        ("--iterations", options.iterations, 1),
        ("--batch-size", options.batch_size, 1),
        ("--limit", options.limit, 1),
        ("--figure-count", options.figure_count, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{name}: {value}, expected at least {least}")
    if not 0 < options.strength <= 1:
        raise UserError(f"--strength: {options.strength}, expected above 0 and at most 1: 0.6 to 0.85 are usual")
    return Settings(
        inversion=usual_inversion(
            iterations=options.iterations or ITERATIONS[options.method],
            misfit=options.misfit,
            prior="none" if learned else options.prior,
            prior_weight=None if learned else options.prior_weight,
            optimizer=options.optimizer or ("adam" if learned else "lbfgs"),
            frequencies=options.frequencies,
            precondition=options.precondition,
            estimate_wavelet=options.estimate_wavelet,
            tie=options.tie,
            bounds=options.bounds,
        ),
        method=options.method,
        strength=options.strength,
        spacing=options.grid_spacing,
        dt=options.dt,
        sponge_width=options.sponge_width,
        learned=options.prior if learned else "none",
        learned_weight=weight if learned else 0.0,
        keep_water=not options.move_water,
    )


def open_data(options: Refine) -> "Dataset":
    """The gathers with their survey. Raises UserError where --survey and the files disagree."""
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.survey import read_survey

    named = {"openfwi": "openfwi", "speed-and-structure": "challenge"}
    if options.survey is None or options.survey in named:
        dataset = open_dataset(options.data)
        if options.survey is not None and dataset.survey.name != options.survey:
            raise UserError(
                f"{options.data}: gathers of survey '{dataset.survey.name}' in the {dataset.layout} layout, expected "
                f"--survey {options.survey}: leave --survey out, or check the path"
            )
        return dataset
    if not options.survey.endswith(".json"):
        raise UserError(f"--survey {options.survey}: expected openfwi, speed-and-structure or the path of a .json")
    return open_dataset(options.data, survey=read_survey(options.survey))


def open_starts(options: Refine, dataset: "Dataset", count: int) -> "tuple[Starts, Predictor | None]":
    """The starting models, and the trained run where one is named. Raises UserError."""
    from seisvel_jax.inference.pretrained import load
    from seisvel_jax.inference.starts import OfFile, Predicted, is_run

    if is_run(options.start):
        predicted = Predicted(load(options.start), dataset, options.batch_size)
        return predicted, load(options.network) if options.network is not None else predicted.predictor
    if options.start.resolve() == options.output.resolve():
        raise UserError(f"{options.output}: is --start too: give the refined models their own file")
    network = load(options.network) if options.network is not None and options.method == "network" else None
    if network is not None:
        network.check_experiment(dataset.survey)
    return OfFile(options.start, dataset, count), network


def open_prior(options: Refine, settings: "Settings") -> "Learned | None":
    """The diffusion run that is the prior; None for the other priors. Raises UserError."""
    if options.prior_checkpoint is None:
        return None
    from seisvel_jax.inference.learned import Learned
    from seisvel_jax.training.runs import load_diffusion

    return Learned(settings.learned, settings.learned_weight, load_diffusion(options.prior_checkpoint))


def _check_beside(options: Refine) -> None:
    from seisvel_jax.inference.refining import json_path

    if json_path(options.output).is_dir():
        raise UserError(f"{json_path(options.output)}: a folder stands where the table of misfits is to be written")
    if options.figures is not None and options.figures.exists() and not options.figures.is_dir():
        raise UserError(f"{options.figures}: a file stands where the folder for figures is needed: choose another")


def main() -> None:
    """Entry point."""
    refine(tyro.cli(Refine, prog="python -m seisvel_jax.refine", description=__doc__))


if __name__ == "__main__":
    run_command(main)

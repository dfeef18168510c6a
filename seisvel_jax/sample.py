"""`python -m seisvel_jax.sample`: many velocity models that suit the gathers, wells, background and family told.

Draws from a diffusion model trained by `python -m seisvel_jax.train_diffusion`. Everything but the checkpoint and the
data is optional: any subset of the sources of information works. OUTPUT.npz has, under each sample's name, samples,
mean, deviation and quantiles in m/s; `evaluate` reads their calibration, `refine` starts from their mean. Run the same
command again to resume.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from seisvel_jax.errors import UserError, run_command
from seisvel_jax.inference.shards import THEN, Shard, ShardOption

if TYPE_CHECKING:
    from seisvel_jax.inference.posterior import Drawing
    from seisvel_jax.inference.sampling import Results, Sampling

PHYSICS = "sda"
"""What --guidance physics stands for."""
WATER_ITERATIONS = 2
"""Conjugate gradients for cells that the network was not told to be known."""


@dataclass(frozen=True)
class Sample:
    """Draw velocity models from a diffusion run."""

    checkpoint: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Diffusion run (its best checkpoint) or RUN/checkpoints/STEP."""
    data: Path | None = None
    """Folder of gathers: challenge samples, OpenFWI files (or one of them), a pack."""
    output: Path | None = None
    """File to write: .npz."""
    sample: Path | None = None
    """Instead of --data and --output: a quick look at one sample (a challenge sample's folder, a file of gathers)."""
    samples: int = 16
    """Models drawn for each sample of the data."""
    wells: Annotated[str | None, tyro.conf.arg(metavar="COLUMNS|LOGS.csv")] = None
    """Well logs, which every model drawn honours exactly. 0,24,48: these columns of the DATA SET'S OWN TRUE VELOCITY.
    LOGS.csv: lines x,depth,velocity in m, m, m/s (or sample,x,depth,velocity) under that header."""
    background: Path | None = None
    """Smooth velocity: .npy (depth, x) for one sample, (N, 1, depth, x), a folder or an .npz for many. What is exactly
    1500 m/s from its top down is water and kept."""
    background_blur: float | None = None
    """Standard deviation in m of the Gaussian by which the background is smoother than the ground (default: the
    geometric middle of the range trained with)."""
    family: str | None = None
    """Geology, one of the families that the run was trained with."""
    water: float | None = None
    """Metres of water from the top, 1500 m/s, kept exactly."""
    without: Literal["nothing", "gathers"] = "nothing"
    """gathers: the network is not told them, only wells, background, family speak; with --guidance they still pull."""
    shots: Annotated[str | None, tyro.conf.arg(metavar="NUMBERS")] = None
    """Use only these shots, such as 0,2,4. Shots without any signal count as missing anyhow."""
    guidance: Literal["none", "physics", "sda", "moment-matching", "daps"] = "none"
    """Pull by the gathers through the wave solver: physics is sda; moment-matching is dearer, daps slower still."""
    noise: float = 0.05
    """Of the guidance: standard deviation of what the solver cannot explain, as a share of the gathers' RMS value."""
    guidance_iterations: int = 4
    """Conjugate gradients of moment-matching, Langevin steps a level of daps."""
    steps: int = 16
    """Levels of noise; evaluations of the network with dpm, half of them with heun."""
    sampler: Literal["dpm", "heun"] = "dpm"
    """DPM-Solver++ 2M, or Heun's method of EDM (two evaluations a level)."""
    stochastic: float = 0.0
    """0: deterministic in the first noise. Up to 1: fresh noise at each level."""
    weight: float = 1.0
    """Of classifier-free guidance by all that is told: 1 is plain, more sharpens; doubles the cost."""
    well_iterations: int | None = None
    """Conjugate gradients that carry logs and water to the cells beside them; 0 only puts the values in (default: 0 for
    a network that was trained with wells, which knows; 2 for others and for water)."""
    temperature: float | None = None
    """Factor on the models' distance to their mean (default: the one fitted in training for what is told)."""
    misfit: bool = False
    """Also simulate every model drawn: its misfit, and the best by it."""
    seed: int = 0
    """Sample k of a name is the same for the same seed, whatever is drawn beside it."""
    batch_size: int | None = None
    """Models drawn together on each device (default: 8, with --guidance 1)."""
    limit: int | None = None
    """Only the first so many samples of the data."""
    figures: Path | None = None
    """Folder for figures of the first samples (or of --sample)."""
    figure_count: int = 8
    """How many samples to draw figures of."""
    shard: ShardOption = (0, 1)
    """Only job I, I + N, I + 2 N... into OUTPUT.part/. When the N commands with I = 0..N-1 are through, the same
    command without --shard writes the file from what they did."""


def sample(options: Sample) -> None:
    """Check everything that can be checked, draw what is not drawn yet, write."""
    drawing = _checked(options)
    from seisvel_jax.simulation.simulator import use_all_cores

    use_all_cores()
    sampling = _open(options, drawing)
    if options.output is None:
        _quick_look(options, sampling)
        return

    from seisvel_jax.files import only_one
    from seisvel_jax.inference.submission import check_output
    from seisvel_jax.logging import say

    output, names = options.output, sampling.names
    arrays = sampling.samples + 8
    check_output(output, names=names * arrays, shape=sampling.dataset.survey.grid.shape)
    shard = Shard(*options.shard)
    with only_one(output.parent, f"sampling {output.name}", shard.lock(output)):
        finished = sampling.run(output, shard)
        if not shard.is_all:
            say(f"{finished.folder}: {shard} {THEN}")
            return
        from seisvel_jax.inference.sampling import Results

        _write(options, Results(sampling, finished, options.misfit))
        finished.remove()
    say(f"{output}: {sampling.samples} samples of each of {len(names)} models, given {sampling.given}")


def _write(options: Sample, results: "Results") -> None:
    from seisvel_jax.files import remove_parts
    from seisvel_jax.inference.sample_files import SampleFile, write_samples

    assert options.output is not None
    remove_parts(options.output.parent, {options.output.name, f".{options.output.name}.probe"})
    write_samples(options.output, results)
    print(results.table())
    if options.figures is not None:
        written = SampleFile(options.output)
        for index in range(min(options.figure_count, len(written))):
            _draw(options.figures, results.sampling, index, written.samples(index))


def _draw(folder: Path, sampling: "Sampling", index: int, samples: object) -> None:
    import numpy as np

    from seisvel_jax.plotting import draw_posterior

    truth = sampling.dataset.velocity(index) if sampling.dataset.has_velocity else None
    grid, name = sampling.dataset.survey.grid, sampling.names[index]
    title = f"{name}: {sampling.samples} samples given {sampling.given}"
    draw_posterior(folder / f"{name}.png", np.asarray(samples), truth, grid, title)


def _quick_look(options: Sample, sampling: "Sampling") -> None:
    import tempfile

    from seisvel_jax.inference.sampling import Results

    with tempfile.TemporaryDirectory() as folder:
        finished = sampling.run(Path(folder) / "look")
        results = Results(sampling, finished, options.misfit)
        for index, (name, arrays) in enumerate(results):
            _draw(options.figures or Path("."), sampling, index, arrays["samples"])
            print(results.table())
            print(f"figure {(options.figures or Path('.')) / f'{name}.png'}")


def _checked(options: Sample) -> "Drawing":
    """How it is to be drawn. Raises UserError for options that cannot be."""
    if options.sample is not None:
        if options.data is not None or options.output is not None:
            raise UserError("--sample is a quick look and goes without --data and --output: give one or the other")
    elif options.data is None or options.output is None:
        raise UserError("--data and --output are both needed (or --sample for a quick look at one sample)")
    elif options.output.suffix != ".npz":
        raise UserError(f"{options.output}: a name ending in '{options.output.suffix}', expected .npz")
    for name, value, least in (
        ("--samples", options.samples, 1),
        ("--batch-size", options.batch_size, 1),
        ("--limit", options.limit, 1),
        ("--figure-count", options.figure_count, 0),
        ("--steps", options.steps, 1),
        ("--seed", options.seed, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{name}: {value}, expected at least {least}")
    Shard(*options.shard)
    if options.seed >= 2**32:
        raise UserError(f"--seed {options.seed}: expected 0 to {2**32 - 1}")
    for name, number in (("--temperature", options.temperature), ("--background-blur", options.background_blur)):
        if number is not None and not 0 < number < 1e6:
            raise UserError(f"{name} {number}: expected a number above 0")
    if options.background_blur is not None and options.background is None:
        raise UserError("--background-blur: says how smooth a --background is, and there is none: give it")
    if options.guidance == "daps" and (options.sampler != "dpm" or options.stochastic):
        raise UserError("--guidance daps: draws in a way of its own: leave --sampler and --stochastic out")
    if options.well_iterations and options.guidance in ("physics", "sda", "moment-matching"):
        raise UserError(
            f"--well-iterations {options.well_iterations}: with --guidance {options.guidance} the values are put in "
            "alone: leave it out, or take --guidance daps"
        )
    if options.without == "gathers" and options.guidance == "none" and options.shots is not None:
        raise UserError("--shots: needs the gathers, which --without gathers leaves unused: give one of them")
    if options.figures is not None and options.figures.exists() and not options.figures.is_dir():
        raise UserError(f"{options.figures}: a file stands where the folder for figures is needed: choose another")

    from seisvel_jax.diffusion.sampler import SamplerConfig
    from seisvel_jax.inference.posterior import Drawing

    guidance = PHYSICS if options.guidance == "physics" else options.guidance
    return Drawing(
        SamplerConfig(options.sampler, options.steps, stochastic=options.stochastic),
        weight=options.weight,
        guidance=None if guidance == "none" else guidance,  # type: ignore[arg-type]
        noise=options.noise,
        iterations=options.guidance_iterations,
        well_iterations=WATER_ITERATIONS if options.well_iterations is None else options.well_iterations,
    )


def _open(options: Sample, drawing: "Drawing") -> "Sampling":
    """The run, the data and what is told, each checked. Raises UserError."""
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.inference.posterior import BATCH, Posterior
    from seisvel_jax.inference.sampling import Knowledge, Sampling
    from seisvel_jax.inference.told import Background, open_wells, water_to
    from seisvel_jax.logging import say
    from seisvel_jax.training.runs import load_diffusion

    path = options.data if options.data is not None else options.sample
    assert path is not None
    dataset = open_dataset(path)
    names = dataset.names[: 1 if options.sample is not None else options.limit]
    if not names:
        raise UserError(f"{path}: holds no samples, expected gathers to sample from")
    wells = open_wells(options.wells, dataset, names) if options.wells is not None else None
    shots, water = _numbers("--shots", options.shots), options.water
    Knowledge(shots=shots).check(dataset.survey)
    water_cells = None if water is None else water_to(water, dataset.survey.grid)
    models = Background(options.background, dataset, len(names)) if options.background is not None else None
    run = load_diffusion(options.checkpoint)
    run.config.denoiser.family(options.family)
    low, high = run.config.condition.blur
    blur = options.background_blur or (low * high) ** 0.5
    if models is not None and not low <= blur <= high:
        say(f"warning: --background-blur {blur:g} m: the run was trained with {low:g} to {high:g} m")
    if wells is not None and hasattr(wells, "columns"):
        say(f"wells: columns {options.wells} of each sample's own velocity in {path}")
    knowledge = Knowledge(options.without != "gathers", shots, wells, models, blur, options.family, water_cells)
    if options.well_iterations is None and models is None and water is None and run.config.condition.drop_wells < 1:
        drawing = dataclasses.replace(drawing, well_iterations=0)
    temperature = options.temperature or run.temperature(*knowledge.sources)
    return Sampling(
        dataset,
        names,
        Posterior(run, drawing, dataset.survey),
        knowledge,
        samples=options.samples,
        seed=options.seed,
        batch_size=options.batch_size or (BATCH if drawing.guidance is None else 1),
        temperature=temperature,
    )


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise UserError(f"{option} {text}: expected whole numbers such as 0,2,4") from None


def main() -> None:
    """Entry point."""
    sample(tyro.cli(Sample, prog="python -m seisvel_jax.sample", description=__doc__))


if __name__ == "__main__":
    run_command(main)

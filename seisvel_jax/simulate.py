"""Shot gathers of velocity models, written as a data set one can train on.

  python -m seisvel_jax.simulate --survey speed-and-structure --count 512 --grid-spacing 5 --dt 1e-3 --output DATA
  python -m seisvel_jax.simulate --survey openfwi --family flatfault-a style-b --count 999 --layout packed --output P
  python -m seisvel_jax.simulate --survey openfwi --models MINE --augment --count 5000 --layout openfwi --output DATA

Deterministic by index whatever the batching and the number of devices. Stop or kill it at any time: the same command
goes on where it stopped. Exit code 0: done; 2: bad input; 130, 143: interrupted.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from seisvel_jax.data.noise import Noise
from seisvel_jax.data.packed_codec import GatherDtype, VelocityDtype
from seisvel_jax.errors import UserError, run_command
from seisvel_jax.simulation.request import Layout
from seisvel_jax.simulation.run import simulate_dataset

if TYPE_CHECKING:
    from seisvel_jax.simulation.velocities import Velocities
    from seisvel_jax.simulation.widths import Widths
    from seisvel_jax.survey import Survey

__all__ = ["Simulate", "simulate", "simulate_dataset", "survey_of"]


@dataclass(frozen=True)
class Simulate:
    """Options of the command."""

    survey: Annotated[str, tyro.conf.arg(metavar="openfwi|speed-and-structure|SURVEY.json")]
    """The experiment: positions, wavelet, sampling, grid and boundary."""
    output: Path
    """Folder of the new data set; also gets survey.json, simulate.json (the settings) and, where samples differ in
    what was drawn for them, samples.csv."""
    layout: Layout = "challenge"
    """challenge: a folder a sample, km/s lateral first; openfwi: data/data*.npy and model/model*.npy in m/s, whose last
    time row is zero as in the training files; packed: docs/pack.md, the smallest and the fastest to read."""
    models: Path | None = None
    """Velocity models: .npy (N, 1, depth, x) in m/s, a folder of them, SEG-Y, a challenge folder, a submission,
    a pack. Without it, --count models are drawn at random."""
    model_spacing: tuple[float, float] | None = None
    """Metres between the nodes of --models in depth and x: with it, models that are larger than the survey are cut into
    windows of its extent, side by side. Without it a model of any sampling is taken for all of the survey's ground."""
    clip: tuple[float, float] | None = None
    """m/s between which the velocities of --models are held: gas at 1028 m/s may ask for a finer grid, and salt at 4800
    m/s for a shorter step, than all the rest."""
    family: tuple[str, ...] = ()
    """Of random models, several take turns: speed-and-structure, openfwi (its ten families mixed), flatvel-a,
    curvevel-b, flatfault-a, style-b ... Default: the survey's own."""
    augment: bool = False
    """Draw --count new models out of those of --models: pairs of them, warped, blended, mirrored and scaled."""
    count: int | None = None
    """How many: random models to draw, or the first so many of --models (default all)."""
    seed: int = 0
    """Of everything random. Other seeds are other geology: one for training, another for testing."""
    grid_spacing: float | None = None
    """Metres between grid nodes (default: the survey's own; 5 is enough for speed-and-structure)."""
    dt: float | None = None
    """Seconds between recorded samples (default: the survey's own; 1e-3 is enough for speed-and-structure)."""
    sponge_width: float | tuple[float, float] | None = None
    """Metres of absorbing boundary on each side (speed-and-structure: 350; the real data look like 500). Two numbers:
    drawn between them, sample by sample."""
    sponge_step: float = 50.0
    """Metres between the widths that may be drawn: each takes a program of its own, compiled once."""
    noise: Noise = field(default_factory=Noise)
    """Added to the gathers, drawn by seed and index."""
    batch_size: int = 8
    """Samples simulated together at most; changes speed and memory, never the result."""
    file_size: int | None = None
    """Samples a file in the openfwi (default 500) and packed layouts (64, or as many as fill 64 MiB). A killed run
    loses at most one such file."""
    dtype: GatherDtype = "float16"
    """Of the gathers in the packed layout."""
    velocity_dtype: VelocityDtype = "uint16"
    """Of the velocity models in the packed layout: steps of 0.1 m/s up to 6553.5 m/s, or float32."""
    shard: Annotated[tuple[int, int], tyro.conf.arg(metavar="I N")] = (0, 1)
    """Only file (or sample folder) I, I + N, I + 2 N...: the N commands with I = 0..N-1 fill one --output together,
    with what a single command would write there."""


def survey_of(options: Simulate, model_shape: tuple[int, ...] | None = None) -> "Survey":
    """The survey that the options name, with the middle of the widths to be drawn. Raises UserError."""
    from seisvel_jax.simulation.experiment import named_survey

    widths = widths_of(options)
    width = options.sponge_width if widths is None else widths.values[len(widths.values) // 2]
    assert not isinstance(width, tuple)
    return named_survey(
        options.survey,
        grid_spacing=options.grid_spacing,
        dt=options.dt,
        sponge_width=width,
        model_shape=model_shape,
    )


def widths_of(options: Simulate) -> "Widths | None":
    """The widths to draw from, where two are given."""
    from seisvel_jax.simulation.widths import Widths

    if not isinstance(options.sponge_width, tuple):
        return None
    return Widths(*options.sponge_width, options.sponge_step)


def simulate(options: Simulate) -> int:
    """Run the command; return 0. Raises UserError."""
    from seisvel_jax.logging import say
    from seisvel_jax.simulation.simulator import use_all_cores

    use_all_cores()
    models, survey, origin = _models(options)
    new = simulate_dataset(
        models,
        survey,
        options.layout,
        options.output,
        count=options.count,
        batch_size=options.batch_size,
        file_size=options.file_size,
        shard=options.shard,
        seed=options.seed,
        widths=widths_of(options),
        noise=options.noise,
        dtype=options.dtype,
        velocity_dtype=options.velocity_dtype,
        origin=origin,
    )
    kept = (len(models.names) if options.count is None else min(options.count, len(models.names))) - new
    if options.shard != (0, 1):
        say(f"{options.output}: {new} samples simulated in shard {options.shard[0]} of {options.shard[1]}")
    else:
        say(f"{options.output}: {new} samples simulated" + (f", {kept} were there" if kept else ""))
    return 0


def _models(options: Simulate) -> "tuple[Velocities, Survey, dict[str, Any]]":
    """The models, the survey they are seen with, and what to remember of where they came from."""
    from seisvel_jax.data.velocity_files import open_velocities
    from seisvel_jax.simulation.velocities import AugmentedVelocities, ClippedVelocities, RandomVelocities
    from seisvel_jax.simulation.windows import windows_of

    if options.models is None:
        if options.augment or options.model_spacing or options.clip:
            raise UserError("--augment, --model-spacing and --clip are about your own models: give --models PLACE")
        if options.count is None or options.count < 1:
            raise UserError("give --models FILE_OR_FOLDER, or --count N (1 or more) to draw N random models")
        survey = survey_of(options)
        drawn = RandomVelocities(survey, options.count, options.seed, options.family)
        return drawn, survey, {"origin": "random", "seed": options.seed, "families": list(drawn.families)}
    if options.family:
        raise UserError("--family is about random models, and --models gives yours: leave one of them out")
    found = open_velocities(options.models)
    survey = survey_of(options, found.velocity(0).shape)
    models = windows_of(found, survey, options.model_spacing)
    if options.clip is not None:
        models = ClippedVelocities(models, *options.clip)
    origin: dict[str, Any] = {"origin": str(options.models.resolve())}
    for name in ("model_spacing", "clip"):
        if getattr(options, name) is not None:
            origin[name] = list(getattr(options, name))
    if not options.augment:
        return models, survey, origin
    if options.count is None or options.count < 1:
        raise UserError("--augment draws as many models as you like: say with --count N (1 or more)")
    augmented = AugmentedVelocities(models, survey, options.count, options.seed)
    return augmented, survey, {**origin, "augment": True, "seed": options.seed}


def main() -> int:
    """Entry point."""
    return simulate(tyro.cli(Simulate, prog="python -m seisvel_jax.simulate", description=__doc__))


if __name__ == "__main__":
    run_command(main)

"""The loop of a simulation: models in, batches through the solver, whole units out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seisvel_jax.data.noise import Noise, add_noise
from seisvel_jax.data.packed_codec import GatherDtype, VelocityDtype
from seisvel_jax.errors import UserError
from seisvel_jax.simulation.ground import read_model
from seisvel_jax.simulation.outputs import Output, Sample, default_file_size, output_of
from seisvel_jax.simulation.request import SAMPLES_FILE, SETTINGS_FILE, Layout, Request, claim
from seisvel_jax.simulation.simulator import Simulator, ceiling
from seisvel_jax.simulation.velocities import ArrayVelocities, Velocities
from seisvel_jax.simulation.widths import Widths

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey

MOST_WAITING = 512
"""Simulated samples that may wait in memory for others of their file, beyond those of one file."""


def simulate_dataset(
    velocities: "Velocities | np.ndarray",
    survey: "Survey",
    layout: Layout,
    output: str | Path,
    *,
    names: Sequence[str] | None = None,
    count: int | None = None,
    batch_size: int = 8,
    file_size: int | None = None,
    shard: tuple[int, int] = (0, 1),
    seed: int = 0,
    widths: Widths | None = None,
    noise: Noise | None = None,
    dtype: GatherDtype = "float16",
    velocity_dtype: VelocityDtype = "uint16",
    origin: dict[str, Any] | None = None,
) -> int:
    """Simulate `velocities` and write them in `layout` under `output`; return how many samples were new.

    velocities: `[N, depth, x]` m/s or an object with `names` and `velocity(i)`; other samplings of the same ground are
    taken to `survey.grid`. `file_size`: samples a file of the openfwi and packed layouts. `shard` (i, n): only every
    n-th file or sample folder from the i-th on. `widths`: of the absorbing boundary, drawn by (seed, index); `noise`
    is, too. `dtype`, `velocity_dtype`: of the packed layout. `origin` is stored with the settings. What a stopped run
    left is kept; the settings must be the same. Raises UserError for bad velocities, for positions or samplings that
    cannot be, and for a folder that holds something else.
    """
    models = ArrayVelocities(velocities, names) if isinstance(velocities, np.ndarray) else velocities
    total = len(models.names) if count is None else min(count, len(models.names))
    if file_size is None:
        file_size = default_file_size(layout, 2 * int(np.prod(survey.gather_shape)))
    if total < 1 or batch_size < 1 or file_size < 1:
        raise UserError(
            f"{output}: {total} models, batches of {batch_size}, files of {file_size}; expected at least 1 of each: "
            "correct --count, --batch-size or --file-size"
        )
    if not 0 <= shard[0] < shard[1]:
        raise UserError(f"--shard {shard[0]} {shard[1]}: expected I N with 0 <= I < N")
    if widths is not None and survey.boundary.kind != "devito":
        raise UserError(f"--sponge-width: a {survey.boundary.kind} boundary has no width to draw: leave it out")
    request = Request(
        models,
        survey,
        layout,
        Path(output),
        total,
        file_size,
        seed=seed,
        widths=widths,
        noise=noise or Noise(),
        dtype=dtype,
        velocity_dtype=velocity_dtype,
        origin=origin or {},
    )
    return run(request, batch_size, shard)


def run(request: Request, batch_size: int, shard: tuple[int, int]) -> int:
    """Do what `request` says; see `simulate_dataset`."""
    from seisvel_jax.files import only_one, remove_parts
    from seisvel_jax.logging import progress

    folder, alone = request.output, shard == (0, 1)
    writer = output_of(request)
    # A bad first model should not leave a folder behind.
    writer.check(request.velocities.names[0], read_model(request.velocities, 0, request.survey)[1])
    claim(folder, request.settings)
    _describe(request)
    ours = range(shard[0], len(writer.units), shard[1])
    with only_one(folder, "simulating", ".lock" if alone else f".lock_{shard[0]}_{shard[1]}"):
        missing = writer.missing(ours)
        # What a killed run left half written; the settings, too, where no other shard may be writing them.
        own = {name for number in missing for name in writer.files(number)}
        described = {SETTINGS_FILE, SAMPLES_FILE, "survey.json", "packing.json", "pack.json"} if alone else set()
        for place in (folder, folder / "data", folder / "model"):
            remove_parts(place, own | described)
        wanted, new = (sum(len(writer.units[number]) for number in numbers) for numbers in (ours, missing))
        simulator = Simulator(request.survey, min(batch_size, request.total))
        with progress(None, "simulate", total=wanted, initial=wanted - new) as bar:
            waiting = _Waiting(writer, missing)
            for index, sample in _simulated(request, writer, simulator, missing, waiting):
                waiting.add(index, sample)
                bar.update(1)
        writer.finish()
    return new


def _describe(request: Request) -> None:
    """Write `survey.json` and, where samples differ in what was drawn, `samples.csv`."""
    from seisvel_jax.data.writers import write_survey
    from seisvel_jax.files import whole_file

    if request.layout != "packed":
        write_survey(request.output, request.survey)
    table = request.table()
    if table is not None and not (request.output / SAMPLES_FILE).exists():
        with whole_file(request.output / SAMPLES_FILE) as part:
            part.write_text(table, encoding="utf-8")


class _Waiting:
    """Simulated samples until all of their unit are there; then they are written."""

    def __init__(self, writer: Output, numbers: list[int]):
        self._writer = writer
        self._number = {index: number for number in numbers for index in writer.units[number]}
        self._held: dict[int, dict[int, Sample]] = {}

    def __len__(self) -> int:
        return sum(len(samples) for samples in self._held.values())

    def add(self, index: int, sample: Sample) -> None:
        """Take one in; write its unit where it was the last."""
        number = self._number[index]
        held = self._held.setdefault(number, {})
        held[index] = sample
        if len(held) == len(self._writer.units[number]):
            self._writer.write(number, [held[i] for i in self._writer.units[number]])
            del self._held[number]


def _simulated(
    request: Request, writer: Output, simulator: Simulator, numbers: list[int], waiting: _Waiting
) -> Iterator[tuple[int, Sample]]:
    """Every sample of the units, in the order in which batches of one time step and one boundary become full.

    While the device works on a batch, the next models are read and the last samples written.
    """
    from seisvel_jax.wave.checks import check_finite

    names = request.velocities.names
    most = MOST_WAITING + request.file_size
    queues: dict[tuple[float, float], list[tuple[int, np.ndarray, np.ndarray]]] = {}
    under_way: list[tuple[Any, list[tuple[int, np.ndarray, np.ndarray]]]] = []

    def begin(kind: tuple[float, float]) -> None:
        queue = queues.pop(kind)
        under_way.append((simulator.start(np.stack([solved for _, solved, _ in queue]), *kind), queue))

    def done(keep: int) -> Iterator[tuple[int, Sample]]:
        while len(under_way) > keep:
            started, queue = under_way.pop(0)
            gathers = simulator.finish(started, len(queue))
            check_finite(gathers, f"{request.output} ({names[queue[0][0]]} and on)")
            for gather, (index, _, written) in zip(gathers, queue, strict=True):
                noisy = add_noise(gather, request.survey, request.noise, request.seed, index)
                yield index, Sample(names[index], np.array(noisy, np.float32), written)

    for index in (index for number in numbers for index in writer.units[number]):
        solved, written = read_model(request.velocities, index, request.survey)
        writer.check(names[index], written)
        kind = (ceiling(float(solved.max())), request.width(index))
        queues.setdefault(kind, []).append((index, solved, written))
        if len(queues[kind]) == simulator.batch_size:
            begin(kind)
            yield from done(keep=1)
        elif len(waiting) > most:  # others wait for samples that wait for their like: no longer
            begin(min(queues, key=lambda kind: queues[kind][0][0]))
            yield from done(keep=1)
    for kind in list(queues):
        begin(kind)
        yield from done(keep=1)
    yield from done(keep=0)

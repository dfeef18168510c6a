"""`python -m seisvel_jax.simulate`: shot gathers of velocity models, written as a data set one can train on.

Deterministic by index whatever the batching; may be stopped at any time and goes on where it stopped.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
import tyro

import seisvel_jax
from seisvel_jax.errors import UserError, run_command

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey

Layout = Literal["challenge", "openfwi"]
USUAL_FASTEST = 4500.0
"""m/s that the time step is made for. Only a model that is faster gets a shorter one, so that a sample's gathers
never depend on the others in its batch."""
SETTINGS_FILE = "simulate.json"


@dataclass(frozen=True)
class Simulate:
    """Simulate shot gathers of velocity models. Stopped runs go on with the same command."""

    survey: Annotated[str, tyro.conf.arg(metavar="openfwi|speed-and-structure|SURVEY.json")]
    """The experiment: positions, wavelet, sampling, grid and boundary."""
    output: Path
    """Folder of the new data set; also gets survey.json and simulate.json (the settings)."""
    layout: Layout = "challenge"
    """challenge: a folder a sample, km/s lateral first; openfwi: data/data*.npy and model/model*.npy in m/s, whose last
    time row is zero as in the training files."""
    models: Path | None = None
    """Velocity models: .npy (N, 1, depth, x) in m/s, a folder of them, a challenge folder or submission. Without it,
    --count models are drawn at random: water, thin layers, folds, faults and salt for Devito-type boundaries
    (speed-and-structure), flat, curved and faulted layers for OpenFWI's."""
    count: int | None = None
    """How many: random models to draw, or the first so many of --models (default all)."""
    seed: int = 0
    """Seed of the random models. Other seeds are other geology: one for training, another for testing."""
    grid_spacing: float | None = None
    """Metres between grid nodes (default: the survey's own; 5 is enough for speed-and-structure)."""
    dt: float | None = None
    """Seconds between recorded samples (default: the survey's own; 1e-3 is enough for speed-and-structure)."""
    sponge_width: float | None = None
    """Metres of absorbing boundary on each side (speed-and-structure: 350; the real data look like 500)."""
    batch_size: int = 8
    """Samples simulated together; changes speed and memory, never the result."""
    file_size: int = 500
    """Samples a file in the openfwi layout."""
    shard: Annotated[tuple[int, int], tyro.conf.arg(metavar="I N")] = (0, 1)
    """Only file (or sample folder) I, I + N, I + 2 N...: the N commands with I = 0..N-1 fill one --output together,
    with what a single command would write there."""


class Velocities(Protocol):
    """Velocity models by index."""

    @property
    def names(self) -> Sequence[str]:
        """Unique names, one a model."""

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""


class ArrayVelocities:
    """Velocity models `[N, depth, x]` (or `[N, 1, depth, x]`) in m/s, held in memory."""

    def __init__(self, velocity: np.ndarray, names: Sequence[str] | None = None):
        self._velocity = velocity.reshape(-1, *velocity.shape[-2:])
        self.names = tuple(names or (f"sample_{i:06d}" for i in range(len(self._velocity))))

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""
        return self._velocity[index]


class RandomVelocities:
    """Random models from `earth/` on the survey's grid; model i depends on the seed and i alone."""

    def __init__(self, survey: "Survey", count: int, seed: int):
        import jax

        from seisvel_jax.earth import openfwi, speed_and_structure

        room = openfwi if survey.boundary.kind == "openfwi" else speed_and_structure
        key = jax.random.key(seed)
        self._draw = jax.jit(lambda index: room.random_model(jax.random.fold_in(key, index), survey.grid))
        self.names = tuple(f"random{seed}_{i:06d}" for i in range(count))

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""
        return np.asarray(self._draw(np.uint32(index)))


def simulate_dataset(
    velocities: "Velocities | np.ndarray",
    survey: "Survey",
    layout: Layout,
    output: str | Path,
    *,
    names: Sequence[str] | None = None,
    count: int | None = None,
    batch_size: int = 8,
    file_size: int = 500,
    shard: tuple[int, int] = (0, 1),
    origin: dict[str, Any] | None = None,
) -> int:
    """Simulate `velocities` and write them in `layout` under `output`; return how many samples were new.

    velocities: `[N, depth, x]` m/s or an object with `names` and `velocity(i)`; other samplings of the same ground are
    taken to `survey.grid`. `shard` (i, n): only every n-th file or sample folder from the i-th on. `origin` is stored
    with the settings. What a stopped run left is kept; the settings must be the same. Raises UserError for bad
    velocities, for positions or samplings that cannot be, and for a folder that holds something else.
    """
    from seisvel_jax.data.writers import write_challenge_sample, write_openfwi, write_survey
    from seisvel_jax.files import only_one, remove_parts
    from seisvel_jax.logging import progress
    from seisvel_jax.wave.checks import check_finite

    output = Path(output)
    if isinstance(velocities, np.ndarray):
        return simulate_dataset(
            ArrayVelocities(velocities, names),
            survey,
            layout,
            output,
            count=count,
            batch_size=batch_size,
            file_size=file_size,
            shard=shard,
            origin=origin,
        )
    total = len(velocities.names) if count is None else min(count, len(velocities.names))
    if total < 1 or batch_size < 1 or file_size < 1:
        raise UserError(
            f"{output}: {total} models, batches of {batch_size}, files of {file_size}; expected at least 1 of each: "
            "correct --count, --batch-size or --file-size"
        )
    if not 0 <= shard[0] < shard[1]:
        raise UserError(f"--shard {shard[0]} {shard[1]}: expected I N with 0 <= I < N")
    read_model(velocities, 0, survey)  # a bad first model should not leave a folder behind
    _claim(output, _settings(velocities, total, survey, layout=layout, file_size=file_size, origin=origin))
    write_survey(output, survey)

    group = 1 if layout == "challenge" else file_size  # samples that are written together
    units = [range(first, min(first + group, total)) for first in range(0, total, group)]
    ours = range(shard[0], len(units), shard[1])
    missing = [units[i] for i in ours if not _is_whole(output, layout, i, velocities.names[i], survey)]
    todo = [index for unit in missing for index in unit]
    # A batch is simulated whole or not at all, and never smaller because less is left to do: where a sample sits in
    # its batch, and how large that is, may decide how it is rounded. So a continued run has the straight bits.
    own_samples, wanted_samples = [index for i in ours for index in units[i]], set(todo)
    simulator = Simulator(survey, min(batch_size, total))
    held: list[tuple[np.ndarray, np.ndarray]] = []  # simulated, waiting until their file is full
    wanted = sum(len(units[i]) for i in ours)
    alone = shard == (0, 1)
    with (
        only_one(output, "simulating", ".lock" if alone else f".lock_{shard[0]}_{shard[1]}"),
        progress(None, "simulate", total=wanted, initial=wanted - len(todo)) as bar,
    ):
        # What a killed run left half written; the settings, too, where no other shard may be writing them.
        own = {name for unit in missing for name in _names(layout, unit[0] // group, velocities.names[unit[0]])}
        for folder in (output, output / "data", output / "model"):
            remove_parts(folder, own | {SETTINGS_FILE, "survey.json"} if alone else own)
        for first in range(0, len(own_samples), batch_size):
            indices = own_samples[first : first + batch_size]
            new = wanted_samples.intersection(indices)
            if not new:
                continue
            pairs = [read_model(velocities, i, survey) for i in indices]
            gathers = simulator(np.stack([solved for solved, _ in pairs]))
            check_finite(gathers, f"{output} ({velocities.names[indices[0]]} and on)")
            for index, gather, (_, written) in zip(indices, gathers, pairs, strict=True):
                if index not in new:
                    continue
                held.append((gather, written))
                unit = missing[0]
                if len(held) < len(unit):
                    continue
                if layout == "challenge":
                    write_challenge_sample(output, velocities.names[unit[0]], *held[0])
                else:
                    stacked = np.stack([g for g, _ in held])
                    stacked[:, :, -1] = 0  # as in OpenFWI's training files
                    write_openfwi(output, unit[0] // file_size + 1, stacked, np.stack([v for _, v in held]))
                held.clear()
                missing.pop(0)
            bar.update(len(new))
    return len(todo)


def _names(layout: str, unit: int, name: str) -> set[str]:
    """Names of what is written together: a sample's folder, or a file of gathers and one of velocities."""
    return {name} if layout == "challenge" else {f"data{unit + 1}.npy", f"model{unit + 1}.npy"}


def _is_whole(output: Path, layout: str, unit: int, name: str, survey: "Survey") -> bool:
    """Whether a unit is there, with all of its files as long as their headers say."""
    from seisvel_jax.data.challenge import VELOCITY_FILE, gather_file, source_ids
    from seisvel_jax.files import npy_header
    from seisvel_jax.logging import say

    if layout == "challenge":
        place = output / name
        paths = [place / gather_file(i) for i in source_ids(survey.gather_shape[0])] + [place / VELOCITY_FILE]
    else:
        place = output / "data" / f"data{unit + 1}.npy"
        paths = [output / "model" / f"model{unit + 1}.npy", place]
    if not place.exists():
        return False
    try:
        for path in paths:
            npy_header(path)
    except UserError as error:
        say(f"warning: {error}; it is simulated again")
        return False
    return True


class Simulator:
    """`propagate` for batches of any size up to `batch_size` with one compilation and results free of the batching."""

    def __init__(self, survey: "Survey", batch_size: int):
        self._survey, self._batch_size = survey, batch_size
        self._plans: dict[float, Any] = {}

    def __call__(self, velocity: np.ndarray) -> np.ndarray:
        """Gathers `[batch, source, time, receiver]` of `[batch, depth, x]` m/s."""
        import jax

        from seisvel_jax.wave.plan import make_plan
        from seisvel_jax.wave.propagate import run_plan

        fastest = velocity.max(axis=(1, 2))
        ceiling = np.where(fastest <= USUAL_FASTEST, USUAL_FASTEST, np.ceil(fastest / 500) * 500)
        gathers = np.empty((len(velocity), *self._survey.gather_shape), np.float32)
        for limit in np.unique(ceiling):
            if limit not in self._plans:
                self._plans[limit] = make_plan(self._survey, float(limit))
            chosen = np.flatnonzero(ceiling == limit)
            filled = np.resize(chosen, self._batch_size)  # repeats: one compiled size for every batch
            # One lane a chunk on a CPU: what a shot is rounded to must not depend on the shots beside it.
            lanes = 1 if jax.default_backend() == "cpu" else None
            gathers[chosen] = np.asarray(run_plan(velocity[filled], self._plans[limit], lanes=lanes))[: len(chosen)]
        return gathers


def read_model(velocities: Velocities, index: int, survey: "Survey") -> tuple[np.ndarray, np.ndarray]:
    """Model `index` twice, `[depth, x]` float32 m/s on `survey.grid`: to be solved on, and to be written.

    They differ where the model is finer by a whole ratio. Waves feel the mean of the squared slowness of a cell, so
    that is solved on; written are the values at the nodes, which is what a reader of the fine model would take.
    """
    from seisvel_jax.data.resample import resample_velocity
    from seisvel_jax.survey import Grid
    from seisvel_jax.wave.checks import check_sampling, check_velocity
    from seisvel_jax.wave.scheme import scheme_of

    name = f"model {velocities.names[index]}"
    velocity = np.asarray(velocities.velocity(index), np.float32)
    check_velocity(velocity, name)
    grid = survey.grid
    depth, width = grid.extent
    spacing = width / velocity.shape[-1]
    if velocity.ndim != 2 or abs(velocity.shape[0] * spacing - depth) > 1.01 * max(spacing, grid.spacing):
        raise UserError(
            f"{name}: shape {velocity.shape}, expected (depth, x) {grid.shape} or another sampling of the same "
            f"{depth:g} m x {width:g} m (survey {survey.name}): check the axis order and the survey"
        )
    check_sampling(survey, scheme_of(survey).order, float(velocity.min()))
    if velocity.shape == grid.shape:
        return velocity, velocity
    model_grid = Grid(velocity.shape[0], velocity.shape[1], spacing)
    written = resample_velocity(velocity, model_grid, grid)
    ratio = grid.spacing / spacing
    if round(ratio) > 1 and math.isclose(ratio, round(ratio), rel_tol=1e-3):
        return average_slowness(velocity, round(ratio), grid.shape), written
    return written, written


def average_slowness(velocity: np.ndarray, ratio: int, shape: tuple[int, int]) -> np.ndarray:
    """Velocity whose squared slowness is the mean over the `ratio`-wide cell about each node `i * ratio`."""
    slowness = 1 / np.asarray(velocity, np.float64) ** 2
    for axis, count in enumerate(shape):
        nodes = np.arange(count)[:, None] * ratio + np.arange(ratio) - (ratio - 1) // 2
        around = np.take(slowness, np.clip(nodes, 0, slowness.shape[axis] - 1), axis=axis)
        slowness = around.mean(axis=axis + 1)
    return (1 / np.sqrt(slowness)).astype(np.float32)


def _settings(
    velocities: Velocities, total: int, survey: "Survey", *, layout: str, file_size: int, origin: dict[str, Any] | None
) -> dict[str, Any]:
    # Names and three models stand for all: enough to notice that a file was replaced, without reading all of it.
    digest = hashlib.sha256("\n".join(velocities.names[:total]).encode())
    for index in sorted({0, total // 2, total - 1}):
        digest.update(np.ascontiguousarray(velocities.velocity(index), np.float32).tobytes())
    return {
        "version": seisvel_jax.__version__,  # two versions of the solver must not fill one data set
        "layout": layout,
        "survey": survey.name,
        "survey_digest": hashlib.sha256(json.dumps(survey.to_dict(), sort_keys=True).encode()).hexdigest(),
        "grid_spacing": survey.grid.spacing,
        "dt": survey.dt,
        "sponge_width": survey.boundary.width,
        "models": total,
        "models_digest": digest.hexdigest(),
        "file_size": file_size if layout == "openfwi" else 1,
        **(origin or {}),
    }


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Make `output` the folder of this run, or check that it already is."""
    from seisvel_jax.files import read_json, whole_file

    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: a file stands where the output folder should be: choose another --output")
    path = output / SETTINGS_FILE
    # Listed before the settings are looked for: another shard may be claiming the folder right now.
    strangers = output.is_dir() and any(not entry.name.startswith(".") for entry in output.iterdir())
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise UserError(f"{path}: not the settings of a simulation: choose another --output")
        changed = sorted(key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key))
        if changed:
            plain = [key for key in changed if not key.endswith("digest")]
            what = (
                ", ".join(f"{key} {found.get(key)!r:.100}, now {settings.get(key)!r:.100}" for key in plain)
                or "other models"
            )
            raise UserError(f"{output}: simulated with other settings: {what}: choose another --output or remove it")
        return
    if strangers:
        raise UserError(f"{output}: holds files that are not of a simulation: choose another --output or an empty one")
    with whole_file(path) as part:
        part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def survey_of(options: Simulate, model_shape: tuple[int, ...] | None = None) -> "Survey":
    """The survey that the options name. `model_shape` widens OpenFWI's for its wider models."""
    import dataclasses

    from seisvel_jax.survey import openfwi, read_survey, speed_and_structure

    for name, value in (
        ("--grid-spacing", options.grid_spacing),
        ("--dt", options.dt),
        ("--sponge-width", options.sponge_width),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"{name} {value}: expected a number above 0")
    if options.survey == "speed-and-structure":
        return speed_and_structure(
            spacing=options.grid_spacing or 1.0, dt=options.dt or 1e-4, sponge=options.sponge_width or 350.0
        )
    if options.survey == "openfwi":
        wide = model_shape is not None and model_shape[0] == 70 and options.grid_spacing is None
        survey = openfwi(x_count=model_shape[1] if wide and model_shape is not None else 70)
    elif options.survey.endswith(".json"):
        survey = read_survey(options.survey)
    else:
        raise UserError(f"--survey {options.survey}: expected openfwi, speed-and-structure or the path of a .json")
    if options.sponge_width is not None:
        if survey.boundary.kind == "openfwi":
            raise UserError("--sponge-width: the OpenFWI boundary is 120 cells by definition: leave it out")
        survey = dataclasses.replace(survey, boundary=dataclasses.replace(survey.boundary, width=options.sponge_width))
    return survey.resampled(spacing=options.grid_spacing, dt=options.dt)


def use_all_cores() -> None:
    """One JAX device a CPU core; without effect once JAX has started or where the user has decided."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores)


def simulate(options: Simulate) -> int:
    """Run the command; return how many samples were new."""
    from seisvel_jax.data.velocity_files import open_velocities
    from seisvel_jax.logging import say

    use_all_cores()
    if options.models is None:
        if options.count is None or options.count < 1:
            raise UserError("give --models FILE_OR_FOLDER, or --count N (1 or more) to draw N random models")
        survey = survey_of(options)
        models: Velocities = RandomVelocities(survey, options.count, options.seed)
        origin: dict[str, Any] = {"origin": "random", "seed": options.seed}
    else:
        models = open_velocities(options.models)
        survey = survey_of(options, models.velocity(0).shape if len(models.names) else None)
        origin = {"origin": str(options.models.resolve())}
    new = simulate_dataset(
        models,
        survey,
        options.layout,
        options.output,
        count=options.count,
        batch_size=options.batch_size,
        file_size=options.file_size,
        shard=options.shard,
        origin=origin,
    )
    kept = (len(models.names) if options.count is None else min(options.count, len(models.names))) - new
    if options.shard != (0, 1):
        say(f"{options.output}: {new} samples simulated in shard {options.shard[0]} of {options.shard[1]}")
    else:
        say(f"{options.output}: {new} samples simulated" + (f", {kept} were there" if kept else ""))
    return 0


def main() -> int:
    """Entry point."""
    return simulate(tyro.cli(Simulate))


if __name__ == "__main__":
    run_command(main)

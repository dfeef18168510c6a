"""Where the batches of a run come from: data on disk, samples drawn and simulated online, or rows of both."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seisvel_jax.config import Config, DiffusionConfig
from seisvel_jax.data.dataset import Dataset
from seisvel_jax.data.labels import stored_families
from seisvel_jax.data.online import Simulated, online_survey
from seisvel_jax.data.pipeline import (
    Batches,
    DataConfig,
    Resampled,
    SkipBad,
    open_data,
    resampled_survey,
    training_survey,
)
from seisvel_jax.data.pool import draw_pool
from seisvel_jax.data.split import split_indices
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Grid, Survey
from seisvel_jax.training.first_stage import FrozenStage
from seisvel_jax.training.mesh import over_data, place_rows

NOBODY = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Source:
    """The training batches of a run by step, and the samples it is validated on."""

    survey: Survey
    from_step: Callable[[int], Iterator[dict[str, Any]]]
    """Batches `step`, `step + 1`, … on their devices: `gathers [batch, source, time, receiver]` and `velocity [batch,
    depth, x]`. Besides, where stored data hold gathers alone, `labelled [batch]`: 1 in rows with a velocity, 0 in the
    others; for a second stage `first`, what the first one found; for a diffusion model `family [batch]`, numbers of
    `DenoiserConfig.family`. All of it is on its way when `next` returns, and
    nothing waits for it."""
    describe: Callable[[int], str]
    """The stored samples of a batch in words, for a message."""
    samples: Any
    """What is validated on, read as a dataset is."""
    held_out: np.ndarray
    """Indices of the samples used at each validation."""
    families: np.ndarray
    """`[held out]`: the numbers of their families; 0, not known, where no labels are asked for."""
    example: np.ndarray
    """Gathers `[source, time, receiver]` of some sample."""
    training: int
    """Stored samples that are trained on."""
    validation: int
    """Samples set aside, of which each validation uses some."""
    digest: str
    """Which stored samples are trained on, in which order: it must not change within a run."""
    lines: tuple[str, ...]
    """What a run says about its data."""
    skipping: SkipBad | None
    stage: FrozenStage | None
    """The first stage of a second one."""


def open_source(config: Config | DiffusionConfig, mesh: Mesh, keep: Path | None = None) -> Source:
    """The source that `config.data` describes; for a diffusion model with the labels of the samples.

    Each process reads or makes its own rows on the devices of `mesh`. Without stored data the validation set is
    simulated here, the same for every start; the pool of `data.online.pool` is kept in the folder `keep`. Raises
    UserError for bad data, and for rows that cannot be shared out.
    """
    data, online = config.data, config.data.online
    dataset, survey = dataset_and_survey(config)
    drawn = 0 if online is None or online.pool else online.rows(config.batch_size)
    stored = config.batch_size - drawn
    labels = config.denoiser.families if isinstance(config, DiffusionConfig) else None
    simulated = None if online is None else Simulated(online, solved_survey(data, survey), data.seed, mesh, labels)

    training = validation = NOBODY
    family = None
    samples: Any = None
    if dataset is not None:
        samples = Resampled(dataset, survey, data.cache_gib)
        family = None if labels is None else stored_families(dataset, labels)
        training, validation = _split(config, dataset, stored)
    if online is not None and online.pool:
        assert simulated is not None
        samples = draw_pool(simulated, online, config.batch_size, survey, keep)
        training, family = np.arange(len(samples)), samples.family_of
    skipping = SkipBad(samples, (training, validation)) if dataset is not None and data.skip_bad else None
    samples = skipping or samples
    batches = None
    if stored:
        batches = _batches(config, samples, training, survey, rows=stored, mesh=mesh, family=family)
    unlabelled = dataset is not None and not dataset.has_velocity
    if online is not None and (dataset is None or unlabelled) and data.validation_fraction > 0:
        # By the survey's own sponge, whatever is trained on: the data to be read have it.
        own = replace(online, pml=0.0, sponge_every=0)
        judges = Simulated(own, solved_survey(data, survey), data.seed, mesh, labels)
        samples = judges.samples("validation", config.validation_samples, drawn or config.batch_size, survey)
        family = samples.family_of
        validation = np.arange(len(samples))
    held_out = spread(validation, config.validation_samples)
    if len(held_out):
        example = samples.gathers(int(held_out[0]))
    elif len(training):
        example = samples.gathers(int(training[0]))
    else:
        assert simulated is not None
        example = simulated.samples("example", 1, drawn or config.batch_size, survey).gathers(0)

    stage, lines = None, []
    if isinstance(config, Config) and config.first_stage is not None:
        stage = FrozenStage(config, survey, mesh)
        lines.append(f"first stage {config.first_stage.checkpoint}")
    if dataset is not None:
        seen = "" if len(held_out) == len(validation) else f" ({len(held_out)} of them each time)"
        epochs = f" ({config.steps * stored / len(training):.1f} epochs)" if len(training) else ""
        lines.append(
            f"data        {data.path}: {len(training)} to train on{epochs}, {len(validation)} to validate{seen}"
        )
    if simulated is not None:
        fixed = f"; {len(held_out)} others to validate" if dataset is None or unlabelled else ""
        how = f"{drawn} of {config.batch_size} samples a step" if drawn else f"{len(training)} drawn once"
        epochs = f" ({config.steps * stored / len(training):.1f} epochs)" if not drawn else ""
        lines.append(f"online      {how}{epochs}: {simulated.words}{fixed}")

    return Source(
        survey=survey,
        from_step=lambda step: _with_first(
            stage, _joined(batches, simulated if drawn else None, step, drawn=drawn, grid=survey.grid, mesh=mesh)
        ),
        describe=lambda step: f"online, step {step}" if batches is None else batches.describe(step),
        samples=samples,
        held_out=held_out,
        families=np.zeros(len(held_out), np.int32) if family is None else family[held_out],
        example=example,
        training=len(training),
        validation=len(validation),
        digest="online" if dataset is None else _digest(dataset, training),
        lines=tuple(lines),
        skipping=skipping,
        stage=stage,
    )


def dataset_and_survey(config: Config | DiffusionConfig) -> tuple[Dataset | None, Survey]:
    """The stored data, None where all is drawn online, and the survey of the batches. Raises UserError."""
    data, online = config.data, config.data.online
    if online is not None and online.pool and data.path:
        raise UserError(f"--data.online.pool {online.pool}: beside --data.path {data.path}: leave one of them out")
    if online is not None and not data.path:
        if online.rows(config.batch_size) < config.batch_size:
            raise UserError(
                f"--data.online.share {online.share:g}: the rest of each batch is stored data: give them with "
                "--data.path DATA, or --data.online.share 1"
            )
        return None, resampled_survey(online_survey(online), data.grid_spacing, data.dt, option="--data.dt")
    if online is not None and online.survey:
        raise UserError(
            f"--data.online.survey {online.survey}: beside --data.path {data.path}, whose own survey is simulated: "
            "leave one of them out"
        )
    dataset = open_data(data)
    return dataset, training_survey(dataset, data)


def solved_survey(data: DataConfig, survey: Survey) -> Survey:
    """The survey that samples are simulated with: that of the batches, or, for a pool, at the experiment's own times.

    OpenFWI's files begin one step after the shot, so that its rows at another sampling are of other times: those are
    simulated as they are and resampled, as stored ones would be. Raises UserError where there is no pool to do that.
    """
    online = data.online
    assert online is not None
    if data.path or survey.record_start == 0:
        return survey
    own = online_survey(online).resampled(spacing=data.grid_spacing)
    if not online.pool and own.dt != survey.dt:
        raise UserError(
            f"--data.dt {survey.dt:g}: OpenFWI's gathers drawn at every step have its own sampling of {own.dt:g} s: "
            "leave it out, or draw a pool of them that is resampled (--data.online.pool)"
        )
    return own


def _split(config: Config | DiffusionConfig, dataset: Dataset, stored: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and to validate on."""
    if not dataset.has_velocity:
        if stored == 0:
            raise UserError(f"{dataset.path}: gathers without velocity models can validate nothing: leave them out")
        return np.arange(len(dataset)), NOBODY
    if not stored:  # all training samples are drawn online, so every stored one is new to the networks
        return NOBODY, np.arange(len(dataset))
    return split_indices(
        dataset,
        split_by=config.data.split_by,
        validation_fraction=config.data.validation_fraction,
        seed=config.data.seed,
    )


def _batches(
    config: Config | DiffusionConfig,
    samples: Any,
    training: np.ndarray,
    survey: Survey,
    *,
    rows: int,
    mesh: Mesh,
    family: np.ndarray | None,
) -> Batches:
    processes, across = jax.process_count(), mesh.shape["data"]
    if rows > len(training):
        raise UserError(
            f"{samples.path}: {len(training)} training samples, fewer than --batch-size {config.batch_size}: "
            "give a smaller batch size or more data"
        )
    if rows % across:
        raise UserError(
            f"{rows} rows of a batch from disk (--batch-size, --data.online.share), expected a multiple of the "
            f"{across} devices on the data axis: change either"
        )
    return Batches(
        samples,
        training,
        survey,
        rows // processes,
        config.data.seed,
        read_threads=config.data.read_threads,
        prefetch=config.data.prefetch,
        process_index=jax.process_index(),
        process_count=processes,
        labels=isinstance(config, DiffusionConfig) or config.loss.wave.weight == 0,
        family=family,
    )


def _joined(
    batches: Batches | None, simulated: Simulated | None, step: int, *, drawn: int, grid: Grid, mesh: Mesh
) -> Iterator[dict[str, Any]]:
    stored = None if batches is None else batches.from_step(step)
    join = jax.jit(
        lambda parts: jax.tree.map(lambda *rows: jnp.concatenate(rows), *parts), out_shardings=over_data(mesh)
    )
    while True:
        # The simulation is under way while the host waits for the disk.
        parts = [] if simulated is None else [simulated("training", step, drawn)]
        if stored is not None:
            parts.append(next(stored))
            if "velocity" not in parts[-1]:
                parts = [_labelled(part, grid) for part in parts]
            parts[-1] = place_rows(mesh, parts[-1])
        yield parts[0] if len(parts) == 1 else join(tuple(parts))
        step += 1


def _with_first(stage: FrozenStage | None, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield batch if stage is None else {**batch, "first": stage(batch["gathers"])}


def _labelled(rows: dict[str, Any], grid: Grid) -> dict[str, Any]:
    """The rows with a word on whether they have a velocity, and with some velocity where they have none."""
    count = len(rows["gathers"])
    known = np.full(count, float("velocity" in rows), np.float32)
    return {"velocity": np.full((count, *grid.shape), 2000.0, np.float32), **rows, "labelled": known}


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `indices`, evenly spread over them."""
    return indices[np.linspace(0, len(indices) - 1, min(len(indices), count)).astype(int)]


def _digest(dataset: Dataset, training: np.ndarray) -> str:
    text = "\n".join([*dataset.names, *(str(i) for i in training)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]

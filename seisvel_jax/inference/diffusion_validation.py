"""Validation of a diffusion model: its loss at fixed noise, and samples of held-out models given their gathers."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from seisvel_jax.calibration import Calibration
from seisvel_jax.config import DiffusionConfig
from seisvel_jax.diffusion.condition import SOURCES, SPREAD_BY, drop, masked, of_training, subset_name
from seisvel_jax.diffusion.processes import process_of
from seisvel_jax.diffusion.sampler import SamplerConfig, sample
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.errors import UserError
from seisvel_jax.logging import chunks, progress, say
from seisvel_jax.metrics import mae, mape
from seisvel_jax.models.ensemble import over_members
from seisvel_jax.survey import Survey
from seisvel_jax.training.mesh import everywhere, my_rows, over_data, over_member, place_rows
from seisvel_jax.training.records import Records
from seisvel_jax.training.source import Source
from seisvel_jax.training.step import stream_key

LOSS_DRAWS = 4
"""Noises and conditions each held-out model's loss is the mean of."""


Judge = Callable[[Any, dict[str, Any], int, np.ndarray], tuple[jax.Array, jax.Array]]


def make_judge(config: DiffusionConfig, graphdef: Any, survey: Survey, mesh: Mesh) -> Judge:
    """`(params, batch, number of the batch, told) -> (loss [member, batch], samples [member, draw, batch, depth, x]
    m/s)`.

    Jitted, without dropout and augmentation; noise, levels and conditions depend on the number alone, so that every
    step is judged by the same. `told` `[4]` is 1 for each of SOURCES that the samples are given, 0 for the others;
    the family is then told of every other model.
    """
    scale, process = Scale(config.denoiser.bounds), process_of(config.process, config.log_levels)
    sampler = SamplerConfig(steps=config.validation_steps)

    def judge(params: Any, batch: dict, number: jax.Array, given: jax.Array) -> tuple[jax.Array, jax.Array]:
        clean = jnp.asarray(scale.to_unit(batch["velocity"]))

        def one(params: Any, member: jax.Array) -> tuple[jax.Array, jax.Array]:
            network = nnx.merge(graphdef, params)

            def answer(values: jax.Array, level: jax.Array, encoded: Any) -> jax.Array:
                return network(values, level, encoded, survey)

            def told(key: jax.Array) -> Any:
                return of_training(
                    batch["gathers"],
                    clean,
                    batch["family"],
                    key,
                    spacing=survey.grid.spacing,
                    config=config.condition,
                )

            def loss(key: jax.Array) -> jax.Array:
                told_key, drop_key, noise_key = jax.random.split(key, 3)
                known = drop(told(told_key), drop_key, config.condition)
                return jnp.asarray(process.loss(answer, clean, network.encode(known, survey), noise_key))

            def denoise(noisy: Any, sigma: Any, encoded: Any) -> jax.Array:
                return process.denoise(answer, noisy, sigma, encoded)

            key = stream_key(0, "validation", number)
            losses = jax.lax.map(loss, jax.random.split(jax.random.fold_in(key, 0), LOSS_DRAWS))
            every_other = jnp.asarray(np.arange(clean.shape[0]) % 2, jnp.float32)
            kept = {source: jnp.full(every_other.shape, given[place]) for place, source in enumerate(SOURCES)}
            known = masked(told(key), {**kept, "family": kept["family"] * every_other})
            drawn = sample(
                denoise,
                network.encode(known, survey),
                (clean.shape[0], *survey.grid.shape),
                jax.random.fold_in(key, 1 + member),  # noise of its own: all members' samples are judged as one set
                sampler,
                samples=config.validation_draws,
            )
            return jnp.mean(losses, axis=0), jnp.asarray(scale.to_velocity(drawn))

        return over_members(one, mesh)(params, jnp.arange(config.members))

    return jax.jit(
        judge,
        in_shardings=(over_member(mesh), over_data(mesh), everywhere(mesh), everywhere(mesh)),
        out_shardings=everywhere(mesh),
    )


@dataclass(frozen=True)
class DiffusionValidation:
    """Scores the averaged denoisers on the held-out models, and fits the temperatures of their spread there."""

    config: DiffusionConfig
    judge: Judge
    mesh: Mesh
    source: Source
    workdir: Path
    records: Records | None
    """None in all processes but the first: they judge with it, and leave the writing to it."""

    def __call__(self, ema: tuple, step: int) -> dict[str, Any]:
        """`{"postprocess", "validation"}` of the averaged parameters; {} without held-out models.

        Raises UserError where a member's loss or samples are not finite.
        """
        indices, rates = self.source.held_out, self.config.condition
        if len(indices) == 0:
            return {}
        given = ("gathers",) if rates.drop_gathers < 1 else ()
        calibration = Calibration(len(indices))
        losses: list[np.ndarray] = []
        shown: list[np.ndarray] = []
        errors: list[float] = []
        relative: list[float] = []
        for chunk, batch in self._batches():
            loss, samples = self._judged(ema, batch, len(losses), given, step)
            losses.append(loss[:, : len(chunk)])
            for row, position in enumerate(chunk):
                truth, mean = self.source.samples.velocity(int(indices[position])), samples[:, row].mean(0)
                calibration.add(samples[:, row], truth)
                errors.append(float(mae(mean, truth)))
                relative.append(float(mape(mean, truth)))
                if position < self.config.figures:
                    shown.append(samples[:, row])
        found = calibration.summary()
        values = {
            "loss": [float(one) for one in np.concatenate(losses, axis=1).mean(1)],
            "crps": found["crps"],
            "mae": float(np.mean(errors)),
            "mape": float(np.mean(relative)),
            "coverage_90": found["coverage"]["0.9"],
            "spread": found["spread"],
            "rmse": found["rmse_of_mean"],
            "temperature": found["temperature"],
        }
        if self.records is not None:
            self.records.add("validation", step, values)
        say(
            f"step {step}: validation loss {np.mean(values['loss']):.4f}; {found['samples']} samples given "
            f"{subset_name(given)}: "
            f"CRPS {values['crps']:.1f} m/s, MAE of their mean {values['mae']:.1f} m/s, 90 % intervals hold "
            f"{100 * values['coverage_90']:.0f} %, temperature {values['temperature']:.2f}"
        )
        if step:
            self._draw(shown, step)
        temperatures = {subset_name(given): values["temperature"]}
        if step and step == self.config.steps:
            temperatures |= self._temperatures(ema, step, given)
        return {"postprocess": temperatures, "validation": {"step": step, **values}}

    def _judged(
        self, ema: tuple, batch: dict[str, Any], number: int, given: tuple[str, ...], step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses `[member, batch]` and samples `[draw, batch, depth, x]` of all members in a row."""
        told = np.asarray([float(source in given) for source in SOURCES], np.float32)
        loss, drawn = (np.asarray(part) for part in self.judge(ema[0], batch, number, told))
        for name, own, samples in zip(self.config.member_names, loss, drawn):
            if not (np.isfinite(own).all() and np.isfinite(samples).all()):
                raise UserError(f"step {step}: {name} says values that are not finite; nothing was saved")
        return loss, drawn.reshape(-1, *drawn.shape[2:])

    def _temperatures(self, ema: tuple, step: int, known: tuple[str, ...]) -> dict[str, float]:
        """By `subset_name`: of samples given each subset, but for `known`, of what the network was ever told."""
        rates = self.config.condition
        ever = [source for source in SPREAD_BY if getattr(rates, f"drop_{source}") < 1]
        family = ("family",) if self.config.denoiser.families and rates.drop_family < 1 else ()
        found = {}
        subsets = [some for count in range(len(ever) + 1) for some in itertools.combinations(ever, count)]
        subsets.remove(known)
        for given in progress(subsets, "temperatures", unit="subset"):
            calibration = Calibration(len(self.source.held_out))
            for number, (chunk, batch) in enumerate(self._batches()):
                _, samples = self._judged(ema, batch, number, given + family, step)
                for row, position in enumerate(chunk):
                    index = int(self.source.held_out[position])
                    calibration.add(samples[:, row], self.source.samples.velocity(index))
            found[subset_name(given)] = calibration.summary()["temperature"]
        return found

    def _batches(self) -> Iterator[tuple[range, dict[str, Any]]]:
        """The held-out models in batches of one shape: the last is filled up. Each process reads its own rows."""
        source, size = self.source, self.config.batch_size
        mine = my_rows(self.mesh, size)
        for chunk in chunks(len(source.held_out), size):
            filled = np.resize(np.arange(chunk.start, chunk.stop), size)[mine]
            rows = [int(index) for index in source.held_out[filled]]
            batch = {
                "gathers": np.stack([source.samples.gathers(index) for index in rows]),
                "velocity": np.stack([source.samples.velocity(index) for index in rows]),
                "family": source.families[filled],
            }
            yield chunk, place_rows(self.mesh, batch)

    def _draw(self, shown: list[np.ndarray], step: int) -> None:
        from seisvel_jax.plotting import draw_comparison, draw_history

        if self.config.figures == 0 or self.records is None:
            return
        folder = self.workdir / "figures"
        for number, samples in enumerate(shown):
            index = int(self.source.held_out[number])
            path = folder / f"validation_{number}.png"
            draw_comparison(
                path,
                self.source.samples.gathers(index),
                self.source.samples.velocity(index),
                samples.mean(0),
                self.source.survey,
                f"{self.source.samples.names[index]}, step {step}: mean and spread of {len(samples)} samples",
                deviation=samples.std(axis=0),
            )
            self.records.figure(f"validation/{number}", path, step)
        draw_history(folder / "history.png", self.records.records, self.config.name)

"""Validation of a run: held-out samples are predicted, weights and post-processing fitted there and honestly scored."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from seisvel_jax.config import Config
from seisvel_jax.errors import UserError
from seisvel_jax.logging import chunks, say
from seisvel_jax.metrics import mape
from seisvel_jax.models.ensemble import predict_members
from seisvel_jax.models.weights import combine, fit_weights, median
from seisvel_jax.survey import Survey
from seisvel_jax.training.first_stage import FrozenStage
from seisvel_jax.training.mesh import everywhere, my_rows, over_data, over_member, place_rows
from seisvel_jax.training.records import Records
from seisvel_jax.training.source import spread

FIT_PIXELS = 2_000_000
"""Pixels (of one member) that weights and post-processing are fitted on at most: seconds, not minutes."""


def make_predict(
    graphdefs: tuple, survey: Survey, mesh: Mesh, stage: FrozenStage | None = None
) -> Callable[[tuple, Any], np.ndarray]:
    """`(params, gathers [batch, ...]) -> velocity [member, batch, depth, x]`, jitted, without dropout.

    Each process gives its own rows of the batch and gets the whole answer.
    """
    rows = over_data(mesh)
    jitted = jax.jit(
        lambda params, gathers, first: predict_members(graphdefs, params, gathers, survey, mesh, first=first),
        in_shardings=(over_member(mesh), rows, rows),
        out_shardings=everywhere(mesh),
    )

    def predict(params: tuple, gathers: Any) -> np.ndarray:
        gathers = place_rows(mesh, gathers)
        return np.asarray(jitted(params, gathers, None if stage is None else stage(gathers)))

    return predict


@dataclass(frozen=True)
class Validation:
    """Scores the ensemble on held-out samples, and fits its weights and post-processing there.

    What is fitted on these samples would flatter itself on them. So each half of them is also scored with what was
    fitted on the other half: `mape` (learned weights) and `mape_postprocessed` are these honest scores; the weights
    and parameters that are saved are fitted on both halves.
    """

    config: Config
    predict: Callable[[tuple, Any], np.ndarray]
    mesh: Mesh
    samples: Any
    indices: np.ndarray
    names: tuple[str, ...]
    workdir: Path
    records: Records | None
    """None in all processes but the first: they predict with it, and leave the writing to it."""

    def __call__(self, ema: tuple, step: int) -> dict[str, Any]:
        """`{"weights", "postprocess", "validation"}` of the averaged parameters; {} without validation samples.

        Raises UserError where a prediction is not finite.
        """
        if len(self.indices) == 0:
            return {}
        velocity, truth = self._predict_all(ema)
        for name, member in zip(self.names, velocity):
            if not np.isfinite(member).all():
                raise UserError(f"step {step}: {name} predicts values that are not finite; nothing was saved")

        weights, postprocess = self._fit(velocity, truth)
        answer = np.asarray(combine(velocity, weights))
        # Fitted on some of the samples perhaps: taken only where it is no worse on all of them.
        if mape(self._postprocessed(answer, postprocess), truth).mean() > mape(answer, truth).mean():
            postprocess = {}
        plain, processed = self._scores_on_other_half(velocity, truth)
        uniform = np.full(len(self.names), 1 / len(self.names), np.float32)
        values: dict[str, Any] = {
            "mape": float(plain.mean()),
            "mape_postprocessed": float(processed.mean()),
            "mape_uniform": float(mape(np.asarray(combine(velocity, uniform)), truth).mean()),
            "mape_median": float(mape(median(velocity), truth).mean()),
            "mape_members": [float(mape(member, truth).mean()) for member in velocity],
            "weights": [float(weight) for weight in weights],
        }
        if self.records is not None:
            self.records.add("validation", step, values)
        members = ", ".join(f"{100 * value:.2f}" for value in values["mape_members"])
        say(
            f"step {step}: validation MAPE {100 * values['mape']:.2f} % (weights fitted on the other half), "
            f"post-processed {100 * values['mape_postprocessed']:.2f}, uniform {100 * values['mape_uniform']:.2f}, "
            f"median {100 * values['mape_median']:.2f}; members {members}"
        )
        if step:
            self._draw(velocity, answer, truth, step)
        return {"weights": values["weights"], "postprocess": postprocess, "validation": {"step": step, **values}}

    def _predict_all(self, ema: tuple) -> tuple[np.ndarray, np.ndarray]:
        size = self.config.batch_size
        velocity = []
        for chunk in chunks(len(self.indices), size):
            # One shape, one compilation: the last batch is filled up. Each process reads its rows of it alone.
            filled = np.resize(self.indices[chunk.start : chunk.stop], size)
            gathers = np.stack([self.samples.gathers(int(index)) for index in filled[my_rows(self.mesh, size)]])
            velocity.append(self.predict(ema, gathers)[:, : len(chunk)])
        truth = np.stack([self.samples.velocity(int(index)) for index in self.indices])
        return np.concatenate(velocity, axis=1), truth

    def _fit(self, velocity: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        from seisvel_jax.inference.postprocess import fit_postprocess

        few = spread(np.arange(len(truth)), max(2, FIT_PIXELS // truth[0].size))
        weights = np.asarray(fit_weights(velocity[:, few], truth[few]), np.float32)
        answer = np.asarray(combine(velocity[:, few], weights))
        found = fit_postprocess(answer, truth[few], self.samples.survey.grid)
        return weights, {name: float(value) for name, value in found.items()}

    def _scores_on_other_half(self, velocity: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """MAPE of each sample with learned weights, and post-processed, both fitted on the other half."""
        halves = np.array_split(np.arange(len(truth)), 2)
        if len(truth) == 1:
            halves = [halves[0], halves[0]]
        plain, processed = [], []
        for fitted, scored in (halves, halves[::-1]):
            weights, postprocess = self._fit(velocity[:, fitted], truth[fitted])
            answer = np.asarray(combine(velocity[:, scored], weights))
            plain.append(mape(answer, truth[scored]))
            processed.append(mape(self._postprocessed(answer, postprocess), truth[scored]))
        return np.concatenate(plain), np.concatenate(processed)

    def _postprocessed(self, answer: np.ndarray, parameters: dict[str, float]) -> np.ndarray:
        from seisvel_jax.inference.postprocess import apply_postprocess

        return apply_postprocess(answer, parameters, self.samples.survey.grid)

    def _draw(self, velocity: np.ndarray, answer: np.ndarray, truth: np.ndarray, step: int) -> None:
        from seisvel_jax.plotting import draw_comparison, draw_history

        if self.config.figures == 0 or self.records is None:
            return
        folder = self.workdir / "figures"
        for k in range(min(self.config.figures, len(truth))):
            index = int(self.indices[k])
            path = folder / f"validation_{k}.png"
            title = f"{self.samples.names[index]}, step {step}"
            deviation = velocity[:, k].std(axis=0) if len(velocity) > 1 else None
            gathers = self.samples.gathers(index)
            draw_comparison(path, gathers, truth[k], answer[k], self.samples.survey, title, deviation=deviation)
            self.records.figure(f"validation/{k}", path, step)
        draw_history(folder / "history.png", self.records.records, self.config.name)

"""Finished runs as they are used: an ensemble to predict with, a diffusion model to draw samples from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from seisvel_jax.config import Config, DiffusionConfig
from seisvel_jax.diffusion.condition import subset_name
from seisvel_jax.errors import UserError
from seisvel_jax.logging import say
from seisvel_jax.survey import Survey
from seisvel_jax.training.checkpoint_files import best_first, config_of, load_tree, short, step_folders, verified
from seisvel_jax.training.manifest import Foreign
from seisvel_jax.training.state import abstract_params

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Run:
    """A trained ensemble, ready to predict with."""

    config: Config
    survey: Survey
    graphdefs: tuple
    """One a group, static."""
    params: tuple
    """Averaged (EMA) parameters: one pytree a group, leaves `[member, ...]`."""
    weights: np.ndarray
    """`[member]`, sums to 1: fitted on validation predictions."""
    postprocess: dict[str, float]
    """Post-processing parameters fitted on validation predictions; empty = none."""
    step: int
    metrics: dict[str, Any]
    """Validation metrics at this step; empty where the run was interrupted before one."""


@dataclass(frozen=True)
class DiffusionRun:
    """A trained diffusion model, ready to draw from."""

    config: DiffusionConfig
    survey: Survey
    graphdef: Any
    """Static; `nnx.merge(graphdef, one member's params)` is the network, a `Denoiser`."""
    params: Any
    """Averaged (EMA) parameters: leaves `[member, ...]`."""
    step: int
    metrics: dict[str, Any]
    """Validation metrics at this step; empty where the run was interrupted before one."""
    temperatures: dict[str, float]
    """For `calibration.tempered`, by `subset_name` of what is told: fitted on samples of the validation models. A run
    that has not ended has that of gathers alone; none where nothing was validated."""

    def temperature(self, *told: str) -> float:
        """Of samples given these SOURCES; that of gathers alone where there is none of its own, 1 without that."""
        return self.temperatures.get(subset_name(told), self.temperatures.get(subset_name(("gathers",)), 1.0))


def load_run(path: str | Path) -> Run:
    """The ensemble in `RUN` (its best checkpoint by validation MAPE, else the latest) or in `RUN/checkpoints/STEP`.

    A damaged checkpoint of a RUN is named and the next best taken. Raises UserError naming `path` where there is no
    usable checkpoint, one of a newer version, or a diffusion model.
    """
    return _load(path, _load_ensemble)


def load_diffusion(path: str | Path) -> DiffusionRun:
    """The diffusion model in `RUN` (its best checkpoint by validation CRPS, else the latest) or in
    `RUN/checkpoints/STEP`, with the refusals of `load_run`. Raises UserError for an ensemble, too.
    """
    return _load(path, _load_denoiser)


def _load(path: str | Path, load_step: Callable[[Path], Loaded]) -> Loaded:
    path = Path(path).absolute()
    if (path / "_CHECKPOINT_METADATA").is_file():
        return load_step(path)
    steps = step_folders(path)
    if not steps:
        raise UserError(f"{path}: no finished checkpoint here; expected the --workdir of a training run")
    for step in best_first(steps):
        try:
            return load_step(step)
        except Foreign:
            raise
        except UserError as error:
            say(f"warning: {error}")
    raise UserError(f"{path}: none of its {len(steps)} checkpoints can be read; train again")


def _load_ensemble(step: Path) -> Run:
    config, survey, graphdefs, params, values = _networks(step, Config)
    postprocess = {name: float(value) for name, value in values["postprocess"].items()}
    weights = np.asarray(values["weights"], np.float32)
    return Run(config, survey, graphdefs, params, weights, postprocess, values["step"], values["validation"])


def _load_denoiser(step: Path) -> DiffusionRun:
    config, survey, (graphdef,), (params,), values = _networks(step, DiffusionConfig)
    temperatures = {name: float(value) for name, value in values["postprocess"].items()}
    for given, temperature in temperatures.items():
        if not 0 < temperature < float("inf"):
            raise UserError(
                f"{step}: damaged: a temperature of {temperature} given {given}, expected a positive number"
            )
    return DiffusionRun(config, survey, graphdef, params, values["step"], values["validation"], temperatures)


def _networks(step: Path, kind: Any) -> tuple[Any, Survey, tuple, tuple, dict[str, Any]]:
    """Config, survey, graphdefs, averaged parameters and metadata of a checkpoint. Raises UserError."""
    values = verified(step, lambda name: not name.startswith("state/"))
    config = config_of(step, values, kind)
    try:
        survey = Survey.from_dict(values["survey"])
    except UserError as error:
        raise UserError(f"{step}: {error}") from error
    if len(values["weights"]) != config.members:
        raise UserError(f"{step}: {len(values['weights'])} ensemble weights for {config.members} members: damaged")
    try:
        graphdefs, abstract = abstract_params(config.groups, survey)
    except UserError as error:
        raise UserError(f"{step}: {error}") from error
    except Exception as error:
        raise Foreign(f"{step}: its config builds no model of this version of seisvel_jax ({short(error)})") from error
    return config, survey, graphdefs, load_tree(step, "ema", abstract), values

"""A diffusion run as the prior of an inversion, told nothing of the ground: RED-DiffEq, or a proximal step."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seisvel_jax.arrays import Array
from seisvel_jax.diffusion.condition import nothing
from seisvel_jax.diffusion.edm import Denoise
from seisvel_jax.diffusion.learned_prior import denoised, red_diffeq
from seisvel_jax.diffusion.processes import process_of
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.errors import UserError
from seisvel_jax.inference.posterior import fingerprint_of
from seisvel_jax.survey import Grid
from seisvel_jax.training.runs import DiffusionRun

PROXIMAL_SIGMA = 0.1
"""Noise, scaled (150 m/s), that the proximal step takes a model to have."""
SEED = 0
"""Of the noises of RED-DiffEq, drawn once: the same model has the same gradient, a resumed inversion the same bits."""


@dataclass(frozen=True)
class Learned:
    """The first member of a diffusion run, as `invert` takes a prior."""

    kind: str
    """`red-diffeq` or `proximal`."""
    weight: float
    """Of `red-diffeq` against the misfit; of `proximal` the share of the way to the denoised model, at most 1."""
    run: DiffusionRun

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf") or (self.kind == "proximal" and self.weight > 1):
            most = " and at most 1" if self.kind == "proximal" else ""
            raise UserError(f"--prior-weight {self.weight}: expected above 0{most} with --prior {self.kind}")

    @property
    def fingerprint(self) -> str:
        """Of the run's parameters."""
        return fingerprint_of(self.run)

    def arguments(self, grid: Grid, batch: int) -> dict[str, Any]:
        """What `invert` is given besides, for `batch` models on `grid`. Raises UserError for another spacing."""
        trained = self.run.survey.grid
        if abs(grid.spacing / trained.spacing - 1) > 1e-3:
            raise UserError(
                f"--prior {self.kind}: the inversion solves on {grid.spacing:g} m, the run of --prior-checkpoint was "
                f"trained on {trained.spacing:g} m: give --grid-spacing {trained.spacing:g}"
            )
        scale, denoise = Scale(self.run.config.denoiser.bounds), self._denoise(grid, batch)
        if self.kind == "red-diffeq":
            prior = red_diffeq(denoise, None, jax.random.key(SEED), scale)
            return {"prior": prior, "prior_weight": self.weight}

        @jax.jit
        def nearer(velocity: Array) -> jax.Array:
            velocity = jnp.asarray(velocity)
            clean = denoised(denoise, None, velocity, scale, sigma=PROXIMAL_SIGMA).astype(velocity.dtype)
            return velocity + jnp.asarray(self.weight, velocity.dtype) * (clean - velocity)

        return {"proximal": nearer}

    def _denoise(self, grid: Grid, batch: int) -> Denoise:
        run, process = self.run, process_of(self.run.config.process)
        survey = dataclasses.replace(run.survey, grid=grid)
        network = nnx.merge(run.graphdef, jax.tree.map(lambda leaf: leaf[0], run.params))
        encoded = jax.jit(lambda told: network.encode(told, survey))(nothing(batch, survey))

        def denoise(noisy: Any, sigma: Any, condition: Any) -> jax.Array:
            def answer(values: Any, level: Any, condition: Any) -> jax.Array:
                return network(values, level, encoded, survey)

            return process.denoise(answer, noisy, sigma, condition)

        return denoise

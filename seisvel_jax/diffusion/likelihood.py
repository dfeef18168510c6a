"""What measurements say about a model: observed = operator(clean) + noise. The operator may be the wave solver."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.wave.plan import Plan
from seisvel_jax.wave.propagate import run_plan


@dataclass(frozen=True)
class Likelihood:
    """Gaussian: ln p(observed | clean) = -1/2 sum ((observed - operator(clean)) / deviation)^2 + const."""

    operator: Callable[[Any], jax.Array]
    """Scaled velocity `[batch, depth, x]` to data `[batch, ...]`; differentiable both ways."""
    observed: Any
    """`[batch, ...]`; where `mask` is 0 the values do not matter, but must be finite."""
    deviation: Any = 1.0
    """Standard deviation of the noise in `observed`, in its unit; a number, or one of each row `[batch]`."""
    mask: Any = None
    """1 where a value was measured, 0 where it is missing; of the observed's shape, None = all."""

    def predict(self, clean: Array) -> jax.Array:
        """The operator's data with what was not measured set to 0."""
        return self._seen(self.operator(clean))

    def residual(self, clean: Array) -> jax.Array:
        """observed - operator(clean), 0 where nothing was measured."""
        return self._seen(jnp.asarray(self.observed)) - self.predict(clean)

    def log(self, clean: Array) -> jax.Array:
        """ln p(observed | clean) up to a constant: `[batch]`."""
        return -squares(self.residual(clean)) / (2 * self.deviation**2)

    def _seen(self, data: jax.Array) -> jax.Array:
        return data if self.mask is None else data * jnp.asarray(self.mask, data.dtype)


def of_gathers(
    observed: Array,
    plan: Plan,
    scale: Scale,
    deviation: Any,
    *,
    mask: Array | None = None,
    devices: int | None = None,
) -> Likelihood:
    """The likelihood of gathers `[batch, source, time, receiver]` through the wave solver.

    `plan` is `wave.plan.make_plan(survey, max_velocity)`. Velocities are kept within the scale's bounds before they are
    propagated, for samples still full of noise have no business in a solver; beyond the bounds the gradient is 0.
    `deviation` is the noise in the gathers' unit; make it larger to trust the solver or the survey less. Sample with
    `one_by_one`: the solver's derivatives cannot be mapped over samples. `devices`: as for `run_plan`, 1 inside
    `shard_map`.
    """
    low, high = scale.bounds

    def operator(clean: Array) -> jax.Array:
        return run_plan(jnp.clip(scale.to_velocity(jnp.asarray(clean)), low, high), plan, devices=devices)

    return Likelihood(operator, jnp.asarray(observed), deviation, mask)


def squares(values: jax.Array) -> jax.Array:
    """Sum of squares of each row: `[batch, ...] -> [batch]`."""
    return jnp.sum(values**2, axis=tuple(range(1, values.ndim)))

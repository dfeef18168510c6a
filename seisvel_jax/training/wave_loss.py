"""The wave equation as a training loss: what the predicted model would have sounded like, against what was recorded.

Needs no labels. The gradient is that of the discrete scheme (wave/adjoint.py), and memory is that of a few rows.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from seisvel_jax.arrays import Array, Float, Gathers, Int, PRNGKeyArray, Velocity
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey
from seisvel_jax.training.config import WaveLossConfig
from seisvel_jax.wave.checks import check_sampling
from seisvel_jax.wave.plan import Plan, make_plan
from seisvel_jax.wave.propagate import run_plan
from seisvel_jax.wave.scheme import scheme_of


class WaveLoss:
    """Relative misfit `sum (F(v) - d)^2 / sum d^2` of each sample over some of its shots, differentiable in v.

    `bounds` in m/s: velocities are clipped to them before they are simulated, as the time step asks for. Each device
    along the data axis of `mesh` simulates its own rows. Raises UserError where the survey's grid cannot carry the
    slowest of them.
    """

    def __init__(self, config: WaveLossConfig, survey: Survey, bounds: tuple[float, float], mesh: Mesh | None = None):
        scheme = replace(scheme_of(survey), memory=config.memory)
        check_sampling(survey, scheme.order, bounds[0])
        self.config, self.survey, self.bounds = config, survey, bounds
        self._plan = make_plan(survey, bounds[1], scheme)
        self._count = min(config.shots or survey.shot_count, survey.shot_count)
        if np.ndim(survey.wavelet) != 1:
            raise UserError(f"survey {survey.name}: shots that differ in more than their place: leave loss.wave out")
        self._mesh = mesh
        self._values_and_slopes = jax.custom_batching.custom_vmap(self._on_devices)
        self._values_and_slopes.def_vmap(self._fold_members)

    def shots(self, key: PRNGKeyArray) -> Int[Array, "shot"]:
        """The shots of one step, drawn without repetition."""
        return jax.random.permutation(key, self.survey.shot_count)[: self._count].astype(jnp.int32)

    def weight(self, step: Any) -> jax.Array:
        """The weight at a step: 0 before `begin`, `weight` from `full` on, linear in between."""
        config = self.config
        done = jnp.asarray(step, jnp.float32) - config.begin + 1
        return config.weight * jnp.clip(done / max(1, config.full - config.begin + 1), 0.0, 1.0)

    def __call__(self, prediction: Velocity, observed: Gathers, shots: Int[Array, "shot"]) -> Float[Array, "batch"]:
        """The misfit of each sample, `[batch]`, dimensionless: 1 for silence."""
        low, high = self.bounds
        velocity = jnp.clip(prediction, low, high)
        value, slope = jax.lax.stop_gradient(self._values_and_slopes(jax.lax.stop_gradient(velocity), observed, shots))
        # The value, and as its derivative the slope that was found with it: nothing is simulated twice, and nothing of
        # a row's wave field outlives the row.
        return value + jnp.sum(slope * (velocity - jax.lax.stop_gradient(velocity)), axis=(1, 2))

    def _on_devices(self, velocity: jax.Array, observed: jax.Array, shots: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`_row_by_row` of each device's own rows, side by side: the compiler would give every device all of them."""
        if self._mesh is None or self._mesh.shape["data"] == 1:
            return self._row_by_row(velocity, observed, shots)
        # Where the members are divided this is already inside the mesh, of which only the data axis is left to map.
        inside = bool(jax.sharding.get_abstract_mesh().manual_axes)
        rows = PartitionSpec("data")
        divided = jax.shard_map(
            self._row_by_row,
            mesh=None if inside else self._mesh,
            in_specs=(rows, rows, PartitionSpec()),
            out_specs=(rows, rows),
            axis_names=frozenset({"data"}),
            check_vma=False,
        )
        return divided(velocity, observed, shots)

    def _row_by_row(self, velocity: jax.Array, observed: jax.Array, shots: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Misfits `[batch]` and their gradients `[batch, depth, x]`, some rows at a time."""
        batch = velocity.shape[0]
        rows = next(count for count in range(min(self.config.rows, batch), 0, -1) if batch % count == 0)
        plan = some_shots(self._plan, shots)
        observed = jnp.take(observed, shots, axis=1)

        def some(velocity: jax.Array, observed: jax.Array) -> tuple[jax.Array, jax.Array]:
            def total(velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
                residual = run_plan(velocity, plan, devices=1) - observed
                if plan.record_start == 1:
                    residual = residual.at[:, :, -1].set(0)  # OpenFWI's last row holds no field
                energy = jnp.maximum(jnp.sum(observed**2, axis=(1, 2, 3)), 1e-30)
                values = jnp.sum(residual**2, axis=(1, 2, 3)) / energy
                return jnp.sum(values), values

            (_, values), slope = jax.value_and_grad(total, has_aux=True)(velocity)
            return values, slope

        parts = [array.reshape(batch // rows, rows, *array.shape[1:]) for array in (velocity, observed)]
        values, slopes = jax.lax.map(lambda part: some(*part), tuple(parts))
        return values.reshape(batch), slopes.reshape(velocity.shape)

    def _fold_members(
        self, members: int, batched: list[bool], velocity: jax.Array, observed: jax.Array, shots: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[bool, bool]]:
        """Members mapped by vmap are rows of a longer batch."""
        of_velocity, of_observed, of_shots = batched
        assert not of_shots, "the shots of a step are the same for all members"
        velocity, observed = (
            # A row's members side by side: so they stay on the row's device.
            array.swapaxes(0, 1) if has else jnp.broadcast_to(array[:, None], (len(array), members, *array.shape[1:]))
            for array, has in ((velocity, of_velocity), (observed, of_observed))
        )
        count = velocity.shape[0]
        values, slopes = self._values_and_slopes(
            velocity.reshape(count * members, *velocity.shape[2:]),
            observed.reshape(count * members, *observed.shape[2:]),
            shots,
        )
        values, slopes = values.reshape(count, members), slopes.reshape(velocity.shape)
        return (values.swapaxes(0, 1), slopes.swapaxes(0, 1)), (True, True)


def some_shots(plan: Plan, shots: Int[Array, "shot"]) -> Plan:
    """The plan of some of its shots, which may be traced; all fire the same wavelet."""
    nodes, weights = (jnp.take(jnp.asarray(a), shots, axis=1) for a in (plan.source_nodes, plan.source_weights))
    return replace(plan, source_nodes=nodes, source_weights=weights)

"""How (model, shot) pairs become chunks of lanes, and chunks are shared out to the devices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from seisvel_jax.arrays import Array
from seisvel_jax.wave.medium import layout_of
from seisvel_jax.wave.plan import Plan

CACHE = 1 << 20
"""Bytes of a core's own cache. The fields of one chunk should stay in it."""
FIELDS = 6
"""Three of pressure, two forces, one coefficient."""
MOST_LANES = 4


@dataclass(frozen=True)
class Spread:
    """Batch times shots, in chunks of lanes; the last chunks repeat the last pair. Static."""

    batch: int
    shots: int
    lanes: int
    devices: int

    @property
    def chunks(self) -> int:
        """A multiple of the devices."""
        count = -(-self.batch * self.shots // self.lanes)
        return count + -count % self.devices

    def numbers(self) -> tuple[jax.Array, jax.Array]:
        """Model and shot `[chunk, lane]`."""
        pair = jnp.minimum(jnp.arange(self.chunks * self.lanes, dtype=jnp.int32), self.batch * self.shots - 1)
        pair = pair.reshape(self.chunks, self.lanes)
        return pair // self.shots, pair % self.shots

    def chunked(self, values: Array) -> jax.Array:
        """`[batch, shot, ...]` as `[chunk, lane, ...]`, 0 in lanes that repeat: what they add counts once."""
        flat = values.reshape(-1, *values.shape[2:])
        extra = self.chunks * self.lanes - flat.shape[0]
        flat = jnp.pad(flat, ((0, extra), *[(0, 0)] * (flat.ndim - 1)))
        return flat.reshape(self.chunks, self.lanes, *values.shape[2:])

    def gathered(self, values: jax.Array) -> jax.Array:
        """`[chunk, lane, ...]` as `[batch, shot, ...]`."""
        flat = values.reshape(-1, *values.shape[2:])[: self.batch * self.shots]
        return flat.reshape(self.batch, self.shots, *values.shape[2:])

    def over_chunks(self, work: Callable[[Any, Any, Any], tuple[Any, Any]], total: Any, each: Any, whole: Any) -> tuple:
        """`work(total, one of each, whole) -> (total, result)`, chunk after chunk, on every device.

        each: leaves `[chunk, ...]`. Returns the totals `[device, ...]` and the results `[chunk, ...]`.
        """

        def on_device(total: Any, each: Any, whole: Any) -> tuple[Any, Any]:
            sums, results = jax.lax.scan(lambda sums, one: work(sums, one, whole), total, each)
            return jax.tree.map(lambda s: s[None], sums), results

        if self.devices == 1:
            return on_device(total, each, whole)
        mesh = Mesh(np.asarray(jax.local_devices()[: self.devices]), ("chunk",))
        split = PartitionSpec("chunk")
        return jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), split, PartitionSpec()),  # no closures: an array of an earlier run has its mesh
            out_specs=(split, split),
            check_vma=False,
        )(total, each, whole)


def spread_of(plan: Plan, batch: int, lanes: int | None = None, devices: int | None = None) -> Spread:
    """The spread that suits the backend: on a CPU lanes for the cache and chunks for the cores, else all at once."""
    count = batch * plan.shot_count
    devices = min(devices or jax.local_device_count(), count)
    if lanes is None:
        lanes = -(-count // devices)
        if jax.default_backend() == "cpu":
            field = layout_of(plan, 1).size * plan.dtype.itemsize
            most = max(1, min(MOST_LANES, CACHE // (FIELDS * field)))
            # The least work: a chunk costs its lanes, the repeated ones included, and about half a lane of its own.
            lanes = min(range(most, 0, -1), key=lambda n: Spread(batch, plan.shot_count, n, devices).chunks * (n + 0.5))
    return Spread(batch, plan.shot_count, lanes, devices)

"""The devices of a run as a mesh with axes (data, member): which device holds which rows and which members.

Members are shared out first, as far as they divide: members exchange nothing, and each device then keeps the
parameters and optimiser of its own members only. The rows of a batch are divided over what is left; there the gradients
are summed once a step. "data" is the outer axis, so each process holds whole rows of the mesh: equal parts of the
batch, read by nobody else, and a complete state.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seisvel_jax.config import Config, DiffusionConfig
from seisvel_jax.errors import UserError
from seisvel_jax.logging import say


def make_mesh(config: Config | DiffusionConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `devices` (default: all of all processes) for this config, as `choose_shape` divides them.

    Raises UserError.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda one: (one.process_index, one.id))
    members = tuple(group.members for group in config.groups)
    shape = choose_shape(len(devices), jax.process_count(), members, config.batch_size, config.mesh_member)
    return _mesh(np.asarray(devices).reshape(shape))


def one_device() -> Mesh:
    """The mesh of this process's first device alone."""
    return _mesh(np.asarray(jax.local_devices()[:1]).reshape(1, 1))


def _mesh(devices: np.ndarray) -> Mesh:
    return Mesh(devices, ("data", "member"), axis_types=(AxisType.Auto,) * 2)


def choose_shape(
    devices: int, processes: int, members: tuple[int, ...], batch_size: int, wanted: int | None = None
) -> tuple[int, int]:
    """Sizes of the axes (data, member) for so many devices and members a group.

    The member axis is `wanted`, or else the longest that divides the members of every group and the devices of one
    process, and leaves a data axis that divides the batch. Raises UserError where there is none.
    """
    local = devices // processes
    possible = [count for count in range(1, local + 1) if local % count == 0 and math.gcd(*members) % count == 0]
    if wanted is not None and wanted not in possible:
        raise UserError(
            f"--mesh-member {wanted}: expected a divisor of the members of each group ({_words(members)}) and of the "
            f"{local} devices of a process: {_words(possible)}"
        )
    fitting = [count for count in possible if batch_size % (devices // count) == 0 and wanted in (None, count)]
    if not fitting:
        rows = devices // (wanted or possible[-1])
        raise UserError(
            f"--batch-size {batch_size} cannot be shared out evenly over {rows} devices ({devices} in all, "
            f"{wanted or possible[-1]} on the member axis): give a multiple of {rows}, members that more devices can "
            "share, or fewer devices (CUDA_VISIBLE_DEVICES)"
        )
    return devices // fitting[-1], fitting[-1]


def say_mesh(mesh: Mesh, config: Config | DiffusionConfig) -> None:
    """Tell which devices there are, how the work is divided and, where members stay together, why."""
    devices = mesh.devices.ravel()
    data, member = mesh.devices.shape
    processes = len({device.process_index for device in devices})
    several = f", {processes} processes" if processes > 1 else ""
    say(f"device      {len(devices)} x {devices[0].device_kind} ({devices[0].platform}{several})")
    if len(devices) == 1:
        return
    members = [group.members for group in config.groups]
    say(
        f"mesh        data {data} x member {member}: a device holds {config.batch_size // data} of "
        f"{config.batch_size} samples and {_words([count // member for count in members])} of {_words(members)} members"
    )
    if data > 1 and config.mesh_member is None and member < math.gcd(*members):
        why = f"{len(devices) // processes} devices of a process and {_words(members)} members have no larger divisor"
        say(f"            {why} in common: the batch is divided, every device of a column has the same members")


def _words(numbers: Any) -> str:
    return ", ".join(str(number) for number in numbers)


def over_data(mesh: Mesh) -> NamedSharding:
    """Rows of a batch divided over the data axis; every device of a row of the mesh has the same ones."""
    return NamedSharding(mesh, PartitionSpec("data"))


def over_member(mesh: Mesh) -> NamedSharding:
    """Stacked members divided over the member axis; every device of a column of the mesh has the same ones."""
    return NamedSharding(mesh, PartitionSpec("member"))


def everywhere(mesh: Mesh) -> NamedSharding:
    """The same array on every device, so that every process can read all of it."""
    return NamedSharding(mesh, PartitionSpec())


def place_rows(mesh: Mesh, batch: Any) -> Any:
    """The global batch `[batch, ...]` on its devices from this process's rows of it, `[batch / processes, ...]`."""
    sharding = over_data(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def my_rows(mesh: Mesh, count: int) -> slice:
    """Which of `count` rows of a batch this process reads: its part, in the order of the processes."""
    processes = len({device.process_index for device in mesh.devices.flat})
    each = count // processes
    return slice(jax.process_index() * each, (jax.process_index() + 1) * each) if processes > 1 else slice(0, count)

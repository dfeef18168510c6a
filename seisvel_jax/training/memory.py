"""What a training step needs of a device by XLA's own analysis, and what to lower where it does not fit."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from seisvel_jax.config import Config
from seisvel_jax.errors import UserError
from seisvel_jax.models.ensemble import graphdefs
from seisvel_jax.survey import Survey
from seisvel_jax.training.mesh import over_data
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.state import abstract_state
from seisvel_jax.training.step import make_step

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs."""

    arguments: int
    """Parameters, averages, optimiser and batch: there between the steps too."""
    temporary: int
    """Activations, gradients and scratch space, at their highest."""

    @property
    def peak(self) -> int:
        """Both together: the state is donated, so the new one takes the place of the old."""
        return self.arguments + self.temporary


def lower_step(config: Config, survey: Survey, mesh: Mesh) -> Any:
    """The training step lowered for `mesh` (`jax.stages.Lowered`): nothing is allocated or run."""
    optimizer = make_optimizer(config.optim, config.steps)
    step = make_step(config, graphdefs(config.groups, survey), optimizer, survey, mesh)
    array = partial(jax.ShapeDtypeStruct, dtype=np.float32, sharding=over_data(mesh))
    batch = {
        "gathers": array((config.batch_size, *survey.gather_shape)),
        "velocity": array((config.batch_size, *survey.grid.shape)),
    }
    return step.lower(abstract_state(config.groups, survey, optimizer, mesh), batch)  # type: ignore[attr-defined]


def memory_of(compiled: Any) -> Memory:
    """What a compiled step needs on each device (`compiled.memory_analysis()`)."""
    found = compiled.memory_analysis()
    results = max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    code = found.generated_code_size_in_bytes
    return Memory(found.argument_size_in_bytes, found.temp_size_in_bytes + results + code)


def memory_limit(device: Any) -> int | None:
    """Bytes that may be allocated on `device`; of a CPU its share of the machine's memory. None where unknown."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform != "cpu":
        return None
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit of the container's own
        limit = min(limit, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return limit // jax.local_device_count()


def advice(config: Config, survey: Survey, mesh: Mesh, limit: int) -> str:
    """Which settings make the step fit into `limit` bytes a device, changing as little as can be; "" if it fits.

    Recomputed activations (`remat`) change no number, smaller batches with as many more of them accumulated almost
    none (gradients are the same means; augmentation and the order of sums differ).
    """
    need = partial(_need, survey=survey, mesh=mesh)
    now = need(config)
    if now is not None and now <= limit:
        return ""
    recomputing, flags = _with_remat(config)
    if flags and (after := need(recomputing)) is not None and after <= limit:
        return f"{_gib(now)} needed, {_gib(limit)} there: give {flags} ({_gib(after)})"
    rows = mesh.shape["data"]
    wanted = recomputing.batch_size
    smallest: Any = need(replace(recomputing, batch_size=rows))
    double = need(replace(recomputing, batch_size=2 * rows)) or smallest
    sizes = [size for size in range(wanted - 1, 0, -1) if size % rows == 0 and wanted % size == 0]
    for size in sizes if smallest is not None and smallest <= limit else []:
        # Memory grows with the batch almost in a straight line; the answer is checked by another compilation.
        if smallest + (size // rows - 1) * (double - smallest) > limit:
            continue
        times = wanted // size
        optim = replace(config.optim, accumulate=times * config.optim.accumulate)
        after = need(replace(recomputing, batch_size=size, optim=optim))
        if after is not None and after <= limit:
            flags = f"{flags} --batch-size {size} --optim.accumulate {optim.accumulate}".strip()
            return (
                f"{_gib(now)} needed, {_gib(limit)} there: give {flags} ({_gib(after)}), and {times} times the "
                "--steps for as many updates"
            )
    return (
        f"{_gib(smallest)} needed for a batch of {rows}, {_gib(limit)} there: give fewer members or a smaller "
        "network (groups.*.members, groups.*.model.width), or more devices to share the members"
    )


def _need(config: Config, survey: Survey, mesh: Mesh) -> int | None:
    """Peak bytes on a device; None where not even compiling finds enough memory."""
    try:
        return memory_of(lower_step(config, survey, mesh).compile()).peak
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def _with_remat(config: Config) -> tuple[Config, str]:
    """The config with all activations recomputed, and the words of the command line that say so ("" if none)."""
    groups, words = [], []
    for index, group in enumerate(config.groups):
        if getattr(group.model, "remat", True):
            groups.append(group)
        else:
            groups.append(replace(group, model=replace(group.model, remat=True)))  # type: ignore[arg-type]
            words.append(f"--groups.{index}.model.remat")
    return replace(config, groups=tuple(groups)), " ".join(words)


def _gib(count: int | None) -> str:
    return "more than can be compiled" if count is None else f"{count / GIB:.3g} GiB"


@contextlib.contextmanager
def out_of_memory_explained(config: Config, survey: Survey, mesh: Mesh) -> Iterator[None]:
    """Turn a device that runs out of memory, at compile time too, into a UserError that says what to lower."""
    problem = ""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        problem = " ".join(str(error).split())[:200]
    # Outside of `except`, where the error holds the arrays of the failed step no longer.
    if problem:
        device = mesh.local_devices[0]
        limit = memory_limit(device)
        cure = advice(config, survey, mesh, limit) if limit is not None else ""
        cure = cure or "close what else uses it, lower --batch-size (with --optim.accumulate), or give more devices"
        raise UserError(f"{device.device_kind}: out of memory: {cure}. JAX said: {problem}")

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

from seisvel_jax.config import Config, DiffusionConfig
from seisvel_jax.errors import UserError
from seisvel_jax.logging import say
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
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


def lower_step(config: Config, survey: Survey, mesh: Mesh, batch: dict[str, Any] | None = None) -> Any:
    """The training step lowered for `mesh` (`jax.stages.Lowered`): nothing is allocated or run.

    `batch` shows what the batches are like; by default gathers and velocity.
    """
    optimizer = make_optimizer(config.optim, config.steps)
    step = make_step(config, graphdefs(config.groups, survey), optimizer, survey, mesh)
    if batch is None:
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


@dataclass(frozen=True)
class Choice:
    """A config made to fit, and its step."""

    config: Config
    compiled: Any
    """`jax.stages.Compiled`; None where compiling itself ran out of memory."""
    needed: int | None
    """Bytes on a device as the config was given; None: more than can be compiled."""
    peak: int | None
    """Bytes on a device with this config."""
    limit: int

    @property
    def fits(self) -> bool:
        """Whether `peak` is there."""
        return self.peak is not None and self.peak <= self.limit

    def words(self, given: Config) -> str:
        """The words of the command line that make this config of `given`."""
        flags = [
            f"--groups.{index}.model.remat"
            for index, (new, old) in enumerate(zip(self.config.groups, given.groups))
            if new.model != old.model
        ]
        return " ".join([*flags, f"--parts {self.config.parts}"] if self.config.parts != given.parts else flags)


def choose(config: Config, survey: Survey, mesh: Mesh, limit: int, batch: dict[str, Any] | None = None) -> Choice:
    """The config that makes a step fit into `limit` bytes a device, changing as little as can be.

    First activations are recomputed (`remat`), which changes no number but by rounding; then the batch goes through in
    the fewest `parts` that fit, which changes the order of sums, and dropout's draws. Where nothing fits, the one that
    needs least: `fits` tells.
    """

    def attempt(wanted: Config) -> Choice:
        try:
            compiled = lower_step(wanted, survey, mesh, batch).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Choice(wanted, None, None, None, limit)
        return Choice(wanted, compiled, None, memory_of(compiled).peak, limit)

    given = attempt(config)

    def answer(choice: Choice) -> Choice:
        return replace(choice, needed=given.peak)

    if given.fits:
        return answer(given)
    recomputing = _with_remat(config)
    if recomputing != config and (found := attempt(recomputing)).fits:
        return answer(found)
    rows = mesh.shape["data"]
    size = config.batch_size
    possible = [n for n in range(config.parts + 1, size + 1) if size % n == 0 and size // n % rows == 0]
    if not possible:
        return answer(attempt(recomputing))
    least = attempt(replace(recomputing, parts=possible[-1]))
    if least.peak is None or not least.fits or len(possible) == 1:
        return answer(least)
    last = attempt(replace(recomputing, parts=possible[-2]))
    # Memory grows with a part almost in a straight line; the answer is checked by another compilation.
    a_sample = ((last.peak or least.peak) - least.peak) / (size // possible[-2] - size // possible[-1])
    for parts in possible[:-1]:
        if least.peak + (size // parts - size // possible[-1]) * a_sample <= limit:
            found = last if parts == possible[-2] else attempt(replace(recomputing, parts=parts))
            if found.fits:
                return answer(found)
    return answer(least)


def advice(config: Config, survey: Survey, mesh: Mesh, limit: int) -> str:
    """Which settings make the step fit into `limit` bytes a device (`choose`), in words; "" if it fits."""
    choice = choose(config, survey, mesh, limit)
    if not choice.fits:
        rows = config.batch_size // choice.config.parts
        return (
            f"{_gib(choice.peak)} needed for {rows} samples at a time, {_gib(limit)} there: give fewer members or a "
            "smaller network (groups.*.members, groups.*.model.width), or more devices to share the members"
        )
    if choice.config == config:
        return ""
    return f"{_gib(choice.needed)} needed, {_gib(limit)} there: give {choice.words(config)} ({_gib(choice.peak)})"


def fit(config: Config, survey: Survey, mesh: Mesh, batch: dict[str, Any] | None = None) -> tuple[Config, Any]:
    """The config to train with, and its step, compiled: as it is given, or made to fit by `choose`, saying so.

    With `memory="given"`, or where the devices do not tell their memory, the config stays as it is.
    """
    limit = _least_limit(mesh)
    if config.memory == "given" or limit is None:
        return config, lower_step(config, survey, mesh, batch).compile()
    choice = choose(config, survey, mesh, limit, batch)
    if choice.compiled is None or not choice.fits:
        say(f"warning: a step does not seem to fit: {_gib(choice.peak)} of {_gib(limit)} at least; trying all the same")
        return config, lower_step(config, survey, mesh, batch).compile()
    if choice.config != config:
        flags = choice.words(config)
        say(f"memory      {_gib(choice.needed)} a device needed, {_gib(limit)} there: goes on as with {flags}")
    say(f"memory      {_gib(choice.peak)} of {_gib(limit)} a device (XLA's analysis)")
    return choice.config, choice.compiled


def keep(config: Config, saved: Config) -> Config:
    """`config` with the memory that the run `saved` was made to save, so that it goes on with the same program."""
    if config.memory == "given":
        return config
    groups = zip(config.groups, saved.groups)
    return replace(
        config,
        groups=tuple(_remat(group) if getattr(old.model, "remat", False) else group for group, old in groups),
        parts=max(config.parts, saved.parts),
    )


def _least_limit(mesh: Mesh) -> int | None:
    """`memory_limit` of this process's devices, the least of all processes: they must all choose the same."""
    limit = memory_limit(mesh.local_devices[0])
    if jax.process_count() == 1:
        return limit
    from jax.experimental.multihost_utils import process_allgather

    least = float(np.min(process_allgather(np.float32(limit or 0))))
    return int(least) or None


def _remat(group: GroupConfig) -> GroupConfig:
    if not isinstance(group.model, VelocityNetConfig):
        return group
    return replace(group, model=replace(group.model, remat=True))


def _with_remat(config: Config) -> Config:
    """The config with all activations recomputed, where its networks can."""
    return replace(config, groups=tuple(_remat(group) for group in config.groups))


def _gib(count: int | None) -> str:
    return "more than can be compiled" if count is None else f"{count / GIB:.3g} GiB"


@contextlib.contextmanager
def out_of_memory_explained(config: Config | DiffusionConfig, survey: Survey, mesh: Mesh) -> Iterator[None]:
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
        smaller = "raise --parts" if isinstance(config, Config) else "lower --batch-size"
        cure = advice(config, survey, mesh, limit) if limit is not None and isinstance(config, Config) else ""
        cure = cure or f"close what else uses it, {smaller}, or give more devices"
        raise UserError(f"{device.device_kind}: out of memory: {cure}. JAX said: {problem}")

"""`--dry-run`: what a run would need and how fast it could be, without training and without writing anything."""

import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.config import Config
from seisvel_jax.data.online import Simulated
from seisvel_jax.logging import say
from seisvel_jax.models.ensemble import member_names
from seisvel_jax.survey import Survey
from seisvel_jax.training.first_stage import resolved
from seisvel_jax.training.memory import GIB, advice, lower_step, memory_limit, memory_of
from seisvel_jax.training.mesh import make_mesh, one_device, say_mesh
from seisvel_jax.training.source import dataset_and_survey
from seisvel_jax.training.state import abstract_params


def dry_run(config: Config) -> dict[str, Any]:
    """Compile the step for this machine's devices and tell what it needs; return the numbers.

    FLOPs are XLA's count for the whole step before it is divided (recomputation included). Peak memory is XLA's
    analysis of the compiled program, for one device. Samples/s are an upper bound: the step at the rate of a plain
    matrix product measured here and now, nothing lost to reading, memory traffic or communication. Raises UserError
    as training would for its data and devices.
    """
    config = resolved(config)
    survey = dataset_and_survey(config)[1]
    mesh = make_mesh(config)
    say_mesh(mesh, config)
    result: dict[str, Any] = {"mesh": dict(mesh.shape), "parameters": parameter_counts(config, survey)}
    for index, (group, count) in enumerate(zip(config.groups, result["parameters"])):
        say(f"group {index}     {group.members} members of {count:,} parameters; {group.members * count:,} in all")
    say(f"members     {', '.join(member_names(config.groups))}")

    start = time.perf_counter()
    lowered = lower_step(config, survey, mesh)
    # XLA counts the body of a loop once: all parts in one, as if on one device.
    at_once = replace(config, parts=1)
    whole = lowered if (mesh.size, config.parts) == (1, 1) else lower_step(at_once, survey, one_device())
    result["flop_a_step"] = float((whole.cost_analysis() or {}).get("flops", 0.0))
    say(f"step        {_si(result['flop_a_step'])}FLOP, {_si(result['flop_a_step'] / config.batch_size)}FLOP a sample")

    limit = memory_limit(mesh.local_devices[0])
    result["memory_limit_bytes"] = limit
    try:
        needed = memory_of(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = None
    there = f" of {limit / GIB:.3g} GiB" if limit else ""
    if needed is not None:
        result |= {"peak_bytes": needed.peak, "state_bytes": needed.arguments}
        say(
            f"memory      {needed.peak / GIB:.3g} GiB{there} a device: {needed.arguments / GIB:.3g} of state and "
            f"batch, {needed.temporary / GIB:.3g} while the step runs (XLA's analysis)"
        )
    say(f"compiled    in {time.perf_counter() - start:.0f} s")
    result["advice"] = advice(config, survey, mesh, limit) if limit and (not needed or needed.peak > limit) else ""
    if result["advice"]:
        then = "; training does so by itself" if config.memory == "fit" and "give --" in result["advice"] else ""
        say(f"warning: does not fit: {result['advice']}{then}")

    rate = matmul_rate(config)
    result["matmul_flop_a_second"] = rate
    result["samples_a_second_at_most"] = config.batch_size * rate * mesh.size / max(result["flop_a_step"], 1.0)
    say(
        f"speed       {result['samples_a_second_at_most']:.3g} samples/s at most: an estimate, at the "
        f"{_si(rate)}FLOP/s that a plain matrix product reaches on each device"
    )
    if config.data.online is not None:
        simulated = Simulated(config.data.online, survey, config.data.seed, mesh)
        seconds = simulation_seconds(simulated, config.data.online.rows(config.batch_size))
        result["online_samples_a_second"] = config.data.online.rows(config.batch_size) / seconds
        say(
            f"online      {result['online_samples_a_second']:.3g} samples/s drawn and simulated, measured: "
            f"{simulated.words}; {seconds:.3g} s of every step"
        )
    return result


def simulation_seconds(simulated: Simulated, rows: int) -> float:
    """Seconds to draw and simulate the rows of one step, once it is compiled; the better of two."""
    times = []
    for step in range(3):  # of one program even where several sponges take turns
        start = time.perf_counter()
        jax.block_until_ready(simulated("training", step * simulated.programs, rows))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def parameter_counts(config: Config, survey: Survey) -> list[int]:
    """Parameters of one member of each group."""
    _, trees = abstract_params(config.groups, survey)
    return [sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(tree)) for tree in trees]


def matmul_rate(config: Config) -> float:
    """FLOP/s that a square matrix product in the first group's dtype reaches on this process's first device."""
    device = jax.local_devices()[0]
    size = 1024 if device.platform == "cpu" else 8192
    matrix = jax.device_put(jnp.ones((size, size), config.groups[0].model.dtype), device)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(matrix))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(matrix))
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _si(value: float) -> str:
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "

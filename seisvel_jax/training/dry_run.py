"""`--dry-run`: what a run would need and how fast it could be, without training and without writing anything."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seisvel_jax.config import Config, DiffusionConfig
from seisvel_jax.data.online import Simulated
from seisvel_jax.logging import say
from seisvel_jax.models.ensemble import member_names
from seisvel_jax.survey import Survey
from seisvel_jax.training.diffusion_step import make_diffusion_step
from seisvel_jax.training.first_stage import resolved
from seisvel_jax.training.memory import GIB, advice, lower_step, memory_limit, memory_of
from seisvel_jax.training.mesh import make_mesh, one_device, over_data, say_mesh
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.source import dataset_and_survey, solved_survey
from seisvel_jax.training.state import abstract_params, abstract_state


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
    result["flop_a_step"] = _tell_flop(whole, config.batch_size)
    result |= _tell_memory(lowered, mesh)
    say(f"compiled    in {time.perf_counter() - start:.0f} s")
    result["advice"] = "" if _fits(result) else advice(config, survey, mesh, result["memory_limit_bytes"])
    if result["advice"]:
        then = "; training does so by itself" if config.memory == "fit" and "give --" in result["advice"] else ""
        say(f"warning: does not fit: {result['advice']}{then}")
    result |= _tell_speed(result["flop_a_step"], config.batch_size, mesh, config.groups[0].model.dtype)
    return result | _tell_online(config, survey, mesh)


def dry_run_diffusion(config: DiffusionConfig) -> dict[str, Any]:
    """`dry_run` for a diffusion model. Its training makes no step fit by itself: `advice` says what to lower."""
    survey = dataset_and_survey(config)[1]
    mesh = make_mesh(config)
    say_mesh(mesh, config)
    result: dict[str, Any] = {"mesh": dict(mesh.shape), "parameters": parameter_counts(config, survey)}
    (count,) = result["parameters"]
    say(f"members     {config.members} of {count:,} parameters; {config.members * count:,} in all; {config.process}")

    start = time.perf_counter()
    lowered = lower_diffusion_step(config, survey, mesh)
    whole = lowered if mesh.size == 1 else lower_diffusion_step(config, survey, one_device())
    result["flop_a_step"] = _tell_flop(whole, config.batch_size)
    result |= _tell_memory(lowered, mesh)
    say(f"compiled    in {time.perf_counter() - start:.0f} s")
    cure = "give --denoiser.encoder.remat, a smaller --batch-size or --denoiser.encoder.width, or more devices"
    result["advice"] = "" if _fits(result) else cure
    if result["advice"]:
        say(f"warning: does not fit: {cure}")
    result |= _tell_speed(result["flop_a_step"], config.batch_size, mesh, config.denoiser.encoder.dtype)
    return result | _tell_online(config, survey, mesh)


def lower_diffusion_step(config: DiffusionConfig, survey: Survey, mesh: Mesh) -> Any:
    """`memory.lower_step` of a diffusion model: nothing is allocated or run."""
    (graphdef,), _ = abstract_params(config.groups, survey)
    optimizer = make_optimizer(config.optim, config.steps)
    step = make_diffusion_step(config, graphdef, optimizer, survey, mesh)
    array = partial(jax.ShapeDtypeStruct, sharding=over_data(mesh))
    batch = {
        "gathers": array((config.batch_size, *survey.gather_shape), np.float32),
        "velocity": array((config.batch_size, *survey.grid.shape), np.float32),
        "family": array((config.batch_size,), np.int32),
    }
    return step.lower(abstract_state(config.groups, survey, optimizer, mesh), batch)  # type: ignore[attr-defined]


def _tell_flop(whole: Any, batch_size: int) -> float:
    """FLOPs of a step that is lowered for one device."""
    flop = float((whole.cost_analysis() or {}).get("flops", 0.0))
    say(f"step        {_si(flop)}FLOP, {_si(flop / batch_size)}FLOP a sample")
    return flop


def _tell_memory(lowered: Any, mesh: Mesh) -> dict[str, Any]:
    """Compile the step; bytes there, and bytes needed unless compiling itself runs out of memory."""
    limit = memory_limit(mesh.local_devices[0])
    try:
        needed = memory_of(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"memory_limit_bytes": limit}
    there = f" of {limit / GIB:.3g} GiB" if limit else ""
    say(
        f"memory      {needed.peak / GIB:.3g} GiB{there} a device: {needed.arguments / GIB:.3g} of state and "
        f"batch, {needed.temporary / GIB:.3g} while the step runs (XLA's analysis)"
    )
    return {"memory_limit_bytes": limit, "peak_bytes": needed.peak, "state_bytes": needed.arguments}


def _fits(told: dict[str, Any]) -> bool:
    """By what `_tell_memory` found; also where the device does not say what it has."""
    limit = told["memory_limit_bytes"]
    return not limit or told.get("peak_bytes", limit + 1) <= limit


def _tell_speed(flop: float, batch_size: int, mesh: Mesh, dtype: str) -> dict[str, float]:
    rate = matmul_rate(dtype)
    seconds = max(flop, 1.0) / (rate * mesh.size)
    say(
        f"speed       {batch_size / seconds:.3g} samples/s at most, {seconds:.3g} s a step at least: an estimate, at "
        f"the {_si(rate)}FLOP/s that a plain matrix product reaches on each device"
    )
    return {
        "matmul_flop_a_second": rate,
        "samples_a_second_at_most": batch_size / seconds,
        "seconds_a_step_at_least": seconds,
    }


def _tell_online(config: Config | DiffusionConfig, survey: Survey, mesh: Mesh) -> dict[str, float]:
    """Measured: how long drawing and simulating takes, at every step or once; {} where all data are stored."""
    data, online = config.data, config.data.online
    if online is None:
        return {}
    labels = config.denoiser.families if isinstance(config, DiffusionConfig) else None
    simulated = Simulated(online, solved_survey(data, survey), data.seed, mesh, labels)
    rows = online.rows(config.batch_size)
    seconds = simulation_seconds(simulated, rows)
    often = f"{seconds:.3g} s of every step"
    if online.pool:
        often = f"{online.pool * seconds / rows:.3g} s for the {online.pool} of the pool, once"
    say(f"online      {rows / seconds:.3g} samples/s drawn and simulated, measured: {simulated.words}; {often}")
    return {"online_samples_a_second": rows / seconds}


def simulation_seconds(simulated: Simulated, rows: int) -> float:
    """Seconds to draw and simulate the rows of one step, once it is compiled; the mean where boundaries take turns."""
    mean = 0.0
    for step, share in simulated.turns.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(simulated("training", step, rows))
            times.append(time.perf_counter() - start)
        mean += share * min(times[1:])
    return mean


def parameter_counts(config: Config | DiffusionConfig, survey: Survey) -> list[int]:
    """Parameters of one member of each group."""
    _, trees = abstract_params(config.groups, survey)
    return [sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(tree)) for tree in trees]


def matmul_rate(dtype: str) -> float:
    """FLOP/s that a square matrix product of this dtype reaches on this process's first device."""
    device = jax.local_devices()[0]
    size = 1024 if device.platform == "cpu" else 8192
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
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

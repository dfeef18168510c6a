"""The default network at full size on CPU: parameters, FLOPs and memory of a step of 5 members, and of prediction.

    python benchmarks/default_config.py step        # one training step, 5 members, batch 1
    python benchmarks/default_config.py predict     # 20 full-size samples, 5 members, 2 at a time

Prints one JSON line; docs/network.md quotes it.
"""

import json
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.models.ensemble import apply_member, graphdefs, init_params, over_members, predict_members
from seisvel_jax.survey import speed_and_structure

MEMBERS = 5


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "step"
    survey = speed_and_structure(dt=1e-3)
    groups = (GroupConfig(VelocityNetConfig(), MEMBERS),)
    structure = graphdefs(groups, survey)
    start = time.perf_counter()
    params = jax.block_until_ready(jax.jit(lambda key: init_params(groups, survey, key))(jax.random.key(0)))
    result: dict[str, Any] = {"kind": kind, "init_s": round(time.perf_counter() - start, 1)}
    result["parameters_a_member"] = sum(leaf.size for leaf in jax.tree.leaves(params)) // MEMBERS

    batch = 1 if kind == "step" else 2
    gathers = 0.0155 * jax.random.normal(jax.random.key(1), (batch, *survey.gather_shape))
    start = time.perf_counter()
    if kind == "step":
        optimizer = optax.adamw(1e-4)
        moments = jax.vmap(optimizer.init)(params[0])
        keys = jax.random.split(jax.random.key(2), MEMBERS)

        def member_step(one: Any, state: Any, key: jax.Array) -> Any:
            def loss(one: Any) -> jax.Array:
                return jnp.abs(apply_member(structure[0], one, gathers, survey, key) / 2500 - 1).mean()

            value, gradient = jax.value_and_grad(loss)(one)
            update, state = optimizer.update(gradient, state, one)
            return optax.apply_updates(one, update), state, value

        step = jax.jit(over_members(member_step), donate_argnums=(0, 1)).lower(params[0], moments, keys).compile()
        result["compile_s"] = round(time.perf_counter() - start, 1)
        result["step_gflop"] = round(step.cost_analysis()["flops"] / 1e9)
        start = time.perf_counter()
        *_, values = jax.block_until_ready(step(params[0], moments, keys))
        result["step_s"] = round(time.perf_counter() - start, 1)
        result["finite"] = bool(jnp.isfinite(values).all())
    else:
        predict = jax.jit(lambda p, g: predict_members(structure, p, g, survey)).lower(params, gathers).compile()
        result["compile_s"] = round(time.perf_counter() - start, 1)
        result["gflop_a_sample_and_member"] = round(predict.cost_analysis()["flops"] / 1e9 / batch / MEMBERS, 1)
        start = time.perf_counter()
        for _ in range(10):
            jax.block_until_ready(predict(params, gathers))
        result["predict_20_s"] = round(time.perf_counter() - start, 1)
    result["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""One jitted step of K stacked members against K separate jitted steps, and against PyTorch on CPU.

    python benchmarks/ensemble_step.py [--torch-python OTHER_VENV/bin/python] [--members 1 3 5] [--repeats 7]

A step is forward, backward and AdamW of a small VelocityNet on the challenge's geometry (5, 1001, 31) -> (252, 60).
`separate` calls one jitted step K times; `unrolled`, `map` and `vmap` are one jitted function of stacked parameters.
The PyTorch version of the same network runs in a subprocess of its own interpreter, member after member, without
torch.compile; it has the same shapes and products, with ones in place of the position features. Under
`taskset -c 0` all run on one core. Medians of wall time and of CPU time; CPU time is the steadier of the two where
others use the machine. Writes benchmarks/results/ensemble_step_<backend>.{json,md}.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIZES = dict(
    width=96,
    heads=4,
    encoder_layers=1,
    decoder_layers=1,
    stem_channels=(16, 32),
    stem_blocks=(1, 1),
    patch_duration=0.04,
    token_duration=0.08,
    receiver_tokens=2,
    moments=(2, 4),
    patch_shape=(12, 12),
    refine_channels=0,
    dropout=0.0,
    spacing=5.0,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has torch 2.13")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--forms", nargs="+", default=["separate", "unrolled", "map", "vmap"])
    arguments = parser.parse_args()
    rows = run_jax(arguments) + run_torch(arguments)
    write(rows, arguments)


def measure(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median wall and CPU milliseconds, and the spread of the wall times (max - min) as noise."""
    call()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(1e3 * (time.perf_counter() - wall))
        cpus.append(1e3 * (time.process_time() - cpu))
    return {
        "wall_ms": round(statistics.median(walls), 1),
        "wall_min_ms": round(min(walls), 1),
        "wall_max_ms": round(max(walls), 1),
        "cpu_ms": round(statistics.median(cpus), 1),
    }


def run_jax(arguments: argparse.Namespace) -> list[dict]:
    import jax
    import jax.numpy as jnp
    import optax

    from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
    from seisvel_jax.models.ensemble import apply_member, graphdefs, init_params
    from seisvel_jax.survey import speed_and_structure

    survey = speed_and_structure(spacing=5, dt=1e-3)
    gathers = 0.0155 * jax.random.normal(jax.random.key(1), (arguments.batch, *survey.gather_shape))
    truth = jnp.full((arguments.batch, *survey.grid.shape), 2500.0)
    optimizer = optax.adamw(1e-3)
    rows = []
    for count in arguments.members:
        groups = (GroupConfig(VelocityNetConfig(**SIZES), count),)
        structure = graphdefs(groups, survey)[0]
        params = jax.jit(lambda key, groups=groups: init_params(groups, survey, key))(jax.random.key(0))[0]
        moments = jax.vmap(optimizer.init)(params)

        # The batch is an argument everywhere: as a constant XLA would compute part of the network while compiling.
        def one(params: Any, moments: Any, gathers: Any, truth: Any, structure: Any = structure) -> tuple:
            def loss(params: Any) -> jax.Array:
                return (jnp.abs(apply_member(structure, params, gathers, survey) - truth) / truth).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            update, moments = optimizer.update(gradient, moments, params)
            return optax.apply_updates(params, update), moments, value

        def unrolled(params: Any, moments: Any, *batch: Any, one: Callable = one, count: int = count) -> Any:
            stacked = (params, moments)
            results = [one(*jax.tree.map(lambda leaf, k=k: leaf[k], stacked), *batch) for k in range(count)]
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

        forms = {
            "unrolled": unrolled,
            "map": lambda params, moments, *batch, one=one: jax.lax.map(
                lambda both: one(*both, *batch), (params, moments)
            ),
            "vmap": jax.vmap(one, in_axes=(0, 0, None, None)),
        }
        for form in arguments.forms:
            start = time.perf_counter()
            if form == "separate":
                members = [jax.tree.map(lambda leaf, k=k: leaf[k], (params, moments)) for k in range(count)]
                step = jax.jit(one).lower(*members[0], gathers, truth).compile()

                def call(step: Any = step, members: list = members) -> None:
                    jax.block_until_ready([step(*both, gathers, truth) for both in members])
            else:
                step = jax.jit(forms[form]).lower(params, moments, gathers, truth).compile()

                def call(step: Any = step, params: Any = params, moments: Any = moments) -> None:
                    jax.block_until_ready(step(params, moments, gathers, truth))

            compiled = round(time.perf_counter() - start, 1)
            row = {"library": "jax", "form": form, "members": count, "compile_s": compiled}
            rows.append(row | measure(call, arguments.repeats))
            print(rows[-1], file=sys.stderr, flush=True)
    arguments.hardware = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "jax": jax.__version__,
    }
    return rows


def run_torch(arguments: argparse.Namespace) -> list[dict]:
    script = HERE / "ensemble_step_torch.py"
    task = {"sizes": SIZES, "batch": arguments.batch, "members": arguments.members, "repeats": arguments.repeats}
    done = subprocess.run(
        [arguments.torch_python, str(script), json.dumps(task)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"PyTorch not measured: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return []
    return json.loads(done.stdout)


def write(rows: list[dict], arguments: argparse.Namespace) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
    )
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "hardware": arguments.hardware,
        "load": os.getloadavg(),
        "batch": arguments.batch,
        "sizes": SIZES,
        "rows": rows,
    }
    target = HERE / "results" / f"ensemble_step_{arguments.hardware['backend']}"
    target.parent.mkdir(exist_ok=True)
    target.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    base = {row["members"]: row for row in rows if row["form"] == "separate"}
    lines = [
        f"# ensemble_step, {result['date']}, commit {result['commit']}, {arguments.hardware}",
        "",
        f"Load average at the end {[round(one, 1) for one in result['load']]}, batch {arguments.batch}.",
        "Ratios: time of K separate jitted steps over this one (above 1: faster than separate).",
        "",
        "| library | form | K | compile s | wall ms (min-max) | CPU ms | ratio wall (min) | ratio CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        other = base.get(row["members"])
        ratios = ["", ""]
        if other:
            ratios = [f"{other[name] / row[name]:.2f}" for name in ("wall_min_ms", "cpu_ms")]
        lines.append(
            f"| {row['library']} | {row['form']} | {row['members']} | {row.get('compile_s', '')} "
            f"| {row['wall_ms']} ({row['wall_min_ms']}-{row['wall_max_ms']}) | {row['cpu_ms']} "
            f"| {ratios[0]} | {ratios[1]} |"
        )
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

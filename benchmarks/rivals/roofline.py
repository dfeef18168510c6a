"""What this machine can do at most, measured: triad bandwidth from L2, L3 and memory, and multiply-adds; roofline.c.

`attainable` turns it into cell updates a second, with the traffic that an ideal kernel of the scheme would cause.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

FORWARD_BYTES = 16
"""A forward step of a cell: read p, p_before and c2, write p_next, float32. Layers, sources and recording are free."""
GRADIENT_BYTES = 48
"""Forward 16, store p 4, adjoint step 16, read p 4, read and write the gradient 8; nothing computed twice."""
LEVELS = ("L2", "L3", "memory")


def operations(order: int) -> int:
    """Additions and multiplications of a forward step of a cell."""
    return 5 * (order // 2) + 5


def cache_bytes() -> tuple[int, int]:
    """Sizes of L2 (a core) and L3 (all); the usual ones where the system does not say."""
    found = [1 << 20, 32 << 20]
    for index in range(5):
        folder = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}")
        if not (folder / "size").exists():
            continue
        level, size = int((folder / "level").read_text()), (folder / "size").read_text().strip()
        if level >= 2:
            found[level - 2] = int(size.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}[size[-1]]
    return found[0], found[1]


def measure(threads: int, seconds: float = 0.25) -> dict[str, float]:
    """GB/s of a triad with all its arrays in L2, L3 and memory, and GFLOP/s; best of 3 trials, all threads at once."""
    from rivals.compiled import library, pointer

    code = library("roofline.c")
    l2, l3 = cache_bytes()
    sizes = {"L2": l2 // 2, "L3": l3 // 3 // threads, "memory": max(256 << 20, 4 * l3) // threads}
    result = {}
    cores = sorted(os.sched_getaffinity(0))[:threads]

    def all_threads(work) -> float:
        def one(k: int) -> None:
            os.sched_setaffinity(0, {cores[k]})  # of this thread alone
            work(k)

        with ThreadPoolExecutor(threads) as pool:
            best = np.inf
            for _ in range(3):
                began = time.perf_counter()
                list(pool.map(one, range(threads)))
                best = min(best, time.perf_counter() - began)
        return float(best)

    import ctypes

    for level, size in sizes.items():
        n = size // 12
        arrays = [[np.ones(n, np.float32) for _ in range(3)] for _ in range(threads)]

        def work(k: int, rounds: int, arrays=arrays, n=n) -> None:
            code.triad(*(pointer(a) for a in arrays[k]), ctypes.c_long(n), ctypes.c_long(rounds))

        trial = all_threads(lambda k, work=work: work(k, 1))
        rounds = max(1, int(seconds / max(trial, 1e-6)))
        trial = all_threads(lambda k, work=work, rounds=rounds: work(k, rounds)) / rounds
        rounds = max(1, int(seconds / trial))
        best = all_threads(lambda k, work=work, rounds=rounds: work(k, rounds))
        result[f"{level} GB/s"] = round(12e-9 * n * rounds * threads / best, 1)
    code.multiply_add.restype = ctypes.c_float
    rounds = 30_000_000
    best = all_threads(lambda k: code.multiply_add(ctypes.c_long(rounds)))
    result["GFLOP/s"] = round(2e-9 * 12 * 16 * rounds * threads / best, 1)
    return result


def measure_gpu() -> dict[str, float]:
    """GB/s of a triad over 3 x 256 MB in jax, or in torch where jax sees no GPU."""
    n, rounds = 64 << 20, 50
    try:
        import jax
        import jax.numpy as jnp

        if jax.default_backend() == "cpu":
            raise ImportError
        b, c = jnp.ones(n), jnp.ones(n)
        step = jax.jit(lambda b, c: b + 0.5 * c)
        jax.block_until_ready(step(b, c))
        began = time.perf_counter()
        for _ in range(rounds):
            out = step(b, c)
        jax.block_until_ready(out)
    except ImportError:
        import torch

        x, y, out = (torch.ones(n, device="cuda") for _ in range(3))
        torch.add(x, y, alpha=0.5, out=out)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(rounds):
            torch.add(x, y, alpha=0.5, out=out)
        torch.cuda.synchronize()
    return {"memory GB/s": round(12e-9 * n * rounds / (time.perf_counter() - began), 1)}


def attainable(machine: dict[str, float], cells: int, order: int, mode: str) -> tuple[float, str]:
    """Cell updates a second at most, and the level in which the four fields of one shot of `cells` fit."""
    l2, l3 = cache_bytes()
    level = LEVELS[int(FORWARD_BYTES * cells > l2) + int(FORWARD_BYTES * cells > l3)]
    if f"{level} GB/s" not in machine:
        level = "memory"
    times = {"forward": 1, "gradient": 2}[mode]
    traffic = {"forward": FORWARD_BYTES, "gradient": GRADIENT_BYTES}[mode]
    bounds = [1e9 * machine[f"{level} GB/s"] / traffic]
    if "GFLOP/s" in machine:
        bounds.append(1e9 * machine["GFLOP/s"] / (times * operations(order)))
    return min(bounds), level

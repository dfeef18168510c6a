"""One solver on one problem in a process of its own; answers requests of benchmarks/propagate.py, a JSON line each.

`python -m rivals.worker '{"solver": ..., "case": ..., "order": ..., "threads": ..., "part": [0, 1], "cores": [0]}'`
"""

import ctypes
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

LONG = 8.0
"""Seconds of a first call above which a second one would take too long only to see how often to repeat it."""
SOLVERS = {
    "ours": ("rivals.ours", "Ours"),
    "deepwave": ("rivals.deepwave", "Deepwave"),
    "deepwave-threads": ("rivals.deepwave", "Deepwave"),
    "devito": ("rivals.devito", "Devito"),
    "C": ("rivals.compiled", "PlainC"),
}


def main() -> None:
    task = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    if task["cores"]:
        os.sched_setaffinity(0, task["cores"])  # before any library counts the cores

    def answer(values: dict[str, Any]) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            worker = worker or Worker(task)
            answer(getattr(worker, request.pop("do"))(**request))
        except MemoryError:
            answer({"failed": "out of memory"})
        except Exception as error:
            known = type(error).__name__ == "Unavailable"
            if not known:
                traceback.print_exc()
            answer({"failed": str(error) if known else f"{type(error).__name__}: {str(error)[:300]}"})


class Worker:
    """Requests: `version`, `measure_machine`, `accuracy`, `first` (compiles), `time`."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.solver: Any = None
        if task["solver"] in SOLVERS:
            module, name = SOLVERS[task["solver"]]
            self.kind = getattr(importlib.import_module(module), name)

    def version(self) -> dict[str, Any]:
        import numpy
        import scipy

        return {
            "version": self.kind.version(),
            "has_gradient": self.kind.has_gradient,
            "processes": self.kind.processes,
            "python": f"python {sys.version.split()[0]}, numpy {numpy.__version__}, scipy {scipy.__version__}",
        }

    def measure_machine(self, threads: int) -> dict[str, Any]:
        from rivals import roofline

        return roofline.measure(threads) if threads else roofline.measure_gpu()

    def accuracy(self, speed: float, order: int, margin: int) -> dict[str, Any]:
        """Homogeneous model: error against the closed form, on the small domain and on a large one, and the echo."""
        import numpy as np

        from rivals import cases

        small, large = cases.homogeneous(speed, 0), cases.homogeneous(speed, margin)
        found = []
        for case in (small, large):
            solver = self.kind(case, order, self.task["threads"], self.task["device"])
            found.append(solver.gathers(solver.forward())[0, 0].astype(np.float64))
        truth = cases.analytic(small, speed)
        direct = np.abs(found[1]).max()
        return {
            "error": compare(found[0], truth),
            "interior": compare(found[1], truth),
            "echo_db": round(20 * float(np.log10(np.abs(found[0] - found[1]).max() / direct)), 1),
        }

    def first(self, mode: str, save: str) -> dict[str, Any]:
        """The first call, which compiles, and if that was short another one, to know its time; the result in `save`."""
        import numpy as np

        from rivals import cases

        if self.solver is None:
            task = self.task
            self.kind.version()  # all imports
            forget_peak()
            case = cases.CASES[task["case"]]
            self.base = resident_mb("VmRSS")
            self.solver = self.kind(case.part(*task["part"]), task["order"], task["threads"], task["device"])
        call = getattr(self.solver, mode)
        began = time.perf_counter()
        result = call()
        first = steady = time.perf_counter() - began
        convert = self.solver.gathers if mode == "forward" else self.solver.velocity_gradient
        np.save(save, np.array(convert(result)[:1]))
        del result
        forget_peak()
        if first < LONG:
            began = time.perf_counter()
            call()
            steady = time.perf_counter() - began
        return {"first": first, "steady": steady}

    def time(self, mode: str, calls: int) -> dict[str, Any]:
        call = getattr(self.solver, mode)
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            call()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        peak = self.solver.device_peak_mb()
        if peak is None:
            peak = resident_mb("VmHWM") - self.base  # since the first call of this mode, so without compiling
        return {"seconds": seconds / calls, "cpu": cpu / calls, "peak_mb": peak}


def resident_mb(field: str) -> float:
    """Resident memory of this process (`VmRSS`) or its peak (`VmHWM`), MB."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field):
                return int(line.split()[1]) / 1e3
    return float("nan")


def forget_peak() -> None:
    """Give freed memory back (what compilers left) and let the peak begin anew."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def compare(found: Any, truth: Any) -> dict[str, float]:
    """Relative L2 after the best shift by whole samples (within 3) and one factor, and both of them.

    found, truth: `[time, receiver]`.
    """
    import numpy as np

    best = {"l2": float("inf"), "shift": 0, "scale": 1.0, "unshifted_l2": 0.0}
    reach = 3
    reference = truth[reach:-reach]
    for shift in range(-reach, reach + 1):
        moved = found[reach + shift : len(found) - reach + shift]
        scale = float((moved * reference).sum() / max(float((moved * moved).sum()), 1e-300))
        error = float(np.linalg.norm(scale * moved - reference) / np.linalg.norm(reference))
        if error < best["l2"]:
            best = {"l2": round(error, 6), "shift": shift, "scale": round(scale, 6), "unshifted_l2": 0.0}
    plain = np.linalg.norm(found - truth) / np.linalg.norm(truth)
    return best | {"unshifted_l2": round(float(plain), 6)}


if __name__ == "__main__":
    main()

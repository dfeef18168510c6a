"""The wave solver side by side with deepwave, devito and plain C, at equal accuracy, in one run.

    python benchmarks/propagate.py                      # everything, about 20 minutes on 2 cores
    python benchmarks/propagate.py --quick              # does it work? 1 case, 2 repeats, about 2 minutes
    python benchmarks/propagate.py --device gpu         # jax and deepwave on CUDA

Rivals are needed by this benchmark alone: `pip install torch deepwave devito` beside seisvel_jax and scipy, and a C
compiler; what is missing is skipped, with the reason. Forward runs, and forward + gradient (of the sum of squares of
the gathers, with respect to velocity), on the problems of rivals/cases.py.

Each solver runs each problem in a process of its own, held to its cores; the processes stay alive and are asked in
turn (A B C A B C), so that a disturbance hits all. The roofline (triad from L2, L3 and memory, multiply-adds) is
measured in the same run. Errors are against the analytic 2-D Green's function; a time at more than 1.5 times our
error is marked. Writes benchmarks/results/propagate_<hardware>.{json,md} after every problem.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rivals import cases, report, roofline
from rivals.driver import Contender, Failed, Worker, pinned
from rivals.worker import compare

HERE = Path(__file__).resolve().parent
SOLVERS = ("ours", "deepwave", "deepwave-threads", "devito", "C")
CALL_SECONDS = 0.1
"""Short calls are repeated until one timing takes this long."""
SLOT_SECONDS = 8.0
"""Time for the repetitions of one problem and mode, all solvers together; never fewer than FEWEST of them."""
FEWEST = 3
BUSY = 0.5
"""Load average at the start above which the machine is not quiet."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 case, order 4, 2 repeats: only whether it works")
    parser.add_argument("--cases", nargs="+", choices=list(cases.CASES), help="default: all")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), help="default: all")
    parser.add_argument("--orders", nargs="+", type=int, choices=(4, 8), default=[4, 8], help="default: 4 8")
    parser.add_argument("--threads", nargs="+", type=int, help="default: 2 and 1, as far as there are cores")
    parser.add_argument("--repeats", type=int, default=9, help="at most so many timings of each, default 9")
    parser.add_argument("--minutes", type=float, default=25.0, help="begin no new problem after so long, default 25")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.cases = arguments.cases or ["openfwi-1"]
        arguments.orders, arguments.repeats = [4], 2
    cores = len(os.sched_getaffinity(0))
    if arguments.threads and max(arguments.threads) > cores:
        parser.error(f"--threads {max(arguments.threads)}, expected at most the {cores} cores this process may use")
    arguments.threads = [0] if arguments.device == "gpu" else arguments.threads or [n for n in (2, 1) if n <= cores]
    arguments.cases = arguments.cases or list(cases.CASES)
    Benchmark(arguments).run()


class Benchmark:
    """One run: the results so far, and what is left to do."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.device = arguments, arguments.device
        self.began = time.monotonic()
        machine, slug = hardware(self.device)
        self.target = arguments.output / f"propagate_{slug}{'_quick' * arguments.quick}"
        self.result: dict[str, Any] = {
            "complete": False,
            "command": "python benchmarks/propagate.py " + " ".join(sys.argv[1:]),
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "commit": commit(),
            "hardware": machine,
            "load_start": os.getloadavg(),
            "versions": {},
            "skipped": [],
            "roofline": {},
            "accuracy": [],
            "timings": [],
        }
        self.processes: dict[str, bool] = {}
        self.modes: dict[str, list[str]] = {}

    def run(self) -> None:
        say(f"{self.result['hardware']}, commit {self.result['commit']}, load {load(self.result['load_start'])}")
        if self.result["load_start"][0] > BUSY:
            say("others are using this machine: times will be too long, of solvers with threads of their own most")
        for solver in self.arguments.solvers:
            self.probe(solver)
        if not self.modes:
            sys.exit("no solver can run here")
        self.measure_machine()
        for solver in self.modes:
            if solver != "deepwave-threads" or "deepwave" not in self.modes:
                self.measure_accuracy(solver)
        for threads in self.arguments.threads:
            for name in self.arguments.cases:
                case = cases.CASES[name]
                for order in (o for o in self.arguments.orders if o in case.orders):
                    self.problem(case, order, threads)
        self.result["complete"] = True
        self.write()
        print(report.markdown(self.result))
        say(f"written: {self.target}.json and .md, {(time.monotonic() - self.began) / 60:.1f} minutes")

    def skip(self, what: str, why: str) -> None:
        say(f"skipped {what}: {why}")
        self.result["skipped"].append({"what": what, "why": why})

    def probe(self, solver: str) -> None:
        worker = Worker(solver, threads=1, device=self.device, cores=pinned(1))
        try:
            answer = worker.ask("version")
            if self.device == "gpu" and solver in ("devito", "C"):
                raise Failed("no GPU path here")
            self.result["versions"][solver] = answer["version"]
            self.result["versions"]["python"] = answer["python"]
            self.processes[solver] = answer["processes"] and solver != "deepwave-threads"
            self.modes[solver] = ["forward", "gradient"][: 1 + answer["has_gradient"]]
        except Failed as error:
            self.skip(solver, str(error))
        finally:
            worker.close()

    def measure_machine(self) -> None:
        for threads in self.arguments.threads:
            worker = Worker("machine", threads=threads, device=self.device, cores=pinned(threads))
            try:
                self.result["roofline"][str(threads)] = worker.ask("measure_machine", threads=threads)
                say(f"roofline, {label(threads)}: {self.result['roofline'][str(threads)]}")
            except Failed as error:
                self.skip(f"roofline of {label(threads)}", str(error))
            finally:
                worker.close()

    def measure_accuracy(self, solver: str) -> None:
        worker = Worker(solver, threads=0 if self.device == "gpu" else 1, device=self.device, cores=pinned(1))
        try:
            for order in self.arguments.orders:
                for speed in (1500.0, 3000.0):
                    answer = worker.ask("accuracy", speed=speed, order=order, margin=150)
                    row = {"solver": solver, "order": order, "speed": speed, **answer}
                    self.result["accuracy"].append(row)
                    say(
                        f"accuracy {solver} order {order} {speed:g} m/s: L2 {row['error']['l2']:.4f}, without "
                        f"boundary {row['interior']['l2']:.4f}, echo {row['echo_db']} dB"
                    )
        except Failed as error:
            self.skip(f"accuracy of {solver}", str(error))
        finally:
            worker.close()
        self.write()

    def problem(self, case: cases.Case, order: int, threads: int) -> None:
        """All solvers on one problem, forward and gradient."""
        title = f"{case.name}, order {order}, {label(threads)}"
        if reason := cases.missing(case):
            return self.skip(title, reason)
        if threads == 1 and order not in case.one_core_orders:
            return self.skip(title, "left out to keep the run short")
        if time.monotonic() - self.began > 60 * self.arguments.minutes:
            return self.skip(title, f"the run is longer than --minutes {self.arguments.minutes:g}")
        say(f"{title} ...")
        contenders = {}
        for solver in self.modes:
            if solver == "deepwave-threads" and (not case.name.startswith("openfwi") or threads < 2):
                continue  # what its one process does with several cores: shown on small problems only
            contenders[solver] = Contender(solver, case, order, threads, self.device, processes=self.processes[solver])
        try:
            for mode in ("forward", "gradient"):
                able = {name: one for name, one in contenders.items() if mode in self.modes[name]}
                self.race(case, order, threads, mode, able)
        finally:
            for one in contenders.values():
                one.close()
        self.write()
        return None

    def race(self, case: cases.Case, order: int, threads: int, mode: str, able: dict[str, Contender]) -> None:
        """First calls one by one, then the timings in turn."""
        title = f"{case.name}, order {order}, {label(threads)}, {mode}"
        begun, outputs = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for solver, contender in able.items():
                try:
                    begun[solver], outputs[solver] = contender.first(mode, Path(folder))
                except Failed as error:
                    self.skip(f"{solver}, {title}", str(error))
        calls = {s: max(1, round(CALL_SECONDS / one["steady"])) for s, one in begun.items()}
        turn = sum(calls[s] * one["steady"] for s, one in begun.items())
        repeats = min(self.arguments.repeats, max(FEWEST, int(SLOT_SECONDS / max(turn, 1e-9))))
        seconds: dict[str, list[tuple[float, float, float]]] = {solver: [] for solver in begun}
        for _ in range(repeats):
            for solver in list(seconds):
                try:
                    seconds[solver].append(able[solver].time(mode, calls[solver]))
                except Failed as error:
                    self.skip(f"{solver}, {title}", str(error))
                    del seconds[solver]
        reference = next((s for s in SOLVERS if s in outputs), "")
        reference = "C" if mode == "forward" and "ours" not in outputs and "C" in outputs else reference
        shots = case.velocity().shape[0] * len(case.sources)
        for solver, timings in seconds.items():
            values, cpu, peaks = zip(*timings, strict=True)
            median = statistics.median(values)
            quartiles = np.percentile(values, (25, 75))
            rate = case.cells * case.steps * shots / median
            row = {
                "case": case.name,
                "order": order,
                "threads": threads,
                "mode": mode,
                "solver": solver,
                "ms_per_shot": round(1e3 * median / shots, 3),
                "quartiles_ms": [round(1e3 * float(q) / shots, 3) for q in quartiles],
                "cpu_ms_per_shot": round(1e3 * statistics.median(cpu) / shots, 3),
                "repeats": len(values),
                "calls_each": calls[solver],
                "mcells_per_second": round(rate / 1e6, 1),
                "peak_mb": round(max(peaks), 1),
                "compile_s": round(max(0.0, begun[solver]["first"] - median), 2),
            }
            if machine := self.result["roofline"].get(str(threads)):
                bound, level = roofline.attainable(machine, case.cells, order, mode)
                row |= {"roofline_fraction": round(rate / bound, 3), "roofline_level": level}
            if solver != reference:
                row["agreement"] = agreement(case, mode, outputs[solver], outputs[reference]) | {"with": reference}
            self.result["timings"].append(row)
            say(
                f"  {mode:8} {solver:8} {row['ms_per_shot']:9.2f} ms/shot ({row['quartiles_ms'][0]:.2f}-"
                f"{row['quartiles_ms'][1]:.2f}, {len(values)}x) {row['mcells_per_second']:7.0f} Mcell/s "
                f"{row['peak_mb']:6.0f} MB, compile {row['compile_s']:.1f} s"
            )

    def write(self) -> None:
        self.result["load_end"] = os.getloadavg()
        self.result["minutes"] = round((time.monotonic() - self.began) / 60, 1)
        self.arguments.output.mkdir(parents=True, exist_ok=True)
        for suffix, text in (
            (".json", json.dumps(self.result, indent=1) + "\n"),
            (".md", report.markdown(self.result) + "\n"),
        ):
            partial = self.target.with_name(self.target.name + suffix + ".part")
            partial.write_text(text)
            partial.replace(self.target.with_name(self.target.name + suffix))


def agreement(case: cases.Case, mode: str, found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Relative L2 between two solvers' results of the first model.

    Gathers after the best shift and factor; gradients as they are, without the nodes close to a source and the
    outermost ones, where conventions differ.
    """
    found, reference = found.astype(np.float64), reference.astype(np.float64)
    if mode == "forward":
        return compare(*(np.concatenate(list(a), axis=-1) for a in (found, reference)))
    use = np.zeros(reference.shape, bool)
    use[4:-4, 4:-4] = True
    for depth, x in case.sources:
        use[max(0, depth - 5) : depth + 6, max(0, x - 5) : x + 6] = False
    found, reference = found[use], reference[use]
    error = np.linalg.norm(found - reference) / np.linalg.norm(reference)
    return {"l2": round(float(error), 6), "scale": round(float(found @ reference / (found @ found)), 6)}


def label(threads: int) -> str:
    return {0: "GPU", 1: "1 core"}.get(threads, f"{threads} cores")


def load(values: Any) -> str:
    return " ".join(f"{one:.1f}" for one in values)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=HERE)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../seisvel_jax", "propagate.py", "rivals")
    return git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else "")


def hardware(device: str) -> tuple[str, str]:
    """One line about the machine, and the same for a file name."""
    if device == "gpu" and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        name = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()[0].strip()
        return name, re.sub(r"\W+", "_", name).strip("_").lower()
    cores = len(os.sched_getaffinity(0))
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.+)", text)
    name = re.sub(r"\((R|TM)\)|CPU|Processor|@.*", "", model.group(1)).strip() if model else "CPU"
    vectors = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else ""
    line = f"{cores} core{'s' * (cores > 1)} of an {name}" + (f" with {vectors}" if vectors else "")
    slug = re.sub(r"\W+", "_", name).strip("_").lower()
    return line + ("" if shutil.which("nvidia-smi") else ", no GPU"), f"{slug}_{cores}_cores"


if __name__ == "__main__":
    main()

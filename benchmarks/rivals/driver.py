"""Worker processes as seen from the benchmark: started with bounded threads, kept alive, asked in turn."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

BENCHMARKS = Path(__file__).resolve().parents[1]
PATIENCE = 400
"""Seconds to wait for one answer."""


class Failed(Exception):
    """A worker said why it cannot, died, or took too long."""


def limits(threads: int, device: str) -> dict[str, str]:
    """Environment of a worker that may use so many threads."""
    count = str(max(1, threads))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    values = dict.fromkeys(names, count) | {
        "DEVITO_LANGUAGE": "openmp" if threads > 1 else "C",
        "DEVITO_LOGGING": "ERROR",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if device == "cpu":
        return values | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return values | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the solvers' processes share the GPU's memory


def pinned(threads: int) -> list[int]:
    """The cores for so many threads; the last ones, as interrupts favour the first."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-threads:] if threads else []


class Worker:
    """One process of rivals/worker.py."""

    def __init__(self, solver: str, *, threads: int, device: str, cores: list[int], **task: Any) -> None:
        self.solver = solver
        self.ended = ""
        task = {"solver": solver, "threads": threads, "device": device, "cores": cores, **task}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rivals.worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=BENCHMARKS,
            env=os.environ | limits(threads, device),
        )

    def send(self, do: str, **values: Any) -> None:
        if self.ended:
            raise Failed(self.ended)
        try:
            pipe(self.process.stdin).write(json.dumps({"do": do, **values}) + "\n")
            pipe(self.process.stdin).flush()
        except OSError as error:
            raise Failed(self.last_words()) from error

    def receive(self) -> dict[str, Any]:
        if self.ended:
            raise Failed(self.ended)
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        if not ready:
            self.process.kill()
            self.ended = f"no answer within {PATIENCE} s"
            raise Failed(self.ended)
        line = pipe(self.process.stdout).readline()
        if not line:
            raise Failed(self.last_words())
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        self.send(do, **values)
        return self.receive()

    def last_words(self) -> str:
        code = self.process.wait()
        self.log.seek(0)
        lines = [line for line in self.log.read().splitlines() if line.strip()]
        self.ended = f"process ended with {code}" + (f": {lines[-1][:200]}" if lines else "")
        return self.ended

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was not yet sent to a process that is gone
                pipe(stream).close()
        self.log.close()


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


class Contender:
    """A solver on one problem: one worker, or one a core, each with a share of the shots."""

    def __init__(self, solver: str, case: Any, order: int, threads: int, device: str, *, processes: bool) -> None:
        self.solver, self.case = solver, case
        cores = pinned(threads)
        parts = min(len(cores), len(case.sources)) if processes and case.split_shots and threads > 1 else 1
        self.workers = [
            Worker(
                solver,
                threads=1 if parts > 1 else threads,
                device=device,
                cores=[cores[k]] if parts > 1 else cores,
                case=case.name,
                order=order,
                part=[k, parts],
            )
            for k in range(parts)
        ]

    def ask(self, do: str, each: list[dict] | None = None, **values: Any) -> list[dict[str, Any]]:
        for k, worker in enumerate(self.workers):
            worker.send(do, **values, **(each[k] if each else {}))
        answers, failures = [], []
        for worker in self.workers:  # all of them, so that no answer is left to be taken for a later one
            try:
                answers.append(worker.receive())
            except Failed as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return answers

    def first(self, mode: str, folder: Path) -> tuple[dict[str, float], Any]:
        """Seconds of the first calls, and the result of the first model."""
        import numpy as np

        files = [folder / f"{self.solver}-{mode}-{k}.npy" for k in range(len(self.workers))]
        answers = self.ask("first", [{"save": str(file)} for file in files], mode=mode)
        parts = [np.load(file, allow_pickle=False) for file in files]
        for file in files:
            file.unlink()
        numbers = {
            "first": max(a["first"] for a in answers),
            "steady": max(a["steady"] for a in answers),
        }
        if mode == "gradient":
            return numbers, np.sum(parts, axis=0)[0]
        shots = np.zeros((len(self.case.sources), *parts[0].shape[2:]), parts[0].dtype)
        for k, part in enumerate(parts):
            shots[k :: len(parts)] = part[0]
        return numbers, shots

    def time(self, mode: str, calls: int) -> tuple[float, float, float]:
        """Seconds of one call, all parts at once; CPU seconds of all its threads; peak MB since the first call."""
        answers = self.ask("time", mode=mode, calls=calls)
        return max(a["seconds"] for a in answers), sum(a["cpu"] for a in answers), sum(a["peak_mb"] for a in answers)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

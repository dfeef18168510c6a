"""Batches of velocity through the solver, with few compilations and results that are free of the batching."""

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from seisvel_jax.data.coarsen import solving_survey

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey

USUAL_FASTEST = 4500.0
"""m/s that the time step is made for. Only a model that is faster gets a shorter one, so that a sample's gathers
never depend on the others in its batch."""


def ceiling(fastest: float) -> float:
    """m/s that the time step of a model up to `fastest` is made for."""
    return USUAL_FASTEST if fastest <= USUAL_FASTEST else float(np.ceil(fastest / 500) * 500)


def together(batch_size: int) -> int:
    """Samples to simulate at once. On a CPU one a core keeps all busy; more would only wait longer for their file."""
    import jax

    return min(batch_size, jax.local_device_count()) if jax.default_backend() == "cpu" else batch_size


class Simulator:
    """`propagate` on `solving_survey` for up to `batch_size` samples; each time step and boundary is compiled once."""

    def __init__(self, survey: "Survey", batch_size: int):
        import jax

        self._survey = solving_survey(survey)
        self._cpu = jax.default_backend() == "cpu"
        self.batch_size = together(batch_size)
        """Samples simulated at once."""
        self._plans: dict[tuple[float, float], Any] = {}

    def start(self, velocity: np.ndarray, limit: float, width: float) -> Any:
        """Set `[batch, depth, x]` m/s on the grid of `solving_survey` going; `finish` waits for the result."""
        from seisvel_jax.wave.plan import make_plan
        from seisvel_jax.wave.propagate import run_plan

        survey = self._survey
        if (limit, width) not in self._plans:
            boundary = dataclasses.replace(survey.boundary, width=width)
            self._plans[limit, width] = make_plan(dataclasses.replace(survey, boundary=boundary), limit)
        filled = velocity[np.arange(self.batch_size) % len(velocity)]  # repeats: one compiled size for every batch
        # One lane a chunk on a CPU: what a shot is rounded to must not depend on the shots beside it.
        return run_plan(filled, self._plans[limit, width], lanes=1 if self._cpu else None)

    @staticmethod
    def finish(started: Any, count: int) -> np.ndarray:
        """Gathers `[count, source, time, receiver]` of what `start` returned."""
        return np.asarray(started)[:count]


def use_all_cores() -> None:
    """One JAX device a CPU core; without effect once JAX has started or where the user has decided."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", cores)

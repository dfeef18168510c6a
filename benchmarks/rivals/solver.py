"""What every solver of the comparison offers. Gathers and gradients come out in one convention, whatever its own.

`(v dt)^2 wavelet / h^2` is added to the source's cell at each step; row r of a gather is the field at `r * dt`; the
gradient is that of the sum of squares of `gathers - observed` with respect to velocity.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from rivals.cases import Case


class Unavailable(Exception):
    """A package, a compiler or a feature is missing; the message says which and how to get it."""


class Solver(ABC):
    """One solver made ready for one problem. `observed` is 0 throughout, so residual and gathers are the same."""

    has_gradient = True
    processes = False
    """Whether more cores are used by one process a core, each with a share of the shots (where the case allows)."""

    def __init__(self, case: Case, order: int, threads: int, device: str) -> None:
        self.case, self.order, self.threads, self.device = case, order, threads, device
        self.velocity = np.ascontiguousarray(case.velocity())
        self.prepare()

    @staticmethod
    @abstractmethod
    def version() -> str:
        """Name and version of what is measured. Raises Unavailable."""

    @abstractmethod
    def prepare(self) -> None:
        """Everything that does not belong to a call: tables, operators."""

    @abstractmethod
    def forward(self) -> Any:
        """All shots of all models; returns when done."""

    @abstractmethod
    def gathers(self, result: Any) -> np.ndarray:
        """`[batch, shot, time, receiver]` of what `forward` returned, in the common convention."""

    def gradient(self) -> Any:
        """Forward and gradient; returns when done."""
        raise Unavailable("no gradient")

    def velocity_gradient(self, result: Any) -> np.ndarray:
        """`[batch, depth, x]` of what `gradient` returned."""
        raise Unavailable("no gradient")

    def device_peak_mb(self) -> float | None:
        """Peak memory of the accelerator in MB, where there is one."""
        return None

"""What an inversion is asked to do. Plain values: commands make their flags of it, and nothing here imports jax."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from seisvel_jax.errors import UserError

Misfit = Literal["l2", "l1", "huber", "correlation", "envelope", "wasserstein"]
Prior = Literal["none", "tv", "tv1d", "tikhonov", "gaussian"]
Optimizer = Literal["lbfgs", "adam"]
Parameter = Literal["velocity", "slowness", "log"]
Estimate = Literal["none", "amplitude", "filter"]
Tie = Literal["none", "tie", "integers"]


@dataclass(frozen=True)
class InversionConfig:
    """Static and hashable. Raises UserError naming the value, what is expected and the cure."""

    misfit: Misfit = "l2"
    """How predicted and observed gathers are compared (inversion/misfits.py)."""
    huber: float = 1.0
    """Where Huber's misfit turns from squares to absolute values, in RMS values of the observed gathers."""
    prior: Prior = "none"
    """tv, tv1d: total variation in both directions, in depth only. tikhonov: squares of the distance to the start.
    gaussian: the start as mean of a Gaussian process of `length` cells and `sigma` m/s."""
    prior_weight: float = 0.0
    """Weight of the prior against the misfit in the first stage."""
    prior_weight_end: float | None = None
    """The same in the last stage, geometric in between; None: as in the first."""
    length: float = 5.0
    """Correlation length of the Gaussian process in cells."""
    sigma: float = 200.0
    """Standard deviation of the Gaussian process, and unit of the Tikhonov prior, in m/s."""
    optimizer: Optimizer = "lbfgs"
    iterations: int = 100
    """Evaluations of misfit and gradient, line searches included; those of `tie` are counted in."""
    memory: int = 10
    """Pairs that L-BFGS remembers."""
    learning_rate: float = 20.0
    """Of Adam, in m/s at the slowest velocity; it falls to a tenth along a cosine."""
    first_step: float = 50.0
    """Largest change of L-BFGS's first step in m/s."""
    shots_per_step: int = 0
    """Shots drawn for each step of Adam, one set for all models; 0: all."""
    seed: int = 0
    """Of the draws of shots."""
    frequencies: tuple[float, ...] = ()
    """Corner frequencies of the low-pass filter in Hz, one a stage, ascending; a last stage has everything.
    (): that stage alone."""
    stages: int = 1
    """Stages over which the prior's weight goes to its end where `frequencies` are not given."""
    parameter: Parameter = "velocity"
    """In what the optimiser works. It changes the directions, not the minimum."""
    bounds: tuple[float, float] = (1500.0, 4500.0)
    """m/s. The upper one fixes the solver's time step."""
    precondition: float = 0.0
    """Exponent on the inverse illumination that scales the gradient: 0 none, 0.5 to 1 usual."""
    smooth: float = 0.0
    """Standard deviation in cells of the Gaussian that smooths the gradient."""
    estimate_wavelet: Estimate = "none"
    """Fit an amplitude or a filter per model to the gathers in each evaluation, by least squares in closed form."""
    tie: Tie = "none"
    """After the last iteration: regions of nearly equal velocity get one value each; `integers` in whole m/s too.
    Each is kept only where it lowers the misfit (inversion/tie.py)."""
    tie_iterations: int = 40
    """Evaluations of `iterations` that are kept for `tie`."""
    stop_misfit: float = 0.0
    """A model is done once its misfit is this low. Data with noise: half the noise's share of the energy for `l2`."""
    stop_change: float = 0.0
    """A stage ends once `patience` evaluations have not lowered the objective of any model by this fraction."""
    patience: int = 20

    def __post_init__(self) -> None:
        for name, kind in (
            ("misfit", Misfit),
            ("prior", Prior),
            ("optimizer", Optimizer),
            ("parameter", Parameter),
            ("estimate_wavelet", Estimate),
            ("tie", Tie),
        ):
            if getattr(self, name) not in get_args(kind):
                self._refuse(name, f"one of {', '.join(get_args(kind))}")
        for name in ("iterations", "memory", "stages", "patience"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                self._refuse(name, "a whole number of at least 1")
        for name in ("huber", "length", "sigma", "learning_rate", "first_step"):
            if not 0 < getattr(self, name) < math.inf:
                self._refuse(name, "a number above 0")
        for name in ("prior_weight", "precondition", "smooth", "stop_misfit", "stop_change", "shots_per_step"):
            if not 0 <= getattr(self, name) < math.inf:
                self._refuse(name, "0 or more")
        if self.prior_weight_end is not None and not 0 < self.prior_weight_end < math.inf:
            self._refuse("prior_weight_end", "a number above 0, as a weight falls geometrically")
        if not self.tie_iterations >= 0:
            self._refuse("tie_iterations", "0 or more")
        low_to_high = all(a < b for a, b in zip(self.frequencies, self.frequencies[1:]))
        if not (low_to_high and all(0 < f < math.inf for f in self.frequencies)):
            self._refuse("frequencies", "ascending numbers in Hz above 0")
        if not (len(self.bounds) == 2 and 0 < self.bounds[0] < self.bounds[1] < math.inf):
            self._refuse("bounds", "(slowest, fastest) in m/s")
        if self.optimizer == "lbfgs" and self.shots_per_step:
            self._refuse("shots_per_step", "0 with lbfgs, which needs one misfit throughout; use optimizer adam")

    def _refuse(self, name: str, expected: str) -> None:
        raise UserError(f"inversion {name} {getattr(self, name)!r}, expected {expected}: correct it")

"""How a survey is solved: stencil, precision, time dispersion, and what the gradient keeps in memory."""

from dataclasses import dataclass
from typing import Literal

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey
from seisvel_jax.wave.stencil import ORDERS, Coefficients

Memory = Literal["full", "checkpoint", "reconstruct"]


@dataclass(frozen=True)
class Scheme:
    """Choices of the discretisation that the physics leaves open. Static and hashable. Raises UserError."""

    order: int = 8
    """Order in space: 2, 4, 6 or 8. In time it is 2."""
    coefficients: Coefficients = "taylor"
    """`taylor`, or `optimised` for few points per wavelength (stencil.py)."""
    correct_dispersion: bool = False
    """Take the leapfrog's time dispersion out by filters on the wavelet and the traces (sampling.py)."""
    precision: Literal["float32", "float64"] = "float32"
    """float64 needs `jax.config.update("jax_enable_x64", True)`."""
    memory: Memory = "checkpoint"
    """What a gradient keeps of the forward field (docs/physics.md): every step, the state at the start of about
    sqrt(steps) segments, or the absorbing frame of every step, from which the rest is run backwards."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("order", self.order, ORDERS),
            ("coefficients", self.coefficients, ("taylor", "optimised")),
            ("precision", self.precision, ("float32", "float64")),
            ("memory", self.memory, ("full", "checkpoint", "reconstruct")),
        ):
            if value not in allowed:
                raise UserError(f"scheme {name} {value!r}, expected one of {allowed}: correct it")


def scheme_of(survey: Survey) -> Scheme:
    """The scheme a survey asks for.

    Where it is solved on the grid its data were made on, the published scheme holds to the letter, its dispersion
    included. Everything else should look like the ground and not like a grid: order 8, and the leapfrog's error, which
    filters can undo exactly, undone.
    """
    own_grid = survey.boundary.kind == "openfwi" or (survey.boundary.kind == "devito" and survey.grid.spacing <= 1.0)
    return Scheme(order=4) if own_grid else Scheme(order=8, correct_dispersion=True)

"""The width of the absorbing boundary, drawn sample by sample."""

from dataclasses import dataclass

from seisvel_jax.data.noise import draws
from seisvel_jax.errors import UserError


@dataclass(frozen=True)
class Widths:
    """Widths in metres, uniform over `low`, `low + step` ... `high`: each is a program that is compiled once.

    A network trained behind one sponge takes its echo for ground; trained on many it learns not to (the challenge's
    lies somewhere between 350 and 600 m).
    """

    low: float
    high: float
    step: float = 50.0

    def __post_init__(self) -> None:
        """Refuse what is no range. Raises UserError."""
        if not 0 < self.low <= self.high < float("inf") or not self.step > 0:
            raise UserError(
                f"--sponge-width {self.low:g} {self.high:g}, --sponge-step {self.step:g}: expected metres above 0, the "
                "smaller width first"
            )

    @property
    def values(self) -> tuple[float, ...]:
        """All widths that may be drawn."""
        return tuple(self.low + self.step * k for k in range(int((self.high - self.low) / self.step + 1e-6) + 1))

    def width(self, seed: int, index: int) -> float:
        """Of sample `index`: depends on the seed and the index alone."""
        values = self.values
        return values[int(draws(seed, index, "width").integers(len(values)))]

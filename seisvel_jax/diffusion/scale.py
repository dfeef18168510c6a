"""Velocity in m/s to the numbers near [-1, 1] that diffusion works on, and back."""

from dataclasses import dataclass

from seisvel_jax.arrays import Array


@dataclass(frozen=True)
class Scale:
    """Linear map of `bounds` (m/s) to [-1, 1]. Nothing is clipped: velocities outside go outside."""

    bounds: tuple[float, float] = (1500.0, 4500.0)

    @property
    def middle(self) -> float:
        """m/s that become 0."""
        return (self.bounds[0] + self.bounds[1]) / 2

    @property
    def half(self) -> float:
        """m/s of one unit."""
        return (self.bounds[1] - self.bounds[0]) / 2

    def to_unit(self, velocity: Array) -> Array:
        """m/s to scaled velocity."""
        return (velocity - self.middle) / self.half

    def to_velocity(self, scaled: Array) -> Array:
        """Scaled velocity to m/s."""
        return scaled * self.half + self.middle

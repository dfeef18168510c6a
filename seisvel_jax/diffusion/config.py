"""What a denoiser is made of and trained with. Plain values only and no jax here, as in models/config.py."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seisvel_jax.errors import UserError
from seisvel_jax.models.config import VelocityNetConfig

if TYPE_CHECKING:
    from flax import nnx

    from seisvel_jax.diffusion.denoiser import Denoiser
    from seisvel_jax.survey import Survey


@dataclass(frozen=True)
class DenoiserConfig:
    """A transformer over patches of the noisy model that attends to the encoded gathers (docs/diffusion.md)."""

    encoder: VelocityNetConfig = field(default_factory=VelocityNetConfig)
    """How gathers are read: the ensemble's network, whose velocity becomes a first guess."""
    layers: int = 8
    channels: int = 32
    """Of the 3x3 convolutions before the patches and after them."""
    blocks: int = 2
    """Pairs of these before the patches, and as many after them."""
    patch_shape: tuple[int, int] = (5, 5)
    """Cells `(depth, x)` of a patch; each predicts twice as far, faded into its neighbours."""
    families: tuple[str, ...] = ()
    """Geology labels it can be told."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built. Raises UserError."""
        if min(self.layers, self.channels, self.blocks, *self.patch_shape) < 1:
            raise UserError(
                f"denoiser: layers {self.layers}, channels {self.channels}, blocks {self.blocks}, "
                f"patch_shape {self.patch_shape}, expected at least 1 each"
            )
        if self.encoder.second_stage:
            raise UserError("denoiser: encoder.second_stage, expected the plain network: leave it out")

    @property
    def bounds(self) -> tuple[float, float]:
        """m/s that become -1 and 1."""
        return self.encoder.velocity_bounds

    def family(self, name: str | None) -> int:
        """The number a condition carries for a label; 0 for None. Raises UserError for a label it does not know."""
        if name is None:
            return 0
        if name not in self.families:
            known = ", ".join(self.families) or "none"
            raise UserError(f"family {name!r}, expected one that this network was trained with: {known}")
        return 1 + self.families.index(name)

    def build(self, survey: "Survey", rngs: "nnx.Rngs") -> "Denoiser":
        """The network with parameters drawn from `rngs.params()`."""
        from seisvel_jax.diffusion.denoiser import Denoiser

        return Denoiser(self, rngs=rngs)


@dataclass(frozen=True)
class ConditionConfig:
    """What a network is told of each training model: each source is left out with its own probability."""

    drop_gathers: float = 0.2
    """All shots of a model."""
    drop_shot: float = 0.1
    """Each shot by itself."""
    drop_wells: float = 0.5
    drop_background: float = 0.5
    drop_family: float = 0.3
    wells: int = 8
    """Well logs at most, 1 to so many at random columns."""
    blur: tuple[float, float] = (30.0, 200.0)
    """Metres: standard deviation of the Gaussian that makes a background of the truth, log-uniform."""

    def __post_init__(self) -> None:
        """Refuse what is no probability or length. Raises UserError."""
        for name in ("drop_gathers", "drop_shot", "drop_wells", "drop_background", "drop_family"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"condition: {name} = {getattr(self, name)}, expected a probability, 0 to 1")
        if self.wells < 1 or not 0 < self.blur[0] <= self.blur[1]:
            raise UserError(f"condition: wells {self.wells}, blur {self.blur}, expected at least 1 and rising metres")


@dataclass(frozen=True)
class Members:
    """Denoisers of one architecture, trained as one stack: what `training.state` takes for a group."""

    model: DenoiserConfig
    members: int = 1

    def __post_init__(self) -> None:
        """Refuse none at all. Raises UserError."""
        if self.members < 1:
            raise UserError(f"config: members {self.members}, expected at least 1")

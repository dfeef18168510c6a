"""What a network is made of. Plain values only and no jax here, so that `--help` and config files load at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from seisvel_jax.errors import UserError

if TYPE_CHECKING:
    from flax import nnx

    from seisvel_jax.models.inversion_net import InversionNet
    from seisvel_jax.models.velocity_net import VelocityNet
    from seisvel_jax.survey import Survey


@dataclass(frozen=True)
class VelocityNetConfig:
    """The attention network (docs/network.md). The defaults are the challenge's full size: 1 m pixels, 1 ms samples."""

    width: int = 512
    """Channels of a token."""
    heads: int = 8
    encoder_layers: int = 8
    decoder_layers: int = 4
    """Encoder and decoder layers together are the network's depth (12)."""
    stem_channels: tuple[int, ...] = (128, 256)
    """Channels of each stage of multi-scale blocks; between stages time and receivers are halved."""
    stem_blocks: tuple[int, ...] = (2, 2)
    patch_duration: float = 0.008
    """Seconds of a trace that become one position of the stem."""
    token_duration: float = 0.032
    """Seconds of a shot in one token; longer records give more tokens."""
    receiver_tokens: int = 4
    """Tokens across the receiver line, however many receivers it has."""
    moments: tuple[int, int] = (2, 4)
    """Cosine moments (time, receiver) that pooling keeps of each token's window; (1, 1) is the plain average."""
    patch_shape: tuple[int, int] = (20, 20)
    """Pixels `(depth, x)` between decoder queries; each predicts twice as far, faded into its neighbours."""
    refine_channels: int = 16
    """Channels of the 3x3 convolutions over the assembled map; 0 leaves them out."""
    dropout: float = 0.1
    output: Literal["sigmoid", "softplus"] = "sigmoid"
    """`sigmoid`: within the bounds. `softplus`: above the lower bound, open upwards."""
    velocity_bounds: tuple[float, float] = (1500.0, 4500.0)
    """m/s."""
    spacing: float = 1.0
    """Metres between predicted pixels; a survey on another grid gets them resampled."""
    dt: float = 1e-3
    """Seconds between the samples of the gathers this network reads."""
    amplitude: float = 0.0155
    """Root mean square of the training gathers: 0.0155 Speed and Structure, 1.46 OpenFWI. One number for all."""
    gains: tuple[float, ...] = (1.0, 50.0)
    """One input channel each: asinh(gain * gathers / amplitude); the large gain lifts late reflections."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products. Parameters, norms, softmax and the residual stream stay float32."""
    remat: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""
    second_stage: bool = False
    """Read also what a first stage found (`first_stage` of the run), and correct it: its velocity, and the residual of
    the gathers simulated from it."""

    def __post_init__(self) -> None:
        if len(self.stem_channels) != len(self.stem_blocks) or not self.stem_channels:
            raise UserError(
                f"network: stem_channels {self.stem_channels} and stem_blocks {self.stem_blocks}, "
                "expected one of each a stage"
            )
        if any(channels % 4 for channels in self.stem_channels):
            raise UserError(
                f"network: stem_channels {self.stem_channels}, expected multiples of 4: a quarter a kernel size"
            )
        if self.width % self.heads:
            raise UserError(f"network: width {self.width}, expected a multiple of heads {self.heads}: change either")

    @property
    def patch_samples(self) -> int:
        """Samples of a trace in one position of the stem."""
        return max(1, round(self.patch_duration / self.dt))

    def build(self, survey: "Survey", rngs: "nnx.Rngs") -> "VelocityNet":
        """The network with parameters drawn from `rngs.params()`. It fits every survey at `dt`."""
        from seisvel_jax.models.velocity_net import VelocityNet

        return VelocityNet(self, rngs=rngs)


@dataclass(frozen=True)
class InversionNetConfig:
    """InversionNet, the baseline of OpenFWI (Wu & Lin 2019), with GroupNorm: 24,409,123 parameters at width 1."""

    width: float = 1.0
    """Factor on every channel count."""
    decoder: Literal["transposed", "pixel_shuffle"] = "transposed"
    """`transposed` is the published one; `pixel_shuffle` (Dense, then shuffle) is many times faster on XLA's CPU."""
    dropout: float = 0.0
    """On the latent vector; the published network has none."""
    velocity_bounds: tuple[float, float] = (1500.0, 4500.0)
    amplitude: float = 1.46
    """Root mean square of the training gathers."""
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, survey: "Survey", rngs: "nnx.Rngs") -> "InversionNet":
        """The network for `survey`'s number of shots (they are its input channels)."""
        from seisvel_jax.models.inversion_net import InversionNet

        return InversionNet(self, survey.gather_shape[0], rngs=rngs)


ModelConfig = VelocityNetConfig | InversionNetConfig


@dataclass(frozen=True)
class GroupConfig:
    """Members of one architecture, trained as one stack; an ensemble is a tuple of groups."""

    model: VelocityNetConfig | InversionNetConfig
    members: int = 1

    def __post_init__(self) -> None:
        if self.members < 1:
            raise UserError(f"group of networks: members {self.members}, expected at least 1")

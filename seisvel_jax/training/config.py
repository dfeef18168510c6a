"""What training is made of: loss, optimiser, augmentation. Plain values and no jax, so that `--help` is quick."""

from dataclasses import dataclass, field
from typing import Literal

from seisvel_jax.errors import UserError


@dataclass(frozen=True)
class WaveLossConfig:
    """The wave-equation loss (docs/losses.md): the misfit of gathers simulated from the prediction. Needs no labels."""

    weight: float = 0.0
    """0: off, and nothing is simulated."""
    begin: int = 0
    """The first step with some of the weight."""
    full: int = 0
    """The first step with all of it; it grows in equal steps until then."""
    shots: int | None = None
    """Shots simulated a step, drawn anew each time; None: all."""
    rows: int = 4
    """Samples simulated at a time, which bounds the memory."""
    memory: Literal["full", "checkpoint", "reconstruct"] = "checkpoint"
    """What the gradient keeps of a forward field (docs/physics.md)."""

    def __post_init__(self) -> None:
        for name, low in (("weight", 0), ("begin", 0), ("full", 0), ("rows", 1), ("shots", 1)):
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise UserError(f"config: loss.wave.{name} = {value}, expected at least {low}")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms and the units they are measured in."""

    mape: float = 1.0
    l2: float = 0.5
    gradient: float = 0.3
    physics: float = 0.2
    velocity_scale: float = 1000.0
    """m/s; an error of this size counts 1 in the L2 and bounds terms."""
    gradient_length: float = 10.0
    """m; the gradient term is the error of the velocity's change over this length, in `velocity_scale`."""
    bounds: tuple[float, float] = (1500.0, 4500.0)
    """m/s; what lies outside is penalised by the physics term."""
    wave: WaveLossConfig = field(default_factory=WaveLossConfig)


@dataclass(frozen=True)
class FirstStageConfig:
    """A trained run whose answer a second stage reads and corrects."""

    checkpoint: str
    """RUN, or RUN/checkpoints/STEP; needed again to predict with the second stage."""
    digest: str = ""
    """Of its networks; filled in when training starts, and held to from then on."""


@dataclass(frozen=True)
class OptimConfig:
    """All lengths are in training steps (batches), also where gradients are accumulated."""

    kind: Literal["adamw", "muon"] = "adamw"
    """Muon orthogonalises the updates of hidden matrices and leaves the rest to AdamW."""
    learning_rate: float = 1e-4
    """Peak. Muon's updates are scaled to the size of AdamW's, so that the same value serves both."""
    weight_decay: float = 0.01
    """Times the learning rate, on kernels only: no biases, norms or embeddings."""
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0
    """Largest norm of one member's gradient."""
    warmup_steps: int = 500
    cycle_steps: int | None = None
    """Length of the first cosine cycle; None = one cycle over all of the run's steps."""
    cycle_growth: float = 2.0
    """Each cycle is this many times as long as the one before (warm restarts)."""
    final_fraction: float = 0.01
    """Learning rate at the end of a cycle, as a fraction of the peak."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one update."""

    def __post_init__(self) -> None:
        for name, low in (("warmup_steps", 0), ("accumulate", 1), ("cycle_growth", 1), ("cycle_steps", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise UserError(f"config: optim.{name} = {value}, expected at least {low}")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"config: optim.{name} = {getattr(self, name)}, expected a positive number")


@dataclass(frozen=True)
class AugmentConfig:
    """Probabilities (0 = off) a sample, and strengths in physical units."""

    mirror: float = 0.5
    """Probability of seeing the experiment from behind: gathers, positions and velocity together. Exact."""
    amplitude: float = 0.1
    """Gain: exp of a uniform number within plus and minus this."""
    noise: float = 0.5
    """Probability of noise."""
    noise_snr_db: tuple[float, float] = (10.0, 40.0)
    """Signal-to-noise ratio, drawn uniformly in decibels of the sample's own energy."""
    noise_band: tuple[float, float] = (2.0, 50.0)
    """Hz."""
    trace_dropout: float = 0.2
    """Probability of dead traces."""
    trace_dropout_share: float = 0.1
    """Share of the traces that are then dead."""
    shot_dropout: float = 0.05
    """Probability of one missing shot."""
    shift: float = 0.2
    """Probability of a timing error, one a shot."""
    shift_seconds: float = 0.001
    """Largest timing error, either way."""
    time_mask: float = 0.1
    """Probability of a gap in time."""
    time_mask_seconds: float = 0.1
    """Longest gap."""
    frequency_mask: float = 0.1
    """Probability of a missing band."""
    frequency_mask_width: float = 4.0
    """Hz; the widest missing band."""

    def __post_init__(self) -> None:
        for name in ("mirror", "noise", "trace_dropout", "shot_dropout", "shift", "time_mask", "frequency_mask"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"config: augment.{name} = {getattr(self, name)}, expected a probability, 0 to 1")

    @staticmethod
    def off() -> "AugmentConfig":
        """No augmentation at all."""
        return AugmentConfig(
            mirror=0, amplitude=0, noise=0, trace_dropout=0, shot_dropout=0, shift=0, time_mask=0, frequency_mask=0
        )

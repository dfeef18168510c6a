"""The optimiser of ONE member: clip, AdamW or Muon, warm-up and cosine with warm restarts, accumulation.

It runs inside the function that is mapped over members, so that every member is clipped by its own norm.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seisvel_jax.errors import UserError


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


def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the training step: linear warm-up, then cosine with warm restarts (SGDR).

    Loshchilov & Hutter (2017), with cycles of lengths T, g T, g^2 T, ... for g = `cycle_growth`.
    """
    starts, lengths = [0], [config.cycle_steps or max(1, steps - config.warmup_steps)]
    while starts[-1] + lengths[-1] < steps - config.warmup_steps:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(max(1, round(lengths[-1] * config.cycle_growth)))
    begins, spans = np.asarray(starts, np.int32), np.asarray(lengths, np.float32)

    def schedule(step: Any) -> Any:
        step = jnp.asarray(step, jnp.int32)
        since = jnp.maximum(step - config.warmup_steps, 0)
        cycle = jnp.searchsorted(begins, since, side="right") - 1
        phase = jnp.minimum((since - jnp.asarray(begins)[cycle]).astype(jnp.float32) / jnp.asarray(spans)[cycle], 1.0)
        cosine = config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + jnp.cos(jnp.pi * phase))
        warm = (step.astype(jnp.float32) + 1) / (config.warmup_steps + 1)
        return config.learning_rate * jnp.where(step < config.warmup_steps, warm, cosine)

    return schedule


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The optax transformation of one member's gradients for a run of `steps` batches."""
    by_batch = learning_rate(config, steps)

    def schedule(update: Any) -> Any:
        return by_batch(update * config.accumulate)

    if config.kind == "muon":
        update = optax.contrib.muon(
            schedule,
            weight_decay=config.weight_decay,
            weight_decay_mask=decayed,
            adam_b1=config.b1,
            adam_b2=config.b2,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=matrices,
        )
    else:
        update = optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=decayed)
    optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
    if config.accumulate > 1:
        steps_of = optax.MultiSteps(optimizer, config.accumulate)
        return optax.GradientTransformation(steps_of.init, steps_of.update)  # type: ignore[arg-type]
    return optimizer


def decayed(params: Any) -> Any:
    """True for the kernels of one member, False for biases, norms and embeddings: what weight decay pulls on."""
    return jax.tree.map_with_path(lambda path, leaf: leaf.ndim > 1 and "kernel" in _words(path), params)


def matrices(params: Any) -> Any:
    """How Muon sees each parameter of one member: hidden kernels as (inputs, outputs) matrices, None = AdamW."""

    def dimensions(path: Any, leaf: Any) -> Any:
        words = _words(path)
        if "kernel" not in words or leaf.ndim < 2 or any("head" in word or "embed" in word for word in words):
            return None
        last = leaf.ndim - 1
        if leaf.ndim == 3 and "out" not in words:  # attention: input -> (head, channel)
            return optax.contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=(1, 2))
        return optax.contrib.MuonDimensionNumbers(reduction_axis=tuple(range(last)), output_axis=last)

    return jax.tree.map_with_path(dimensions, params)


def _words(path: Any) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator="/").split("/")

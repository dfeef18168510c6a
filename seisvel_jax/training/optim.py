"""The optimiser of ONE member: clip, AdamW or Muon, warm-up and cosine with warm restarts, accumulation.

It runs inside the function that is mapped over members, so that every member is clipped by its own norm.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seisvel_jax.training.config import OptimConfig


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
        optimizer = optax.GradientTransformation(steps_of.init, steps_of.update)  # type: ignore[arg-type]
    return _with_default_promotion(optimizer)


def _with_default_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    # Optax mixes dtypes and ranks as JAX allows by default; our own code is held to the strict rules in the tests.
    def init(params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return optimizer.init(params)

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return optimizer.update(gradient, state, params)

    return optax.GradientTransformation(init, update)


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

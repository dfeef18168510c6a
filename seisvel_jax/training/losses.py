"""The training objective: four terms, each one dimensionless number a sample (docs/losses.md has the equations)."""

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array, Float, Velocity, typed
from seisvel_jax.survey import Survey
from seisvel_jax.training.config import LossConfig

WATER = 1500.0
"""m/s. Models with a sea hold exactly this from the surface down to the seabed."""
PATH_POINTS = 32
"""Quadrature points along a direct path."""


@typed
def loss_terms(
    prediction: Velocity, truth: Velocity, survey: Survey, config: LossConfig
) -> dict[str, Float[Array, "batch"]]:
    """Each term, `[batch]`, not yet weighted: `mape`, `l2`, `gradient`, `physics`.

    prediction, truth: `[batch, depth, x]` m/s on `survey.grid`.
    """
    scale = config.velocity_scale
    return {
        "mape": _mean(jnp.abs(prediction - truth) / jnp.abs(truth)),
        "l2": _mean(((prediction - truth) / scale) ** 2),
        "gradient": gradient_error(prediction, truth, survey.grid.spacing) * (config.gradient_length / scale),
        "physics": outside_bounds(prediction, config.bounds) / scale
        + water_error(prediction, truth)
        + direct_wave_error(prediction, truth, survey),
    }


def weighted_sum(terms: dict[str, Float[Array, "batch"]], config: LossConfig) -> Float[Array, "batch"]:
    """The objective of each sample, `[batch]`: a training step takes its mean."""
    return (
        config.mape * terms["mape"]
        + config.l2 * terms["l2"]
        + config.gradient * terms["gradient"]
        + config.physics * terms["physics"]
    )


def gradient_error(prediction: Velocity, truth: Velocity, spacing: float) -> Float[Array, "batch"]:
    """Mean absolute error of the velocity's slopes along depth and x, their sum, 1/s. The same on any grid spacing."""
    error = (prediction - truth) / spacing
    return _mean(jnp.abs(jnp.diff(error, axis=1))) + _mean(jnp.abs(jnp.diff(error, axis=2)))


def outside_bounds(prediction: Velocity, bounds: tuple[float, float]) -> Float[Array, "batch"]:
    """Mean distance of the velocities from the interval `bounds`, m/s; 0 inside."""
    low, high = bounds
    return _mean(jax.nn.relu(low - prediction) + jax.nn.relu(prediction - high))


def water_error(prediction: Velocity, truth: Velocity) -> Float[Array, "batch"]:
    """Mean relative error within the sea of the true model; 0 for models without one.

    The sea is what holds 1500 m/s without interruption from the surface down.
    """
    # Half a metre a second: interpolation on another grid may leave rounding in float32.
    sea = jnp.cumprod((jnp.abs(truth - WATER) < 0.5).astype(jnp.float32), axis=1)
    error = jnp.abs(prediction - WATER) / WATER
    return jnp.sum(sea * error, axis=(1, 2)) / jnp.maximum(jnp.sum(sea, axis=(1, 2)), 1.0)


def direct_wave_error(prediction: Velocity, truth: Velocity, survey: Survey) -> Float[Array, "batch"]:
    """Error of the direct wave's travel times relative to the true ones: sum |T - T*| / sum T* over all traces."""
    times = direct_times(prediction, survey)
    true_times = direct_times(truth, survey)
    return jnp.sum(jnp.abs(times - true_times), axis=(1, 2)) / jnp.sum(true_times, axis=(1, 2))


def direct_times(velocity: Velocity, survey: Survey) -> Float[Array, "batch source receiver"]:
    """Travel time in seconds along the straight path from each source to each receiver.

    The slowness 1/v is interpolated bilinearly at the mid-points of equal parts of the path; the model's edge
    continues outside of it. Differentiable in the velocity. `survey` may differ between samples (a batch axis).
    """
    batch = velocity.shape[0]
    sources = jnp.broadcast_to(jnp.asarray(survey.sources), (batch, *survey.sources.shape[-2:]))[:, :, None, None]
    receivers = jnp.broadcast_to(jnp.asarray(survey.receivers), (batch, *survey.receivers.shape[-2:]))[:, None, :, None]
    along = ((jnp.arange(PATH_POINTS, dtype=jnp.float32) + 0.5) / PATH_POINTS)[None, None, None, :, None]
    shape = (batch, sources.shape[1], receivers.shape[2], PATH_POINTS, 2)
    step = jnp.broadcast_to(receivers, shape) - jnp.broadcast_to(sources, shape)
    points = (jnp.broadcast_to(sources, shape) + jnp.broadcast_to(along, shape) * step) / survey.grid.spacing
    slowness = jax.vmap(_interpolate)(1 / velocity, points[..., 1], points[..., 0])
    length = jnp.sqrt(jnp.sum(step[:, :, :, 0] ** 2, axis=-1))
    return length * jnp.mean(slowness, axis=-1)


def _interpolate(field: Array, depth: Array, x: Array) -> Array:
    return jax.scipy.ndimage.map_coordinates(field, [depth, x], order=1, mode="nearest")


def _mean(values: Array) -> Array:
    return jnp.mean(values, axis=(1, 2))

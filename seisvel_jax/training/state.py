"""What a training run carries from step to step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seisvel_jax.arrays import PRNGKeyArray
from seisvel_jax.models.ensemble import graphdefs, init_params
from seisvel_jax.survey import Survey


@partial(jax.tree_util.register_dataclass, data_fields=["step", "params", "opt_state", "ema"], meta_fields=[])
@dataclass(frozen=True)
class TrainState:
    """The whole state of a run: tuples over groups; every leaf but `step` has a leading member axis."""

    step: Any
    """Steps done, int32 scalar."""
    params: tuple
    opt_state: tuple
    ema: tuple
    """Exponential moving average of `params`."""


def init_state(groups: tuple, survey: Survey, optimizer: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    """The state of a new run, made in one jitted call."""
    # Committed to its device as a restored state is, so that a run that goes on runs the very same program.
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.jit(lambda k: _new_state(groups, survey, optimizer, k), out_shardings=place)(key)


def abstract_state(groups: tuple, survey: Survey, optimizer: optax.GradientTransformation) -> TrainState:
    """`init_state` with shapes and dtypes in place of arrays: nothing is computed or allocated."""
    return jax.eval_shape(lambda k: _new_state(groups, survey, optimizer, k), jax.random.key(0))


def abstract_params(groups: tuple, survey: Survey) -> tuple[tuple, tuple]:
    """`(graphdefs, params)` with shapes and dtypes in place of arrays; graphdefs are static and complete."""
    return graphdefs(groups, survey), jax.eval_shape(lambda key: init_params(groups, survey, key), jax.random.key(0))


def _new_state(groups: tuple, survey: Survey, optimizer: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    params = init_params(groups, survey, key)
    opt_state = tuple(jax.vmap(optimizer.init)(group) for group in params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jax.tree.map(jnp.copy, params))

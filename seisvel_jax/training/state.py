"""What a training run carries from step to step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from seisvel_jax.arrays import PRNGKeyArray
from seisvel_jax.models.ensemble import apply_member, graphdefs, init_params
from seisvel_jax.survey import Survey
from seisvel_jax.training.mesh import everywhere, one_device, over_member


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


def state_sharding(mesh: Mesh) -> TrainState:
    """Where the state's leaves lie: stacked members divided over the member axis, the step everywhere."""
    members: Any = over_member(mesh)
    return TrainState(everywhere(mesh), members, members, members)


def init_state(
    groups: tuple,
    survey: Survey,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    mesh: Mesh | None = None,
) -> TrainState:
    """The state of a new run on `mesh` (default: one device), made in one jitted call."""
    # Committed to its devices as a restored state is, so that a run that goes on runs the very same program.
    place = state_sharding(mesh or one_device())
    return jax.jit(lambda k: _new_state(groups, survey, optimizer, k), out_shardings=place)(key)


def abstract_state(
    groups: tuple, survey: Survey, optimizer: optax.GradientTransformation, mesh: Mesh | None = None
) -> TrainState:
    """`init_state` with shapes and dtypes in place of arrays, and with `mesh` their places: nothing is computed."""
    state = jax.eval_shape(lambda k: _new_state(groups, survey, optimizer, k), jax.random.key(0))
    if mesh is None:
        return state
    place = state_sharding(mesh)
    parts = [
        jax.tree.map(lambda leaf, at=at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), part)
        for part, at in (
            (state.step, place.step),
            (state.params, place.params),
            (state.opt_state, place.opt_state),
            (state.ema, place.ema),
        )
    ]
    return TrainState(*parts)


def abstract_params(groups: tuple, survey: Survey) -> tuple[tuple, tuple]:
    """`(graphdefs, params)` with shapes and dtypes in place of arrays; graphdefs are static and complete."""
    return graphdefs(groups, survey), jax.eval_shape(lambda key: init_params(groups, survey, key), jax.random.key(0))


def check_networks(graphdefs: tuple, params: tuple, survey: Survey, batch_size: int) -> None:
    """Raise UserError where a network (`abstract_params`) cannot read the survey; nothing is computed."""
    gathers = jax.ShapeDtypeStruct((batch_size, *survey.gather_shape), jnp.float32)
    velocity = jax.ShapeDtypeStruct((batch_size, *survey.grid.shape), jnp.float32)
    for graphdef, tree in zip(graphdefs, params):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
        read = partial(apply_member, graphdef)
        jax.eval_shape(
            lambda p, g, f, read=read: read(p, g, survey, first=f),
            one,
            gathers,
            {"velocity": velocity, "gathers": gathers},
        )


def _new_state(groups: tuple, survey: Survey, optimizer: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    params = init_params(groups, survey, key)
    opt_state = tuple(jax.vmap(optimizer.init)(group) for group in params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jax.tree.map(jnp.copy, params))

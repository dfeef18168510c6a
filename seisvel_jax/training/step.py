"""One training step of all members of all groups, as ONE jitted function."""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from seisvel_jax.arrays import PRNGKeyArray
from seisvel_jax.config import Config
from seisvel_jax.models.ensemble import apply_member, over_members
from seisvel_jax.survey import Survey
from seisvel_jax.training.augment import augment
from seisvel_jax.training.losses import loss_terms, weighted_sum
from seisvel_jax.training.mesh import everywhere, one_device, over_data
from seisvel_jax.training.state import TrainState, state_sharding


def make_step(
    config: Config,
    graphdefs: tuple,
    optimizer: optax.GradientTransformation,
    survey: Survey,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, Any]]]:
    """The jitted step: `(state, {"gathers", "velocity"}) -> (state, metrics)`, metrics `[member]` each.

    All members see the same samples in the same order; each draws its own augmentation and dropout. The state given
    in is donated: use the one returned. Rows of the batch and members are divided over `mesh` (default: one device);
    the numbers do not depend on it but for the order of sums.
    """
    mesh = mesh or one_device()

    def member_step(graphdef: Any, params: Any, opt_state: Any, key: PRNGKeyArray, batch: dict) -> tuple:
        augment_key, dropout_key = jax.random.split(key)
        gathers, truth, positions = augment(augment_key, batch["gathers"], batch["velocity"], survey, config.augment)

        def loss(params: Any) -> tuple:
            prediction = apply_member(graphdef, params, jnp.asarray(gathers), positions, dropout_key)
            terms = loss_terms(prediction, truth, positions, config.loss)
            return jnp.mean(weighted_sum(terms, config.loss)), jax.tree.map(jnp.mean, terms)

        (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        # Clipping is part of the optimiser: here it sees one member's norm and never the whole ensemble's.
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        metrics = {"loss": value, **terms, "gradient_norm": optax.tree.norm(gradient)}
        return optax.apply_updates(params, updates), opt_state, metrics

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        keys = member_keys(stream_key(config.seed, "step", state.step), config)
        decay = ema_decay(config.ema_decay, state.step)
        results = []
        for graphdef, group_keys, params, opt_state in zip(graphdefs, keys, state.params, state.opt_state):
            one = over_members(lambda p, o, k, graphdef=graphdef: member_step(graphdef, p, o, k, batch), mesh)
            results.append(one(params, opt_state, group_keys))
        params, opt_states, metrics = (tuple(part) for part in zip(*results))
        ema = jax.tree.map(lambda old, new: old * decay + new * (1 - decay), state.ema, params)
        metrics = jax.tree.map(lambda *groups: jnp.concatenate(groups), *metrics)
        return TrainState(state.step + 1, params, opt_states, ema), metrics

    placed = state_sharding(mesh)
    return jax.jit(
        step, donate_argnums=0, in_shardings=(placed, over_data(mesh)), out_shardings=(placed, everywhere(mesh))
    )


def ema_decay(decay: float, step: jax.Array) -> jax.Array:
    """The decay of this step: a plain running mean at first, so that the start is forgotten, then `decay`."""
    done = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + done) / (10 + done))


def stream_key(seed: int, name: str, step: Any = 0) -> PRNGKeyArray:
    """The key of a named stream of randomness at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode())), step)


def member_keys(key: PRNGKeyArray, config: Config) -> list[PRNGKeyArray]:
    """One key a member, `[member]` a group; a member's key depends on its group and number alone."""
    return [
        jax.vmap(lambda member, g=index: jax.random.fold_in(jax.random.fold_in(key, g), member))(
            jnp.arange(group.members)
        )
        for index, group in enumerate(config.groups)
    ]

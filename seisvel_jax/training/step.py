"""One training step of all members of all groups, as ONE jitted function."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from seisvel_jax.arrays import PRNGKeyArray
from seisvel_jax.config import Config
from seisvel_jax.models.ensemble import apply_member, over_members
from seisvel_jax.survey import Survey
from seisvel_jax.training.augment import augment, mirror, mirrored_rows
from seisvel_jax.training.losses import loss_terms, weighted_sum
from seisvel_jax.training.mesh import everywhere, one_device, over_data
from seisvel_jax.training.state import TrainState, state_sharding
from seisvel_jax.training.wave_loss import WaveLoss


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
    the numbers do not depend on it but for the order of sums. A batch may say which rows have a velocity, `labelled
    [batch]` of 1 and 0: the terms that compare with it are then means over those rows, whatever stands in the others.
    """
    mesh = mesh or one_device()
    wave = WaveLoss(config.loss.wave, survey, config.loss.bounds, mesh) if config.loss.wave.weight > 0 else None

    def member_step(graphdef: Any, params: Any, opt_state: Any, key: PRNGKeyArray, *, batch: dict, at: Any) -> tuple:
        augment_key, dropout_key = jax.random.split(key)
        gathers, truth, positions = augment(augment_key, batch["gathers"], batch["velocity"], survey, config.augment)
        rows: dict[str, Any] = {"truth": truth}
        mirrored = mirrored_rows(augment_key, len(truth), config.augment)
        if "labelled" in batch:
            rows["share"] = batch["labelled"] / jnp.maximum(jnp.mean(batch["labelled"]), 1e-6)
        if wave is not None:  # as it was recorded: the noise and the mirror are the network's business
            rows["observed"] = batch["gathers"]
            rows["mirrored"] = mirrored
        if "first" in batch:
            found, known, _ = mirror(mirrored, batch["first"]["gathers"], batch["first"]["velocity"], survey)
            rows["first"] = {"velocity": known, "gathers": found}

        def loss(params: Any, gathers: Any, rows: dict, positions: Survey, key: PRNGKeyArray) -> tuple:
            prediction = apply_member(graphdef, params, jnp.asarray(gathers), positions, key, first=rows.get("first"))
            terms = loss_terms(prediction, rows["truth"], positions, config.loss)
            if "share" in rows:
                terms = {name: term * rows["share"] for name, term in terms.items()}
            objective = jnp.mean(weighted_sum(terms, config.loss))
            if wave is not None:
                straight = jnp.where(rows["mirrored"][:, None, None], prediction[:, :, ::-1], prediction)
                terms["wave"] = wave(straight, rows["observed"], at["shots"])
                objective = objective + at["wave_weight"] * jnp.mean(terms["wave"])
            return objective, jax.tree.map(jnp.mean, terms)

        slope = partial(jax.value_and_grad(loss, has_aux=True), params)
        (value, terms), gradient = mean_of_parts(slope, config.parts, (gathers, rows, positions), dropout_key)
        # Clipping is part of the optimiser: here it sees one member's norm and never the whole ensemble's.
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        metrics = {"loss": value, **terms, "gradient_norm": optax.tree.norm(gradient)}
        return optax.apply_updates(params, updates), opt_state, metrics

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        keys = member_keys(stream_key(config.seed, "step", state.step), config)
        decay = ema_decay(config.ema_decay, state.step)
        at = {}
        if wave is not None:
            shots_key = stream_key(config.seed, "shots", state.step)
            at = {"shots": wave.shots(shots_key), "wave_weight": wave.weight(state.step)}
        results = []
        for graphdef, group_keys, params, opt_state in zip(graphdefs, keys, state.params, state.opt_state):
            one = partial(member_step, graphdef, batch=batch, at=at)
            results.append(over_members(one, mesh)(params, opt_state, group_keys))
        params, opt_states, metrics = (tuple(part) for part in zip(*results))
        ema = jax.tree.map(lambda old, new: old * decay + new * (1 - decay), state.ema, params)
        metrics = jax.tree.map(lambda *groups: jnp.concatenate(groups), *metrics)
        return TrainState(state.step + 1, params, opt_states, ema), metrics

    placed = state_sharding(mesh)
    return jax.jit(
        step, donate_argnums=0, in_shardings=(placed, over_data(mesh)), out_shardings=(placed, everywhere(mesh))
    )


def mean_of_parts(function: Callable, parts: int, batch: tuple[Any, Any, Survey], key: PRNGKeyArray) -> Any:
    """`function(gathers, rows, positions, key)` of a whole batch, as the mean over `parts` of it, one after the other.

    Equal parts: what is a mean over the batch stays one, in another order of summation. Each part has its own key.
    """
    gathers, rows, positions = batch
    if parts == 1:
        return function(gathers, rows, positions, key)

    def split(rows: Any) -> jax.Array:
        # Part p has rows p, p + parts, ...: a device that holds a run of rows holds as many of every part.
        return jnp.moveaxis(jnp.reshape(rows, (-1, parts, *rows.shape[1:])), 1, 0)

    moved = {name: getattr(positions, name) for name in ("sources", "receivers")}
    each = {name: split(value) for name, value in moved.items() if value.ndim == 3}  # mirrored sample by sample

    def one(part: tuple) -> Any:
        number, gathers, rows, places = part
        return function(gathers, rows, replace(positions, **places), jax.random.fold_in(key, number))

    inputs = (jnp.arange(parts), split(gathers), jax.tree.map(split, rows), each)
    first = jax.eval_shape(lambda: one(jax.tree.map(lambda leaf: leaf[0], inputs)))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, one(part)), None), nothing, inputs)
    return jax.tree.map(lambda leaf: leaf / parts, total)


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

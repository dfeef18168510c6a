"""One training step of all members of a denoiser, as one jitted function: a fork of `step.py`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from seisvel_jax.config import DiffusionConfig
from seisvel_jax.diffusion.condition import drop, of_training
from seisvel_jax.diffusion.denoiser import guess_loss
from seisvel_jax.diffusion.processes import process_of
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.models.ensemble import over_members
from seisvel_jax.survey import Survey
from seisvel_jax.training.augment import augment
from seisvel_jax.training.mesh import everywhere, one_device, over_data
from seisvel_jax.training.state import TrainState, state_sharding
from seisvel_jax.training.step import ema_decay, stream_key


def make_diffusion_step(
    config: DiffusionConfig,
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    survey: Survey,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, Any]]]:
    """The jitted step: `(state, {"gathers", "velocity", "family"}) -> (state, metrics)`.

    Metrics `[member]`: `loss` of the denoiser, mean error of the `guess` (scaled; models without gathers count 0), and
    `gradient_norm`.
    `state` is that of `init_state(config.groups, ...)`: a tuple of one stacked tree. `family` `[batch]` holds the
    numbers of `DenoiserConfig.family`. All members see the same samples; each draws its own augmentation, conditions,
    noise and dropout. The state given in is donated. Rows and members are divided over `mesh` (default: one device).
    """
    mesh = mesh or one_device()
    scale, process = Scale(config.denoiser.bounds), process_of(config.process, config.log_levels)

    def member_step(params: Any, opt_state: Any, key: jax.Array, batch: dict) -> tuple:
        augment_key, told_key, drop_key, noise_key, dropout_key = jax.random.split(key, 5)
        gathers, velocity, places = augment(augment_key, batch["gathers"], batch["velocity"], survey, config.augment)
        clean = jnp.asarray(scale.to_unit(velocity))
        told = of_training(
            gathers, clean, batch["family"], told_key, spacing=survey.grid.spacing, config=config.condition
        )
        told = drop(told, drop_key, config.condition)

        def loss(params: Any) -> tuple[jax.Array, dict]:
            network = nnx.merge(graphdef, params)
            heard = network.hear(told.gathers, told.shots, places, dropout_key)
            encoded = network.told(told, heard, places)

            def answer(values: jax.Array, level: jax.Array, encoded: Any) -> jax.Array:
                return network(values, level, encoded, places, dropout_key=jax.random.fold_in(dropout_key, 1000))

            denoising = jnp.mean(process.loss(answer, clean, encoded, noise_key))
            guess = jnp.mean(guess_loss(heard, clean))
            return denoising + config.guess_weight * guess, {"loss": denoising, "guess": guess}

        gradient, metrics = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        return optax.apply_updates(params, updates), opt_state, metrics

    def step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        key = stream_key(config.seed, "diffusion", state.step)
        keys = jax.vmap(lambda member: jax.random.fold_in(key, member))(jnp.arange(config.members))
        one = over_members(lambda params, opt_state, key: member_step(params, opt_state, key, batch), mesh)
        params, opt_state, metrics = one(state.params[0], state.opt_state[0], keys)
        decay = ema_decay(config.ema_decay, state.step)
        ema = jax.tree.map(lambda old, new: old * decay + new * (1 - decay), state.ema[0], params)
        return TrainState(state.step + 1, (params,), (opt_state,), (ema,)), metrics

    placed = state_sharding(mesh)
    return jax.jit(
        step, donate_argnums=0, in_shardings=(placed, over_data(mesh)), out_shardings=(placed, everywhere(mesh))
    )

"""What is known of a model besides how noisy it is: any subset of gathers (each shot), wells, background and family.

What is not known is 0 and has a 0 in its mask, whatever stood there: 3000 m/s, which is 0 when scaled, is told apart
from "no log" by the mask alone.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array, Gathers, PRNGKeyArray, Velocity
from seisvel_jax.diffusion.config import ConditionConfig
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey

SOURCES = ("gathers", "wells", "background", "family")
SPREAD_BY = SOURCES[:3]
"""Those that the temperature of the samples' spread is fitted for; the family hardly changes it."""
FEWEST_BLUR = 1e-3
"""Cells: less than this much blur is none."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["gathers", "shots", "wells", "wells_known", "background", "blur", "background_known", "family"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Condition:
    """Of a batch. A pytree: every leaf has the batch first."""

    gathers: Any
    """`[batch, source, time, receiver]`."""
    shots: Any
    """`[batch, source]`: 1 where the shot is known."""
    wells: Any
    """`[batch, depth, x]` scaled velocity."""
    wells_known: Any
    """`[batch, depth, x]`: 1 where a well was logged."""
    background: Any
    """`[batch, depth, x]` scaled velocity, smooth."""
    blur: Any
    """`[batch]` metres: how smooth."""
    background_known: Any
    """`[batch]` 1 or 0."""
    family: Any
    """`[batch]` int: `DenoiserConfig.family`, 0 where it is not known."""


def nothing(batch: int, survey: Survey) -> Condition:
    """The condition that says nothing: the prior's."""
    source, time, receiver = survey.gather_shape
    grid = jnp.zeros((batch, *survey.grid.shape))
    return Condition(
        jnp.zeros((batch, source, time, receiver)),
        jnp.zeros((batch, source)),
        grid,
        grid,
        grid,
        jnp.zeros(batch),
        jnp.zeros(batch),
        jnp.zeros(batch, jnp.int32),
    )


def subset_name(sources: Iterable[str]) -> str:
    """What a temperature is filed under: `gathers + wells`, whatever the order; `nothing` where none is told."""
    told = set(sources)
    return " + ".join(source for source in SPREAD_BY if source in told) or "nothing"


def only(condition: Condition, *sources: str) -> Condition:
    """The condition with these of `SOURCES` alone; none of them is the prior's. Raises UserError for another word."""
    wrong = set(sources) - set(SOURCES)
    if wrong:
        raise UserError(f"sources of information {sorted(wrong)}, expected some of {', '.join(SOURCES)}")
    return masked(condition, {name: jnp.full(condition.blur.shape, float(name in sources)) for name in SOURCES})


def masked(condition: Condition, kept: dict[str, jax.Array]) -> Condition:
    """Each source times its `kept` `[batch]`, 1 or 0; `gathers` may be `[batch, source]`."""
    shots = (
        kept["gathers"]
        if kept["gathers"].ndim == 2
        else jnp.broadcast_to(kept["gathers"][:, None], condition.shots.shape)
    )
    shots = condition.shots * shots
    wells_known = condition.wells_known * kept["wells"][:, None, None]
    background_known = condition.background_known * kept["background"]
    return Condition(
        condition.gathers * shots[:, :, None, None],
        shots,
        condition.wells * wells_known,
        wells_known,
        condition.background * background_known[:, None, None],
        condition.blur * background_known,
        background_known,
        jnp.where(kept["family"] > 0, condition.family, 0),
    )


def drop(condition: Condition, key: PRNGKeyArray, config: ConditionConfig) -> Condition:
    """Each source of each model left out with its probability, and each shot by itself."""
    keys = jax.random.split(key, 5)
    batch, source = condition.shots.shape
    rates = (config.drop_gathers, config.drop_wells, config.drop_background, config.drop_family)
    kept = {
        name: jax.random.bernoulli(one, 1 - rate, (batch,)).astype(jnp.float32)
        for name, one, rate in zip(SOURCES, keys, rates)
    }
    shot = jax.random.bernoulli(keys[4], 1 - config.drop_shot, (batch, source)).astype(jnp.float32)
    return masked(condition, {**kept, "gathers": kept["gathers"][:, None] * shot})


def of_training(
    gathers: Gathers, clean: Velocity, family: Array, key: PRNGKeyArray, *, spacing: float, config: ConditionConfig
) -> Condition:
    """Everything there is to tell of training models `clean` (scaled), for `drop` to take from.

    All shots, wells at random columns, a background of random blur, and the family.
    """
    count_key, column_key, blur_key = jax.random.split(key, 3)
    batch, _, x_count = clean.shape
    # The wells of a model are the columns with the smallest of random numbers.
    ranks = jnp.argsort(jnp.argsort(jax.random.uniform(column_key, (batch, x_count)), axis=1), axis=1)
    counts = jax.random.randint(count_key, (batch, 1), 1, config.wells + 1)
    logged = jnp.broadcast_to((ranks < counts)[:, None, :], clean.shape).astype(jnp.float32)
    low, high = (math.log(edge) for edge in config.blur)
    blur = jnp.exp(jax.random.uniform(blur_key, (batch,), minval=low, maxval=high))
    return Condition(
        gathers,
        jnp.ones(gathers.shape[:2]),
        jnp.asarray(clean) * logged,
        logged,
        jax.vmap(blurred)(jnp.asarray(clean), blur / spacing),
        blur,
        jnp.ones(batch),
        jnp.asarray(family, jnp.int32),
    )


def blurred(field: jax.Array, cells: jax.Array) -> jax.Array:
    """A map `[depth, x]` under a Gaussian of this standard deviation in cells, normalised at the edges."""
    for axis in (0, 1):
        places = jnp.arange(field.shape[axis], dtype=jnp.float32)
        apart = (places[:, None] - places[None]) / jnp.maximum(cells, FEWEST_BLUR)
        weights = jnp.exp(-(apart**2) / 2)
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        field = weights @ field if axis == 0 else field @ weights.T
    return field


def check(condition: Condition, survey: Survey) -> None:
    """Raise UserError where a part does not fit the survey or the batch, or is not finite where it is known."""
    batch = condition.gathers.shape[0]
    wanted = {
        "gathers": (batch, *survey.gather_shape),
        "shots": (batch, survey.gather_shape[0]),
        **{name: (batch, *survey.grid.shape) for name in ("wells", "wells_known", "background")},
        **{name: (batch,) for name in ("blur", "background_known", "family")},
    }
    for part in fields(condition):
        values = getattr(condition, part.name)
        if values.shape != wanted[part.name]:
            raise UserError(f"condition: {part.name} of shape {values.shape}, expected {wanted[part.name]}")
        if not bool(jnp.isfinite(values).all()):
            raise UserError(f"condition: {part.name} holds values that are not finite, expected 0 where not known")

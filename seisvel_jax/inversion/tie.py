"""Layered models: regions tied to one value each, and whole numbers. Kept only where that lowers the misfit.

After an inversion the layers of a layered model show as plateaus with soft edges. Here each model is cut into regions
(inversion/regions.py), every region gets one value, and those few values are inverted for by L-BFGS in the space of the
models that are constant in each region; then, for families with velocities in whole m/s, they are rounded.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.inversion import lbfgs
from seisvel_jax.inversion.parameters import Space, from_velocity, slope
from seisvel_jax.inversion.regions import segment, tied

CONTRASTS = (150.0, 75.0, 40.0)
"""m/s between the means of neighbours that are told apart, one after the other: few regions first."""

Look = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""Velocity `[batch, depth, x]` -> misfits `[batch]` and their gradients by the velocity. Counted by the caller."""


def tie(
    look: Look,
    best: Callable[[], np.ndarray],
    space: Space,
    to_velocity: Callable[[jax.Array], jax.Array],
    *,
    evaluations: int,
    whole: bool,
    memory: int = 10,
) -> None:
    """Look at tied models around the best one, which `best()` returns `[batch, depth, x]` m/s; known cells stay.

    `to_velocity`: m/s of km/s, within the bounds.

    Each contrast gets its share of the evaluations, but for one at the end for the rounded model where `whole`.
    """
    left = evaluations - int(whole)
    for i, contrast in enumerate(CONTRASTS):
        share = left // (len(CONTRASTS) - i)
        left -= share
        if share == 0:
            continue
        models = best()
        labels = np.stack([segment(model, contrast=contrast) for model in models])
        start = np.stack([tied(model, label, whole=whole) for model, label in zip(models, labels)])
        among = replace(space, regions=jnp.asarray(labels))
        state = lbfgs.begin(among.clip(from_velocity(start, "velocity")), memory)
        first = jnp.asarray(0.02, state.trial.dtype)
        for _ in range(share):
            velocity = to_velocity(state.trial)
            value, gradient = look(velocity)
            state = lbfgs.update(state, value, gradient * slope(velocity, "velocity"), among, first)
    if whole and evaluations > 0:
        look(jnp.round(jnp.asarray(best())))

"""Random models by the name of their family."""

import jax

from seisvel_jax.arrays import Float, PRNGKeyArray, typed
from seisvel_jax.earth import openfwi, speed_and_structure
from seisvel_jax.earth.style import random_style
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Grid

OPENFWI: tuple[str, ...] = (*openfwi.RULES, *openfwi.STYLES)
FAMILIES: tuple[str, ...] = (*OPENFWI, "speed-and-structure")
"""The families that `random_model` knows by name; "openfwi" stands for one of its ten, drawn at random."""


@typed
def random_model(family: str, key: PRNGKeyArray, grid: Grid) -> Float[jax.Array, "depth x"]:
    """One model `[depth, x]` float32 m/s of `family` on `grid`; jit and vmap over `key` (the others are static).

    Raises UserError for a name that is not in FAMILIES.
    """
    check_family(family)
    if family == "speed-and-structure":
        return speed_and_structure.random_model(key, grid)
    if family == "openfwi":
        return openfwi.random_model(key, grid)
    key = jax.random.fold_in(key, FAMILIES.index(family))  # the families of one seed are not the same draws twice
    if family in openfwi.STYLES:
        return random_style(key, grid, "a" if family == "style-a" else "b")
    return openfwi.random_layers(key, grid, openfwi.RULES[family])


def check_family(family: str) -> None:
    """Raises UserError for a name that `random_model` does not know."""
    if family not in (*FAMILIES, "openfwi"):
        raise UserError(f"--family: {family!r}, expected one of {', '.join((*FAMILIES, 'openfwi'))}: correct it")

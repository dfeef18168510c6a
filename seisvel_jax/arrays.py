"""Axis names of every array in the package, and the decorator that checks them in tests.

Inside the package all quantities are SI: metres, seconds, m/s, Hz. Gathers are `[batch, source, time, receiver]`,
velocity is `[batch, depth, x]`; depth grows with the index.
"""

import os
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray, jaxtyped

Array = jax.Array | np.ndarray

Gathers = Float[Array, "batch source time receiver"]
Velocity = Float[Array, "batch depth x"]
MemberVelocity = Float[Array, "member batch depth x"]
Positions = Float[Array, "*batch position 2"]
"""Positions in metres, `(x, depth)` in the last axis."""

F = TypeVar("F", bound=Callable)


def typed(function: F) -> F:
    """Check shapes and dtypes of annotated arguments when SEISVEL_TYPECHECK=1 (set in the tests); else do nothing.

    A decorator and no import hook: the hook breaks registered dataclasses under vmap, tree.map and scan.
    """
    if os.environ.get("SEISVEL_TYPECHECK") != "1":
        return function
    from beartype import beartype

    return jaxtyped(typechecker=beartype)(function)


__all__ = [
    "Array",
    "Bool",
    "Float",
    "Gathers",
    "Int",
    "MemberVelocity",
    "PRNGKeyArray",
    "Positions",
    "Velocity",
    "typed",
]

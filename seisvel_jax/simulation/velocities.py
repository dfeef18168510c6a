"""Where the velocity models of a simulation come from: memory, chance, or new ones out of the user's own."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from seisvel_jax.data.noise import draws
from seisvel_jax.errors import UserError

if TYPE_CHECKING:
    from seisvel_jax.survey import Grid, Survey

KEPT = (1500.0, 4500.0)
"""m/s of the challenge's water and salt."""
BLOCK = 32
"""Models drawn together where there is an accelerator: one at a time would leave it waiting for its host."""


class Velocities(Protocol):
    """Velocity models by index."""

    @property
    def names(self) -> Sequence[str]:
        """Unique names, one a model."""

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""


class ArrayVelocities:
    """Velocity models `[N, depth, x]` (or `[N, 1, depth, x]`) in m/s, held in memory."""

    def __init__(self, velocity: np.ndarray, names: Sequence[str] | None = None):
        self._velocity = velocity.reshape(-1, *velocity.shape[-2:])
        self.names = tuple(names or (f"sample_{i:06d}" for i in range(len(self._velocity))))

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""
        return self._velocity[index]


class ClippedVelocities:
    """Models held between two velocities in m/s: what lies outside would need a finer grid or a shorter time step."""

    def __init__(self, velocities: Velocities, low: float, high: float):
        if not 0 < low < high < float("inf"):
            raise UserError(f"--clip {low:g} {high:g}: expected two velocities in m/s above 0, the smaller first")
        self._velocities, self._low, self._high = velocities, low, high
        self.names = velocities.names

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""
        return np.clip(self._velocities.velocity(index), self._low, self._high)


class RandomVelocities:
    """Random models of `earth/` on the survey's grid; model i depends on the seed, the families and i alone.

    Of several families each has its turn: model i is of number i modulo their count. Raises UserError for a family
    that is none.
    """

    def __init__(self, survey: "Survey", count: int, seed: int, families: Sequence[str] = ()):
        from seisvel_jax.earth.families import check_family

        self._survey, self._seed = survey, seed
        self.families = tuple(families) or (default_family(survey),)
        for family in self.families:
            check_family(family)
        self._blocks: dict[str, Callable[[int], np.ndarray]] = {f: self._block_of(f) for f in set(self.families)}
        self.names = tuple(f"{self.family(i)}-{seed}_{i:06d}" for i in range(count))

    def family(self, index: int) -> str:
        """What model `index` is drawn from."""
        return self.families[index % len(self.families)]

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""
        return self._blocks[self.family(index)](index)

    def _block_of(self, family: str) -> Callable[[int], np.ndarray]:
        import jax
        import jax.numpy as jnp

        key = jax.random.key(self._seed)
        size = 1 if jax.default_backend() == "cpu" else BLOCK
        step = len(self.families)
        many = _drawing(family, self._survey.grid, size > 1)
        held: dict[tuple[int, int], np.ndarray] = {}

        def velocity(index: int) -> np.ndarray:
            if size == 1:
                return np.asarray(many(key, np.uint32(index)))
            number, place = divmod(index // step, size)
            block = number, index % step  # a family may have several turns
            if block not in held:
                held.clear()
                first = number * size * step + index % step
                held[block] = np.asarray(many(key, jnp.arange(first, first + size * step, step, dtype=jnp.uint32)))
            return held[block][place]

        return velocity


@lru_cache(64)
def _drawing(family: str, grid: "Grid", several: bool) -> Callable[..., Any]:
    """`(key, index or indices) -> model or models`, compiled once in a process."""
    import jax

    from seisvel_jax.earth.families import random_model

    def draw(key: jax.Array, index: jax.Array) -> jax.Array:
        return random_model(family, jax.random.fold_in(key, index), grid)

    # A CPU draws one after the other; a lone model of a batched program would cost as much as all.
    return jax.jit(jax.vmap(draw, in_axes=(None, 0)) if several else draw)


def default_family(survey: "Survey") -> str:
    """What is drawn where nobody says: water, layers, faults and salt, or OpenFWI's families for its boundary."""
    return "openfwi" if survey.boundary.kind == "openfwi" else "speed-and-structure"


class AugmentedVelocities:
    """New models out of the user's own: two of them, drawn by (seed, index), warped, blended, mirrored and scaled.

    `earth.combine.augment` says what is done. The user's are taken to the survey's grid first. Where the challenge's
    boundary is imitated water (1500 m/s) and salt (4500 m/s) stay what they are; whole m/s give whole m/s.
    """

    def __init__(self, seeds: Velocities, survey: "Survey", count: int, seed: int):
        import jax

        from seisvel_jax.earth.combine import augment

        self.seeds, self._survey, self._seed = seeds, survey, seed
        key = jax.random.key(seed)
        keep = KEPT if survey.boundary.kind == "devito" else ()

        def new(index: jax.Array, one: jax.Array, other: jax.Array, whole: bool) -> jax.Array:
            return augment(jax.random.fold_in(key, index), one, other, survey.grid, keep=keep, whole=whole)

        self._new = jax.jit(new, static_argnums=3)
        self.names = tuple(f"augmented-{seed}_{i:06d}" for i in range(count))

    def parents(self, index: int) -> tuple[int, int]:
        """The two models that model `index` is made of; the same one twice where there is only one."""
        draw = draws(self._seed, index, "parents")
        count = len(self.seeds.names)
        one = int(draw.integers(count))
        return one, (one + 1 + int(draw.integers(count - 1))) % count if count > 1 else one

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""
        from seisvel_jax.simulation.ground import read_model

        one, other = (read_model(self.seeds, parent, self._survey)[1] for parent in self.parents(index))
        whole = bool((one == np.round(one)).all() and (other == np.round(other)).all())
        return np.asarray(self._new(np.uint32(index), one, other, whole))

"""The time loop, and what it keeps of the field for a gradient."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seisvel_jax.arrays import Array
from seisvel_jax.wave.layout import Block, Rows, Sides
from seisvel_jax.wave.medium import Medium, State, medium_of
from seisvel_jax.wave.plan import Plan


class Fields(NamedTuple):
    """What the gathers depend on smoothly: the arguments of the derivatives."""

    alpha: Array | None
    """`[batch, depth, x]` on the padded grid; None where nothing is damped."""
    beta: Array
    """`[batch, depth, x]`."""
    strength: Array
    """`[batch, shot, source, point]`: what a unit wavelet adds at each node of a source."""
    wavelet: Array
    """`[shot or 1, source, step]`."""
    spring: Array | None
    """`[batch, depth, x]`, taken as a constant (boundary.spring); mostly None."""


@dataclass(frozen=True)
class Chunk:
    """A few (model, shot) pairs that march side by side."""

    medium: Medium
    source_at: jax.Array
    """`[lane * source * point]` elements of a field."""
    strength: jax.Array
    """`[lane, source, point]`."""
    wavelet: jax.Array
    """`[step, lane, source]`."""
    receiver_at: jax.Array
    """`[lane * receiver * point]`."""
    receiver_weights: jax.Array
    """`[lane, receiver, point]`."""
    distinct: tuple[bool, bool]

    def fire(self, field: jax.Array, n: jax.Array) -> jax.Array:
        """The field with what the sources add in step n."""
        values = self.wavelet[n][..., None] * self.strength
        return self.add(field, self.source_at, values, distinct=self.distinct[0])

    def listen(self, field: jax.Array) -> jax.Array:
        """`[lane, receiver]`."""
        values = field.at[self.receiver_at].get(mode="promise_in_bounds")
        return (values.reshape(self.receiver_weights.shape) * self.receiver_weights).sum(-1)

    @staticmethod
    def add(field: jax.Array, where: jax.Array, values: jax.Array, *, distinct: bool) -> jax.Array:
        """The field with values added to elements."""
        values = values.reshape(-1)
        if where.size == 1:
            # XLA makes a slice update of one lone element, fuses it into whatever reads the field next, and copies the
            # field for that in every step. So 0 is added to element 0, which lies beyond the grid, too.
            where, values = jnp.pad(where, (0, 1)), jnp.pad(values, (0, 1))
        return field.at[where].add(values, unique_indices=distinct, mode="promise_in_bounds")


def chunk_of(fields: Fields, plan: Plan, model: jax.Array, shot: jax.Array) -> Chunk:
    """The chunk of lanes `[lane]` model and shot numbers."""
    alpha, spring = (None if field is None else field[model] for field in (fields.alpha, fields.spring))
    medium = medium_of(plan, alpha, fields.beta[model], spring)
    row = model if plan.source_nodes.shape[0] > 1 else jnp.zeros_like(model)
    source_at = medium.layout.index(jnp.asarray(plan.source_nodes)[row, shot])
    row = model if plan.receiver_nodes.shape[0] > 1 else jnp.zeros_like(model)
    receiver_at = medium.layout.index(jnp.asarray(plan.receiver_nodes)[row])
    own = shot if fields.wavelet.shape[0] > 1 else jnp.zeros_like(shot)
    return Chunk(
        medium,
        source_at.reshape(-1),
        jnp.asarray(fields.strength)[model, shot],
        jnp.moveaxis(jnp.asarray(fields.wavelet)[own], -1, 0),
        receiver_at.reshape(-1),
        jnp.asarray(plan.receiver_weights)[row],
        plan.distinct,
    )


@dataclass(frozen=True)
class Clock:
    """How the steps are grouped. A turn is a whole number of rows and of rotations of the three buffers."""

    substeps: int
    room: int
    """Rows the program has room for, a multiple of 3."""
    rows: jax.Array
    """Rows that are wanted."""

    @property
    def turn(self) -> int:
        """Steps a turn."""
        return math.lcm(3, self.substeps)

    @property
    def steps(self) -> int:
        """Steps the program has room for."""
        return self.room * self.substeps

    @property
    def turns(self) -> jax.Array:
        """Turns that are wanted."""
        return (self.rows * self.substeps + self.turn - 1) // self.turn

    @property
    def segment(self) -> int:
        """Turns a segment: a state is about three fields and one is kept for each segment, a step of it is one."""
        return max(1, min(round(math.sqrt(3 * self.steps) / self.turn), self.steps // self.turn))

    @property
    def segments(self) -> int:
        """Segments the program has room for."""
        return math.ceil(self.steps / (self.turn * self.segment))

    def row_ends(self, step_in_turn: int) -> bool:
        """Whether a row is recorded after this step of a turn."""
        return step_in_turn % self.substeps == self.substeps - 1


def clock_of(plan: Plan) -> Clock:
    """The clock of a plan."""
    return Clock(plan.substeps, plan.room, jnp.asarray(plan.rows))


Keep = Callable[[Any, jax.Array, State, bool], tuple[Any, jax.Array | None]]
"""`(kept, n, state, whether a row ends) -> (kept, one value that was read back or None)`."""


def march(chunk: Chunk, clock: Clock, turns: tuple, state: State, keeping: tuple[Any, Keep]) -> tuple[State, Any]:
    """The state after turns first..last-1, and what was kept on the way. keeping: `(kept, keep)`.

    What `keep` read back of what it stored is what the next step's write waits for (`Layout.write`).
    """

    kept, keep = keeping

    def turn(i: jax.Array, carry: tuple) -> tuple:
        state, kept, after = carry
        for s in range(clock.turn):
            n = i * clock.turn + s
            at = jnp.minimum(n, clock.steps - 1)  # a last segment may reach beyond the record, where nobody looks
            state = chunk.medium.step(state, partial(chunk.fire, n=at), after)
            kept, seen = keep(kept, n, state, clock.row_ends(s))
            after = after if seen is None else seen
        return state, kept, after

    rest = jnp.zeros((), state.now.dtype)
    state, kept, _ = jax.lax.fori_loop(turns[0], turns[1], turn, (state, kept, rest))
    return state, kept


def recording(chunk: Chunk, clock: Clock) -> tuple[jax.Array, Keep]:
    """An empty record `[row, lane, receiver]` and the `keep` that fills it."""
    shape = (clock.room, *chunk.receiver_weights.shape[:2])

    def keep(record: jax.Array, n: jax.Array, state: State, row_ends: bool) -> tuple[jax.Array, jax.Array | None]:
        if not row_ends:
            return record, None
        values = chunk.listen(state.now)
        return jax.lax.dynamic_update_index_in_dim(record, values, n // clock.substeps, 0), values[0, 0]

    return jnp.zeros(shape, chunk.strength.dtype), keep


def history(chunk: Chunk, length: int, first: Array | int) -> tuple[jax.Array, Keep]:
    """Room for the fields of `length` steps from step `first`, `[step, size]`, and the `keep` that fills it."""

    def keep(fields: jax.Array, n: jax.Array, state: State, row_ends: bool) -> tuple[jax.Array, jax.Array]:
        slot = n - first
        fields = jax.lax.dynamic_update_index_in_dim(fields, chunk.medium.layout.inner(state.now), slot, 0)
        return fields, fields[slot, 0]

    return jnp.zeros((length, chunk.medium.layout.size), chunk.strength.dtype), keep


def frame_blocks(plan: Plan, chunk: Chunk) -> tuple[Block, ...]:
    """The absorbing frame around the model, as blocks; `halo` nodes wider, as far as the layer's force reaches in."""
    layout, pad, h = chunk.medium.layout, plan.pad, chunk.medium.layout.halo
    blocks: list[Block] = [Sides(layout, pad.right + h, pad.left + h)]
    if pad.top:
        blocks.append(Rows(layout, 0, pad.top + h))
    if pad.bottom:
        blocks.append(Rows(layout, layout.depth - pad.bottom - h, pad.bottom + h))
    return tuple(blocks)


def framing(blocks: tuple[Block, ...], length: int, dtype: Any) -> tuple[tuple[jax.Array, ...], Keep]:
    """Room for the absorbing frame of `length` steps, and the `keep` that fills it."""

    def keep(kept: tuple, n: jax.Array, state: State, row_ends: bool) -> tuple[tuple, jax.Array]:
        kept = tuple(
            jax.lax.dynamic_update_index_in_dim(store, block.read(state.now, 0), n, 0)
            for store, block in zip(kept, blocks, strict=True)
        )
        return kept, sum(store[n, 0, 0] for store in kept)  # type: ignore[return-value]

    return tuple(jnp.zeros((length, *block.shape(0)), dtype) for block in blocks), keep


def both(first: Keep, second: Keep) -> Keep:
    """Keep two things."""

    def keep(kept: tuple, n: jax.Array, state: State, row_ends: bool) -> tuple[tuple, jax.Array | None]:
        a, seen_a = first(kept[0], n, state, row_ends)
        b, seen_b = second(kept[1], n, state, row_ends)
        seen = [s for s in (seen_a, seen_b) if s is not None]
        return (a, b), sum(seen) if seen else None  # type: ignore[return-value]

    return keep


def forward(chunk: Chunk, clock: Clock) -> jax.Array:
    """The record `[row, lane, receiver]`, nothing else kept."""
    return march(chunk, clock, (0, clock.turns), chunk.medium.start(), recording(chunk, clock))[1]


def forward_keeping(chunk: Chunk, clock: Clock, plan: Plan) -> tuple[jax.Array, Any]:
    """The record, and what the plan's memory mode keeps for `adjoint.backward`."""
    record, recorder = recording(chunk, clock)
    start = chunk.medium.start()
    if plan.scheme.memory == "full":
        fields, keep = history(chunk, clock.steps, 0)
        return march(chunk, clock, (0, clock.turns), start, ((record, fields), both(recorder, keep)))[1]
    if plan.scheme.memory == "reconstruct":
        frame, keep = framing(frame_blocks(plan, chunk), clock.steps, record.dtype)
        keeping = ((record, frame), both(recorder, keep))
        state, (record, frame) = march(chunk, clock, (0, clock.turns), start, keeping)
        return record, (state.before, state.now, frame)

    def segment(i: jax.Array, carry: tuple) -> tuple:
        state, record, kept = carry
        kept = jax.tree.map(
            lambda store, value: jax.lax.dynamic_update_index_in_dim(store, value, i, 0),
            kept,
            checkpoint(state),
        )
        turns = i * clock.segment, jnp.minimum((i + 1) * clock.segment, clock.turns)
        state, record = march(chunk, clock, turns, state, (record, recorder))
        return state, record, kept

    kept = jax.tree.map(lambda value: jnp.zeros((clock.segments, *value.shape), value.dtype), checkpoint(start))
    wanted = (clock.turns + clock.segment - 1) // clock.segment
    _, record, kept = jax.lax.fori_loop(0, wanted, segment, (start, record, kept))
    return record, kept


def checkpoint(state: State) -> tuple:
    """What a state needs to be taken up again: the rest is written before it is read, but for zeros."""
    return state.before, state.now, tuple(tuple(variable[0] for variable in memory) for memory in state.memory)


def resume(kept: tuple, scratch: State) -> State:
    """The state of a checkpoint, with the buffers of another state."""
    before, now, memory = kept
    rotated = tuple(
        tuple((value, *variable[1:]) for value, variable in zip(values, buffers, strict=True))
        for values, buffers in zip(memory, scratch.memory, strict=True)
    )
    return scratch._replace(before=before, now=now, memory=rotated)

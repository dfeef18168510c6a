"""The derivative of the time loop: what a small change of the ground adds to the gathers (Born modelling)."""

import jax
import jax.numpy as jnp

from seisvel_jax.wave.march import Chunk, Clock, Fields, recording
from seisvel_jax.wave.medium import State


def born(chunk: Chunk, clock: Clock, change: Fields) -> jax.Array:
    """Change of the record `[row, lane, receiver]` for a change of the chunk's fields, to first order.

    change: alpha and beta `[lane, depth, x]`, strength `[lane, source, point]`, wavelet `[step, lane, source]`. The
    field and its change march together: the change is driven by `d alpha (u - u-) + d beta (h^2 lap u + f)`.
    """
    medium, layout = chunk.medium, chunk.medium.layout
    of_alpha = None if change.alpha is None else layout.pack(change.alpha)
    of_beta = layout.pack(change.beta)
    record, keep = recording(chunk, clock)

    def step(field: State, scattered: State, n: jax.Array, after: jax.Array) -> tuple[State, State]:
        field, scattered = medium.with_forces(field), medium.with_forces(scattered)
        new, moved = field.spare, scattered.spare
        for band, force, scattered_force in zip(medium.bands, field.force_z, scattered.force_z, strict=True):
            driven = band.inner(of_beta) * medium.bend(band, field, force)
            if of_alpha is not None:
                now, before = band.shifted(field.now, 0, 0), band.shifted(field.before, 0, 0)
                driven = driven + band.inner(of_alpha) * (now - before)
            values = medium.leapfrog(band, scattered, scattered_force) + driven
            moved = layout.write(moved, values, after, band.start)
            new = layout.write(new, medium.leapfrog(band, field, force), after, band.start)
        values = change.wavelet[n][..., None] * chunk.strength + chunk.wavelet[n][..., None] * change.strength
        moved = chunk.add(moved, chunk.source_at, values, distinct=chunk.distinct[0])
        scattered = scattered._replace(before=scattered.now, now=moved, spare=scattered.before)
        return field._replace(before=field.now, now=chunk.fire(new, n), spare=field.before), scattered

    def turn(i: jax.Array, carry: tuple) -> tuple:
        field, scattered, record, after = carry
        for s in range(clock.turn):
            n = i * clock.turn + s
            field, scattered = step(field, scattered, n, after)
            record, seen = keep(record, n, scattered, clock.row_ends(s))
            after = after if seen is None else seen
        return field, scattered, record, after

    rest = jnp.zeros((), record.dtype)
    carry = (medium.start(), medium.start(), record, rest)
    return jax.lax.fori_loop(0, clock.turns, turn, carry)[2]

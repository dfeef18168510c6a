"""The exact transpose of the time loop: gradients of anything that is made of gathers (derived in docs/physics.md).

With `mu = beta * (adjoint field)` the transposed update is the update itself, run backwards from the residuals:
`mu = mu++ + alpha (mu+ - mu++) + beta (h^2 lap mu+ + f) + beta R^T r`. Summation by parts in time turns the gradient
into a sum over `u` at one time and `mu` at three:

    sum_n adjoint[n + 1] (h^2 lap u[n] + f[n])
        = 1 / beta^2 sum_n u[n] (mu[n] - mu[n+2] - alpha (mu[n+1] - mu[n+2])) - sources
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seisvel_jax.wave.march import Chunk, Clock, Fields, frame_blocks, history, march, resume
from seisvel_jax.wave.medium import State
from seisvel_jax.wave.plan import Plan


def backward(chunk: Chunk, clock: Clock, plan: Plan, kept: Any, residual: jax.Array) -> Fields:
    """Gradient of `sum(residual * record)` for one chunk; residual `[row, lane, receiver]`.

    alpha and beta `[lane, depth, x]`, strength `[lane, source, point]`, wavelet `[step, lane, source]`.
    """
    sums = _Sums(chunk, clock, residual)
    if plan.scheme.memory == "full":
        result = sums.march_back((0, clock.turns), sums.start(), lambda fields, n, _: (fields[n], fields), kept)
    elif plan.scheme.memory == "reconstruct":
        result = _reconstructing(chunk, clock, plan, sums, kept)
    else:
        result = _by_segments(chunk, clock, sums, kept)
    return sums.gradient(result)


class _Sums:
    """The backward march and what it adds up."""

    def __init__(self, chunk: Chunk, clock: Clock, residual: jax.Array) -> None:
        self.chunk, self.clock, self.residual = chunk, clock, residual
        layout, beta = chunk.medium.layout, chunk.medium.beta
        whole = layout.write(jnp.zeros(layout.total, beta.dtype), beta)
        self.beta_at_source = whole[chunk.source_at].reshape(chunk.strength.shape)
        self.into = chunk.receiver_weights * whole[chunk.receiver_at].reshape(chunk.receiver_weights.shape)

    def start(self) -> tuple:
        """At rest: state, sum for beta, sum for alpha or None, mu at the sources `[step, ...]`."""
        medium = self.chunk.medium
        rest = jnp.zeros_like(medium.beta)
        emitted = jnp.zeros((self.clock.steps, self.chunk.source_at.size), rest.dtype)
        return medium.start(transposed=True), rest, None if medium.alpha is None else rest, emitted

    def march_back(
        self,
        turns: tuple,
        start: tuple,
        field: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]],
        source: Any,
    ) -> tuple:
        """Turns last-1 down to first, of `turns` (first, last).

        `field(source, n, after) -> (u [size] after step n, source)`.
        """
        chunk, clock, medium = self.chunk, self.clock, self.chunk.medium
        inner = medium.layout.inner
        first, last = turns

        def turn(i: jax.Array, carry: tuple) -> tuple:
            (state, of_beta, of_alpha, emitted), source, after = carry
            for s in reversed(range(clock.turn)):
                n = (last - 1 - i) * clock.turn + s
                heard = jnp.zeros_like(self.into[..., 0])
                if clock.row_ends(s):
                    row = jnp.minimum(n // clock.substeps, clock.room - 1)
                    heard = jnp.where(n < clock.rows * clock.substeps, self.residual[row], 0)
                values = heard[..., None] * self.into
                state = medium.step(
                    state,
                    partial(chunk.add, where=chunk.receiver_at, values=values, distinct=chunk.distinct[1]),
                    after,
                    transposed=True,
                )
                # The state's buffers now hold mu at this time (now), one later (before) and two later (spare).
                u, source = field(source, n, after)
                now, later, last_of_three = inner(state.now), inner(state.before), inner(state.spare)
                bend = (
                    now - 2 * later + last_of_three
                    if medium.alpha is None
                    else now - last_of_three - medium.alpha * (later - last_of_three)
                )
                of_beta = of_beta + u * bend
                if of_alpha is not None:
                    of_alpha = of_alpha + u * (later - last_of_three)
                emission = state.now.at[chunk.source_at].get(mode="promise_in_bounds")
                emitted = jax.lax.dynamic_update_index_in_dim(emitted, emission, n, 0)
                after = of_beta[0] + emission[0] + (0 if of_alpha is None else of_alpha[0])
            return (state, of_beta, of_alpha, emitted), source, after

        rest = jnp.zeros((), medium.beta.dtype)
        return jax.lax.fori_loop(0, last - first, turn, (start, source, rest))[0]

    def gradient(self, result: tuple) -> Fields:
        """The sums as gradients."""
        _, of_beta, of_alpha, emitted = result
        chunk, layout = self.chunk, self.chunk.medium.layout
        beta = chunk.medium.beta
        inverse = _inverse(beta)
        adjoint = emitted.reshape(-1, *self.beta_at_source.shape) * _inverse(self.beta_at_source)[None]
        strength = jnp.einsum("nls,nlsp->lsp", chunk.wavelet, adjoint, precision="highest")
        wavelet = jnp.einsum("lsp,nlsp->nls", chunk.strength, adjoint, precision="highest")
        injected = jnp.zeros(layout.total, beta.dtype).at[chunk.source_at].add((chunk.strength * strength).reshape(-1))
        gradient = (of_beta * inverse - layout.inner(injected)) * inverse
        return Fields(
            None if of_alpha is None else layout.unpack(of_alpha * inverse),
            layout.unpack(gradient),
            strength,
            wavelet,
            None,
        )


def _inverse(beta: jax.Array) -> jax.Array:
    """1 / beta, and 0 where beta is: between the rows, and on a free surface, where nothing ever moves."""
    return jnp.where(beta > 0, 1 / jnp.where(beta > 0, beta, 1), 0)


def _by_segments(chunk: Chunk, clock: Clock, sums: _Sums, kept: tuple) -> tuple:
    """Each segment is run again from its stored state, its fields are kept, and the adjoint runs over them."""
    length = clock.segment * clock.turn
    wanted = (clock.turns + clock.segment - 1) // clock.segment

    def segment(i: jax.Array, carry: tuple) -> tuple:
        result, fields, scratch = carry
        number = wanted - 1 - i
        state = resume(jax.tree.map(lambda store: store[number], kept), scratch)
        first = number * clock.segment
        last = jnp.minimum(first + clock.segment, clock.turns)
        keep = history(chunk, length, first * clock.turn)[1]
        state, fields = march(chunk, clock, (first, last), state, (fields, keep))
        result = sums.march_back(
            (first, last), result, lambda fields, n, _: (fields[n - first * clock.turn], fields), fields
        )
        return result, fields, state

    fields = history(chunk, length, 0)[0]
    return jax.lax.fori_loop(0, wanted, segment, (sums.start(), fields, chunk.medium.start()))[0]


def _reconstructing(chunk: Chunk, clock: Clock, plan: Plan, sums: _Sums, kept: tuple) -> tuple:
    """The field is run backwards inside the model, where nothing is damped; its frame comes from the store."""
    before, now, frame = kept
    blocks = frame_blocks(plan, chunk)
    medium = chunk.medium.without_layers()

    def field(source: State, n: jax.Array, wait: jax.Array) -> tuple[jax.Array, State]:
        # `now` is the field after step n, `before` the one after step n - 1; the next is the one after step n - 2.
        back = source._replace(before=source.now, now=source.before)

        def add(values: jax.Array) -> jax.Array:
            values = chunk.fire(values, jnp.minimum(n, clock.steps - 1))
            for block, store in zip(blocks, frame, strict=True):
                values = block.restore(values, store[jnp.maximum(n - 2, 0)])
            return values

        back = medium.step(back, add, wait)
        return chunk.medium.layout.inner(source.now), back._replace(before=back.now, now=back.before)

    rest = medium.start()
    source = rest._replace(before=before, now=now)
    return sums.march_back((0, clock.turns), sums.start(), field, source)

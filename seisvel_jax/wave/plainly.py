"""The same scheme written to be read: two-dimensional fields, `pad` and slices, one shot at a time. The oracle."""

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.arrays import Array
from seisvel_jax.survey import Survey
from seisvel_jax.wave import stencil
from seisvel_jax.wave.boundary import coefficients
from seisvel_jax.wave.plan import make_plan
from seisvel_jax.wave.propagate import _finish, fields_of
from seisvel_jax.wave.scheme import Scheme


def propagate_plainly(
    velocity: Array, survey: Survey, *, max_velocity: float, scheme: Scheme | None = None
) -> jax.Array:
    """`propagate` without anything done for speed."""
    plan = make_plan(survey, max_velocity, scheme)
    velocity = jnp.asarray(velocity, plan.dtype)
    alpha, beta = coefficients(velocity, plan.dt, plan.grid, plan.boundary)
    fields = fields_of(velocity, plan)
    second = stencil.second_derivative(plan.scheme.order, plan.scheme.coefficients)
    first = stencil.first_derivative(plan.scheme.order, plan.scheme.coefficients)
    halo = second.size - 1
    depth, x = beta.shape[1:]
    steps = int(plan.rows) * plan.substeps

    def shifted(u: jax.Array, by: int, axis: int) -> jax.Array:
        """u from `by` nodes along an axis, with what the boundary says lies beyond the edge."""
        mode = "wrap" if survey.boundary.kind == "openfwi" else "constant"
        widths = [(0, 0), (0, 0)]
        widths[axis] = (halo, halo)
        wide = jnp.pad(u, widths, mode=mode)
        if axis == 0 and survey.boundary.free_surface:
            wide = wide.at[:halo].set(-u[halo:0:-1])
        return jax.lax.slice_in_dim(wide, halo + by, halo + by + u.shape[axis], axis=axis)

    def curved(u: jax.Array, axis: int) -> jax.Array:
        pairs = sum(c * (shifted(u, j, axis) + shifted(u, -j, axis)) for j, c in enumerate(second[1:], start=1))
        return (second[0] * u + pairs).astype(u.dtype)

    def sloped(u: jax.Array, axis: int) -> jax.Array:
        widths = [(0, 0), (0, 0)]
        widths[axis] = (halo, halo)
        wide, n = jnp.pad(u, widths), u.shape[axis]

        def at(by: int) -> jax.Array:
            return jax.lax.slice_in_dim(wide, halo + by, halo + by + n, axis=axis)

        return sum(d * (at(j) - at(-j)) for j, d in enumerate(first, start=1)).astype(u.dtype)

    def layer(axis: int, which: int) -> jax.Array:
        """a (0) or b (1) of the PML over the grid, 0 inside."""
        before, after = plan.layer[2 * axis][which], plan.layer[2 * axis + 1][which]
        line = np.zeros((depth, x)[axis], plan.dtype)
        line[: before.size] = before[::-1]
        line[line.size - after.size :] = after
        return jnp.asarray(line.reshape((-1, 1) if axis == 0 else (1, -1)))

    def one_shot(model: jax.Array, shot: jax.Array) -> jax.Array:
        nodes = jnp.asarray(plan.source_nodes)[jnp.minimum(model, plan.source_nodes.shape[0] - 1), shot]
        receivers = jnp.asarray(plan.receiver_nodes)[jnp.minimum(model, plan.receiver_nodes.shape[0] - 1)]
        weights = jnp.asarray(plan.receiver_weights)[jnp.minimum(model, plan.receiver_weights.shape[0] - 1)]
        wavelet = jnp.asarray(plan.wavelet)[jnp.minimum(shot, plan.wavelet.shape[0] - 1)]

        def step(carry: tuple, amplitude: jax.Array) -> tuple:
            before, now, memory = carry
            total = jnp.zeros_like(now)
            after = []
            for axis in (0, 1):
                psi, zeta = memory[axis]
                bend = curved(now, axis)
                total = total + bend
                if plan.layer:
                    a, b = layer(axis, 0), layer(axis, 1)
                    psi = b * psi + a * sloped(now, axis)
                    zeta = b * zeta + a * (bend + sloped(psi, axis))
                    total = total + sloped(psi, axis) + zeta
                after.append((psi, zeta))
            carried = 2 * now - before if alpha is None else before + alpha[model] * (now - before)
            new = carried + beta[model] * total
            strength = fields.strength[model, shot]
            new = new.at[nodes[..., 0], nodes[..., 1]].add(amplitude[:, None] * strength)
            values = (new[receivers[..., 0], receivers[..., 1]] * weights).sum(-1)
            return (now, new, tuple(after)), values

        zero = jnp.zeros((depth, x), plan.dtype)
        rows: jax.Array = jax.lax.scan(step, (zero, zero, ((zero, zero),) * 2), wavelet[:, :steps].T)[1]
        return rows[plan.substeps - 1 :: plan.substeps]

    over_shots = jax.vmap(one_shot, in_axes=(None, 0))
    run = jax.jit(jax.vmap(over_shots, in_axes=(0, None)))
    record: jax.Array = run(jnp.arange(velocity.shape[0]), jnp.arange(plan.shot_count))
    return _finish(record, plan.readout, nt=plan.nt, record_start=plan.record_start)

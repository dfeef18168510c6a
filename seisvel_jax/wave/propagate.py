"""Velocity in, gathers out: the acoustic wave equation as both data sets solved it.

`propagate` is the fast form: state as flat arrays with (model, shot) lanes innermost, so that every stencil shift is
one constant-offset slice, and three rotating buffers, so that a step never writes what it reads (docs/physics.md).
`propagate_plainly` is the same scheme written to be read; the tests hold the two together.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from seisvel_jax.arrays import Array, Gathers, Velocity, typed
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Boundary, Grid, Survey
from seisvel_jax.wave import boundary as sponge
from seisvel_jax.wave import checks, sampling
from seisvel_jax.wave.stencil import second_derivative

LANES = 2
"""Lanes a chunk on a CPU: five fields of one chunk should stay in the cache. Accelerators take all lanes at once."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["source_nodes", "source_weights", "receiver_nodes", "receiver_weights", "wavelet", "readout"],
    meta_fields=["grid", "boundary", "order", "substeps", "dt", "nt", "record_start"],
)
@dataclass(frozen=True)
class Plan:
    """What a survey means to the solver, worked out once on the host. A pytree with static sizes.

    The leading axis of the positions is 1, or batch where the samples of a batch differ in them.
    """

    source_nodes: Array
    """`[batch or 1, source, point, 2]` padded (depth, x) indices."""
    source_weights: Array
    """`[batch or 1, source, point]`."""
    receiver_nodes: Array
    receiver_weights: Array
    wavelet: Array
    """`[step]` at the solver's step, divided by the cell's area."""
    readout: Array | None
    """`[nt, recorded]` filter that removes the time dispersion, or None."""
    grid: Grid
    boundary: Boundary
    order: int
    substeps: int
    dt: float
    """Seconds a step of the solver."""
    nt: int
    record_start: int

    @property
    def recorded(self) -> int:
        """Rows the time loop records: those of the gather, and a tail where a filter follows."""
        rows = self.nt if self.readout is None else self.readout.shape[1]
        return rows - (1 - self.record_start)


def scheme_of(survey: Survey) -> tuple[int, bool]:
    """`(order in space, whether time dispersion is removed)`.

    Where the survey is solved on the grid its data were made on, the published scheme holds to the letter, its
    dispersion included. A coarser version of Devito's 1 m experiment should look like the fine one instead: order 8,
    and the leapfrog's error, which filters can undo exactly, undone.
    """
    coarse = survey.boundary.kind == "devito" and survey.grid.spacing > sponge.DEVITO_CELL
    return (8, True) if coarse else (4, False)


def make_plan(survey: Survey, max_velocity: float) -> Plan:
    """Plan for models up to `max_velocity` m/s. The survey must hold concrete arrays (not traced ones)."""
    order, correct = scheme_of(survey)
    k = checks.substeps(survey, order, max_velocity)
    grid = survey.grid
    pad = sponge.pad_of(grid, survey.boundary)
    nodes = {}
    for name, positions in (("sources", survey.sources), ("receivers", survey.receivers)):
        places = np.asarray(positions)
        places = places[None] if places.ndim == 2 else places
        index, weight = sampling.position_weights(places, grid.spacing, (pad.top, pad.left))
        limits = np.asarray([grid.depth_count + pad.top + pad.bottom, grid.x_count + pad.left + pad.right])
        if (index < 0).any() or (index >= limits).any():
            raise UserError(
                f"survey {survey.name}: {name} at x, depth from {places.min((0, 1))} to {places.max((0, 1))} m lie "
                f"outside the grid of {grid.extent[1]:g} m x {grid.extent[0]:g} m: correct the positions or the grid"
            )
        nodes[name] = index.astype(np.int32), weight
    wavelet = sampling.fine_wavelet(np.asarray(survey.wavelet), survey.dt, k, correct_dispersion=correct)
    return Plan(
        *nodes["sources"],
        *nodes["receivers"],
        wavelet=(wavelet / grid.spacing**2).astype(np.float32),
        readout=sampling.readout(survey.nt, survey.dt, k) if correct else None,
        grid=grid,
        boundary=survey.boundary,
        order=order,
        substeps=k,
        dt=survey.dt / k,
        nt=survey.nt,
        record_start=survey.record_start,
    )


@typed
def propagate(velocity: Velocity, survey: Survey, *, max_velocity: float | None = None) -> Gathers:
    """Gathers `[batch, source, time, receiver]` float32 of velocity `[batch, depth, x]` m/s on `survey.grid`.

    `max_velocity` m/s fixes the solver's time step; left out, it is taken from the velocity, which must then be
    concrete. Under jit give it, and close over the survey. Raises UserError for a velocity of the wrong shape and,
    where it is concrete, for values that are no velocities or that the grid cannot carry.
    """
    if velocity.shape[1:] != survey.grid.shape:
        raise UserError(
            f"velocity of shape {velocity.shape}, expected (batch, {survey.grid.depth_count}, {survey.grid.x_count}) "
            f"for survey {survey.name}: resample the model or the survey's grid"
        )
    if not isinstance(velocity, jax.core.Tracer):
        checks.check_velocity(np.asarray(velocity))
        checks.check_sampling(survey, scheme_of(survey)[0], float(velocity.min()))
        fastest = float(velocity.max())
        if max_velocity is not None and fastest > max_velocity:
            raise UserError(f"velocity up to {fastest:g} m/s, expected at most max_velocity = {max_velocity:g} m/s")
        max_velocity = max_velocity or fastest
    if max_velocity is None:
        raise UserError("propagate under jit needs max_velocity in m/s, which fixes its time step")
    return run_plan(velocity, make_plan(survey, max_velocity))


def run_plan(velocity: Array, plan: Plan, *, lanes: int | None = None) -> jax.Array:
    """`propagate` for a plan made before, spread over all devices of this process. Compiled once per plan's sizes."""
    on_cpu = jax.default_backend() == "cpu"
    batch, source_count = velocity.shape[0], plan.source_nodes.shape[1]
    lanes = lanes or (LANES if on_cpu else batch * source_count)
    return _run(jnp.asarray(velocity, jnp.float32), plan, lanes=lanes, devices=jax.device_count() if on_cpu else 1)


@partial(jax.jit, static_argnames=("lanes", "devices"))
def _run(velocity: jax.Array, plan: Plan, *, lanes: int, devices: int) -> jax.Array:
    batch, source_count = velocity.shape[0], plan.source_nodes.shape[1]
    count = batch * source_count
    chunk_count = -(-count // lanes)
    chunk_count += -chunk_count % devices
    lane = jnp.minimum(jnp.arange(chunk_count * lanes), count - 1).reshape(chunk_count, lanes)

    def one_chunk(lane: jax.Array, velocity: jax.Array, plan: Plan) -> jax.Array:
        model, source = lane // source_count, lane % source_count
        return _traces(velocity[model], model, source, plan)

    def all_chunks(lane: jax.Array, velocity: jax.Array, plan: Plan) -> jax.Array:
        return jax.lax.map(lambda one: one_chunk(one, velocity, plan), lane)

    if devices > 1:
        mesh = Mesh(np.asarray(jax.devices()[:devices]), ("chunk",))
        chunks, whole = PartitionSpec("chunk"), PartitionSpec()
        all_chunks = jax.shard_map(
            all_chunks, mesh=mesh, in_specs=(chunks, whole, whole), out_specs=chunks, check_vma=False
        )
    traces = all_chunks(lane, velocity, plan)  # [chunk, lane, time, receiver]
    return traces.reshape(-1, *traces.shape[2:])[:count].reshape(batch, source_count, *traces.shape[2:])


@dataclass(frozen=True)
class _Flat:
    """The flat layout: node (z, x) of a lane at `((halo + z) * pitch + halo + x) * lanes + lane`.

    `halo` rows and columns on every side hold zeros, or the opposite edge where the sponge ends periodically.
    """

    depth: int
    x: int
    halo: int
    lanes: int
    periodic: bool

    @property
    def pitch(self) -> int:
        return self.x + 2 * self.halo

    @property
    def rows(self) -> int:
        return self.depth + 2 * self.halo + 1  # one more, so that the updated part may end in the last row's halo

    @property
    def first(self) -> int:
        return (self.halo * self.pitch + self.halo) * self.lanes

    @property
    def size(self) -> int:
        """Elements of the part that is updated: all rows with the halo between them."""
        return self.depth * self.pitch * self.lanes

    @property
    def total(self) -> int:
        return self.rows * self.pitch * self.lanes

    def shift(self, field: jax.Array, rows: int, columns: int) -> jax.Array:
        """The updated part seen from `rows` below and `columns` to the right."""
        start = self.first + (rows * self.pitch + columns) * self.lanes
        return jax.lax.slice(field, (start,), (start + self.size,))

    def pack(self, field: Array) -> jax.Array:
        """`[lane, depth, x]` as the updated part; in the halo both coefficients are 0, which leaves it as it was."""
        return jnp.pad(jnp.moveaxis(field, 0, -1), ((0, 0), (0, 2 * self.halo), (0, 0))).reshape(-1)

    def index(self, nodes: jax.Array) -> jax.Array:
        """Positions of nodes `[lane, ..., 2]` in a whole field."""
        inside = ((nodes[..., 0] + self.halo) * self.pitch + nodes[..., 1] + self.halo) * self.lanes
        return inside + jnp.arange(self.lanes).reshape(-1, *[1] * (inside.ndim - 1))

    def close(self, field: jax.Array) -> jax.Array:
        """Fill the halo for the next step: nothing to do for zeros; else the opposite edges."""
        if not self.periodic:
            return field
        h, columns = self.halo, self.halo * self.lanes
        field = field.reshape(self.rows, self.pitch * self.lanes)
        right, bottom = self.x * self.lanes, self.depth
        # One after the other, so that each read leads by data to the write that follows it: else XLA copies the field.
        # The barrier keeps it from fusing an edge with its write, which would walk the whole field.
        for source, target in (
            ((bottom, 0), (0, 0)),
            ((h, 0), (h + bottom, 0)),
            ((h, right), (h, 0)),
            ((h, columns), (h, columns + right)),
        ):
            size = (h, field.shape[1]) if source[1] == 0 else (bottom, columns)
            edge = jax.lax.slice(field, source, (source[0] + size[0], source[1] + size[1]))
            field = jax.lax.dynamic_update_slice(field, jax.lax.optimization_barrier(edge), target)
        return field.reshape(-1)


def _traces(velocity: jax.Array, model: jax.Array, source: jax.Array, plan: Plan) -> jax.Array:
    """Traces `[lane, time, receiver]` of one shot a lane; velocity `[lane, depth, x]`."""
    row = model if plan.source_nodes.shape[0] > 1 else jnp.zeros_like(model)
    source_nodes, source_weights = plan.source_nodes[row, source], plan.source_weights[row, source]
    row = model if plan.receiver_nodes.shape[0] > 1 else jnp.zeros_like(model)
    receiver_nodes, receiver_weights = plan.receiver_nodes[row], plan.receiver_weights[row]

    alpha, beta = sponge.coefficients(velocity, plan.dt, plan.grid, plan.boundary)
    weights = second_derivative(plan.order)
    flat = _Flat(alpha.shape[1], alpha.shape[2], len(weights) - 1, alpha.shape[0], plan.boundary.kind == "openfwi")
    lane = jnp.arange(flat.lanes)[:, None]
    strength = source_weights * source_speed(velocity, source_nodes, plan, lane) ** 2 * plan.dt**2
    source_at, receiver_at = flat.index(source_nodes).reshape(-1), flat.index(receiver_nodes)
    receiver_shape = receiver_weights.shape  # [lane, receiver, point]
    strength = strength.reshape(-1)
    alpha, beta = flat.pack(alpha), flat.pack(beta)

    def step(
        before: jax.Array, now: jax.Array, spare: jax.Array, amplitude: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One leapfrog step into `spare`, which nothing reads; returns the buffers in their new roles."""
        middle, old = flat.shift(now, 0, 0), flat.shift(before, 0, 0)
        laplacian = np.float32(2 * weights[0]) * middle
        for j, weight in enumerate(weights[1:], start=1):
            around = flat.shift(now, 0, j) + flat.shift(now, 0, -j) + flat.shift(now, j, 0) + flat.shift(now, -j, 0)
            laplacian = laplacian + np.float32(weight) * around
        new = old + alpha * (middle - old) + beta * laplacian
        spare = jax.lax.dynamic_update_slice(spare, new, (flat.first,))
        spare = spare.at[source_at].add(amplitude * strength, unique_indices=True, mode="promise_in_bounds")
        return now, flat.close(spare), before

    k, rows = plan.substeps, plan.recorded
    rows_a_turn = 1 if k % 3 == 0 else 3  # whole rotations of the three buffers, so that none is copied
    turns = -(-rows // rows_a_turn)
    steps = turns * rows_a_turn * k
    wavelet = jnp.pad(jnp.asarray(plan.wavelet)[:steps], (0, max(0, steps - plan.wavelet.shape[0])))

    def turn(i: jax.Array, carry: tuple) -> tuple:
        before, now, spare, record, chain = carry
        for r in range(rows_a_turn):
            for s in range(k):
                n = (i * rows_a_turn + r) * k + s
                # 0 * chain: without a path from the last recording to this step XLA copies the whole field.
                before, now, spare = step(before, now, spare, wavelet[n] + 0 * chain)
            values = now.at[receiver_at.reshape(-1)].get(mode="promise_in_bounds").reshape(receiver_shape)
            values = (values * receiver_weights).sum(-1)
            record = jax.lax.dynamic_update_slice(record, values[None], (i * rows_a_turn + r, 0, 0))
            chain = values[0, 0]
        return before, now, spare, record, chain

    zero = jnp.zeros(flat.total, jnp.float32)
    record = jnp.zeros((turns * rows_a_turn, *receiver_shape[:2]), jnp.float32)
    carry = (zero, zero, zero, record, jnp.zeros((), jnp.float32))
    record = jax.lax.fori_loop(0, turns, turn, carry)[3]
    return finish(jnp.moveaxis(record[:rows], 1, 0), plan)


def source_speed(velocity: jax.Array, nodes: jax.Array, plan: Plan, model: jax.Array) -> jax.Array:
    """Velocity at padded nodes `[..., 2]`; beyond the model that of its edge."""
    pad = sponge.pad_of(plan.grid, plan.boundary)
    depth = jnp.clip(nodes[..., 0] - pad.top, 0, plan.grid.depth_count - 1)
    x = jnp.clip(nodes[..., 1] - pad.left, 0, plan.grid.x_count - 1)
    return velocity[model, depth, x]


def finish(record: jax.Array, plan: Plan) -> jax.Array:
    """Recorded rows `[..., time, receiver]` as the rows of the gather: row 0 at t = 0 is silent; then the filter."""
    if plan.record_start == 0:
        record = jnp.pad(record, [(0, 0)] * (record.ndim - 2) + [(1, 0), (0, 0)])
    if plan.readout is None:
        return record
    return jnp.einsum("nt,...tr->...nr", plan.readout, record, precision="highest")


def propagate_plainly(velocity: Array, survey: Survey, *, max_velocity: float) -> jax.Array:
    """The oracle of `propagate`: two-dimensional fields, `pad` and slices, one shot at a time. Slow."""
    plan = jax.tree.map(jnp.asarray, make_plan(survey, max_velocity))
    velocity = jnp.asarray(velocity, jnp.float32)
    alpha, beta = sponge.coefficients(velocity, plan.dt, plan.grid, plan.boundary)
    weights = second_derivative(plan.order)
    halo = len(weights) - 1
    depth, x = alpha.shape[1:]
    steps = plan.recorded * plan.substeps
    wavelet = jnp.pad(jnp.asarray(plan.wavelet)[:steps], (0, max(0, steps - plan.wavelet.shape[0])))

    def one_shot(model: jax.Array, source: jax.Array) -> jax.Array:
        nodes, source_weights = (
            a[jnp.minimum(model, a.shape[0] - 1), source] for a in (plan.source_nodes, plan.source_weights)
        )
        receivers, receiver_weights = (
            a[jnp.minimum(model, a.shape[0] - 1)] for a in (plan.receiver_nodes, plan.receiver_weights)
        )
        strength = source_weights * source_speed(velocity, nodes, plan, model) ** 2 * plan.dt**2

        def step(fields: tuple, amplitude: jax.Array) -> tuple:
            before, now = fields
            wide = jnp.pad(now, halo, mode="wrap" if survey.boundary.kind == "openfwi" else "constant")
            laplacian = 2 * weights[0].astype(np.float32) * now
            for j in range(1, halo + 1):
                for dz, dx in ((j, 0), (-j, 0), (0, j), (0, -j)):
                    shifted = wide[halo + dz : halo + dz + depth, halo + dx : halo + dx + x]
                    laplacian = laplacian + weights[j].astype(np.float32) * shifted
            new = before + alpha[model] * (now - before) + beta[model] * laplacian
            new = new.at[nodes[:, 0], nodes[:, 1]].add(amplitude * strength)
            values = (new[receivers[..., 0], receivers[..., 1]] * receiver_weights).sum(-1)
            return (now, new), values

        zero = jnp.zeros((depth, x), jnp.float32)
        return finish(jax.lax.scan(step, (zero, zero), wavelet)[1][plan.substeps - 1 :: plan.substeps], plan)

    over_sources = jax.vmap(one_shot, in_axes=(None, 0))
    batch, source_count = velocity.shape[0], plan.source_nodes.shape[1]
    return jax.jit(jax.vmap(over_sources, in_axes=(0, None)))(jnp.arange(batch), jnp.arange(source_count))

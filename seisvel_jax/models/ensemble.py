"""Members stacked over a leading axis, groups of different architecture side by side: plain pytrees and plain jax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from seisvel_jax.models.config import GroupConfig, InversionNetConfig
from seisvel_jax.survey import Survey

FirstStage = dict[str, jax.Array]
"""What a first stage found: `velocity [batch, depth, x]` m/s, and `gathers [batch, source, time, receiver]` simulated
from it."""
Params = Any
"""Nested dict of arrays: one member's, or stacked over a leading member axis."""


def member_names(groups: tuple[GroupConfig, ...]) -> tuple[str, ...]:
    """Names of all members in order, e.g. `velocity_net/0`; a second group of a kind is `velocity_net_2/0`."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for group in groups:
        kind = "inversion_net" if isinstance(group.model, InversionNetConfig) else "velocity_net"
        seen[kind] = seen.get(kind, 0) + 1
        label = kind if seen[kind] == 1 else f"{kind}_{seen[kind]}"
        names += [f"{label}/{index}" for index in range(group.members)]
    return tuple(names)


def member_key(key: jax.Array, group: int, member: int | jax.Array) -> jax.Array:
    """The key that member `member` of group `group` is initialised with; independent of how many others there are."""
    return jax.random.fold_in(jax.random.fold_in(key, group), member)


def init_member(group: GroupConfig, survey: Survey, key: jax.Array) -> tuple[nnx.GraphDef, Params]:
    """Structure and parameters of one member built with `key`."""
    graphdef, state = nnx.split(group.model.build(survey, nnx.Rngs(key)))
    return graphdef, nnx.to_pure_dict(state)


def init_ensemble(
    groups: tuple[GroupConfig, ...], survey: Survey, key: jax.Array
) -> tuple[tuple[nnx.GraphDef, ...], tuple[Params, ...]]:
    """Structures, and parameters stacked over a leading member axis, one of each a group.

    Member k of group g is the lone network built with `member_key(key, g, k)`, bit for bit. The parameters may be
    made under `jit` (with out_shardings) or `eval_shape`: `init_params` is that part alone.
    """
    return graphdefs(groups, survey), jax.jit(lambda key: init_params(groups, survey, key))(key)


def graphdefs(groups: tuple[GroupConfig, ...], survey: Survey) -> tuple[nnx.GraphDef, ...]:
    """The hashable structure of each group's networks; nothing is computed."""
    found = []
    for group in groups:
        module = nnx.eval_shape(lambda group=group: group.model.build(survey, nnx.Rngs(0)))
        found.append(nnx.split(module)[0])
    return tuple(found)


def init_params(groups: tuple[GroupConfig, ...], survey: Survey, key: jax.Array) -> tuple[Params, ...]:
    """Parameters alone: a tuple of nested dicts of arrays `[member, ...]`."""
    params = []
    for index, group in enumerate(groups):
        keys = jax.vmap(lambda member, index=index: member_key(key, index, member))(jnp.arange(group.members))
        params.append(jax.vmap(lambda k, group=group: init_member(group, survey, k)[1])(keys))
    return tuple(params)


def apply_member(
    graphdef: nnx.GraphDef,
    params: Params,
    gathers: jax.Array,
    survey: Survey,
    dropout_key: jax.Array | None = None,
    *,
    first: FirstStage | None = None,
) -> jax.Array:
    """One member's velocity `[batch, depth, x]` m/s for gathers `[batch, source, time, receiver]`.

    `first` goes to those networks that read it.
    """
    network = nnx.merge(graphdef, params)
    if first is not None and getattr(network, "second_stage", False):
        return network(gathers, survey, dropout_key=dropout_key, first=first)
    return network(gathers, survey, dropout_key=dropout_key)


def over_members(function: Callable, mesh: Mesh | None = None) -> Callable:
    """`function` of one member, mapped over the leading axis of all its arguments. The one place that decides how.

    vmap on accelerators. On CPU the members are written out one after another in the same program: vmapped
    convolutions become grouped ones there, which XLA's CPU backend runs many times slower (docs/network.md). With a
    `mesh` whose member axis is longer than 1, each device along it maps over its own members alone; the compiler
    never sees the others, and moves nothing between them. How the data axis is divided stays with the compiler.
    """

    def mapped(*stacked: Any) -> Any:
        if not in_a_row():
            return jax.vmap(function)(*stacked)
        count = jax.tree.leaves(stacked)[0].shape[0]
        results = [function(*jax.tree.map(lambda leaf, k=k: leaf[k], stacked)) for k in range(count)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

    if mesh is None or mesh.shape["member"] == 1:
        return mapped
    split = PartitionSpec("member")
    return jax.shard_map(
        mapped, mesh=mesh, in_specs=split, out_specs=split, axis_names=frozenset({"member"}), check_vma=False
    )


def in_a_row() -> bool:
    """Whether the members are written out one after another, not mapped."""
    return jax.default_backend() == "cpu"


def predict_members(
    graphdefs: tuple[nnx.GraphDef, ...],
    params: tuple[Params, ...],
    gathers: jax.Array,
    survey: Survey,
    mesh: Mesh | None = None,
    *,
    first: FirstStage | None = None,
) -> jax.Array:
    """Velocity `[member, batch, depth, x]` m/s of all groups in order, without dropout."""
    velocities = [
        over_members(lambda one, graphdef=graphdef: apply_member(graphdef, one, gathers, survey, first=first), mesh)(
            stacked
        )
        for graphdef, stacked in zip(graphdefs, params)
    ]
    return jnp.concatenate(velocities)

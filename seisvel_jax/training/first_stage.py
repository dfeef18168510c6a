"""The frozen first stage of a second one: gathers -> its velocity -> what that velocity would have sounded like."""

import dataclasses
import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from seisvel_jax.config import Config
from seisvel_jax.errors import UserError
from seisvel_jax.models.ensemble import FirstStage, predict_members
from seisvel_jax.survey import Survey
from seisvel_jax.training.checkpoint import Run, load_run
from seisvel_jax.training.mesh import everywhere, over_data
from seisvel_jax.wave.plan import Plan, make_plan
from seisvel_jax.wave.propagate import run_plan

BOUNDS = (1500.0, 4500.0)
"""m/s; what the first stage says is clipped to them before it is simulated."""


def resolved(config: Config) -> Config:
    """The config with its first stage's digest filled in, and the checkpoint's whole path.

    Raises UserError where second-stage networks have no first stage or the other way round, and where the checkpoint is
    not the one of the digest.
    """
    readers = [index for index, group in enumerate(config.groups) if getattr(group.model, "second_stage", False)]
    if bool(readers) != (config.first_stage is not None):
        raise UserError(
            f"config: first_stage {'is there' if config.first_stage else 'is missing'}, and "
            f"{len(readers)} groups have second_stage: give both or neither"
        )
    if config.first_stage is None:
        return config
    run = first_stage_run(config)
    stage = dataclasses.replace(config.first_stage, digest=digest_of(run))
    return dataclasses.replace(config, first_stage=stage)


def first_stage_run(config: Config) -> Run:
    """The first stage's networks. Raises UserError where they are not those of the digest."""
    stage = config.first_stage
    assert stage is not None
    run = load_run(stage.checkpoint)
    if run.config.first_stage is not None:
        raise UserError(f"{stage.checkpoint}: itself a second stage, expected a run that needs no other: name another")
    digest = digest_of(run)
    if stage.digest not in ("", digest):
        raise UserError(
            f"{stage.checkpoint}: its networks have digest {digest}, expected {stage.digest}: the second stage was "
            "trained on others; put those there, or name the step that was taken (RUN/checkpoints/STEP)"
        )
    return run


def digest_of(run: Run) -> str:
    """Of the parameters, the weights and the survey."""
    digest = hashlib.sha256(json.dumps(run.survey.to_dict(), sort_keys=True).encode())
    digest.update(repr(run.config.groups).encode())
    for leaf in jax.tree.leaves((run.params, run.weights)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class FrozenStage:
    """`gathers -> {"velocity", "gathers"}` of the first stage on the devices of `mesh`; nothing of it is trained.

    Raises UserError where it was trained on another sampling than `survey`.
    """

    def __init__(self, config: Config, survey: Survey, mesh: Mesh):
        run = first_stage_run(config)
        have, want = ((s.gather_shape, s.grid, round(s.dt, 9)) for s in (run.survey, survey))
        if have != want:
            raise UserError(
                f"{config.first_stage.checkpoint if config.first_stage else ''}: reads gathers {have[0]} every "
                f"{have[2]:g} s for a grid {have[1].shape}, expected {want[0]}, {want[2]:g} s, {want[1].shape}: "
                "give the second stage the --data.grid-spacing and --data.dt of the first"
            )
        self._place = everywhere(mesh)
        self._params = jax.device_put((run.params, run.weights), self._place)
        self._plan = make_plan(survey, BOUNDS[1])
        rows = over_data(mesh)

        def answer(params: Any, plan: Plan, gathers: jax.Array) -> FirstStage:
            stacked, weights = params
            members = predict_members(run.graphdefs, stacked, gathers, survey)
            velocity = jnp.clip(jnp.einsum("m,mbzx->bzx", jnp.asarray(weights), members), *BOUNDS)
            return {"velocity": velocity, "gathers": simulated(velocity, plan, mesh)}

        self._answer = jax.jit(answer, in_shardings=(self._place, None, rows), out_shardings=rows)

    def __call__(self, gathers: jax.Array) -> FirstStage:
        """For gathers `[batch, source, time, receiver]` whose rows lie on their devices."""
        return self._answer(self._params, self._plan, gathers)


def simulated(velocity: jax.Array, plan: Plan, mesh: Mesh) -> jax.Array:
    """Gathers of velocity `[batch, depth, x]`, traced; each device simulates its own rows."""
    lanes = 1 if jax.default_backend() == "cpu" else None

    def own(velocity: jax.Array, plan: Plan) -> jax.Array:
        gathers = run_plan(velocity, plan, lanes=lanes, devices=1)
        return gathers.at[:, :, -1].set(0) if plan.record_start == 1 else gathers  # as in OpenFWI's files

    rows, whole = PartitionSpec("data"), PartitionSpec()
    return jax.shard_map(own, mesh=mesh, in_specs=(rows, whole), out_specs=rows, check_vma=False)(velocity, plan)

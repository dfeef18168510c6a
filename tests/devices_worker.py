"""Runs in a process of its own with four CPU devices: `python devices_worker.py quick|full FOLDER`.

Steps of one ensemble on every shape of mesh, and its state saved on one mesh and loaded on another. What comes out is
left in FOLDER as .npz files, for the tests to compare. `quick` is two of the shapes, two members and a smaller network.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from training_support import CONFIG, LIGHT, QUICK, SURVEY, arrays

from seisvel_jax.config import to_dict
from seisvel_jax.inference.pretrained import ensemble_of
from seisvel_jax.inference.refined import Refiner, Settings, simulated
from seisvel_jax.inversion.config import InversionConfig
from seisvel_jax.models.ensemble import graphdefs, predict_members
from seisvel_jax.training.checkpoint import Checkpoints, Run
from seisvel_jax.training.mesh import everywhere, make_mesh, place_rows
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.state import abstract_state, init_state
from seisvel_jax.training.step import make_step, stream_key
from seisvel_jax.wave import propagate
from seisvel_jax.wave.spread import spread_of

STEPS = 10
QUICKLY = sys.argv[1] == "quick"
SHAPES = ((1, 1), (2, 2)) if QUICKLY else ((1, 1), (4, 1), (2, 2), (1, 4))
MOVES = (((1, 1), (2, 2)), ((2, 2), (2, 2)))
MOVES += () if QUICKLY else (((4, 1), (1, 1)), ((2, 2), (1, 4)), ((1, 4), (4, 1)))
BASE = LIGHT if QUICKLY else CONFIG
MEMBERS = 2 if QUICKLY else 4
# The learning rate is what a run would have: Adam turns the rounding of small gradients into steps of its size.
OPTIM = replace(BASE.optim, learning_rate=1e-3)
CONFIG_4 = replace(BASE, groups=(replace(BASE.groups[0], members=MEMBERS),), batch_size=4, optim=OPTIM)
METADATA = {
    "config": to_dict(CONFIG_4),
    "survey": SURVEY.to_dict(),
    "samples": {"train": 4, "validation": 0, "digest": ""},
    "weights": [1 / MEMBERS] * MEMBERS,
    "postprocess": {},
    "validation": {},
}


def flat(tree: object) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


class Experiment:
    """One ensemble on one shape of mesh."""

    def __init__(self, shape: tuple[int, int]):
        config = replace(CONFIG_4, mesh_member=shape[1])
        self.mesh = make_mesh(config, jax.devices()[: shape[0] * shape[1]])
        assert self.mesh.devices.shape == shape
        self.optimizer = make_optimizer(config.optim, config.steps)
        self.graphdefs = graphdefs(config.groups, SURVEY)
        step = make_step(config, self.graphdefs, self.optimizer, SURVEY, self.mesh)
        self.step = step.lower(self.abstract(), self.batch(0)).compile()

    def start(self):
        return init_state(CONFIG_4.groups, SURVEY, self.optimizer, stream_key(0, "init"), self.mesh)

    def abstract(self):
        return abstract_state(CONFIG_4.groups, SURVEY, self.optimizer, self.mesh)

    def run(self, state, first: int, last: int):
        """The state at step `last` and the losses `[step, member]`."""
        losses = []
        for step in range(first, last):
            state, metrics = self.step(state, self.batch(step))
            losses.append(metrics["loss"])
        return state, np.stack(losses)

    def batch(self, step: int):
        gathers, velocity = arrays(4, seed=step)
        return place_rows(self.mesh, {"gathers": gathers, "velocity": velocity})


def main() -> None:
    for name, value in QUICK.items():
        jax.config.update(name, value)
    jax.config.update("jax_num_cpu_devices", 4)
    folder = Path(sys.argv[2])
    experiments = {shape: Experiment(shape) for shape in SHAPES}
    for shape, experiment in experiments.items():
        name = f"{shape[0]}{shape[1]}"
        middle, early = experiment.run(experiment.start(), 0, 4)
        checkpoints = Checkpoints(folder / f"run{name}")
        checkpoints.resume(experiment.abstract(), METADATA)
        checkpoints.save(middle, METADATA)
        checkpoints.close()
        state, late = experiment.run(middle, 4, STEPS)
        np.savez(
            folder / f"straight{name}.npz",
            losses=np.concatenate([early, late]),
            flops=experiment.step.cost_analysis()["flops"],
            divided=divided(state, experiment.mesh),
            **flat(state.params),
        )
        if not QUICKLY:
            place = everywhere(experiment.mesh)
            predict = jax.jit(predict_members, static_argnums=(0, 4), out_shardings=place)
            gathers = place_rows(experiment.mesh, arrays(4)[0])
            velocity = predict(experiment.graphdefs, state.ema, gathers, SURVEY, experiment.mesh)
            np.savez(folder / f"predicted{name}.npz", velocity=velocity)
        if shape == (2, 2):
            run = Run(
                CONFIG_4, SURVEY, experiment.graphdefs, local(state.ema), np.full(MEMBERS, 1 / MEMBERS), {}, STEPS, {}
            )
            predict = ensemble_of(run).predict
            together, alone = predict(arrays(4)[0], SURVEY), [predict(one[None], SURVEY) for one in arrays(4)[0]]
            np.savez(folder / "rows.npz", together=together, alone=np.concatenate(alone, axis=1))
    np.savez(folder / "refined.npz", together=refined(4), alone=refined(1), start=layers(-100))
    if not QUICKLY:
        np.savez(folder / "parts.npz", **in_parts())
    # Saved on one number of devices, gone on with another.
    for old, new in MOVES:
        checkpoints = Checkpoints(folder / f"run{old[0]}{old[1]}")
        found = checkpoints.resume(experiments[new].abstract(), METADATA)
        assert found is not None
        state, losses = experiments[new].run(found[0], 4, STEPS)
        name = f"moved{old[0]}{old[1]}{new[0]}{new[1]}.npz"
        np.savez(folder / name, losses=losses, **flat(state.params))
        checkpoints.close()


def in_parts() -> dict[str, np.ndarray]:
    """Losses of three steps without dropout, by mesh, in two parts; `whole`: on one device in one."""
    model = replace(LIGHT.groups[0].model, dropout=0.0)
    config = replace(LIGHT, groups=(replace(LIGHT.groups[0], model=model, members=2),), batch_size=8, optim=OPTIM)
    optimizer = make_optimizer(config.optim, config.steps)
    found = {}
    for name, shape, parts in (("whole", (1, 1), 1), ("11", (1, 1), 2), ("41", (4, 1), 2), ("22", (2, 2), 2)):
        wanted = replace(config, mesh_member=shape[1], parts=parts)
        mesh = make_mesh(wanted, jax.devices()[: shape[0] * shape[1]])
        step = make_step(wanted, graphdefs(config.groups, SURVEY), optimizer, SURVEY, mesh)
        state = init_state(config.groups, SURVEY, optimizer, stream_key(0, "init"), mesh)
        losses = []
        for number in range(3):
            gathers, velocity = arrays(8, seed=number)
            state, metrics = step(state, place_rows(mesh, {"gathers": gathers, "velocity": velocity}))
            losses.append(metrics["loss"])
        found[name] = np.stack(losses)
    return found


def layers(more: float) -> np.ndarray:
    """Two models whose lower layer is `more` m/s faster than the truth."""
    top = np.arange(8)[None, :, None] < np.array([3, 5])[:, None, None]
    return np.where(top, 1800.0, 2500.0 + more).astype(np.float32) * np.ones((1, 1, 8), np.float32)


def refined(devices: int) -> np.ndarray:
    """Two models after five evaluations, their four shots shared out to so many devices."""
    shares = []

    def noted(plan, batch, lanes=None, _=None):
        shares.append(spread_of(plan, batch, lanes, devices))
        return shares[-1]

    propagate.spread_of = noted
    jax.clear_caches()  # else the program of other devices would be taken again
    gathers = simulated(layers(0), SURVEY, 4500.0)
    answer = Refiner(SURVEY, Settings(InversionConfig(iterations=5), keep_water=False))(gathers, layers(-100))
    assert (shares and all(share.devices == devices == share.chunks for share in shares)) or devices == 1
    return answer.velocity


def local(params):
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf), jax.devices()[0]), params)


def divided(state, mesh) -> bool:
    """Whether every device holds its own members of everything, and nothing else."""
    leaves = jax.tree.leaves((state.params, state.opt_state, state.ema))
    each = MEMBERS // mesh.shape["member"]
    return all(shard.data.shape[0] == each for leaf in leaves for shard in leaf.addressable_shards)


if __name__ == "__main__":
    main()

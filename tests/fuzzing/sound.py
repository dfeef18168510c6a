"""Sound files of every kind, made once; doors damage copies of them."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Sound:
    """Sound files in `place`, by name: each kind is made when it is asked for first."""

    place: Path

    def copy(self, name: str, folder: Path) -> Path:
        """A copy in `folder` of a file or folder."""
        source, target = self.made(name), folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return target

    def made(self, name: str) -> Path:
        """Where the sound file or folder `name` is."""
        path = self.place / name
        if not path.exists():
            self.place.mkdir(exist_ok=True)
            MAKERS[name](self, path)
        return path

    @cached_property
    def experiment(self) -> Any:
        """The config of `run`: the least network, so that a checkpoint has few arrays."""
        from training_support import CONFIG, MODEL

        from seisvel_jax.models.config import GroupConfig

        least = replace(MODEL, encoder_layers=0, decoder_layers=0)
        return replace(CONFIG, groups=(GroupConfig(least, members=2),))

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """What training saves beside the arrays of `run`."""
        from training_support import SURVEY

        from seisvel_jax.config import to_dict

        return {
            "config": to_dict(self.experiment),
            "survey": SURVEY.to_dict(),
            "samples": {"train": 9, "validation": 3, "digest": "abc"},
            "weights": [0.5, 0.5],
            "postprocess": {"low": 1500.0},
            "validation": {"mape": 0.1},
        }

    @cached_property
    def abstract(self) -> Any:
        """The state that training would go on with."""
        from training_support import SURVEY

        from seisvel_jax.training.optim import make_optimizer
        from seisvel_jax.training.state import abstract_state

        config = self.experiment
        return abstract_state(config.groups, SURVEY, make_optimizer(config.optim, config.steps))


def _openfwi(sound: Sound, path: Path) -> None:
    from training_support import write_data

    write_data(path, count=4)


def _challenge(sound: Sound, path: Path) -> None:
    from training_support import SURVEY, arrays

    from seisvel_jax.data.writers import write_challenge_sample, write_survey

    gathers, velocity = arrays(3)
    for i in range(3):
        write_challenge_sample(path, f"s{i}", gathers[i], velocity[i])
    write_survey(path, SURVEY)


def _velocities(sound: Sound, path: Path) -> None:
    from training_support import arrays

    _, velocity = arrays(3)
    path.mkdir()
    np.save(path / "v1.npy", velocity[:, None])
    np.save(path / "v2.npy", velocity[0])


def _archive(sound: Sound, path: Path) -> None:
    from training_support import arrays

    _, velocity = arrays(3)
    np.savez_compressed(path, **{f"s{i}": velocity[i].T / 1000 for i in range(3)})


def _competition(sound: Sound, path: Path) -> None:
    lines = ["oid_ypos," + ",".join(f"x_{x}" for x in range(1, 70, 2))]
    lines += [f"s0_y_{row}," + ",".join(["2000.0"] * 35) for row in range(70)]
    path.write_text("\n".join(lines) + "\n")


def _pack(sound: Sound, path: Path) -> None:
    from seisvel_jax.data.dataset import open_dataset
    from seisvel_jax.data.packed_samples import Format
    from seisvel_jax.data.packed_writer import pack_dataset
    from seisvel_jax.logging import progress

    dataset = open_dataset(sound.made("challenge"))
    pack_dataset(dataset, dataset.survey, path, Format(), progress=progress)


def _metrics(sound: Sound, path: Path) -> None:
    lines = [{"kind": "train", "step": n, "loss": [1.0, 2.0]} for n in range(5)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _run(sound: Sound, path: Path) -> None:
    """Two checkpoints."""
    import jax
    from training_support import SURVEY

    from seisvel_jax.training.checkpoint import Checkpoints
    from seisvel_jax.training.optim import make_optimizer
    from seisvel_jax.training.state import TrainState, init_state

    config = sound.experiment
    state = init_state(config.groups, SURVEY, make_optimizer(config.optim, config.steps), jax.random.key(0))
    checkpoints = Checkpoints(path)
    for step in (1, 2):
        moved = TrainState(jax.numpy.int32(step), state.params, state.opt_state, state.ema)
        checkpoints.save(moved, sound.metadata)
    checkpoints.close()


def _state(sound: Sound, path: Path) -> None:
    """Of two models after three evaluations."""
    from seisvel_jax.inference import refine_state
    from seisvel_jax.inversion.config import InversionConfig

    state = refine_state._empty((2, 4, 4), InversionConfig())
    state.evaluations = 3
    state.history = {name: [np.ones(2, np.float32)] * 3 for name in refine_state.HISTORY}
    refine_state.save(path, state)


MAKERS = {
    "openfwi": _openfwi,
    "challenge": _challenge,
    "velocities": _velocities,
    "s.npz": _archive,
    "s.csv": _competition,
    "pack": _pack,
    "metrics.jsonl": _metrics,
    "run": _run,
    "state.npy": _state,
}

"""Doors that take settings: configs, words of the command line, and the records that commands keep."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from fuzzing.folders import mischief
from fuzzing.refusal import refused
from fuzzing.sound import Sound
from fuzzing.values import NAMES, VALUES, Draw, changed, damaged, json_text


def config(draw: Draw, folder: Path, sound: Sound) -> None:
    """Saved configs, and config files."""
    from training_support import CONFIG

    from seisvel_jax.config import differences, from_dict, load_config_file, to_dict

    good = to_dict(CONFIG)
    values = changed(draw, good)

    def use() -> None:
        config = from_dict(values)
        json.dumps(differences(good, to_dict(config)))

    refused(use)
    words = [
        "config = ",
        "Config(",
        ")",
        "CONFIG",
        "\n",
        "x",
        "1",
        "import ",
        "from ",
        "replace(",
        "steps=",
        "name=1",
    ]
    text = "from training_support import CONFIG as config\n" + "".join(draw(st.lists(st.sampled_from(words))))
    path = folder / "config.py"
    path.write_bytes(draw(st.sampled_from([text.encode(), damaged(draw, text.encode())])))
    refused(lambda: load_config_file(path))


def override(draw: Draw, folder: Path, sound: Sound) -> None:
    """Words of the command line."""
    import tyro
    from training_support import CONFIG

    from seisvel_jax.inference.refined import solver_survey
    from seisvel_jax.inference.shards import Shard
    from seisvel_jax.predict import Predict
    from seisvel_jax.predict import _check as check_predict
    from seisvel_jax.refine import Refine, settings_of
    from seisvel_jax.simulate import Simulate, survey_of
    from seisvel_jax.survey import speed_and_structure
    from seisvel_jax.train import Options

    options = ["--steps", "--batch-size", "--data.path", "--data.dt", "--seed", "--ema-decay", "--groups.0.members"]
    options += [
        "--groups.0.model.width",
        "--optim.learning-rate",
        "--data.limit",
        "--tensorboard",
        "--no-tensorboard",
    ]
    options += ["--checkpoint", "--output", "--data", "--limit", "--tta", "--survey", "--count", "--dt", "--layout"]
    options += ["--grid-spacing", "--sponge-width", "--shard", "--help", "--nonsense", "--", "--data.skip-bad"]
    options += [
        "--iterations",
        "--prior",
        "--prior-weight",
        "--bounds",
        "--frequencies",
        "--precondition",
        "--strength",
    ]
    words = st.one_of(st.sampled_from(options), VALUES.map(str), NAMES, st.sampled_from(["nan", "inf", "1e999"]))
    given_words = [word.replace("\x00", "") for word in draw(st.lists(words, max_size=6))]
    kind = draw(st.sampled_from(["train", "predict", "simulate", "refine"]))

    def use() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if kind == "train":
                tyro.cli(
                    Options,
                    args=["--workdir", "x", *given_words],
                    default=Options(CONFIG, workdir=Path("x")),
                    config=(tyro.conf.AvoidSubcommands,),
                )
            elif kind == "predict":
                check_predict(tyro.cli(Predict, args=["--checkpoint", "x", *given_words]))
            elif kind == "refine":
                wanted = tyro.cli(Refine, args=["--data", "x", "--start", "x", "--output", "x.npz", *given_words])
                Shard(*wanted.shard)
                solver_survey(speed_and_structure(), settings_of(wanted))
            else:
                survey_of(tyro.cli(Simulate, args=["--survey", "openfwi", "--output", "x", *given_words]))

    try:
        refused(use)
    except SystemExit as left:
        assert left.code in (0, 2), left.code


def record(draw: Draw, folder: Path, sound: Sound) -> None:
    """What commands keep beside their results: metrics.jsonl, simulate.json, made_with.json."""
    from seisvel_jax.inference.submission import VERSION, Finished
    from seisvel_jax.simulation.request import claim
    from seisvel_jax.training.records import Records, read_records

    path = sound.copy("metrics.jsonl", folder)
    if draw(st.booleans()):
        path.write_bytes(damaged(draw, path.read_bytes()))
    else:
        path.write_bytes(path.read_bytes() + json_text(draw, {"kind": "train", "step": 3, "loss": [1.0]}) + b"\n{}")
    refused(lambda: read_records(path))
    refused(lambda: Records(folder, 3, ("a", "b"), tensorboard=False).close())
    settings_ = {"layout": "challenge", "models": 3}
    (folder / "set").mkdir()
    (folder / "set" / "simulate.json").write_bytes(json_text(draw, settings_))
    refused(lambda: claim(folder / "set", settings_))
    part = folder / "s.npz.part"
    part.mkdir()
    (part / "made_with.json").write_bytes(json_text(draw, {"version": VERSION, "checkpoint": "a"}))
    np.save(part / "velocity_000000.npy", np.ones((3, 4), np.float32))
    if draw(st.booleans()):
        mischief(draw, part)
    with contextlib.redirect_stderr(io.StringIO()):
        refused(lambda: Finished(folder / "s.npz", {"checkpoint": "a"}, fields=("velocity",)))

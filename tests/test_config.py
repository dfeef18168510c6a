"""Every config file builds, survives JSON, and what does not fit is refused by name."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_support import CONFIG

from seisvel_jax.config import Config, DiffusionConfig, differences, from_dict, load_config_file, to_dict
from seisvel_jax.diffusion.condition import nothing
from seisvel_jax.errors import UserError
from seisvel_jax.models.config import GroupConfig, InversionNetConfig
from seisvel_jax.models.ensemble import apply_member
from seisvel_jax.survey import openfwi, speed_and_structure
from seisvel_jax.training.optim import make_optimizer
from seisvel_jax.training.state import abstract_params

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


def any_config(path):
    """Of either kind: the config file says which command it is for."""
    diffusion = "seisvel_jax.train_diffusion" in path.read_text()
    return load_config_file(path, DiffusionConfig) if diffusion else load_config_file(path)


def denoised(graphdef, survey, params, gathers, velocity):
    network = nnx.merge(graphdef, params)
    told = replace(nothing(2, survey), gathers=gathers)
    return network(velocity, jnp.zeros(2), network.encode(told, survey), survey)


def survey_for(config):
    if isinstance(config, DiffusionConfig):
        return openfwi().resampled(dt=config.data.dt)
    survey = openfwi() if "openfwi" in config.name or "inversion" in config.name else speed_and_structure(dt=1e-3)
    return survey.resampled(spacing=config.data.grid_spacing, dt=config.data.dt)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_builds(path):
    config = any_config(path)
    survey = survey_for(config)
    graphdefs, params = abstract_params(config.groups, survey)
    gathers = jax.ShapeDtypeStruct((2, *survey.gather_shape), np.float32)
    for graphdef, tree in zip(graphdefs, params):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
        velocity = jax.ShapeDtypeStruct((2, *survey.grid.shape), np.float32)
        first = {"velocity": velocity, "gathers": gathers}  # what a second stage reads
        if isinstance(config, DiffusionConfig):
            out = jax.eval_shape(functools.partial(denoised, graphdef, survey), one, gathers, velocity)
        else:
            run = functools.partial(apply_member, graphdef)
            out = jax.eval_shape(lambda p, g, f, run=run: run(p, g, survey, first=f), one, gathers, first)
        assert out.shape == (2, *survey.grid.shape) and out.dtype == np.float32
    optimizer = make_optimizer(config.optim, config.steps)
    for group, tree in zip(config.groups, params):
        opt_state = jax.eval_shape(jax.vmap(optimizer.init), tree)
        assert all(leaf.shape[0] == group.members for leaf in jax.tree.leaves(opt_state))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_survives_json_and_says_what_to_expect(path):
    config = any_config(path)
    assert from_dict(json.loads(json.dumps(to_dict(config))), kind=type(config)) == config
    text = path.read_text()
    for word in ("python -m seisvel_jax.train", "Hardware", "Time", "Expected score", "Commit"):
        assert word in text.split('"""')[1], f"{path.name}: its docstring lacks {word!r}"


def test_the_config_of_a_run_is_a_config_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": to_dict(CONFIG)}))
    assert load_config_file(path) == CONFIG
    for broken in ("{", "[]", "{}", '{"config": {"name": 3}}'):
        path.write_text(broken)
        with pytest.raises(UserError, match=r"config\.json"):
            load_config_file(path)


def test_groups_of_both_kinds_survive_json():
    config = Config(name="both", groups=(*CONFIG.groups, GroupConfig(InversionNetConfig(width=0.25))))
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config and isinstance(again.groups[1].model, InversionNetConfig)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(colour="red"), "colour"),
        (lambda d: d["optim"].update(momentum=0.9), "momentum"),
        (lambda d: d.pop("groups"), "groups"),
        (lambda d: d.update(steps="many"), "steps"),
        (lambda d: d.update(tensorboard="false"), "tensorboard"),
        (lambda d: d.update(batch_size=0), "batch_size"),
        (lambda d: d.update(batch_size=2.5), "batch_size"),
        (lambda d: d["groups"][0]["model"].update(kind="Transformer9"), r"groups\[0\].model"),
        (lambda d: d["groups"][0].update(members=0), "members"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    values = to_dict(CONFIG)
    change(values)
    with pytest.raises(UserError, match=words):
        from_dict(values, "RUN/checkpoints/5")


def test_bad_config_files(tmp_path):
    path = tmp_path / "mine.py"
    for text, words in (
        ("config = 3", "no `config`"),
        ("import nothing_of_the_kind", "nothing_of_the_kind"),
        ("config = (", "SyntaxError"),
        ("from seisvel_jax.config import Config\nconfig = Config(name='x', groups=())", "groups"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words) as error:
            load_config_file(path)
        assert "mine.py" in str(error.value)
    with pytest.raises(UserError, match="no such config"):
        load_config_file(tmp_path / "absent.py")


def test_differences_name_the_field_and_leave_the_free_ones():
    old = to_dict(CONFIG)
    new = json.loads(json.dumps(old))
    new["data"]["path"], new["log_every"] = "/elsewhere", 7
    assert differences(old, new) == []
    new["optim"]["learning_rate"] = 1.0
    new["groups"].append(new["groups"][0])
    found = "\n".join(differences(old, new))
    assert "optim.learning_rate: 0.01 -> 1.0" in found and "groups.1.members: absent -> 2" in found
    more = json.loads(json.dumps(old))
    more["steps"] = 5000
    assert differences(old, more) == [], "cycles of a given length do not depend on the number of steps"
    old["optim"]["cycle_steps"] = more["optim"]["cycle_steps"] = None
    assert differences(old, more) == ["steps: 6 -> 5000"]

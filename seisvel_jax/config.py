"""The configuration of one training run: one frozen value that rebuilds the model and says how it was trained.

A config file is a Python file with one typed expression, `config = Config(...)` for an ensemble (`train`) or `config =
DiffusionConfig(...)` for a diffusion model (`train_diffusion`); its docstring says the command, the
hardware, the time, the expected score and the commit it was measured at. The resolved config is saved with every
checkpoint.
"""

import dataclasses
import functools
import json
import os
import re
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import cattrs
from cattrs.strategies import configure_tagged_union

from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.diffusion.config import ConditionConfig, DenoiserConfig, Members
from seisvel_jax.errors import UserError
from seisvel_jax.files import whole_file
from seisvel_jax.models.config import GroupConfig, InversionNetConfig, VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, FirstStageConfig, LossConfig, OptimConfig

Kind = TypeVar("Kind", bound="Config | DiffusionConfig")

FREE_FIELDS = frozenset(
    {
        "name",
        "eval_every",
        "log_every",
        "figures",
        "tensorboard",
        "mesh_member",
        "memory",
        "parts",
        "first_stage.checkpoint",
        "data.path",
        "data.read_threads",
        "data.prefetch",
        "data.cache_gib",
    }
)
"""What may differ between a run and its continuation: nothing that changes a number by more than rounding.

So may `groups.N.model.remat`. `parts` also draws dropout anew.
"""
_REMAT = re.compile(r"groups\.[0-9]+\.model\.remat")


@dataclass(frozen=True)
class Config:
    """Everything that decides a training run except where its output goes."""

    name: str
    """A short name, shown in logs and figures."""
    groups: tuple[GroupConfig, ...]
    """The ensemble: groups of equal architecture, each with its number of members."""
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    first_stage: FirstStageConfig | None = None
    """The trained run that groups with `second_stage` correct; it stays as it is (docs/training.md)."""
    seed: int = 0
    """Of initialisation, dropout and augmentation; the order of the data has its own, `data.seed`."""
    batch_size: int = 8
    """Samples a step, shared by all members."""
    parts: int = 1
    """Parts of a batch that go through the networks one after the other, their gradients averaged: less memory."""
    memory: Literal["fit", "given"] = "fit"
    """`fit`: where a step would not fit into a device's memory, activations are recomputed and `parts` raised."""
    steps: int = 60_000
    eval_every: int = 1000
    """Steps between validations; each also saves a checkpoint."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    ema_decay: float = 0.999
    """Of the exponential moving average of the parameters, which is what is validated and predicted with; 0 = off."""
    validation_samples: int = 64
    """Validation samples used at each validation, at most; spread evenly over the validation set."""
    figures: int = 4
    """Validation samples drawn at each validation; 0 = none."""
    tensorboard: bool = True
    mesh_member: int | None = None
    """Devices that share the members; the others divide the batch. None: as many as divide them (docs/devices.md)."""

    def __post_init__(self) -> None:
        smallest = {"steps": 0, "figures": 0}
        for name in ("batch_size", "parts", "steps", "eval_every", "log_every", "validation_samples", "figures"):
            low = smallest.get(name, 1)
            value = getattr(self, name)
            if value < low:
                raise UserError(f"config: {name} = {value}, expected at least {low}")
        if self.batch_size % self.parts:
            raise UserError(f"config: parts = {self.parts}, expected a divisor of batch_size {self.batch_size}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"config: ema_decay = {self.ema_decay}, expected 0 <= ema_decay < 1")
        if not self.groups or any(group.members < 1 for group in self.groups):
            raise UserError("config: groups must name at least one group with at least one member")

    @property
    def members(self) -> int:
        """Members of all groups together."""
        return sum(group.members for group in self.groups)


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that decides the training of a diffusion model except where its output goes (docs/diffusion.md)."""

    name: str
    """A short name, shown in logs and figures."""
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    members: int = 1
    """Denoisers trained side by side on the same samples; each has its own start, conditions and noise."""
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    """How often each source of information is left out."""
    process: Literal["edm", "flow"] = "edm"
    guess_weight: float = 1.0
    """Of the loss of the guess from gathers alone (docs/diffusion.md)."""
    log_levels: tuple[float, float] | None = None
    """Mean and standard deviation of ln(sigma) in training. None: -1.2 and 1.2 of edm, 0 and 1 of flow."""
    data: DataConfig = field(default_factory=DataConfig)
    """Labels of `denoiser.families` are told of the samples drawn online, and of stored ones by name
    (docs/diffusion.md)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0
    """Of initialisation, conditions, noise, dropout and augmentation; the order of the data has `data.seed`."""
    batch_size: int = 16
    """Samples a step, shared by all members."""
    steps: int = 100_000
    eval_every: int = 5000
    """Steps between validations; each also saves a checkpoint."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    ema_decay: float = 0.999
    """Of the exponential moving average of the parameters, which is what is validated and drawn from; 0 = off."""
    validation_samples: int = 64
    """Held-out models used at each validation, at most; spread evenly over the validation set."""
    validation_draws: int = 8
    """Samples drawn for each of them, given its gathers, by each member; for CRPS and the temperature. At the last step
    as many given each other subset of the sources, for its temperature."""
    validation_steps: int = 16
    """Steps of the sampler that draws them, one evaluation of the network each."""
    figures: int = 4
    """Held-out models drawn at each validation; 0 = none."""
    tensorboard: bool = True
    mesh_member: int | None = None
    """Devices that share the members; the others divide the batch. None: as many as divide them (docs/devices.md)."""

    def __post_init__(self) -> None:
        least = {"steps": 0, "figures": 0, "validation_draws": 2}
        for name in (
            "members",
            "batch_size",
            "steps",
            "eval_every",
            "log_every",
            "validation_samples",
            "validation_draws",
            "validation_steps",
            "figures",
        ):
            low, value = least.get(name, 1), getattr(self, name)
            if value < low:
                raise UserError(f"config: {name} = {value}, expected at least {low}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"config: ema_decay = {self.ema_decay}, expected 0 <= ema_decay < 1")
        if not 0 <= self.guess_weight < float("inf"):
            raise UserError(f"config: guess_weight = {self.guess_weight}, expected 0 or more")
        if self.log_levels is not None and not self.log_levels[1] > 0:
            raise UserError(f"config: log_levels = {self.log_levels}, expected a positive standard deviation")
        if self.data.skip_bad:
            raise UserError("config: data.skip_bad, which only train knows: leave out the bad samples by hand")

    @property
    def groups(self) -> tuple[Members, ...]:
        """The one stack of networks, as the training room takes groups."""
        return (Members(self.denoiser, self.members),)

    @property
    def member_names(self) -> tuple[str, ...]:
        """One a member, `denoiser/0`."""
        return tuple(f"denoiser/{index}" for index in range(self.members))


def is_diffusion(values: Any) -> bool:
    """Whether `to_dict` of a `DiffusionConfig` made these values, and not of a `Config`."""
    return isinstance(values, dict) and "denoiser" in values


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, prefer_attrib_converters=False)
    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, _plain)
    configure_tagged_union(VelocityNetConfig | InversionNetConfig, converter, tag_name="kind")
    return converter


def _plain(value: Any, kind: type) -> Any:
    """No conversions but int -> float: `"false"` is no bool, and 2.5 no count."""
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return value


def to_dict(config: Config | DiffusionConfig) -> dict[str, Any]:
    """Plain values for JSON; `from_dict` is its inverse."""
    return json.loads(json.dumps(_converter().unstructure(config)))


def from_dict(values: Any, where: str = "config", kind: type[Kind] = Config) -> Kind:  # type: ignore[assignment]
    """The config of `to_dict`, of this kind. Raises UserError naming `where` and each unknown, missing or ill-typed
    field."""
    try:
        return _converter().structure(values, kind)
    except UserError:
        raise
    except Exception as error:
        reasons = "; ".join(cattrs.transform_error(error, path=""))
        raise UserError(f"{where}: not a config of this version of seisvel_jax: {reasons}") from error


def load_config_file(path: str | os.PathLike, kind: type[Kind] = Config) -> Kind:  # type: ignore[assignment]
    """The `config`, of this kind, of a Python config file or of a run's config.json. Raises UserError naming the file,
    and the command to give a config of the other kind to."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config file; expected a Python file with `config = {kind.__name__}(...)`")
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not the config.json of a training run ({error!r}): name another") from error
        if is_diffusion(values) != (kind is DiffusionConfig):
            raise UserError(f"{path}: {_OTHER[kind]}")
        return from_dict(values, str(path), kind)
    try:
        names = runpy.run_path(str(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; expected `config = {kind.__name__}(...)`") from error
    config = names.get("config")
    if isinstance(config, Config | DiffusionConfig) and not isinstance(config, kind):
        raise UserError(f"{path}: {_OTHER[kind]}")
    if not isinstance(config, kind):
        name = kind.__name__
        raise UserError(f"{path}: defines no `config` of type {name}; expected `config = {name}(...)`")
    return config


_OTHER: dict[type, str] = {
    Config: "a diffusion model's config: give it to python -m seisvel_jax.train_diffusion",
    DiffusionConfig: "an ensemble's config: give it to python -m seisvel_jax.train",
}


def write_config(path: str | os.PathLike, values: dict[str, Any]) -> None:
    """Write a dictionary as readable JSON, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`field: old -> new` of every field that differs and must not when a run goes on; empty = may go on.

    `steps` may change only where the learning rate does not depend on it (`optim.cycle_steps` is set).
    """
    old_fields, new_fields = flatten(old), flatten(new)
    free = set(FREE_FIELDS)
    if old_fields.get("optim.cycle_steps") is not None:
        free.add("steps")
    names = sorted((old_fields.keys() | new_fields.keys()) - free)
    absent = "absent"
    return [
        f"{name}: {old_fields.get(name, absent)} -> {new_fields.get(name, absent)}"
        for name in names
        if old_fields.get(name, absent) != new_fields.get(name, absent) and not _REMAT.fullmatch(name)
    ]


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as `{"a.b.0": value}`."""
    if isinstance(values, dict):
        pairs = [(str(key), value) for key, value in values.items()]
    elif isinstance(values, list | tuple):
        pairs = [(str(index), value) for index, value in enumerate(values)]
    else:
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in pairs:
        found |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return found


def replace(config: Kind, **changes: Any) -> Kind:
    """`dataclasses.replace` that also takes nested names: `replace(config, data__path="DATA")`."""
    flat = {key: value for key, value in changes.items() if "__" not in key}
    nested: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        if "__" in key:
            outer, inner = key.split("__", 1)
            nested.setdefault(outer, {})[inner] = value
    for outer, values in nested.items():
        flat[outer] = dataclasses.replace(getattr(config, outer), **values)
    return dataclasses.replace(config, **flat)

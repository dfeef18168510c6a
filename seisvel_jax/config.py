"""The configuration of one training run: one frozen value that rebuilds the model and says how it was trained.

A config file is a Python file with one typed expression, `config = Config(...)`; its docstring says the command, the
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
from typing import Any, Literal

import cattrs
from cattrs.strategies import configure_tagged_union

from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.errors import UserError
from seisvel_jax.files import whole_file
from seisvel_jax.models.config import GroupConfig, InversionNetConfig, VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, FirstStageConfig, LossConfig, OptimConfig

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


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values for JSON; `from_dict` is its inverse."""
    return json.loads(json.dumps(_converter().unstructure(config)))


def from_dict(values: Any, where: str = "config") -> Config:
    """The config of `to_dict`. Raises UserError naming `where` and each unknown, missing or ill-typed field."""
    try:
        return _converter().structure(values, Config)
    except UserError:
        raise
    except Exception as error:
        reasons = "; ".join(cattrs.transform_error(error, path=""))
        raise UserError(f"{where}: not a config of this version of seisvel_jax: {reasons}") from error


def load_config_file(path: str | os.PathLike) -> Config:
    """The `config` of a Python config file, or of a run's config.json. Raises UserError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config file; expected a Python file with `config = Config(...)`")
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not the config.json of a training run ({error!r}): name another") from error
        return from_dict(values, str(path))
    try:
        names = runpy.run_path(str(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; expected `config = Config(...)`") from error
    config = names.get("config")
    if not isinstance(config, Config):
        raise UserError(f"{path}: defines no `config` of type Config; expected `config = Config(...)`")
    return config


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


def replace(config: Config, **changes: Any) -> Config:
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

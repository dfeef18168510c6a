"""Training samples that nobody stores: models drawn and simulated on the device, row by row, from their key alone.

Row r of step n depends on the seed, n and r, so that a run that goes on sees what it would have seen, and the rows can
be made on whatever device needs them. Light to import: jax comes in with the first batch.
"""

import zlib
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.logging import progress

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from seisvel_jax.survey import Survey

MAX_VELOCITY = 4500.0
"""m/s; the fastest that the families of `earth` draw."""
MIN_VELOCITY = 1500.0


@dataclass(frozen=True)
class OnlineConfig:
    """Samples drawn and simulated while training. Grid and time sampling are those of `DataConfig`."""

    survey: str = ""
    """openfwi, speed-and-structure or the path of a survey.json; empty: that of the data at `data.path`."""
    family: str = ""
    """Of `earth.families`, e.g. openfwi (any of its ten), curvefault-b; several, with commas between them, take turns
    row by row. Empty: openfwi or speed-and-structure by the survey's boundary."""
    share: float = 1.0
    """Of the rows of each batch; the others come from `data.path`."""
    pool: int = 0
    """Draw and simulate so many samples when the run begins, and train on these epoch after epoch, as on stored ones:
    where simulating costs more than a step, as on a CPU. 0: new samples at every step."""
    sponge_widths: tuple[float, ...] = ()
    """Metres. Several take turns, one a step: each is a program of its own. Empty: the survey's own."""
    pml: float = 0.0
    """Metres of a perfectly matched layer in the sponge's place, solved by the survey's own scheme: many times faster
    where the sponge is wide (docs/online.md). 0: the sponge."""
    sponge_every: int = 0
    """With pml: every so many-th step keeps the sponge. Its echo is faint and late, but a network that was never shown
    it errs by a half where that is all there is to hear then (docs/online.md). 0: none does."""

    def __post_init__(self) -> None:
        """Refuse values that no run could use. Raises UserError naming the option."""
        if not 0 < self.share <= 1:
            raise UserError(f"--data.online.share {self.share}, expected above 0 and at most 1")
        if self.pool < 0 or (self.pool and self.share < 1):
            raise UserError(
                f"--data.online.pool {self.pool} with share {self.share:g}, expected 0, or a number of samples and "
                "share 1"
            )
        if any(not 0 < width < float("inf") for width in self.sponge_widths):
            raise UserError(f"--data.online.sponge-widths {self.sponge_widths}, expected metres above 0")
        if not 0 <= self.pml < float("inf") or (self.pml and self.sponge_widths):
            raise UserError(
                f"--data.online.pml {self.pml} with sponge-widths {self.sponge_widths}, expected 0, or metres and no "
                "sponge"
            )
        if self.sponge_every < 0 or (self.sponge_every and not self.pml):
            raise UserError(
                f"--data.online.sponge-every {self.sponge_every} with pml {self.pml:g}, expected 0, or steps and a pml"
            )

    def rows(self, batch_size: int) -> int:
        """Rows of a batch that are drawn, at least one."""
        return max(1, round(self.share * batch_size))


def online_survey(config: OnlineConfig) -> "Survey":
    """The experiment that `config.survey` names, at its own sampling. Raises UserError where it names none."""
    from seisvel_jax.survey import openfwi, read_survey, speed_and_structure

    if config.survey == "openfwi":
        return openfwi()
    if config.survey == "speed-and-structure":
        return speed_and_structure()
    if config.survey.endswith(".json"):
        return read_survey(config.survey)
    raise UserError(
        f"--data.online.survey {config.survey!r}, expected openfwi, speed-and-structure or the path of a .json "
        "(or data at --data.path, whose survey is then taken)"
    )


class Simulated:
    """Batches `{"gathers": [row, source, time, receiver], "velocity": [row, depth, x]}` by stream, step and row.

    `mesh` has an axis data, over which the rows of a batch lie, and an axis member, which helps to make them. With
    `labels` a batch has `family [row]` too: 1 for the first of these families, and 0 for one that is not among them.
    """

    def __init__(
        self,
        config: OnlineConfig,
        survey: "Survey",
        seed: int,
        mesh: "Mesh",
        labels: tuple[str, ...] | None = None,
    ):
        from seisvel_jax.earth.families import check_family
        from seisvel_jax.wave.checks import check_sampling
        from seisvel_jax.wave.plan import make_plan
        from seisvel_jax.wave.scheme import scheme_of

        natural = "openfwi" if survey.boundary.kind == "openfwi" else "speed-and-structure"
        self.families = tuple(name.strip() for name in (config.family or natural).split(","))
        for family in self.families:
            check_family(family)
        self.numbers = None if labels is None else family_numbers(self.families, labels)
        self.survey, self.seed, self.mesh = survey, seed, mesh
        if config.sponge_widths and survey.boundary.kind == "openfwi":
            raise UserError("--data.online.sponge-widths: OpenFWI's is 120 cells by definition: leave it out")
        boundaries = [replace(survey.boundary, width=width) for width in config.sponge_widths] or [survey.boundary]
        if config.pml:
            layer = replace(survey.boundary, kind="pml", width=config.pml)
            boundaries = [layer] * (config.sponge_every - 1) + [survey.boundary] if config.sponge_every else [layer]
        surveys = [replace(survey, boundary=boundary) for boundary in boundaries]
        # The scheme is the one that the data to be read were made by, whatever ends the grid.
        scheme = scheme_of(survey)
        check_sampling(survey, scheme.order, MIN_VELOCITY)
        plans = {one.boundary: make_plan(one, MAX_VELOCITY, scheme) for one in surveys}
        self._plans = [plans[one.boundary] for one in surveys]

    @property
    def turns(self) -> dict[int, float]:
        """For each boundary that takes turns a step that has it, and its share of all steps."""
        boundaries = [plan.boundary for plan in self._plans]
        return {boundaries.index(one): boundaries.count(one) / len(boundaries) for one in boundaries}

    @property
    def words(self) -> str:
        """What is drawn, for the log."""
        (depth, x), kind = self.survey.grid.shape, self.survey.boundary.kind
        widths = sorted({plan.boundary.width for plan in self._plans if plan.boundary.kind == kind})
        sponges = f", sponges of {', '.join(f'{width:g}' for width in widths)} m" if len(widths) > 1 else ""
        layer = ""
        if self._plans[0].boundary.kind != kind:
            layer = f", a {self._plans[0].boundary.width:g} m layer for its sponge"
            layer += f" in {len(self._plans) - 1} of {len(self._plans)} steps" if widths else ""
        return (
            f"{' and '.join(self.families)} models, {depth} x {x} nodes every {self.survey.grid.spacing:g} m"
            f"{sponges}{layer}"
        )

    def __call__(self, stream: str, step: int, count: int) -> dict[str, Any]:
        """Rows 0 to `count` - 1 of a step of a stream, on their devices; returns before they are done.

        Raises UserError where the data axis does not divide `count`.
        """
        across = self.mesh.shape["data"]
        if count % across:
            raise UserError(
                f"{count} rows of a batch drawn online (--batch-size, --data.online.share), expected a multiple of the "
                f"{across} devices on the data axis: change either"
            )
        plan = self._plans[step % len(self._plans)]
        number = np.asarray([self.seed & 0xFFFFFFFF, zlib.crc32(stream.encode()), step], np.uint32)
        return _program(self.mesh, self.families, self.numbers, count)(number, plan)

    def samples(self, stream: str, count: int, rows: int, onto: "Survey | None" = None) -> "Drawn":
        """The first `count` samples of a stream, `rows` at a time, in the memory of every process.

        With `onto`, the same experiment at another time sampling, the gathers are resampled as stored ones are.
        """
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        shared = jax.jit(lambda batch: batch, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        parts = []
        with progress(None, f"{stream} samples", total=count) as bar:
            for step in range(-(-count // rows)):
                part = jax.tree.map(np.asarray, shared(self(stream, step, rows)))
                if onto is not None and onto.dt != self.survey.dt:
                    part["gathers"] = self._sampled(part["gathers"], onto)
                parts.append(part)
                bar.update(min(rows, count - step * rows))
        whole = {what: np.concatenate([part[what] for part in parts])[:count] for what in parts[0]}
        return Drawn(onto or self.survey, whole["gathers"], whole["velocity"], stream, whole.get("family"))

    def _sampled(self, gathers: np.ndarray, onto: "Survey") -> np.ndarray:
        """As `pipeline.Resampled` gives them."""
        from seisvel_jax.data.resample import resample_gathers

        found = np.stack([resample_gathers(sample, self.survey.dt, onto) for sample in gathers])
        if onto.record_start == 1:
            found[:, :, -1] = 0
        return found


@dataclass(frozen=True)
class Drawn:
    """Samples in memory, to be read as a dataset is."""

    survey: "Survey"
    gathers_of: np.ndarray
    """`[sample, source, time, receiver]` float32."""
    velocity_of: np.ndarray
    """`[sample, depth, x]` float32 m/s."""
    stream: str
    family_of: np.ndarray | None = None
    """`[sample]`: the numbers of their families, where labels were asked for."""
    has_velocity: bool = True
    layout: str = "online"

    @property
    def names(self) -> tuple[str, ...]:
        """One a sample."""
        return tuple(f"{self.stream}_{index:06d}" for index in range(len(self)))

    @property
    def path(self) -> Path:
        """A word for messages; nothing lies there."""
        return Path("online")

    def origin(self, index: int) -> Path:
        """The same word."""
        return self.path

    def __len__(self) -> int:
        return len(self.gathers_of)

    def gathers(self, index: int) -> np.ndarray:
        """`[source, time, receiver]`."""
        return self.gathers_of[index]

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""
        return self.velocity_of[index]


def family_numbers(families: tuple[str, ...], labels: tuple[str, ...]) -> tuple[int, ...]:
    """For each family its number among the labels: 1 for the first of them, 0 where it is none of them."""
    return tuple(1 + labels.index(name) if name in labels else 0 for name in families)


@cache
def _program(mesh: "Mesh", families: tuple[str, ...], numbers: tuple[int, ...] | None, count: int) -> Any:
    """`(number [3] = seed, stream and step, plan) -> batch`, jitted: one program a mesh, families, count and plan."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from seisvel_jax.earth.families import random_model
    from seisvel_jax.wave.propagate import run_plan

    on_cpu = jax.default_backend() == "cpu"
    # All devices take their share where they divide the rows; else those of a column do the same work.
    axes = ("data", "member") if count % mesh.size == 0 else ("data",)
    placed = PartitionSpec(axes)

    def turn(row: Any, step: Any) -> Any:
        """Which of the families a row is of: they take turns along the rows, and from step to step."""
        return ((row + step) % np.uint32(len(families))).astype(jnp.int32)

    def on_device(rows: Any, number: Any, plan: Any) -> dict[str, Any]:
        key = jax.random.key(number[0])
        for part in (number[1], number[2]):
            key = jax.random.fold_in(key, part)

        def draw(row: Any) -> Any:
            own = [partial(random_model, family, grid=plan.grid) for family in families]
            return jax.lax.switch(turn(row, number[2]), own, jax.random.fold_in(key, row))

        # One after the other on a CPU: what a row is rounded to must not depend on the rows beside it.
        velocity = jax.lax.map(draw, rows) if on_cpu else jax.vmap(draw)(rows)
        gathers = run_plan(velocity, plan, lanes=1 if on_cpu else None, devices=1)
        if plan.record_start == 1:
            gathers = gathers.at[:, :, -1].set(0)  # as in OpenFWI's files
        batch = {"gathers": gathers, "velocity": velocity}
        if numbers is not None:
            batch["family"] = jnp.asarray(numbers, jnp.int32)[turn(rows, number[2])]
        return batch

    def batch(number: Any, plan: Any) -> dict[str, Any]:
        rows = jnp.arange(count, dtype=jnp.uint32)
        whole = PartitionSpec()
        return jax.shard_map(on_device, mesh=mesh, in_specs=(placed, whole, whole), out_specs=placed, check_vma=False)(
            rows, number, plan
        )

    return jax.jit(batch, out_shardings=NamedSharding(mesh, PartitionSpec("data")))

"""A diffusion run as a function: what is known of the ground -> samples of velocity.

A job is a few samples of one model by one member. Every device of this process does one job at a time by a program of
that one size, and each sample has a key of its own, so a sample's numbers depend neither on the other samples nor on
the devices.
"""

import dataclasses
import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seisvel_jax.calibration import tempered
from seisvel_jax.diffusion.compose import guided
from seisvel_jax.diffusion.condition import Condition, only
from seisvel_jax.diffusion.daps import DAPSConfig, daps
from seisvel_jax.diffusion.edm import EDM, Denoise
from seisvel_jax.diffusion.flow import Flow
from seisvel_jax.diffusion.guidance import known, moment_matching, sda
from seisvel_jax.diffusion.likelihood import Likelihood, of_gathers
from seisvel_jax.diffusion.processes import process_of
from seisvel_jax.diffusion.sampler import SamplerConfig, sample
from seisvel_jax.diffusion.scale import Scale
from seisvel_jax.errors import UserError
from seisvel_jax.inference.predictor import Ensemble
from seisvel_jax.inference.told import Cells
from seisvel_jax.survey import Survey
from seisvel_jax.wave.plan import Plan, make_plan

if TYPE_CHECKING:
    from seisvel_jax.training.runs import DiffusionRun

Guidance = Literal["sda", "moment-matching", "daps"]
BATCH = 8
"""Samples drawn together."""
REACH = 1.0
"""How far the gathers may pull the denoiser's answer, in the deviation that it is taken to have."""
ECHO = 0.02
"""Noise from which the echo of a wide sponge (1 to 1.4 % of OpenFWI's gathers) counts as noise, and a PML guides in its
place: a sixth of the time."""
AS_MEMBERS = 16
"""Samples that stand for an ensemble's members."""


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn from what is told. Static and hashable."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    weight: float = 1.0
    """Of classifier-free guidance by all that is told: 1 is plain, more sharpens it."""
    guidance: Guidance | None = None
    """How the gathers' misfit through the wave solver pulls; None: it does not."""
    noise: float = 0.05
    """Standard deviation of what the solver cannot explain of the gathers, as a share of their root mean square."""
    iterations: int = 4
    """Conjugate gradients of `moment-matching`, Langevin steps a level of `daps`."""
    well_iterations: int = 2
    """Conjugate gradients that carry what is known exactly to the cells beside; 0 only puts the values in."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--guidance-iterations", self.iterations, 1),
            ("--well-iterations", self.well_iterations, 0),
        ):
            if value < least:
                raise UserError(f"{name}: {value}, expected at least {least}")
        if not 0 < self.noise < np.inf:
            raise UserError(f"--noise {self.noise}: expected a share of the gathers' root mean square, above 0")
        if not 0 <= self.weight <= 20:
            raise UserError(f"--weight {self.weight}: expected 0 to 20, 1 is plain")


@dataclass(frozen=True)
class Told:
    """What is known of one model, on the grid and times of the run. Arrays without a batch axis, as in `Condition`."""

    gathers: np.ndarray
    """`[source, time, receiver]`."""
    shots: np.ndarray
    """`[source]` float32: 1 where the shot was recorded."""
    wells: Cells
    """Told to the network, and held."""
    water: Cells
    """Held."""
    background: np.ndarray | None = None
    """`[depth, x]` m/s."""
    blur: float = 0.0
    """Metres."""
    family: int = 0
    """`DenoiserConfig.family`."""
    heard: bool = True
    """Whether the network is told the gathers; where it is not they may still pull."""

    @property
    def held(self) -> Cells:
        """Cells that every sample has."""
        return self.wells.over(self.water)


@dataclass(frozen=True)
class Job:
    """Samples of one model by one member."""

    told: Told
    member: int
    keys: np.ndarray
    """`[sample, 2]` uint32: of each sample its own."""


class Posterior:
    """A diffusion run to draw from."""

    def __init__(self, run: "DiffusionRun", drawing: Drawing | None = None, recorded: Survey | None = None):
        """`recorded`: of the gathers, whose wavelet and boundary guide (default: the run's own).

        Raises UserError where the drawing asks for what the run or its grid cannot give.
        """
        drawing = drawing or Drawing()
        self.run, self.drawing, self.survey = run, drawing, run.survey
        self.members = run.config.members
        self.scale = Scale(run.config.denoiser.bounds)
        self.process = process_of(run.config.process)
        self._mesh = Mesh(np.asarray(jax.local_devices()), ("job",))
        self._params = jax.device_put(run.params, NamedSharding(self._mesh, PartitionSpec()))
        self._plan: Plan | None = None
        if drawing.guidance is not None:
            self._plan = _plan(solver_of(run.survey, recorded or run.survey), self.scale, drawing.noise)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of everything in the run that decides the numbers."""
        return fingerprint_of(self.run)

    @property
    def together(self) -> int:
        """Jobs that are done at once."""
        return self._mesh.size

    def draw(self, jobs: Sequence[Job], survey: Survey | None = None) -> list[np.ndarray]:
        """Samples `[sample, depth, x]` float32 m/s of each job, on the grid of `survey` (default the run's own).

        All jobs have as many samples. Velocities are kept within the network's bounds; what is held, whatever it is,
        stands in every sample.
        """
        survey = survey or self.survey
        found: list[np.ndarray] = []
        for first in range(0, len(jobs), self.together):
            some = list(jobs[first : first + self.together])
            filled = some + some[:1] * (self.together - len(some))
            found += list(self._draw(filled, survey)[: len(some)])
        return [job.told.held.imposed(samples) for job, samples in zip(jobs, found)]

    def _draw(self, jobs: list[Job], survey: Survey) -> np.ndarray:
        told = [job.told for job in jobs]
        held = [one.held for one in told]
        guided, holding = self.drawing.guidance is not None, any(bool(cells.known.any()) for cells in held)
        drawing = self.drawing if holding else dataclasses.replace(self.drawing, well_iterations=0)  # one program
        program = _program(self.run.graphdef, self.process, self.scale, drawing, held=holding, mesh=self._mesh)
        across = NamedSharding(self._mesh, PartitionSpec("job"))
        mask = np.stack([live_mask(one, survey) for one in told]) if guided else None
        each = {
            "member": np.asarray([job.member for job in jobs], np.int32),
            "keys": np.stack([job.keys for job in jobs]),
            "condition": condition_of(told, self.scale),
            "values": np.stack([self.scale.to_unit(cells.values) * cells.known for cells in held]).astype(np.float32),
            "known": np.stack([cells.known for cells in held]).astype(np.float32),
            "observed": np.stack([one.gathers for one in told]) if guided else None,
            "mask": mask,
            "deviation": None if mask is None else self.drawing.noise * rms(np.stack([t.gathers for t in told]), mask),
        }
        return np.asarray(program(self._params, jax.device_put(each, across), survey, self._plan))


def fingerprint_of(run: "DiffusionRun") -> str:
    """Other parameters, another network or process, another fingerprint."""
    told = [run.survey.to_dict(), repr(run.config.denoiser), run.config.process]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for leaf in jax.tree.leaves(run.params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def sample_keys(seed: int, name: str, numbers: Sequence[int]) -> np.ndarray:
    """Keys `[sample, 2]` of the samples with these numbers of the model `name`: they depend on nothing else."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.asarray(numbers, jnp.uint32))
    return np.asarray(jax.random.key_data(keys))


def shares(samples: int, members: int, batch_size: int) -> list[tuple[int, list[int]]]:
    """`(member, numbers of samples)` of each job of a model: sample k is drawn by member k modulo their number.

    All jobs are of one size; what a last one has too many are numbers beyond the samples.
    """
    size = min(batch_size, -(-samples // members))
    jobs = []
    for member in range(min(members, samples)):
        numbers = range(member, samples, members)
        for first in range(0, len(numbers), size):
            jobs.append((member, [member + members * place for place in range(first, first + size)]))
    return jobs


def condition_of(told: Sequence[Told], scale: Scale) -> Condition:
    """The conditions of some models as the network reads them, numpy leaves `[model, ...]`."""

    def stacked(parts: list[Any]) -> np.ndarray:
        return np.stack(parts).astype(np.float32)

    nothing = np.zeros(told[0].wells.known.shape)
    return Condition(
        stacked([one.gathers * one.shots[:, None, None] * one.heard for one in told]),
        stacked([one.shots * one.heard for one in told]),
        stacked([scale.to_unit(one.wells.values) * one.wells.known for one in told]),
        stacked([one.wells.known for one in told]),
        stacked([nothing if one.background is None else scale.to_unit(one.background) for one in told]),
        stacked([np.float32(0 if one.background is None else one.blur) for one in told]),
        stacked([np.float32(one.background is not None) for one in told]),
        np.asarray([one.family for one in told], np.int32),
    )


def live_mask(told: Told, survey: Survey) -> np.ndarray:
    """`[source, time, receiver]` float32: 1 where a sample of the gathers counts for the misfit."""
    mask = np.zeros(told.gathers.shape, np.float32)
    mask[:] = np.any(told.gathers != 0, axis=1)[:, None, :] * told.shots[:, None, None]
    if survey.record_start == 1:
        mask[:, -1] = 0
    return mask


def rms(gathers: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Root mean square `[model]` of what counts, float32; 1 where nothing does."""
    energy = (np.square(gathers, dtype=np.float64) * mask).sum((1, 2, 3)) / np.maximum(mask.sum((1, 2, 3)), 1)
    return np.where(energy > 0, np.sqrt(energy), 1).astype(np.float32)


def as_ensemble(run: "DiffusionRun", samples: int = AS_MEMBERS) -> Ensemble:
    """The run as an ensemble whose members are samples given the gathers: `gathers -> velocity [member, batch, ...]`.

    Their noise is keyed by the gathers themselves: it depends neither on the batch nor on the order.
    """
    posterior, temperature = Posterior(run), run.temperature("gathers")

    def predict(gathers: np.ndarray, survey: Survey) -> np.ndarray:
        nothing = Cells.none(survey.grid)
        parts = shares(samples, posterior.members, BATCH)
        names = [hashlib.sha256(np.ascontiguousarray(one, np.float32).tobytes()).hexdigest() for one in gathers]
        each = dict(zip(names, gathers))  # a batch may be filled up with copies
        jobs = [
            Job(Told(one, shots_of(one), nothing, nothing), member, sample_keys(0, name, numbers))
            for name, one in each.items()
            for member, numbers in parts
        ]
        found = posterior.draw(jobs, survey)
        drawn = np.empty((samples, len(gathers), *survey.grid.shape), np.float32)
        for row, name in enumerate(names):
            first = list(each).index(name) * len(parts)
            drawn[:, row] = gathered(parts, found[first : first + len(parts)], samples)
        return np.clip(tempered(drawn, temperature), *posterior.scale.bounds)

    return Ensemble(
        predict=predict,
        survey=run.survey,
        weights=np.full(samples, 1 / samples),
        postprocess={},
        names=tuple(f"sample/{number}" for number in range(samples)),
        fingerprint=f"{posterior.fingerprint} {samples} samples, temperature {temperature!r}",
    )


def gathered(parts: list[tuple[int, list[int]]], found: Sequence[np.ndarray], samples: int) -> np.ndarray:
    """The samples `[sample, depth, x]` of one model, in the order of their numbers, from what its jobs drew."""
    drawn = np.empty((samples, *found[0].shape[1:]), np.float32)
    for (_, numbers), some in zip(parts, found, strict=True):
        for number, one in zip(numbers, some, strict=True):
            if number < samples:
                drawn[number] = one
    return drawn


def shots_of(gathers: np.ndarray) -> np.ndarray:
    """`[source]` float32: 0 for a shot without any signal, which was not recorded."""
    return np.any(gathers != 0, axis=(1, 2)).astype(np.float32)


def solver_of(trained: Survey, recorded: Survey) -> Survey:
    """The grid and times that a run was trained on, with the wavelet and the boundary by which gathers were made."""
    same = recorded.resampled(spacing=trained.grid.spacing, dt=trained.dt)
    rows = min(trained.nt, same.wavelet.shape[-1])
    wavelet = np.zeros((*same.wavelet.shape[:-1], trained.nt), np.float32)
    wavelet[..., :rows] = same.wavelet[..., :rows]
    return dataclasses.replace(trained, wavelet=wavelet, boundary=same.boundary)


def _plan(survey: Survey, scale: Scale, noise: float) -> Plan:
    from seisvel_jax.inversion.cheaper import with_pml
    from seisvel_jax.wave.checks import check_sampling
    from seisvel_jax.wave.scheme import scheme_of

    scheme, inside = scheme_of(survey), with_pml(survey)
    check_sampling(survey, scheme.order, scale.bounds[0])
    cheaper = survey.boundary.kind != "pml" and survey.boundary.width > 2 * inside.boundary.width
    return make_plan(inside if cheaper and noise >= ECHO else survey, scale.bounds[1], scheme)


@functools.cache
def _program(
    graphdef: Any, process: EDM | Flow, scale: Scale, drawing: Drawing, *, held: bool, mesh: Mesh
) -> Callable[..., jax.Array]:
    """`(params, one of each job, survey, plan) -> samples [job, sample, depth, x]` m/s: a job a device."""

    def on_device(params: Any, each: dict[str, Any], survey: Survey, plan: Plan | None) -> jax.Array:
        member = each["member"][0]
        network = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[member], params))
        encoded = network.encode(each["condition"], survey)

        def plain(noisy: Any, sigma: Any, condition: Any) -> jax.Array:
            def answer(values: Any, level: Any, condition: Any) -> jax.Array:
                return network(values, level, condition, survey)

            return process.denoise(answer, noisy, sigma, condition)

        denoise: Denoise = plain
        if drawing.weight != 1:
            less = network.encode(only(each["condition"]), survey)
            denoise = guided(plain, lambda condition: less, drawing.weight)
        seen = None
        if plan is not None:
            seen = of_gathers(each["observed"], plan, scale, each["deviation"][0], mask=each["mask"], devices=1)
        hold = (each["values"], each["known"]) if held else None
        one = _one_sample(denoise, seen, drawing, hold)
        keys = jax.random.wrap_key_data(each["keys"][0])

        def draw(key: jax.Array) -> jax.Array:
            return one(encoded, each["values"].shape, key)

        # The solver's derivatives cannot be mapped over samples; the network runs faster where they are.
        drawn = jax.vmap(draw)(keys) if seen is None else jax.lax.map(draw, keys)
        return jnp.clip(scale.to_velocity(drawn), *scale.bounds)[None]

    split, whole = PartitionSpec("job"), PartitionSpec()
    return jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=(whole, split, whole, whole), out_specs=split, check_vma=False)
    )


def _one_sample(
    denoise: Denoise, seen: Likelihood | None, drawing: Drawing, hold: tuple[jax.Array, jax.Array] | None
) -> Callable[[Any, tuple[int, int, int], jax.Array], jax.Array]:
    """`(condition, (1, depth, x), key) -> [depth, x]`, scaled; `hold` is values and mask of what is known exactly."""
    sampler = dataclasses.replace(drawing.sampler, one_by_one=seen is not None)
    if seen is not None and drawing.guidance == "daps":
        held = denoise if hold is None else known(denoise, *hold, iterations=drawing.well_iterations)
        config = DAPSConfig(
            levels=sampler.steps,
            sigma_min=sampler.sigma_min,
            sigma_max=sampler.sigma_max,
            langevin_steps=drawing.iterations,
            one_by_one=True,
        )
        return lambda told, shape, key: daps(held, seen, told, shape, key, config=config, known=hold)[0, 0]
    if seen is not None and drawing.guidance == "moment-matching":
        denoise = moment_matching(denoise, seen, iterations=drawing.iterations, reach=REACH)
    elif seen is not None:
        denoise = sda(denoise, seen, reach=REACH)
    if hold is not None:
        # With the solver's pull the values are put in alone: the network was told of them, and the covariance of the
        # pulled denoiser would cost its derivative.
        denoise = known(denoise, *hold, iterations=drawing.well_iterations if seen is None else 0)
    return lambda told, shape, key: sample(denoise, told, shape, key, sampler)[0, 0]

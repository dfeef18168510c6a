"""Simulated samples straight into a pack (docs/pack.md): no second pass over the disk, and 4 to 9 times fewer bytes."""

import contextlib
import json
import math

import numpy as np

from seisvel_jax.data.packed_codec import encode_velocity
from seisvel_jax.data.packed_info import PACK_FILE, UNFINISHED_FILE, VERSION, PackInfo
from seisvel_jax.data.packed_samples import Format, encode_sample
from seisvel_jax.data.packed_shards import finish, finished_shards, record_file, write_shard
from seisvel_jax.errors import UserError
from seisvel_jax.files import only_one, whole_file
from seisvel_jax.simulation.outputs import Sample, units_of
from seisvel_jax.simulation.request import Request


class PackOutput:
    """A shard of `file_size` samples at a time; pack.json when the last one is there, whoever wrote it."""

    def __init__(self, request: Request):
        self._request = request
        self.units = units_of(request)
        survey = request.survey
        self._like_openfwi = survey.boundary.kind == "openfwi"
        # What the samples would take as files of the layout that unpacking gives.
        nodes = math.prod(survey.grid.shape) * (1 if self._like_openfwi else 2)
        loose = 4 * request.total * (math.prod(survey.gather_shape) + nodes)
        made_from = {**request.settings, "shard_size": request.file_size, "pack_version": VERSION}
        source = {
            "path": f"simulated: {survey.name}",
            "layout": "openfwi" if self._like_openfwi else "challenge",
            "bytes": loose,
        }
        self._info = PackInfo(survey, request.dtype, request.velocity_dtype, True, made_from, source, (), {}, "")

    def files(self, number: int) -> set[str]:
        """The two arrays and their record."""
        return {f"gathers-{number:05d}.npy", f"velocity-{number:05d}.npy", record_file(number)}

    def check(self, name: str, velocity: np.ndarray) -> None:
        """Raises UserError for a model too fast for the pack's numbers."""
        encode_velocity(velocity, self._request.velocity_dtype, name)

    def missing(self, numbers: range) -> list[int]:
        """The shards that are not there whole; marks the folder as that of an unfinished pack."""
        output = self._request.output
        if not (output / PACK_FILE).exists() and not (output / UNFINISHED_FILE).exists():
            with whole_file(output / UNFINISHED_FILE) as part:
                part.write_text(json.dumps(self._info.made_from, indent=1) + "\n", encoding="utf-8")
        there = finished_shards(output, self._info, self.units)
        return [number for number in numbers if number not in there]

    def write(self, number: int, samples: list[Sample]) -> None:
        """Write a shard; the last time row of OpenFWI's surveys is zero, as everywhere in this package."""
        form = Format(self._request.dtype, self._request.velocity_dtype, self._request.file_size)
        groups = [f"data/data{number + 1}.npy" if self._like_openfwi else sample.name for sample in samples]
        if self._like_openfwi:
            for sample in samples:
                sample.gathers[:, -1] = 0
        packed = (encode_sample(name, gathers, velocity, form) for name, gathers, velocity in samples)
        write_shard(self._request.output, self._info, number, packed, groups=groups)

    def finish(self) -> None:
        """Write pack.json once all shards are there; of several processes the one that comes last does it."""
        output = self._request.output
        there = finished_shards(output, self._info, self.units)
        if len(there) < len(self.units):
            return
        if (output / PACK_FILE).exists() and not any((output / record_file(n)).exists() for n in there):
            return
        # Whoever holds this lock has seen all shards, and finishes.
        with contextlib.suppress(UserError), only_one(output, "finishing the pack", ".lock_finish"):
            finish(output, self._info, [there[number] for number in range(len(self.units))])

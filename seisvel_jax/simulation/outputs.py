"""The three layouts a simulation writes: what is written together, whether it is there whole, and how it gets there."""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.simulation.request import Request


class Sample(NamedTuple):
    """One sample as it will be written."""

    name: str
    gathers: np.ndarray
    """`[source, time, receiver]` float32."""
    velocity: np.ndarray
    """`[depth, x]` float32 m/s."""


class Output(Protocol):
    """A data set that grows unit by unit; a unit appears whole or not at all."""

    units: list[range]
    """Indices of the samples that are written together."""

    def files(self, number: int) -> set[str]:
        """Names of the files and folders of a unit."""

    def check(self, name: str, velocity: np.ndarray) -> None:
        """Raises UserError where a model could not be stored."""

    def missing(self, numbers: range) -> list[int]:
        """The units that are not there whole."""

    def write(self, number: int, samples: list[Sample]) -> None:
        """Write a unit."""

    def finish(self) -> None:
        """After the last of this process's units; another process may still be writing others."""


def output_of(request: Request) -> Output:
    """The writer of the layout that is asked for."""
    if request.layout == "packed":
        from seisvel_jax.simulation.packing import PackOutput

        return PackOutput(request)
    return ChallengeOutput(request) if request.layout == "challenge" else OpenFWIOutput(request)


def default_file_size(request_layout: str, survey_bytes: int) -> int:
    """Samples a file where nobody says: OpenFWI's 500; of a pack as many as a killed run may lose."""
    return 500 if request_layout != "packed" else max(1, min(64, 2**26 // survey_bytes))


class ChallengeOutput:
    """A folder a sample."""

    def __init__(self, request: Request):
        self._request = request
        self.units = [range(i, i + 1) for i in range(request.total)]

    def files(self, number: int) -> set[str]:
        """The sample's folder."""
        return {self._request.velocities.names[number]}

    def check(self, name: str, velocity: np.ndarray) -> None:
        """Every model can be stored."""

    def missing(self, numbers: range) -> list[int]:
        """The samples whose files are not all as long as their headers say."""
        from seisvel_jax.data.challenge import VELOCITY_FILE, gather_file, source_ids

        def paths(number: int) -> list[Path]:
            place = self._request.output / self._request.velocities.names[number]
            shots = source_ids(self._request.survey.gather_shape[0])
            return [place, *(place / gather_file(i) for i in shots), place / VELOCITY_FILE]

        return [number for number in numbers if not _are_whole(*paths(number))]

    def write(self, number: int, samples: list[Sample]) -> None:
        """Write one sample's folder."""
        from seisvel_jax.data.writers import write_challenge_sample

        write_challenge_sample(self._request.output, *samples[0])

    def finish(self) -> None:
        """Nothing is left to do."""


class OpenFWIOutput:
    """`file_size` samples in a file of gathers and one of models."""

    def __init__(self, request: Request):
        self._request = request
        self.units = units_of(request)

    def files(self, number: int) -> set[str]:
        """The two files."""
        return {f"data{number + 1}.npy", f"model{number + 1}.npy"}

    def check(self, name: str, velocity: np.ndarray) -> None:
        """Every model can be stored."""

    def missing(self, numbers: range) -> list[int]:
        """The units whose files are not as long as their headers say."""

        def paths(number: int) -> list[Path]:
            data, model = (self._request.output / w / f"{w}{number + 1}.npy" for w in ("data", "model"))
            return [data, model, data]

        return [number for number in numbers if not _are_whole(*paths(number))]

    def write(self, number: int, samples: list[Sample]) -> None:
        """Write the two files; the last time row is zero as in OpenFWI's training files."""
        from seisvel_jax.data.writers import write_openfwi

        gathers = np.stack([sample.gathers for sample in samples])
        gathers[:, :, -1] = 0
        write_openfwi(self._request.output, number + 1, gathers, np.stack([sample.velocity for sample in samples]))

    def finish(self) -> None:
        """Nothing is left to do."""


def units_of(request: Request) -> list[range]:
    """`file_size` samples each."""
    size = request.file_size
    return [range(first, min(first + size, request.total)) for first in range(0, request.total, size)]


def _are_whole(place: Path, *paths: Path) -> bool:
    from seisvel_jax.files import npy_header
    from seisvel_jax.logging import say

    if not place.exists():
        return False
    try:
        for path in paths:
            npy_header(path)
    except UserError as error:
        say(f"warning: {error}; it is simulated again")
        return False
    return True

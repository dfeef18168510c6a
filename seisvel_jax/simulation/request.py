"""What is to be simulated, and the folder that it belongs to: a stopped run goes on only with the same settings."""

import csv
import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import seisvel_jax
from seisvel_jax.data.noise import Noise
from seisvel_jax.data.packed_codec import GatherDtype, VelocityDtype
from seisvel_jax.errors import UserError
from seisvel_jax.simulation.velocities import AugmentedVelocities, RandomVelocities, Velocities
from seisvel_jax.simulation.widths import Widths

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey

Layout = Literal["challenge", "openfwi", "packed"]
SETTINGS_FILE = "simulate.json"
SAMPLES_FILE = "samples.csv"


@dataclass(frozen=True)
class Request:
    """One simulation. Samples depend on the models, the survey, the seed and their index, on nothing else."""

    velocities: Velocities
    survey: "Survey"
    layout: Layout
    output: Path
    total: int
    """Samples: the first so many models."""
    file_size: int
    """Samples that are written together."""
    seed: int = 0
    """Of the boundary's widths and of the noise."""
    widths: Widths | None = None
    """Of the absorbing boundary, drawn a sample; none: the survey's."""
    noise: Noise = field(default_factory=Noise)
    dtype: GatherDtype = "float16"
    """Of a pack's gathers."""
    velocity_dtype: VelocityDtype = "uint16"
    """Of a pack's models."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What else is stored with the settings."""

    def width(self, index: int) -> float:
        """Metres of absorbing boundary of sample `index`."""
        return self.survey.boundary.width if self.widths is None else self.widths.width(self.seed, index)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Plain values that decide what is written."""
        # Names and three models stand for all: enough to notice that a file was replaced, without reading all of it.
        digest = hashlib.sha256("\n".join(self.velocities.names[: self.total]).encode())
        for index in sorted({0, self.total // 2, self.total - 1}):
            digest.update(np.ascontiguousarray(self.velocities.velocity(index), np.float32).tobytes())
        survey = json.dumps(self.survey.to_dict(), sort_keys=True)
        settings: dict[str, Any] = {
            "version": seisvel_jax.__version__,  # two versions of the solver must not fill one data set
            "layout": self.layout,
            "survey": self.survey.name,
            "survey_digest": hashlib.sha256(survey.encode()).hexdigest(),
            "grid_spacing": self.survey.grid.spacing,
            "dt": self.survey.dt,
            "sponge_width": asdict(self.widths) if self.widths else self.survey.boundary.width,
            "models": self.total,
            "models_digest": digest.hexdigest(),
            "file_size": 1 if self.layout == "challenge" else self.file_size,
        }
        if not self.noise.silent:
            settings["noise"] = {**asdict(self.noise), "seed": self.seed}
        if self.widths:
            settings["width_seed"] = self.seed
        if self.layout == "packed":
            settings |= {"dtype": self.dtype, "velocity_dtype": self.velocity_dtype}
        return json.loads(json.dumps(settings | self.origin))

    def table(self) -> str | None:
        """`samples.csv`: what was drawn for each sample; none where all are alike."""
        columns: dict[str, Any] = {"name": lambda i: self.velocities.names[i]}
        if self.widths is not None:
            columns["sponge_width_m"] = lambda i: f"{self.width(i):g}"
        models = self.velocities
        if isinstance(models, RandomVelocities) and len(models.families) > 1:
            columns["family"] = models.family
        if isinstance(models, AugmentedVelocities):
            columns["parents"] = lambda i: " ".join(models.seeds.names[p] for p in models.parents(i))
        if len(columns) == 1:
            return None
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["index", *columns])
        writer.writerows([i, *(value(i) for value in columns.values())] for i in range(self.total))
        return text.getvalue()


def claim(output: Path, settings: dict[str, Any]) -> None:
    """Make `output` the folder of this run, or check that it already is. Raises UserError where it is another's."""
    from seisvel_jax.files import read_json, whole_file

    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: a file stands where the output folder should be: choose another --output")
    path = output / SETTINGS_FILE
    # Listed before the settings are looked for: another shard may be claiming the folder right now.
    strangers = output.is_dir() and any(not entry.name.startswith(".") for entry in output.iterdir())
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise UserError(f"{path}: not the settings of a simulation: choose another --output")
        changed = sorted(key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key))
        if changed:
            plain = [key for key in changed if not key.endswith("digest")]
            what = (
                ", ".join(f"{key} {found.get(key)!r:.100}, now {settings.get(key)!r:.100}" for key in plain)
                or "other models"
            )
            raise UserError(f"{output}: simulated with other settings: {what}: choose another --output or remove it")
        return
    if strangers:
        raise UserError(f"{output}: holds files that are not of a simulation: choose another --output or an empty one")
    with whole_file(path) as part:
        part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

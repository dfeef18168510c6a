"""The processes by their names in a config."""

from typing import Literal

from seisvel_jax.diffusion.edm import EDM
from seisvel_jax.diffusion.flow import Flow


def process_of(name: Literal["edm", "flow"]) -> EDM | Flow:
    """What `DiffusionConfig.process` names."""
    return EDM() if name == "edm" else Flow()

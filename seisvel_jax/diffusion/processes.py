"""The processes by their names in a config."""

from typing import Literal

from seisvel_jax.diffusion.edm import EDM
from seisvel_jax.diffusion.flow import Flow


def process_of(name: Literal["edm", "flow"], log_levels: tuple[float, float] | None = None) -> EDM | Flow:
    """What `DiffusionConfig.process` names; in training ln(sigma) is normal with these, default the process's own."""
    if log_levels is None:
        return EDM() if name == "edm" else Flow()
    mean, deviation = log_levels
    if name == "edm":
        return EDM(log_mean=mean, log_deviation=deviation)
    return Flow(logit_mean=mean, logit_deviation=deviation)

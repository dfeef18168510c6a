"""The survey that the words of the command line name."""

import dataclasses
import math
from typing import TYPE_CHECKING

from seisvel_jax.errors import UserError

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey


def named_survey(
    name: str,
    *,
    grid_spacing: float | None = None,
    dt: float | None = None,
    sponge_width: float | None = None,
    model_shape: tuple[int, ...] | None = None,
) -> "Survey":
    """`openfwi`, `speed-and-structure` or the survey in a .json, on another spacing (m), dt (s) or sponge width (m).

    `model_shape` widens OpenFWI's for its wider models. Raises UserError naming the option.
    """
    from seisvel_jax.survey import openfwi, read_survey, speed_and_structure

    for option, value in (("--grid-spacing", grid_spacing), ("--dt", dt), ("--sponge-width", sponge_width)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"{option} {value}: expected a number above 0")
    if name == "speed-and-structure":
        return speed_and_structure(spacing=grid_spacing or 1.0, dt=dt or 1e-4, sponge=sponge_width or 350.0)
    if name == "openfwi":
        wide = model_shape is not None and model_shape[0] == 70 and grid_spacing is None
        survey = openfwi(x_count=model_shape[1] if wide and model_shape is not None else 70)
    elif name.endswith(".json"):
        survey = read_survey(name)
    else:
        raise UserError(f"--survey {name}: expected openfwi, speed-and-structure or the path of a .json")
    if sponge_width is not None:
        if survey.boundary.kind == "openfwi":
            raise UserError("--sponge-width: the OpenFWI boundary is 120 cells by definition: leave it out")
        survey = dataclasses.replace(survey, boundary=dataclasses.replace(survey.boundary, width=sponge_width))
    return survey.resampled(spacing=grid_spacing, dt=dt)

"""How strongly each boundary echoes: `python benchmarks/boundaries.py` (about half a minute on a CPU, no rivals).

A homogeneous model 400 m deep with the source 100 m from its top and left edges. One receiver 200 m below the source
sees their echo at normal incidence; the others lie at the source's depth, where the ray that the top reflects comes at
45, 68 and 79 degrees from the normal. The echo is the largest difference from the same model without edges, in dB of
the direct wave at the same receiver; in float64, so that nothing but the boundary speaks.
"""

import dataclasses

import jax
import numpy as np

from seisvel_jax.survey import Boundary, from_arrays, ricker
from seisvel_jax.wave.propagate import propagate
from seisvel_jax.wave.scheme import Scheme

SPACING, DT, EDGE, DEPTH = 10.0, 1e-3, 100.0, 400.0
OFFSETS = (200.0, 500.0, 1000.0)
BOUNDARIES = {
    "pml, 5 cells": Boundary("pml", 50.0, (0, 0)),
    "pml, 10 cells": Boundary("pml", 100.0, (0, 0)),
    "pml, 20 cells": Boundary("pml", 200.0, (0, 0)),
    "devito, 400 m": Boundary("devito", 400.0, (0, 0)),
    "devito, 350 m": Boundary("devito", 350.0, (0, 0)),
    "devito, 500 m": Boundary("devito", 500.0, (0, 0)),
    "openfwi, 1200 m": Boundary("openfwi", 1200.0, (0, 0)),
}


def gathers(velocity: float, boundary: Boundary, room: float) -> np.ndarray:
    """`[time, receiver]`, with `room` more metres of model on every side."""
    width = max(OFFSETS) + 2 * EDGE
    nt = round((max(OFFSETS) / velocity + 0.5) / DT)
    survey = from_arrays(
        np.asarray([[EDGE + room, EDGE + room]], np.float32),
        (room + EDGE + np.asarray([(0, 200), *[(offset, 0) for offset in OFFSETS]])).astype(np.float32),
        ricker(15.0, DT, nt, 0.08),
        dt=DT,
        shape=(round((DEPTH + 2 * room) / SPACING) + 1, round((width + 2 * room) / SPACING) + 1),
        spacing=SPACING,
    )
    last = tuple(SPACING * (count - 1) for count in survey.grid.shape)
    survey = dataclasses.replace(survey, boundary=dataclasses.replace(boundary, start=last))
    model = np.full((1, *survey.grid.shape), velocity)
    return np.asarray(propagate(model, survey, scheme=Scheme(4, precision="float64")))[0, 0]


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    print("| boundary | v (m/s) | normal | " + " | ".join(f"{offset:.0f} m" for offset in OFFSETS) + " |")
    print("|---|---|---|" + "---|" * len(OFFSETS))
    for velocity in (1500.0, 3000.0, 4500.0):
        room = 0.5 * velocity * (max(OFFSETS) / velocity + 0.5) + 200
        without = gathers(velocity, Boundary("pml", 200.0, (0, 0)), SPACING * round(room / SPACING))
        for name, boundary in BOUNDARIES.items():
            echo = np.abs(gathers(velocity, boundary, 0.0) - without).max(0) / np.abs(without).max(0)
            print(
                f"| {name} | {velocity:.0f} | " + " | ".join(f"{20 * np.log10(e):.0f}" for e in echo) + " |", flush=True
            )


if __name__ == "__main__":
    main()

"""Windows of a survey's extent out of a larger model."""

import math
from typing import TYPE_CHECKING

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.simulation.velocities import Velocities

if TYPE_CHECKING:
    from seisvel_jax.survey import Survey


def windows_of(velocities: Velocities, survey: "Survey", spacing: tuple[float, float] | None) -> Velocities:
    """`velocities` cut to the survey's extent where the spacing of their nodes is given, else as they are.

    spacing: metres between nodes in (depth, x).
    """
    return velocities if spacing is None else WindowedVelocities(velocities, survey, spacing)


class WindowedVelocities:
    """Models of stated spacing, each cut into windows of the survey's extent side by side, from the surface down.

    Windows that would stick out are left out. A window is interpolated linearly to the finest whole fraction of the
    survey's spacing that the model can feed, where the solver takes its own mean. Names: `<model>_z<metres>_x<metres>`.
    Raises UserError for a model smaller than the survey.
    """

    def __init__(self, velocities: Velocities, survey: "Survey", spacing: tuple[float, float]):
        if not all(0 < one < math.inf for one in spacing):
            raise UserError(f"--model-spacing {spacing[0]:g} {spacing[1]:g}: expected metres above 0 in depth and x")
        self._velocities, self._grid, self._spacing = velocities, survey.grid, spacing
        self._last: tuple[int, np.ndarray] | None = None
        extent = [(count - 1) * survey.grid.spacing for count in survey.grid.shape]
        self._where: list[tuple[int, float, float]] = []
        names = []
        for index, name in enumerate(velocities.names):
            shape = self._model(index).shape
            have = [(count - 1) * step for count, step in zip(shape, spacing, strict=True)]
            # A model of n nodes stands for n cells: half of one beyond the outer nodes is still its ground.
            fit = [
                math.floor((h + s / 2 - e) / (e + survey.grid.spacing) + 1 + 1e-6)
                for h, e, s in zip(have, extent, spacing, strict=True)
            ]
            if min(fit) < 1:
                raise UserError(
                    f"model {name}: {shape[0]} x {shape[1]} nodes every {spacing[0]:g} m x {spacing[1]:g} m are "
                    f"{have[0]:g} m x {have[1]:g} m (depth, x), expected at least the survey's {extent[0]:g} m x "
                    f"{extent[1]:g} m: correct --model-spacing, or take another --survey"
                )
            for down in range(fit[0]):
                for along in range(fit[1]):
                    depth, x = (k * (e + survey.grid.spacing) for k, e in zip((down, along), extent, strict=True))
                    self._where.append((index, depth, x))
                    names.append(f"{name}_z{depth:05.0f}_x{x:06.0f}" if max(fit) > 1 else name)
        self.names = tuple(names)

    def velocity(self, index: int) -> np.ndarray:
        """`[depth, x]` m/s."""
        number, depth, x = self._where[index]
        model = self._model(number)
        finer = max(1, round(self._grid.spacing / min(self._spacing)))
        step = self._grid.spacing / finer
        window = model
        for axis, (start, have) in enumerate(zip((depth, x), self._spacing, strict=True)):
            places = (start + np.arange(self._grid.shape[axis] * finer) * step) / have
            places = np.clip(places, 0, model.shape[axis] - 1)
            left = np.minimum(places.astype(int), max(model.shape[axis] - 2, 0))
            share = (places - left).astype(np.float32)
            share = share[:, None] if axis == 0 else share
            right = np.minimum(left + 1, model.shape[axis] - 1)
            window = np.take(window, left, axis) * (1 - share) + np.take(window, right, axis) * share
        return window

    def _model(self, number: int) -> np.ndarray:
        """The whole model, kept until another one is asked for."""
        if self._last is None or self._last[0] != number:
            self._last = number, np.asarray(self._velocities.velocity(number), np.float32)
        return self._last[1]

"""Devito (symbolic Python to OpenMP C), with the equations and the damping layer of its own acoustic example.

`pip install devito`. It has no PML for this equation; LAYER cells of damping here, because fewer echo too much.
"""

import os
from typing import Any

import numpy as np

from rivals.solver import Solver, Unavailable

LAYER = 40


class Devito(Solver):
    """Shots one after the other; in small problems one process a core, as its threads work within a shot only."""

    processes = True

    @staticmethod
    def version() -> str:
        try:
            import devito
        except ImportError as error:
            raise Unavailable(f"{error}: pip install devito") from error
        return f"devito {devito.__version__}"

    def prepare(self) -> None:
        if self.device == "gpu":
            raise Unavailable("devito's free wheels generate no CUDA")
        os.environ["DEVITO_LOGGING"] = "ERROR"
        from devito import Eq, Function, Grid, Inc, Operator, SparseTimeFunction, TimeFunction, configuration, solve

        configuration["log-level"] = "ERROR"
        configuration["language"] = "openmp" if self.threads > 1 else "C"
        case = self.case
        wide = np.pad(self.velocity, ((0, 0), (LAYER, LAYER), (LAYER, LAYER)), mode="edge")
        self.wide = wide
        shape = wide.shape[1:]
        grid = Grid(shape=shape, extent=[(n - 1) * case.spacing for n in shape], dtype=np.float32)
        self.steps = (case.nt - 1) * case.substeps + 1
        self.dt = case.dt / case.substeps
        self.vp = Function(name="vp", grid=grid, space_order=self.order)
        damp = Function(name="damp", grid=grid, space_order=self.order)
        damp.data[:] = damping(shape, case.spacing)
        m = 1 / (self.vp * self.vp)
        step = grid.stepping_dim.spacing

        def points(name: str, nodes: np.ndarray) -> Any:
            one = SparseTimeFunction(name=name, grid=grid, npoint=len(nodes), nt=self.steps)
            one.coordinates.data[:] = (nodes + LAYER) * case.spacing
            return one

        self.source = points("src", case.sources[:1])
        # Scaled by 1/h^2 as the others; its loop starts at step 1, and what it injects there appears in row 2.
        self.source.data[:, 0] = case.wavelet(case.substeps)[: self.steps] / case.spacing**2
        self.record, self.residual = points("rec", case.receivers), points("res", case.receivers)
        self.observed = np.zeros((self.steps, len(case.receivers)), np.float32)

        def field(name: str, save: int | None) -> Any:
            return TimeFunction(name=name, grid=grid, time_order=2, space_order=self.order, save=save)

        def forward_operator(save: int | None) -> tuple[Any, Any]:
            u = field("u", save)
            update = Eq(u.forward, solve(m * u.dt2 - u.laplace + damp * u.dt, u.forward))
            inject = self.source.inject(field=u.forward, expr=self.source * step**2 / m)
            record = self.record.interpolate(expr=u)
            return u, Operator([update, inject, record], subs=grid.spacing_map, name="Forward")

        def gradient_operator(u: Any) -> tuple[Any, Any, Any]:
            v, gradient = field("v", None), Function(name="grad", grid=grid)
            update = Eq(v.backward, solve(m * v.dt2 - v.laplace + damp * v.dt.T, v.backward))
            inject = self.residual.inject(field=v.backward, expr=self.residual * step**2 / m)
            correlate = Inc(gradient, -u * v.dt2)
            return v, gradient, Operator([update, inject, correlate], subs=grid.spacing_map, name="Gradient")

        self.make = forward_operator, gradient_operator
        self.plain: tuple | None = None
        self.saved: tuple | None = None

    def load(self, model: int, shot: int) -> None:
        self.vp.data[:] = self.wide[model]
        self.source.coordinates.data[:] = (self.case.sources[shot] + LAYER) * self.case.spacing

    def forward(self) -> Any:
        self.plain = self.plain or self.make[0](None)
        u, operator = self.plain
        out = []
        for model in range(len(self.velocity)):
            for shot in range(len(self.case.sources)):
                self.load(model, shot)
                u.data[:] = 0
                self.record.data[:] = 0
                operator.apply(dt=self.dt)
                out.append(np.array(self.record.data))
        return out

    def gathers(self, result: Any) -> np.ndarray:
        out = np.stack(result)[:, :: self.case.substeps]
        return out.reshape(len(self.velocity), len(self.case.sources), *out.shape[1:])

    def gradient(self) -> Any:
        if self.saved is None:
            u, forward = self.make[0](self.steps)
            self.saved = u, forward, *self.make[1](u)
        u, forward, v, gradient, backward = self.saved
        found = np.zeros_like(self.velocity)
        every = np.zeros((self.steps, 1), np.float32)
        every[:: self.case.substeps] = 2
        inner = (slice(LAYER, -LAYER),) * 2
        for model, velocity in enumerate(self.velocity):
            gradient.data[:] = 0
            for shot in range(len(self.case.sources)):
                self.load(model, shot)
                self.record.data[:] = 0
                forward.apply(dt=self.dt)
                self.residual.data[:] = every * (np.asarray(self.record.data) - self.observed)
                v.data[:] = 0
                backward.apply(dt=self.dt)
            # With respect to squared slowness, as a density in time; the chain rule leads to velocity.
            found[model] = -2 / velocity**3 * np.asarray(gradient.data[inner])
        return found

    def velocity_gradient(self, result: Any) -> np.ndarray:
        return result


def damping(shape: tuple[int, int], spacing: float) -> np.ndarray:
    """`[depth, x]` s/m^2 of its "damp" profile, `1.5 ln(1000) / (n h) (d - sin(2 pi d) / (2 pi))`, added over axes.

    Devito's units are ms and km/s, in which the profile stands as it is; hence 1e-3.
    """
    total = np.zeros(shape, np.float32)
    for axis, cells in enumerate(shape):
        i = np.arange(cells)
        inward = np.minimum(i, cells - 1 - i)  # 0 at the outer edge
        d = ((LAYER - inward + 1) / LAYER) * (inward < LAYER)
        profile = 1e-3 * 1.5 * np.log(1000) / (LAYER * spacing) * (d - np.sin(2 * np.pi * d) / (2 * np.pi))
        total += profile.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(2)])
    return total

"""seisvel_jax: `propagate` under jit with a PML, gradient by `jax.value_and_grad`."""

import inspect
from typing import Any

import numpy as np

from rivals.cases import LAYER
from rivals.solver import Solver, Unavailable


class Ours(Solver):
    """Several threads are several CPU devices, over which `propagate` spreads shots and models itself."""

    @staticmethod
    def version() -> str:
        try:
            from seisvel_jax.survey import from_arrays  # noqa: F401
            from seisvel_jax.wave.propagate import propagate
            from seisvel_jax.wave.scheme import Scheme
        except ImportError as error:
            raise Unavailable(f"{error}: pip install seisvel_jax, with PML surveys") from error
        if "scheme" not in inspect.signature(propagate).parameters:
            raise Unavailable("this seisvel_jax has no propagate(scheme=...)")
        from importlib.metadata import version

        return f"seisvel_jax {version('seisvel_jax')} (memory={Scheme().memory}), jax {version('jax')}"

    def prepare(self) -> None:
        self.version()
        import jax

        if self.device == "cpu":
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", max(1, self.threads))
        elif jax.default_backend() == "cpu":
            raise Unavailable("jax sees no GPU")
        import jax.numpy as jnp

        from seisvel_jax.survey import from_arrays
        from seisvel_jax.wave.propagate import propagate
        from seisvel_jax.wave.scheme import Scheme

        self.jax = jax
        case = self.case
        survey = from_arrays(
            case.sources[:, ::-1] * case.spacing,
            case.receivers[:, ::-1] * case.spacing,
            case.wavelet(),
            dt=case.dt,
            nt=case.nt,
            shape=self.velocity.shape[1:],
            spacing=case.spacing,
            boundary="pml",
            width=LAYER * case.spacing,
            record_start=0,
            name=case.name,
        )
        scheme = Scheme(order=self.order)
        fastest = float(self.velocity.max())
        self.model = jax.device_put(jnp.asarray(self.velocity))
        observed = jnp.zeros((len(self.velocity), len(case.sources), case.nt, len(case.receivers)), jnp.float32)
        self.observed = jax.device_put(observed)

        def model_gathers(velocity: Any) -> Any:
            return propagate(velocity, survey, scheme=scheme, max_velocity=fastest)

        def misfit(velocity: Any, observed: Any) -> Any:
            return ((model_gathers(velocity) - observed) ** 2).sum()

        self.run = jax.jit(model_gathers)
        self.run_gradient = jax.jit(jax.value_and_grad(misfit))

    def forward(self) -> Any:
        return self.jax.block_until_ready(self.run(self.model))

    def gathers(self, result: Any) -> np.ndarray:
        return np.asarray(result)

    def gradient(self) -> Any:
        return self.jax.block_until_ready(self.run_gradient(self.model, self.observed))

    def velocity_gradient(self, result: Any) -> np.ndarray:
        return np.asarray(result[1])

    def device_peak_mb(self) -> float | None:
        if self.device == "cpu":
            return None
        return (self.jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e6

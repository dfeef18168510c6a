"""deepwave (PyTorch with compiled C and CUDA): `deepwave.scalar`. `pip install torch deepwave`."""

from typing import Any

import numpy as np

from rivals.cases import LAYER
from rivals.solver import Solver, Unavailable


class Deepwave(Solver):
    """All shots of all models in one call for the forward run; a call a model for gradients on a CPU (memory).

    Its threads share out the rows of each step of each shot, so small problems run faster in one process a core.
    """

    processes = True

    @staticmethod
    def version() -> str:
        try:
            import deepwave
            import torch
        except ImportError as error:
            raise Unavailable(f"{error}: pip install torch deepwave") from error
        from importlib.metadata import version

        del deepwave
        return f"deepwave {version('deepwave')}, torch {torch.__version__}"

    def prepare(self) -> None:
        import deepwave
        import torch

        self.torch, self.scalar = torch, deepwave.scalar
        if self.device == "gpu" and not torch.cuda.is_available():
            raise Unavailable("torch sees no CUDA device")
        torch.set_num_threads(max(1, self.threads))
        self.place = torch.device("cuda" if self.device == "gpu" else "cpu")
        case = self.case
        self.model = torch.from_numpy(self.velocity).to(self.place)
        # Its right-hand side has the other sign, and a source is a density: no division by h^2.
        wavelet = torch.from_numpy(-case.wavelet() / np.float32(case.spacing**2))
        shots = len(case.sources)
        self.amplitudes = wavelet.expand(shots, 1, case.nt).contiguous().to(self.place)
        self.sources = torch.from_numpy(case.sources[:, None]).to(self.place)
        self.receivers = torch.from_numpy(case.receivers).expand(shots, -1, 2).contiguous().to(self.place)
        self.fastest = float(self.velocity.max())
        # Its default keeps a wider distance from the Courant limit than order 4 and 8 need: same step for all.
        courant = self.fastest * case.dt / case.substeps * np.sqrt(2) / case.spacing
        self.courant = float(courant) * 1.0001
        self.observed = torch.zeros(shots, len(case.receivers), case.nt, device=self.place)

    def run(self, models: Any) -> Any:
        """`[model * shot, receiver, time]` of `[model, depth, x]`."""
        count, shots = len(models), len(self.case.sources)
        velocity = models.repeat_interleave(shots, 0) if count > 1 else models[0]
        return self.scalar(
            velocity,
            self.case.spacing,
            self.case.dt,
            source_amplitudes=self.amplitudes.repeat(count, 1, 1),
            source_locations=self.sources.repeat(count, 1, 1),
            receiver_locations=self.receivers.repeat(count, 1, 1),
            accuracy=self.order,
            pml_width=LAYER,
            pml_freq=self.case.frequency,
            max_vel=self.fastest,
            courant_number=self.courant,
            check_output_finite=False,
        )[-1]

    def finish(self) -> None:
        if self.device == "gpu":
            self.torch.cuda.synchronize()

    def forward(self) -> Any:
        with self.torch.no_grad():
            out = self.run(self.model)
        self.finish()
        return out

    def gathers(self, result: Any) -> np.ndarray:
        out = result.cpu().numpy().reshape(len(self.velocity), -1, *result.shape[1:])
        return out.transpose(0, 1, 3, 2)

    def gradient(self) -> Any:
        # All at once would hold the history of every shot: 3 GB for 80 OpenFWI shots, and no faster.
        chunks = [self.model] if self.device == "gpu" else self.model.split(1)
        found = []
        for chunk in chunks:
            velocity = chunk.detach().clone().requires_grad_()
            out = self.run(velocity)
            observed = self.observed.repeat(len(chunk), 1, 1)
            ((out - observed) ** 2).sum().backward()
            found.append(velocity.grad)
        self.finish()
        return found

    def velocity_gradient(self, result: Any) -> np.ndarray:
        return self.torch.cat(result).cpu().numpy()

    def device_peak_mb(self) -> float | None:
        return self.torch.cuda.max_memory_allocated() / 1e6 if self.device == "gpu" else None

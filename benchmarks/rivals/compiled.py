"""Plain C (cpml.c), compiled here with `cc -O3 -march=native`; several threads share out the shots. Forward only."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rivals.cases import LAYER
from rivals.solver import Solver, Unavailable

FLAGS = ("-O3", "-march=native", "-ffast-math", "-fPIC", "-shared")
HERE = Path(__file__).resolve().parent


def library(source: str, *defines: str) -> ctypes.CDLL:
    """Compile a file of this folder, once for each text and set of flags, and load it."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unavailable("no C compiler `cc`: install gcc or clang")
    text = (HERE / source).read_bytes()
    key = hashlib.sha256(text + " ".join((compiler, *FLAGS, *defines)).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"seisvel_rivals_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{key}.so"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            [compiler, *FLAGS, *defines, str(HERE / source), "-o", str(partial)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unavailable(f"{compiler} {source}: {done.stderr.strip().splitlines()[-1]}")
        partial.replace(target)
    return ctypes.CDLL(str(target))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def layer_profiles(cells: int, case, fastest: float) -> tuple[np.ndarray, np.ndarray]:
    """`a`, `b` of the PML along one axis of `cells`, float32: quadratic damping, R = 1e-3, shift pi f0 (1 - depth)."""
    inside = np.maximum(LAYER - np.arange(cells), np.arange(cells) - (cells - 1 - LAYER)).clip(0) / LAYER
    sigma = -3 * fastest * np.log(1e-3) / (2 * LAYER * case.spacing) * inside**2
    alpha = np.where(inside > 0, np.pi * case.frequency * (1 - inside), 0)
    b = np.where(inside > 0, np.exp(-(sigma + alpha) * case.dt / case.substeps), 0)
    a = np.where(inside > 0, sigma / np.maximum(sigma + alpha, 1e-9) * (b - 1), 0)
    return a.astype(np.float32), b.astype(np.float32)


class PlainC(Solver):
    """See cpml.c."""

    has_gradient = False

    @staticmethod
    def version() -> str:
        library("cpml.c", "-DORDER=4")
        compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False)
        return f"plain C, {compiler.stdout.splitlines()[0] if compiler.stdout else 'cc'}, {' '.join(FLAGS[:3])}"

    def prepare(self) -> None:
        case, halo = self.case, self.order // 2
        self.call = library("cpml.c", f"-DORDER={self.order}").propagate
        self.call.restype = None
        wide = np.pad(self.velocity, ((0, 0), (LAYER, LAYER), (LAYER, LAYER)), mode="edge")
        self.depth, self.width = wide.shape[1:]
        self.pitch = self.width + 2 * halo
        courant = (wide.astype(np.float64) * case.dt / case.substeps / case.spacing) ** 2
        self.c2 = np.pad(courant, ((0, 0), (halo, halo), (halo, halo))).astype(np.float32)
        self.profiles = []
        for cells in (self.depth, self.width):
            self.profiles += layer_profiles(cells, case, float(self.velocity.max()))
        for i in (0, 1):  # one value a row, spread over the row so that both directions read alike
            self.profiles[i] = np.repeat(self.profiles[i][:, None], self.width, axis=1)

        def offsets(nodes: np.ndarray) -> np.ndarray:
            return (nodes[:, 0] + LAYER + halo) * self.pitch + nodes[:, 1] + LAYER + halo

        self.sources, self.receivers = offsets(case.sources), np.ascontiguousarray(offsets(case.receivers))
        self.fields = [np.zeros(6 * self.c2[0].size, np.float32) for _ in range(self.threads)]
        self.wavelet = case.wavelet(case.substeps)
        self.out = np.zeros((len(self.c2), len(case.sources), case.nt, len(case.receivers)), np.float32)
        self.jobs = [(model, shot) for model in range(len(self.c2)) for shot in range(len(case.sources))]
        self.pool = ThreadPoolExecutor(self.threads)

    def share(self, thread: int) -> None:
        case = self.case
        for model, shot in self.jobs[thread :: self.threads]:
            amplitude = self.c2[model].reshape(-1)[self.sources[shot]] * self.wavelet
            self.call(
                self.depth,
                self.width,
                LAYER,
                case.nt,
                case.substeps,
                pointer(self.c2[model]),
                *(pointer(one) for one in self.profiles),
                pointer(amplitude),
                ctypes.c_long(int(self.sources[shot])),
                pointer(self.receivers),
                len(self.receivers),
                pointer(self.fields[thread]),
                pointer(self.out[model, shot]),
            )

    def forward(self) -> np.ndarray:
        list(self.pool.map(self.share, range(self.threads)))
        return self.out

    def gathers(self, result: np.ndarray) -> np.ndarray:
        return result

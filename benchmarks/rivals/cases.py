"""What is computed: models, surveys and wavelets of the benchmark, on nodes of the grid, the same for every solver."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LAYER = 10
"""Cells of PML on each side."""
MARMOUSI = Path(__file__).resolve().parents[3] / "shared/data/models/marmousi2_vp_10m.npy"


@dataclass(frozen=True)
class Case:
    """One problem. Row r of a gather is the field at `r * dt`; sources and receivers lie on nodes."""

    name: str
    title: str
    make_velocity: Callable[[], np.ndarray]
    """Gives `[batch, depth, x]` float32 m/s."""
    spacing: float
    dt: float
    """Seconds between recorded samples."""
    nt: int
    """Recorded samples."""
    substeps: int
    """Steps of the solver a sample, from the Courant limit; the same for all."""
    sources: np.ndarray
    """`[shot, 2]` node (depth, x)."""
    receivers: np.ndarray
    """`[receiver, 2]` node (depth, x)."""
    frequency: float
    """Peak of the Ricker wavelet, Hz."""
    delay: float
    """Its centre, s."""
    orders: tuple[int, ...] = (4, 8)
    one_core_orders: tuple[int, ...] = (4, 8)
    """Orders that are also measured on one core."""
    split_shots: bool = True
    """Small problems: a solver that threads only within a shot gets one process a core instead, each with its shots."""

    def velocity(self) -> np.ndarray:
        """`[batch, depth, x]` float32 m/s."""
        return self.make_velocity()

    def wavelet(self, substeps: int = 1) -> np.ndarray:
        """Ricker wavelet `[nt * substeps]` float32 at `dt / substeps`, in m^2 times the right-hand side."""
        b = (np.pi * self.frequency * (np.arange(self.nt * substeps) * self.dt / substeps - self.delay)) ** 2
        return (1e4 * (1 - 2 * b) * np.exp(-b)).astype(np.float32)

    @property
    def cells(self) -> int:
        """Nodes of the model and its PML: what counts as updated, however wide a solver's own layer is."""
        depth, x = self.velocity().shape[1:]
        return (depth + 2 * LAYER) * (x + 2 * LAYER)

    @property
    def steps(self) -> int:
        return (self.nt - 1) * self.substeps

    def part(self, index: int, count: int) -> "Case":
        """The same with every count-th shot alone."""
        return dataclasses.replace(self, sources=self.sources[index::count])


def _nodes(depth: float | list, x: list | np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.int64)
    return np.stack([np.broadcast_to(np.asarray(depth, np.int64), x.shape), x], axis=-1)


def layered(batch: int, depth: int, x: int, *, layers: int, water: float = 0.0, seed: int = 0) -> np.ndarray:
    """Curved layers between 1500 and 4500 m/s, both attained: `[batch, depth, x]` float32."""
    rng = np.random.default_rng(seed)
    z, lateral = np.arange(depth)[:, None], np.linspace(0, 1, x)[None, :]
    models = []
    for _ in range(batch):
        speeds = np.sort(rng.uniform(1600, 4400, layers))
        speeds[0], speeds[-1] = 1500, 4500
        tops = np.sort(rng.uniform(max(water, 0.1), 0.95, layers - 1)) * depth
        model = np.full((depth, x), speeds[0])
        for top, speed in zip(tops, speeds[1:], strict=True):
            waves = rng.uniform(0.5, 3)
            fold = 0.04 * depth * np.sin(2 * np.pi * (waves * lateral + rng.uniform()))
            model = np.where(z > top + fold, speed, model)
        models.append(model)
    return np.asarray(models, np.float32)


def _openfwi(batch: int) -> Case:
    return Case(
        name=f"openfwi-{batch}",
        title=f"OpenFWI survey, 70x70 at 10 m, 1000 samples of 1 ms, {batch} model{'s' * (batch > 1)} x 5 shots",
        make_velocity=lambda: layered(batch, 70, 70, layers=6),
        spacing=10.0,
        dt=1e-3,
        nt=1000,
        substeps=1,
        sources=_nodes(1, [0, 17, 34, 52, 69]),
        receivers=_nodes(1, np.arange(70)),
        frequency=15.0,
        delay=0.073,
        one_core_orders=(4, 8) if batch == 1 else (4,),
    )


def _challenge_coarse() -> Case:
    # The survey's own positions are multiples of 1 m; here the nearest nodes, so that no solver interpolates.
    return Case(
        name="challenge-5m",
        title="coarse challenge survey, 252x60 at 5 m, 1001 samples of 1 ms in 2 steps each, 5 shots",
        make_velocity=lambda: layered(1, 252, 60, layers=12, water=0.12, seed=1),
        spacing=5.0,
        dt=1e-3,
        nt=1001,
        substeps=2,
        sources=_nodes(4, [0, 15, 30, 45, 59]),
        receivers=_nodes(2, np.arange(0, 60, 2)),
        frequency=15.0,
        delay=1 / 15,
        one_core_orders=(),
    )


def _challenge_full() -> Case:
    # 600 steps are 60 ms: a wavelet of 60 Hz, so that something arrives in them.
    return Case(
        name="challenge-1m",
        title="full challenge grid, 1259x300 at 1 m, 600 samples of 0.1 ms, 2 shots",
        make_velocity=lambda: layered(1, 1259, 300, layers=12, water=0.03, seed=2),
        spacing=1.0,
        dt=1e-4,
        nt=600,
        substeps=1,
        sources=_nodes(20, [74, 224]),
        receivers=_nodes(10, np.arange(0, 300, 10)),
        frequency=60.0,
        delay=1 / 60,
        one_core_orders=(4,),
        split_shots=False,
    )


def _marmousi() -> Case:
    return Case(
        name="marmousi",
        title="Marmousi-II, 351x1701 at 10 m, 600 samples of 1 ms, 2 shots",
        make_velocity=lambda: np.load(MARMOUSI, allow_pickle=False)[None].astype(np.float32),
        spacing=10.0,
        dt=1e-3,
        nt=600,
        substeps=1,
        sources=_nodes(1, [600, 1100]),
        receivers=_nodes(1, np.arange(0, 1701, 10)),
        frequency=15.0,
        delay=0.073,
        orders=(4,),
        one_core_orders=(),
        split_shots=False,
    )


CASES = {case.name: case for case in (_openfwi(1), _openfwi(16), _challenge_coarse(), _challenge_full(), _marmousi())}


def missing(case: Case) -> str:
    """Why a case cannot be run here, or nothing."""
    return f"{MARMOUSI.name} is not in shared/data/models" if case.name == "marmousi" and not MARMOUSI.exists() else ""


def homogeneous(speed: float, margin: int) -> Case:
    """One velocity on 70x70 nodes of 10 m and `margin` more on each side; source at (1, 35), receivers from 50 m on.

    With a margin of 150 nothing that a boundary sends back at up to 3000 m/s arrives within the second recorded.
    """
    columns = np.asarray([c for c in range(70) if abs(c - 35) >= 5])
    return Case(
        name=f"homogeneous-{speed:g}-{margin}",
        title=f"homogeneous {speed:g} m/s",
        make_velocity=lambda: np.full((1, 70 + 2 * margin, 70 + 2 * margin), speed, np.float32),
        spacing=10.0,
        dt=1e-3,
        nt=1000,
        substeps=1,
        sources=_nodes(1 + margin, [35 + margin]),
        receivers=_nodes(1 + margin, columns + margin),
        frequency=15.0,
        delay=0.073,
    )


def analytic(case: Case, speed: float) -> np.ndarray:
    """`[time, receiver]` of a homogeneous model: the wavelet convolved with the 2-D Green's function -i/4 H0."""
    from scipy.special import hankel2

    distance = case.spacing * np.hypot(*(case.receivers - case.sources[0]).T)
    long = 16 * case.nt
    omega = 2 * np.pi * np.fft.rfftfreq(long, case.dt)[1:]
    spectrum = np.fft.rfft(case.wavelet().astype(np.float64), long)
    response = np.zeros((spectrum.size, distance.size), complex)
    response[1:] = -0.25j * hankel2(0, omega[:, None] * distance / speed) * spectrum[1:, None]
    return np.fft.irfft(response, long, axis=0)[: case.nt]

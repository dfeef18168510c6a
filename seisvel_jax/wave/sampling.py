"""Between the survey's places and times and those of the solver: off-grid positions, finer steps, time dispersion."""

import numpy as np

HALF_WIDTH = 4
KAISER = 6.31
"""Shape of the Kaiser window for half-width 4: Hicks (2002), table 1, monopole sources."""


def position_weights(
    positions: np.ndarray, spacing: float, origin: tuple[int, int], *, free_surface: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes `[..., point, 2]` (padded depth and x index) and weights `[..., point]` that stand for each position.

    positions `[..., 2]` in metres (x, depth); origin: padded index of the node at depth 0, x 0. A position on a node
    is that node alone; elsewhere a Kaiser-windowed sinc over 8 nodes an axis (Hicks 2002). The weights add up to a
    band-limited point, so the same ones inject a source and read a receiver.
    """
    x_node, x_weight = _axis_weights(positions[..., 0].astype(np.float64) / spacing)
    z_node, z_weight = _axis_weights(positions[..., 1].astype(np.float64) / spacing)
    if free_surface:
        z_weight = _folded(z_node, z_weight)
    shape = (*positions.shape[:-1], z_node.shape[-1], x_node.shape[-1])
    nodes = np.stack(
        [
            np.broadcast_to(z_node[..., :, None] + origin[0], shape),
            np.broadcast_to(x_node[..., None, :] + origin[1], shape),
        ],
        axis=-1,
    )
    weights = z_weight[..., :, None] * x_weight[..., None, :]
    return nodes.reshape(*shape[:-2], -1, 2), weights.reshape(*shape[:-2], -1)


def _folded(nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights `[..., point]` of depth nodes `[..., point]` where pressure is odd about depth 0: Hicks (2002).

    What a sinc has above the surface belongs, with the other sign, to its image below; the surface itself has none.
    """
    images = (nodes[..., :, None] > 0) & (nodes[..., None, :] == -nodes[..., :, None])
    return np.where(nodes > 0, weights, 0) - (images * weights[..., None, :]).sum(-1)


def _axis_weights(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nearest = np.round(place)
    if np.abs(place - nearest).max() < 1e-4:
        return nearest[..., None].astype(np.int64), np.ones((*place.shape, 1))
    nodes = np.floor(place)[..., None].astype(np.int64) + np.arange(1 - HALF_WIDTH, HALF_WIDTH + 1)
    distance = place[..., None] - nodes
    window = np.i0(KAISER * np.sqrt(np.maximum(0, 1 - (distance / HALF_WIDTH) ** 2))) / np.i0(KAISER)
    return nodes, np.sinc(distance) * window


TAIL = 16
"""Samples recorded beyond the last one that the dispersion filter needs, so that it does not see the trace end."""


def _frequencies(nt: int, dt: float) -> tuple[np.ndarray, np.ndarray]:
    # Twice the length, so that nothing wraps around; a smooth cut between 0.2 and 0.3 of the sampling rate.
    omega = 2 * np.pi * np.fft.rfftfreq(2 * nt, dt)
    omega = omega[omega <= 2 * np.pi * 0.3 / dt]
    ramp = np.clip((0.3 - omega * dt / (2 * np.pi)) / 0.1, 0, 1)
    return omega, np.sin(ramp * np.pi / 2) ** 2


def fine_wavelet(wavelet: np.ndarray, dt: float, substeps: int, *, correct_dispersion: bool) -> np.ndarray:
    """The wavelet `[time]` at `dt / substeps`, `[substeps * time]` float64; unchanged where nothing is asked.

    The leapfrog scheme answers at `(2 / dt) sin(omega dt / 2)` when it should at omega; with the correction the
    wavelet is stretched the same way, so that `readout` can undo both. Wang & Xu (2015), Koene et al. (2018).
    """
    wavelet = np.asarray(wavelet, np.float64)
    if substeps == 1 and not correct_dispersion:
        return wavelet
    analysis, synthesis = refinement(wavelet.size, dt, substeps, correct_dispersion=correct_dispersion)
    return (synthesis @ (analysis @ wavelet)).real


def refinement(nt: int, dt: float, substeps: int, *, correct_dispersion: bool) -> tuple[np.ndarray, np.ndarray]:
    """`fine_wavelet` as two complex matrices, `[frequency, nt]` and `[substeps * nt, frequency]`.

    The real part of their product is meant.
    """
    step = dt / substeps
    omega, window = _frequencies(nt, dt)
    scheme = 2 / step * np.sin(omega * step / 2) if correct_dispersion else omega
    analysis = np.exp(-1j * np.outer(scheme, np.arange(nt) * dt)) * window[:, None]
    return analysis, _synthesis(omega, np.arange(substeps * nt) * step, nt)


def readout(nt: int, dt: float, substeps: int) -> np.ndarray:
    """Matrix `[nt, nt + TAIL]` float64 that takes the leapfrog's time dispersion out of traces recorded at `dt`."""
    step = dt / substeps
    omega, window = _frequencies(nt + TAIL, dt)
    scheme = 2 / step * np.arcsin(omega * step / 2)
    taper = np.ones(nt + TAIL)
    taper[nt:] = np.cos(np.linspace(0, np.pi / 2, TAIL)) ** 2
    times = np.arange(nt + TAIL) * dt
    spectra = np.exp(-1j * np.outer(scheme, times)) * (window[:, None] * taper)
    return (_synthesis(omega, np.arange(nt) * dt, nt + TAIL) @ spectra).real


def _synthesis(omega: np.ndarray, times: np.ndarray, nt: int) -> np.ndarray:
    # One-sided inverse of a transform over 2 nt samples: the zero frequency counts once, all others twice.
    once = np.where(omega == 0, 1.0, 2.0) / (2 * nt)
    return np.exp(1j * np.outer(times, omega)) * once

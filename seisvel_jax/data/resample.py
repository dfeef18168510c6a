"""From the files' sampling to the network's: gathers in time without aliasing, velocity models in space."""

from functools import lru_cache

import numpy as np
from scipy.signal.windows import kaiser

from seisvel_jax.survey import Grid, Survey

PASS = 0.6
"""Share of the lower Nyquist frequency that comes through untouched; everything above Nyquist is stopped."""
STOP_DB = 80.0
_BLOCK = 16


def resample_gathers(gathers: np.ndarray, dt: float, survey: Survey) -> np.ndarray:
    """Gathers `[..., time, receiver]` sampled at `dt` seconds, on the times of `survey`; float32 stays float32.

    Zero-phase windowed-sinc interpolation (Kaiser, 80 dB) with its cut-off below the lower of the two Nyquist
    frequencies: noise above it is removed, signal below 0.6 of it is kept to 1e-4. The record is continued oddly
    about its first and last row, so that its ends keep value and slope. Equal sampling passes through untouched.
    Row 0 lies at t = 0, or with `survey.record_start` 1 (OpenFWI) one sample after the shot: at `dt` in the gathers, at
    `survey.dt` in what is returned, as in gathers that are simulated on `survey`.
    """
    nt = gathers.shape[-2]
    if nt == survey.nt and abs(dt / survey.dt - 1) < 1e-6:
        return gathers
    weights, starts = _operator(nt, round(survey.dt / dt, 9), survey.nt, survey.record_start)
    weights = weights.astype(gathers.dtype, copy=False)
    windows = np.lib.stride_tricks.sliding_window_view(gathers, weights.shape[-1], axis=-2)
    # [..., block, receiver, window] -> [..., block, row of the block, receiver]
    blocks = weights @ np.swapaxes(windows[..., starts, :, :], -1, -2)
    return np.ascontiguousarray(blocks.reshape(*blocks.shape[:-3], -1, blocks.shape[-1])[..., : survey.nt, :])


@lru_cache(8)
def _operator(nt: int, ratio: float, new_nt: int, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolation as dense blocks: rows `16 b .. 16 b + 15` are `weights[b] @ gathers[starts[b] : + window]`.

    Row k of the result lies at `(k + first) * ratio - first` of the rows given.
    """
    stretch = max(ratio, 1.0)
    cutoff = 0.5 * (1 + PASS) / stretch  # of the old Nyquist frequency
    half = (STOP_DB - 7.95) / (2.285 * np.pi * (1 - PASS) / stretch) / 2
    reach = int(np.ceil(half))
    rows_wanted = np.arange(-(-new_nt // _BLOCK) * _BLOCK)
    centres = np.minimum((rows_wanted + first) * ratio - first, nt - 1.0)
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-reach, reach + 2)
    distance = (taps - centres[:, None]) / (half + 1)
    window = np.interp(
        np.abs(distance), np.linspace(0, 1, 4097), kaiser(8193, 0.1102 * (STOP_DB - 8.7))[4096:], right=0
    )
    values = np.sinc(cutoff * (taps - centres[:, None])) * window
    values /= values.sum(1, keepdims=True)

    last = nt - 1
    dense = np.zeros((centres.size, nt))
    rows = np.broadcast_to(np.arange(centres.size)[:, None], taps.shape)
    before, after = taps < 0, taps > last
    inside = ~(before | after)
    np.add.at(dense, (rows[inside], taps[inside]), values[inside])
    for outside, edge in ((before, 0), (after, last)):
        # x[edge - n] = 2 x[edge] - x[edge + n]
        np.add.at(dense, (rows[outside], np.full(outside.sum(), edge)), 2 * values[outside])
        mirrored = np.clip(2 * edge - taps[outside], 0, last)
        np.add.at(dense, (rows[outside], mirrored), -values[outside])

    width = min(nt, int(np.ceil((_BLOCK - 1) * ratio)) + 2 * reach + 3)
    firsts = np.floor(centres[::_BLOCK]).astype(int) - reach
    starts = np.clip(firsts, 0, nt - width)
    blocks = dense.reshape(-1, _BLOCK, nt)
    weights = np.stack([block[:, start : start + width] for block, start in zip(blocks, starts, strict=True)])
    return weights.astype(np.float32), starts


def resample_velocity(velocity: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """Velocity `[..., depth, x]` on the nodes of `grid`, at the nodes of `target`; node i lies at `i * spacing`.

    Coarser by a whole ratio takes every k-th node (exact values of water and salt stay exact); everything else is
    linear interpolation, beyond the last node its value. Equal grids pass through untouched.
    """
    if grid == target:
        return velocity
    k = round(target.spacing / grid.spacing)
    if k >= 1 and abs(target.spacing / grid.spacing - k) < 1e-6:
        every = velocity[..., ::k, ::k]
        if every.shape[-2:] == target.shape:
            return np.ascontiguousarray(every)
    for axis, count in ((-2, target.depth_count), (-1, target.x_count)):
        velocity = _linear(velocity, axis, np.arange(count) * (target.spacing / grid.spacing))
    return velocity


def _linear(array: np.ndarray, axis: int, positions: np.ndarray) -> np.ndarray:
    last = array.shape[axis] - 1
    positions = np.clip(positions, 0, last)
    left = np.minimum(np.floor(positions).astype(int), max(last - 1, 0))
    share = (positions - left).astype(array.dtype)
    if axis == -2:
        share = share[:, None]
    a, b = np.take(array, left, axis), np.take(array, np.minimum(left + 1, last), axis)
    return a + share * (b - a)

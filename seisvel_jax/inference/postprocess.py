"""Post-processing of predicted velocity, fitted on validation data: a step that does not lower the MAPE is not taken.

The steps, in their order: edge-preserving smoothing (a median filter, its sizes in metres), bounds, exact water above
the seabed that the prediction itself shows, exact salt. The parameters are plain floats, absent where a step is not
taken; `{}` changes nothing.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from scipy.ndimage import median_filter

from seisvel_jax import metrics
from seisvel_jax.survey import Grid

WATER, SALT = metrics.WATER, 4500.0
"""m/s, the exact values of water and salt in the challenge's models; its and OpenFWI's models lie between them."""

Parameters = Mapping[str, float]


def apply_postprocess(prediction: np.ndarray, parameters: Parameters, grid: Grid) -> np.ndarray:
    """The post-processed `prediction` `[..., depth, x]` (m/s on `grid`) in the same dtype.

    `parameters`: `smooth_depth`, `smooth_x` (m), `low`, `high`, `water_threshold`, `salt_threshold` (m/s), each absent
    where its step is not taken.
    """
    return snap(smooth(prediction, parameters, grid), parameters)


def smooth(prediction: np.ndarray, parameters: Parameters, grid: Grid) -> np.ndarray:
    """The smoothing alone. It belongs on the grid that the network predicts on; finer grids only interpolate."""
    depth = _cells(parameters.get("smooth_depth", 0.0), grid.spacing)
    x = _cells(parameters.get("smooth_x", 0.0), grid.spacing)
    if depth == x == 1:
        return prediction
    return median_filter(prediction, size=(depth, x), axes=(-2, -1), mode="nearest")


def snap(prediction: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Bounds, exact water and exact salt: what needs no grid, and stays sharp when done on the finest one."""
    if "low" in parameters or "high" in parameters:
        prediction = np.clip(prediction, parameters.get("low", -np.inf), parameters.get("high", np.inf))
    if "water_threshold" in parameters:
        bottom = metrics.water_bottom(prediction, threshold=parameters["water_threshold"])
        above = np.arange(prediction.shape[-2])[:, None] < bottom[..., None, :]
        prediction = np.where(above, np.asarray(WATER, prediction.dtype), prediction)
    if "salt_threshold" in parameters:
        salt = prediction > parameters["salt_threshold"]
        prediction = np.where(salt, np.asarray(SALT, prediction.dtype), prediction)
    return prediction


def fit_postprocess(prediction: np.ndarray, truth: np.ndarray, grid: Grid) -> dict[str, float]:
    """The parameters that lower the MAPE of validation predictions; `{}` where nothing helps.

    `prediction` and `truth` are `[batch, depth, x]` m/s on `grid`. Each step is fitted on the result of the steps
    before it, over a short list of values, and taken only where it lowers the mean MAPE by a thousandth of itself at
    least: on these data the result is never worse than the prediction.
    """
    prediction = np.asarray(prediction, np.float32)
    parameters: dict[str, float] = {}
    best = _score(prediction, truth)

    def try_step(candidates: list[dict[str, float]], change: Callable[[dict[str, float]], np.ndarray]) -> None:
        nonlocal best, parameters, prediction
        scored = [(_score(change(candidate), truth), index) for index, candidate in enumerate(candidates)]
        if scored and min(scored)[0] < best * (1 - 1e-3):
            best, index = min(scored)
            parameters = {**parameters, **candidates[index]}
            prediction = change(candidates[index])

    sizes = [0.0, *(grid.spacing * cells for cells in (3, 5, 9, 15))]
    windows = [
        {name: size for name, size in (("smooth_depth", depth), ("smooth_x", x)) if size}
        for depth, x in itertools.product(sizes[:3], sizes)
        if depth or x
        if _cells(depth, grid.spacing) * _cells(x, grid.spacing) <= 27
    ]
    try_step(windows, lambda candidate: smooth(prediction, candidate, grid))
    if truth.min() >= WATER and truth.max() <= SALT:
        try_step([{"low": WATER, "high": SALT}], lambda candidate: snap(prediction, candidate))
    waters = [{"water_threshold": float(v)} for v in (1505, 1510, 1520, 1535, 1550, 1575, 1600, 1650, 1700)]
    try_step(waters, lambda candidate: snap(prediction, candidate))
    salts = [{"salt_threshold": float(v)} for v in (3900, 4000, 4100, 4200, 4250, 4300, 4350, 4400, 4450)]
    try_step(salts, lambda candidate: snap(prediction, candidate))
    return parameters


def _score(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(metrics.mape(prediction, truth).mean())


def _cells(length: float, spacing: float) -> int:
    # The nearest odd number of cells, so that the window has a middle.
    return 2 * round((length / spacing - 1) / 2) + 1 if length > spacing else 1

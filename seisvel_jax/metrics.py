"""How good a velocity model is: the challenge's MAPE, MAE, RMSE and OpenFWI's SSIM, per sample and by depth.

Numpy on the host in float64. `prediction` and `truth` are `[..., depth, x]` in m/s; the per-sample functions return
`[...]`, the `*_by_depth` functions `[..., depth]`. All raise ValueError where the shapes differ.
"""

import numpy as np
from scipy.ndimage import correlate1d

VELOCITY_RANGE = (1500.0, 4500.0)
"""m/s; OpenFWI's SSIM is taken on velocities scaled from here to [0, 1]."""


def mape(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute percentage error as a fraction: mean |truth - prediction| / (|truth| + 1e-8), over depth and x.

    The Speed and Structure challenge scores in km/s, where the 1e-8 is 1e-5 m/s; so it is here.
    """
    return _relative(prediction, truth).mean((-2, -1))


def mae(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error in m/s over depth and x."""
    return np.abs(_difference(prediction, truth)).mean((-2, -1))


def rmse(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Root of the mean squared error in m/s over depth and x."""
    return np.sqrt(np.square(_difference(prediction, truth)).mean((-2, -1)))


def mape_by_depth(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`mape` of every row: `[..., depth]`, a fraction."""
    return _relative(prediction, truth).mean(-1)


def mae_by_depth(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`mae` of every row: `[..., depth]`, m/s."""
    return np.abs(_difference(prediction, truth)).mean(-1)


def ssim(
    prediction: np.ndarray, truth: np.ndarray, *, velocity_range: tuple[float, float] = VELOCITY_RANGE
) -> np.ndarray:
    """Structural similarity as OpenFWI's benchmark takes it: `[...]`, 1 where prediction and truth are equal.

    Velocities scaled from `velocity_range` to [0, 1], 11 x 11 Gaussian window of sigma 1.5 cells with zeros outside the
    model, C1 = 0.01^2, C2 = 0.03^2, mean over all cells. Wang et al., IEEE Trans. Image Processing 13 (2004), 600-612;
    Deng et al., OpenFWI, NeurIPS 2022.
    """
    low, high = velocity_range
    _difference(prediction, truth)
    a = (np.asarray(prediction, np.float64) - low) / (high - low)
    b = (np.asarray(truth, np.float64) - low) / (high - low)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variance_a = _window_mean(a * a) - mean_a**2
    variance_b = _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean((-2, -1))


def _window_mean(field: np.ndarray) -> np.ndarray:
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    for axis in (-2, -1):
        field = correlate1d(field, window, axis=axis, mode="constant")
    return field


def _difference(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    if np.shape(prediction) != np.shape(truth):
        raise ValueError(f"prediction of shape {np.shape(prediction)} against truth of shape {np.shape(truth)}")
    return np.asarray(prediction, np.float64) - np.asarray(truth, np.float64)


def _relative(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.abs(_difference(prediction, truth)) / (np.abs(np.asarray(truth, np.float64)) + 1e-5)


def profile_baseline(train_velocity: np.ndarray) -> np.ndarray:
    """The one depth profile `[depth]` (m/s) with the least MAPE on `train_velocity` `[batch, depth, x]`.

    At each depth that is the median of the training velocities weighted by 1/velocity: the minimiser of
    sum |v - p| / v over p. The baseline a network must beat by far.
    """
    middles = []
    for row in np.asarray(train_velocity).swapaxes(0, 1):
        values = np.sort(row, axis=None).astype(np.float64)
        weight = np.cumsum(1 / values)
        middles.append(values[np.searchsorted(weight, weight[-1] / 2)])
    return np.asarray(middles)


def hung_baseline(train_velocity: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The mean training model hung from each sample's own water bottom: `[batch, depth, x]` m/s. The harder baseline.

    The seabed is taken from `truth`, which no prediction may look at. Both `[batch, depth, x]` on the same grid.
    """
    return hang(hung_profile(train_velocity), truth)


def hung_profile(train_velocity: np.ndarray) -> np.ndarray:
    """Mean velocity of all training columns at each number of cells below their own seabed: `[depth]` m/s.

    Depths below the seabed that no column reaches get the deepest known value. Raises ValueError where all is water.
    """
    depth_count = train_velocity.shape[-2]
    total, count = np.zeros(depth_count), np.zeros(depth_count)
    for sample in train_velocity:
        below = np.arange(depth_count)[:, None] - water_bottom(sample)[None, :]
        rock = below >= 0
        np.add.at(total, below[rock], sample[rock].astype(np.float64))
        np.add.at(count, below[rock], 1)
    known = count > 0
    if not known.any():
        raise ValueError("no training model has anything but water in it")
    return np.interp(np.arange(depth_count), np.flatnonzero(known), total[known] / count[known])


def hang(profile: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`profile` `[depth]` hung from the seabed of every column of `truth` `[..., depth, x]`, water above it."""
    below = np.arange(truth.shape[-2])[:, None] - water_bottom(truth)[..., None, :]
    return np.where(below >= 0, profile[np.clip(below, 0, None)], WATER)


WATER = 1500.0
"""m/s, exactly, in every water cell of the challenge's models and of OpenFWI's lower bound."""


def water_bottom(velocity: np.ndarray, *, threshold: float = WATER + 1.0) -> np.ndarray:
    """Index of the first cell below the water in every column: `[..., depth, x]` m/s -> int `[..., x]`.

    The first cell faster than `threshold`; the depth count where the whole column is water, 0 where there is none.
    """
    rock = np.asarray(velocity) > threshold
    return np.where(rock.any(-2), rock.argmax(-2), rock.shape[-2])

"""Are the samples as uncertain as they are wrong? CRPS, ranks, coverage, error against spread, and a temperature.

For samples of any kind, those of a diffusion model and the members of an ensemble alike: `samples` are
`[sample, ...]`, `truth` `[...]`, numpy in float64 on the host. The one assumption of calibration is that truth and
samples are draws from one distribution; then the truth's rank among n samples is uniform over 0..n, for every n.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import erf

from seisvel_jax.errors import UserError

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Of the central intervals that are reported."""
CELLS = 2_000_000
"""Cells kept for the curve of error against spread and for fitting the temperature."""


def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score `[...]` in the samples' unit: E|s - truth| - 1/2 E|s - s'|, 0 is perfect.

    The second mean is over pairs of DIFFERENT samples (the fair score, Ferro 2014): its expectation does not depend on
    how many samples there are. A single sample scores its absolute error. Gneiting & Raftery (2007).
    """
    samples, truth = _checked(samples, truth)
    count = len(samples)
    error = np.abs(samples - truth[None]).mean(0)
    if count == 1:
        return error
    # sum over i < j of |s_j - s_i| for sorted samples is sum_i (2 i - n + 1) s_i.
    ordered = np.sort(samples, axis=0)
    factors = 2 * np.arange(count) - count + 1
    return error - np.tensordot(factors, ordered, axes=1) / (count * (count - 1))


def gaussian_crps(mean: np.ndarray, deviation: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """CRPS of N(mean, deviation^2), in closed form (Gneiting et al. 2005)."""
    z = (np.asarray(truth, np.float64) - mean) / deviation
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return deviation * (z * erf(z / np.sqrt(2)) + 2 * density - 1 / np.sqrt(np.pi))


def rank_histogram(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How often the truth has rank 0..n among n samples: counts `[n + 1]` over all cells; flat is calibrated.

    Equal values share their ranks evenly. Cells where all samples ARE the truth (known water) tell nothing and are left
    out. A U is too narrow, a hump too wide, a slope is bias. Talagrand et al. (1997); Talts et al. (2018).
    """
    samples, truth = _checked(samples, truth)
    flat, true = samples.reshape(len(samples), -1), truth.reshape(-1)
    below, equal = (flat < true[None]).sum(0), (flat == true[None]).sum(0)
    telling = equal < len(flat)
    below, equal = below[telling], equal[telling]
    share = 1 / (equal + 1)
    edges = np.zeros(len(flat) + 2)
    np.add.at(edges, below, share)
    np.add.at(edges, below + equal + 1, -share)
    return np.cumsum(edges)[:-1]


def coverage(histogram: np.ndarray, level: float) -> float:
    """Share of truths inside the central interval of probability `level`, by the histogram of ranks `[n + 1]`.

    Rank r of n samples stands for the probabilities r / (n + 1) to (r + 1) / (n + 1), so that calibrated samples cover
    `level` exactly, however few they are (the plain quantiles of 16 samples cover 79 % for 90 %). Few samples tell less
    of a wrong spread, for the share that one end bin is counted with is never 0: of samples half as wide as they should
    be 8 say 78 %, 16 66 %, 100 59 % for 90 %, and a single one says 90 % whatever it is.
    """
    edges = np.linspace(0, 1, len(histogram) + 1)
    low, high = (1 - level) / 2, (1 + level) / 2
    inside = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * len(histogram)
    return float((histogram * inside).sum() / max(histogram.sum(), 1e-300))


def spread(samples: np.ndarray) -> np.ndarray:
    """The error `[...]` to expect of the mean of n samples: their standard deviation times sqrt(1 + 1/n)."""
    samples = np.asarray(samples, np.float64)
    if len(samples) < 2:
        return np.zeros(samples.shape[1:])
    return samples.std(0, ddof=1) * np.sqrt(1 + 1 / len(samples))


def error_by_spread(expected: np.ndarray, error: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Root mean squares `[bin]` of the expected error (`spread`) and of the error, in bins of equally many cells.

    On the diagonal is calibrated, at every size of the spread and not on average alone. Leutbecher & Palmer (2008).
    """
    expected, error = np.ravel(expected), np.ravel(error)
    parts = np.array_split(np.argsort(expected, kind="stable"), min(bins, max(1, expected.size)))
    root = [[np.sqrt(np.mean(values[part] ** 2)) for part in parts] for values in (expected, error)]
    return np.asarray(root[0]), np.asarray(root[1])


def tempered(samples: np.ndarray, temperature: float) -> np.ndarray:
    """Samples with their distance to their mean multiplied by `temperature`; the mean stays. 1 changes nothing."""
    if not temperature > 0:
        raise UserError(f"temperature {temperature}, expected a positive number")
    if temperature == 1:
        return samples
    mean = samples.mean(0, keepdims=True)
    return mean + (samples - mean) * np.asarray(temperature, samples.dtype)


def fit_temperature(samples: np.ndarray, truth: np.ndarray) -> float:
    """The temperature, between 0.05 and 20, whose tempered samples have the least mean CRPS on these data.

    Fit it on validation data and use it on others. 1 where there is a single sample or no spread. The CRPS is that of
    the samples as they are, pairs of a sample with itself included: for Gaussians its optimum is where `spread` is the
    error of the mean, at any number of samples.
    """
    samples, truth = _checked(samples, truth)
    if len(samples) < 2:
        return 1.0
    flat, true = samples.reshape(len(samples), -1), truth.reshape(-1)
    mean = flat.mean(0)
    away, error = flat - mean[None], true - mean
    # crps = E|mean + T away - truth| - T c, convex in T, with c = 1/2 E|away - away'|.
    pairs = (np.abs(away).mean(0) - crps(away, np.zeros_like(mean))).mean() * (len(flat) - 1) / len(flat)
    if pairs <= 0:
        return 1.0

    def score(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return float(np.abs(temperature * away - error[None]).mean() - temperature * pairs)

    found = minimize_scalar(score, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


@dataclass
class Calibration:
    """The measures of many models, one added after the other; all with the same number of samples."""

    models: int
    """How many will come: of each as many cells are kept as all of them allow."""
    _histogram: Any = 0
    _crps: list[float] = field(default_factory=list)
    _kept: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, samples: np.ndarray, truth: np.ndarray) -> float:
        """Samples `[sample, depth, x]` and truth `[depth, x]` of one model; its mean CRPS back."""
        samples, truth = _checked(samples, truth)
        if self._crps and len(samples) + 1 != len(self._histogram):
            raise UserError(f"{len(samples)} samples where others have {len(self._histogram) - 1}: give all as many")
        self._histogram = self._histogram + rank_histogram(samples, truth)
        self._crps.append(float(crps(samples, truth).mean()))
        some = np.arange(truth.size)
        count = max(1, CELLS // (self.models * len(samples)))
        if count < truth.size:
            # At random: every n-th could be a column, or miss the deep rows.
            some = np.random.default_rng(len(self._crps)).choice(some, count, replace=False)
        flat, true = samples.reshape(len(samples), -1)[:, some], truth.reshape(-1)[some]
        self._kept.append((flat.astype(np.float32), true.astype(np.float32)))
        return self._crps[-1]

    def summary(self) -> dict[str, Any]:
        """What evaluate writes: plain values. Spread, error and CRPS in the samples' unit."""
        samples = np.concatenate([kept for kept, _ in self._kept], axis=1)
        truth = np.concatenate([kept for _, kept in self._kept])
        expected, error = spread(samples), samples.mean(0, dtype=np.float64) - truth
        by_spread, by_error = error_by_spread(expected, error)
        histogram = np.asarray(self._histogram)
        return {
            "samples": len(samples),
            "crps": float(np.mean(self._crps)),
            "coverage": {f"{level:g}": coverage(histogram, level) for level in LEVELS},
            "spread": float(np.sqrt(np.mean(expected**2))),
            "rmse_of_mean": float(np.sqrt(np.mean(error**2))),
            "spread_bins": by_spread.tolist(),
            "rmse_bins": by_error.tolist(),
            "rank_histogram": (histogram / max(histogram.sum(), 1e-300)).tolist(),
            "temperature": fit_temperature(samples, truth),
        }


def _checked(samples: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    samples, truth = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    if samples.shape[1:] != truth.shape or not len(samples):
        raise UserError(f"samples of shape {samples.shape}, expected (sample, *{truth.shape}) as the truth has it")
    return samples, truth

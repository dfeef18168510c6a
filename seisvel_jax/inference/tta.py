"""Test-time augmentation: the same ground seen in a mirror or through a little noise, predicted and averaged.

A `PredictFn` takes gathers `[batch, source, time, receiver]` and the survey they belong to and gives velocity
`[member, batch, depth, x]` in m/s; what is built here is a `PredictFn` again, so the pieces nest.
"""

import zlib
from collections.abc import Callable

import numpy as np

from seisvel_jax.survey import Survey

PredictFn = Callable[[np.ndarray, Survey], np.ndarray]


def mirrored(gathers: np.ndarray, survey: Survey) -> tuple[np.ndarray, Survey]:
    """The experiment seen from behind: shots and receivers in reverse order, and their positions mirrored.

    Both are needed. The challenge's receivers at 0..300 m lie at -1..299 m in the mirror of its 300 m model, and
    OpenFWI's shot in column 34 at 35: a network told so need not take the mirrored experiment for the straight one.
    """
    return np.ascontiguousarray(gathers[:, ::-1, :, ::-1]), survey.mirrored()


def with_mirror(predict: PredictFn) -> PredictFn:
    """The mean of the prediction and of the mirrored experiment's prediction with its lateral axis turned back."""

    def both(gathers: np.ndarray, survey: Survey) -> np.ndarray:
        return (predict(gathers, survey) + predict(*mirrored(gathers, survey))[..., ::-1]) / 2

    return both


def with_noise(predict: PredictFn, draws: int, *, snr_db: float = 40.0, seed: int = 0) -> PredictFn:
    """The mean over the gathers as they are and `draws` copies of them with noise added (see `band_limited_noise`)."""

    def average(gathers: np.ndarray, survey: Survey) -> np.ndarray:
        total = np.asarray(predict(gathers, survey))
        for draw in range(draws):
            total = total + predict(gathers + band_limited_noise(gathers, survey, draw, snr_db, seed), survey)
        return total / (draws + 1)

    return average


def band_limited_noise(
    gathers: np.ndarray, survey: Survey, draw: int, snr_db: float = 40.0, seed: int = 0
) -> np.ndarray:
    """Gaussian noise with the wavelet's amplitude spectrum, `snr_db` below each sample's own root mean square.

    `[batch, source, time, receiver]` float32. The generator is keyed by `seed`, `draw` and the bytes of the sample, so
    a sample gets the same noise whatever batch it is in, and a resumed run the noise of the straight one.
    """
    band = np.abs(np.fft.rfft(np.asarray(survey.wavelet, np.float64), survey.nt))
    noise = np.empty(gathers.shape, np.float32)
    for sample, gather in enumerate(gathers):
        key = zlib.crc32(np.ascontiguousarray(gather).tobytes())
        white = np.random.default_rng([seed, draw, key]).standard_normal(gather.shape, np.float32)
        shaped = np.fft.irfft(np.fft.rfft(white, axis=-2) * band[:, None], survey.nt, axis=-2)
        wanted = np.sqrt(np.mean(np.square(gather, dtype=np.float64))) * 10 ** (-snr_db / 20)
        noise[sample] = shaped * (wanted / (np.sqrt(np.mean(np.square(shaped))) or 1.0))
    return noise

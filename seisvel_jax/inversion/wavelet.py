"""What was fired, from what was recorded: amplitude or filter that fits gathers best, in closed form.

Gathers `[batch, shot, time, receiver]`; `mask` broadcasts to them. Pratt (1999) for the filter.
"""

import jax
import jax.numpy as jnp
from jax import Array

from seisvel_jax.inversion.config import Estimate

WATER_LEVEL = 1e-4
"""Share of the largest spectral energy below which a filter is held at 0: there is nothing to divide by."""


def amplitude(predicted: Array, observed: Array, mask: Array) -> Array:
    """The factor `[batch]` on `predicted` with the least squared residual: `<p, o> / <p, p>`."""
    energy = jnp.sum(mask * predicted**2, (1, 2, 3))
    return jnp.sum(mask * predicted * observed, (1, 2, 3)) / jnp.where(energy > 0, energy, 1)


def filter_spectrum(predicted: Array, observed: Array, mask: Array) -> Array:
    """The filter `[batch, nt + 1]` (complex, of twice the record's length) with the least squared residual.

    At each frequency `sum conj(p) o / (sum |p|^2 + level)` over shots and receivers, one filter a model. Times it, the
    spectrum of the wavelet that was assumed is the one that was fired.
    """
    p, o = _spectra(mask * predicted), _spectra(mask * observed)
    energy = jnp.sum(jnp.abs(p) ** 2, (1, 3))
    level = WATER_LEVEL * energy.max(-1, keepdims=True) + jnp.finfo(energy.dtype).tiny
    return jnp.sum(jnp.conj(p) * o, (1, 3)) / (energy + level).astype(p.dtype)


def apply_filter(gathers: Array, spectrum: Array) -> Array:
    """Gathers filtered along time by a spectrum `[batch, nt + 1]`."""
    count = gathers.shape[-2]
    filtered = _spectra(gathers) * spectrum[:, None, :, None]
    return jnp.fft.irfft(filtered, 2 * count, axis=-2)[..., :count, :]


def fitted(predicted: Array, observed: Array, mask: Array, estimate: Estimate) -> Array:
    """`predicted` with the amplitude or the filter that fits best, taken as constant by derivatives.

    For the misfit l2 that is exact, as the misfit is at its minimum by them (variable projection).
    """
    if estimate == "none":
        return jnp.asarray(predicted)
    if estimate == "amplitude":
        return jax.lax.stop_gradient(amplitude(predicted, observed, mask))[:, None, None, None] * predicted
    return apply_filter(predicted, jax.lax.stop_gradient(filter_spectrum(predicted, observed, mask)))


def estimate_wavelet(wavelet: Array, predicted: Array, observed: Array, mask: Array) -> Array:
    """The wavelet `[batch, time]` that was fired, where `predicted` was simulated with `wavelet` `[time]`.

    At most as long as the record.
    """
    count = predicted.shape[-2]
    spectrum = filter_spectrum(predicted, observed, mask)
    assumed = jnp.zeros(count, predicted.dtype).at[: wavelet.shape[-1]].set(jnp.asarray(wavelet)[:count])
    fired = jnp.fft.irfft(jnp.fft.rfft(assumed, 2 * count)[None] * spectrum, 2 * count, axis=-1)
    return fired[:, : wavelet.shape[-1]]


def _spectra(gathers: Array) -> Array:
    return jnp.fft.rfft(gathers, 2 * gathers.shape[-2], axis=-2)

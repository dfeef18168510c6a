"""How predicted and observed gathers are compared: unreduced, `[batch, shot, time, receiver]`.

`predicted` and `observed` have that shape; so does `mask`, or one that broadcasts to it: 1 where a sample counts, 0 in
dead traces and mutes. What is masked adds 0 and has no gradient (for `wasserstein` a muted stretch holds the density of
silence). The mean over the samples that count is the misfit. Units are the caller's; `inversion/objective.py` divides
both by the RMS value of the observed gathers first.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from seisvel_jax.inversion.config import Misfit

SMALL = 1e-3
"""Of the RMS value: what keeps envelopes and norms away from 0, where they have no derivative."""


def l2(predicted: Array, observed: Array, mask: Array) -> Array:
    """`r^2 / 2`."""
    return mask * 0.5 * (predicted - observed) ** 2


def l1(predicted: Array, observed: Array, mask: Array) -> Array:
    """`|r|`; the gradient is 0 where r is 0."""
    return mask * jnp.abs(predicted - observed)


def huber(predicted: Array, observed: Array, mask: Array, *, turn: float = 1.0) -> Array:
    """`r^2 / 2` up to `turn`, beyond it `turn (|r| - turn / 2)`. Guitton & Symes (2003)."""
    size = jnp.abs(predicted - observed)
    inside = jnp.minimum(size, turn)
    return mask * inside * (size - 0.5 * inside)


def correlation(predicted: Array, observed: Array, mask: Array) -> Array:
    """`(p / |p| - o / |o|)^2 / 2` times the trace's samples: its mean over the trace is 1 less the correlation.

    Amplitudes of whole traces do not count. Choi & Alkhalifah (2012).
    """
    live = jnp.maximum(jnp.sum(mask * jnp.ones_like(observed), -2, keepdims=True), 1)

    def unit(gathers: Array) -> Array:
        norm = jnp.sum((mask * gathers) ** 2, -2, keepdims=True) + live * SMALL**2
        return mask * gathers * jax.lax.rsqrt(norm)

    return 0.5 * live * (unit(predicted) - unit(observed)) ** 2


def envelope(predicted: Array, observed: Array, mask: Array) -> Array:
    """Half the squared difference of the envelopes, the moduli of the analytic signals. Bozdag et al. (2011)."""

    def modulus(gathers: Array) -> Array:
        signal = mask * gathers
        return jnp.sqrt(signal**2 + hilbert(signal) ** 2 + SMALL**2)

    return mask * 0.5 * (modulus(predicted) - modulus(observed)) ** 2


def wasserstein(predicted: Array, observed: Array, mask: Array) -> Array:
    """`(t - G^-1(F(t)))^2 f(t)` with t as a fraction of the trace, times its samples: the mean over a trace is W2^2.

    F and G are the distributions in time of `softplus(3 d / max |o|)` of the predicted and the observed trace, with
    densities f and g of integral 1: the optimal transport of one onto the other in one dimension. Engquist & Froese
    (2014); the softplus after Qiu et al. (2017).
    """
    count = observed.shape[-2]
    top = jnp.max(jnp.abs(mask * observed), -2, keepdims=True) + SMALL
    times = jnp.asarray((np.arange(count) + 0.5) / count, predicted.dtype)

    def density(gathers: Array) -> Array:
        positive = jax.nn.softplus(3 * mask * gathers / top)
        return jnp.moveaxis(positive / positive.sum(-2, keepdims=True), -2, -1)

    def one(f: Array, g: Array) -> Array:
        middle = jnp.cumsum(f) - 0.5 * f
        transported = jnp.interp(middle, jnp.cumsum(g) - 0.5 * g, times)
        return (times - transported) ** 2 * f * count

    f, g = density(predicted), density(observed)
    cost = jax.vmap(one)(f.reshape(-1, count), g.reshape(-1, count)).reshape(f.shape)
    alive = jnp.max(mask * jnp.ones_like(observed), -2, keepdims=True) > 0
    return jnp.where(alive, jnp.moveaxis(cost, -1, -2), 0)


def hilbert(signal: Array) -> Array:
    """The Hilbert transform along time, `[..., time, receiver]`, taken on twice the length so that ends do not meet."""
    count = signal.shape[-2]
    spectrum = jnp.fft.rfft(signal, 2 * count, axis=-2)
    turned = jnp.asarray(-1j, spectrum.dtype) * spectrum.at[..., 0, :].set(0).at[..., -1, :].set(0)
    return jnp.fft.irfft(turned, 2 * count, axis=-2)[..., :count, :]


def low_pass(gathers: Array, response: Array) -> Array:
    """Gathers filtered along time by a real response `[nt + 1]` (`low_pass_response`)."""
    count = gathers.shape[-2]
    spectrum = jnp.fft.rfft(gathers, 2 * count, axis=-2)
    response = response.reshape((1,) * (gathers.ndim - 2) + (-1, 1)).astype(spectrum.dtype)
    return jnp.fft.irfft(spectrum * response, 2 * count, axis=-2)[..., :count, :]


def low_pass_response(corner: float, nt: int, dt: float) -> np.ndarray:
    """`1 / (1 + (f / corner)^8)` `[nt + 1]`: Butterworth's fourth order forwards and back, no phase. inf: ones."""
    frequencies = np.linspace(0.0, 0.5 / dt, nt + 1)
    return 1 / (1 + (frequencies / corner) ** 8)


MISFITS: dict[Misfit, Callable[..., jax.Array]] = {
    "l2": l2,
    "l1": l1,
    "huber": huber,
    "correlation": correlation,
    "envelope": envelope,
    "wasserstein": wasserstein,
}

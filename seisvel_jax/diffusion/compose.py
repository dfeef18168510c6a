"""Several sources of information joined while sampling: each function takes denoisers and returns one.

With sources a, b, ... that are independent given the model, p(m | a, b) is proportional to p(m) prod_i p(m | i) / p(m);
in scores, and so in denoisers (score = (D - noisy) / sigma^2),

    D = D_prior + sum_i w_i (D_i - D_prior),        w_i = 1.

That is exact as sigma -> 0. At larger sigma the product of noisy distributions is not the noisy product, so a sampler
that only follows the flow arrives with a bias; Langevin corrections (`SamplerConfig.corrections`) remove it (Du et al.
2023, arXiv 2302.11552). docs/diffusion.md has both measured against the exact posterior.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from seisvel_jax.arrays import Array
from seisvel_jax.diffusion.edm import Denoise
from seisvel_jax.errors import UserError


def guided(denoise: Denoise, without: Callable[[Any], Any], weight: float) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): D(less) + weight (D(all) - D(less)), one network for both.

    `without(condition)` takes from a condition what is to be guided by: all of it, or any subset of its sources. Weight
    1 is the plain conditional, more sharpens what the removed sources say, 0 ignores them.
    """

    def joined(noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        less = denoise(noisy, sigma, without(condition))
        return less + weight * (denoise(noisy, sigma, condition) - less)

    return joined


def independent(prior: Denoise, sources: Sequence[Denoise], weights: Sequence[float] | None = None) -> Denoise:
    """D_prior + sum_i w_i (D_i - D_prior) for sources that are independent given the model; weights default to 1.

    The condition is a tuple, `(condition of the prior, condition of source 0, ...)`. The prior must be of the family of
    models that the sources were trained on. Raises UserError where the counts differ.
    """
    shares = _counted(sources, [1.0] * len(sources) if weights is None else weights)

    def joined(noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        base = prior(noisy, sigma, condition[0])
        answer = base
        for share, source, known in zip(shares, sources, condition[1:], strict=True):
            answer = answer + share * (source(noisy, sigma, known) - base)
        return answer

    return joined


def subsets(denoise: Denoise, only: Sequence[Callable[[Any], Any]], weights: Sequence[float] | None = None) -> Denoise:
    """`independent` with ONE network that knows every subset: source i is `denoise` given `only[i](condition)`.

    `only[0]` leaves what the prior is to know (nothing, or the family), the others what each source is.
    """
    joined = independent(denoise, [denoise] * (len(only) - 1), weights)
    return lambda noisy, sigma, condition: joined(noisy, sigma, tuple(part(condition) for part in only))


def weighted_mean(sources: Sequence[Denoise], weights: Sequence[float]) -> Denoise:
    """sum_i w_i D_i with weights summing to one, as DiffusionVel joins its networks. A baseline: too wide.

    It tempers every source: of two equal independent sources it returns the spread of one. The condition is a tuple,
    one of each source. Raises UserError where the counts differ or the weights do not sum to one.
    """
    shares = _counted(sources, weights)
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"weighted mean: weights {tuple(shares)}, expected a sum of 1")

    def joined(noisy: Array, sigma: Array, condition: Any) -> jax.Array:
        parts = [s * d(noisy, sigma, c) for s, d, c in zip(shares, sources, condition, strict=True)]
        return sum(parts[1:], start=parts[0])

    return joined


def _counted(sources: Sequence[Denoise], weights: Sequence[float]) -> list[float]:
    if len(sources) != len(weights) or not sources:
        raise UserError(f"composition: {len(sources)} sources and {len(weights)} weights, expected one of each")
    return [float(weight) for weight in weights]

"""From members to one answer: learned weights, fitted by the metric itself, or the median."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from seisvel_jax.arrays import Array, Float, typed

FITTED_PIXELS = 2_000_000


@typed
def combine(
    velocity: Float[Array, "member batch depth x"], weights: Float[Array, "member"]
) -> Float[Array, "batch depth x"]:
    """Weighted mean over members; weights are not negative and sum to 1."""
    return (velocity * weights.astype(velocity.dtype).reshape(-1, 1, 1, 1)).sum(axis=0)


@typed
def median(velocity: Float[Array, "member batch depth x"]) -> Float[np.ndarray, "batch depth x"]:
    """Median over members at each pixel."""
    return np.median(np.asarray(velocity), axis=0)


@typed
def fit_weights(
    velocity: Float[Array, "member batch depth x"], truth: Float[Array, "batch depth x"]
) -> Float[np.ndarray, "member"]:
    """Weights `[member]` float32 on the simplex that minimise the MAPE of the weighted mean on these samples.

    The softmax of free parameters, fitted on the metric itself by L-BFGS (in the weights the problem is convex). On
    large sets at most two million pixels, evenly taken, are fitted; the answer is then compared on all of them with
    uniform weights and with each member alone, and the best is returned: never worse than any of these.
    """
    members = velocity.shape[0]
    scale = 1 / (np.abs(np.asarray(truth, np.float32)).reshape(-1) + 1e-8)
    relative = np.asarray(velocity, np.float32).reshape(members, -1) * scale
    target = np.asarray(truth, np.float32).reshape(-1) * scale
    step = -(-target.size // FITTED_PIXELS)
    part, goal = relative[:, ::step].astype(np.float64), target[::step].astype(np.float64)

    def loss(logits: np.ndarray) -> tuple[float, np.ndarray]:
        weights = softmax(logits)
        residual = weights @ part - goal
        by_weight = part @ np.sign(residual) / goal.size
        # Each logit once more towards uniform by a hair: shifts of all logits do nothing and would be left to wander.
        slope = weights * (by_weight - weights @ by_weight) + 1e-9 * logits
        return float(np.abs(residual).mean() + 5e-10 * logits @ logits), slope

    fitted = minimize(loss, np.zeros(members), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    candidates = [np.full(members, 1 / members), softmax(fitted.x), *np.eye(members)]
    weights = [candidate.astype(np.float32) for candidate in candidates]
    return min(weights, key=lambda one: float(np.abs(one @ relative - target).mean(dtype=np.float64)))

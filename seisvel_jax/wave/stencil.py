"""Central finite differences of the first and second derivative, their dispersion, and the time step they stand.

Taylor coefficients are exact for the highest powers: the error falls fastest as the grid is refined. Optimised ones
give up that order for a wider band: their phase-velocity error stays below `PHASE_BOUND` up to the highest wavenumber
for which that can be had, so they need fewer points per wavelength for 0.1 %, but they converge only at 2nd order
and a fine grid gains less from them than from Taylor's.
"""

import functools
import math
from typing import Literal, get_args

import numpy as np

ORDERS = (2, 4, 6, 8)
Coefficients = Literal["taylor", "optimised"]
PHASE_BOUND = 1e-3
"""Largest relative phase-velocity error of the optimised coefficients within their band, time taken as exact."""


def second_derivative(order: int, coefficients: Coefficients = "taylor") -> np.ndarray:
    """Weights `[0..order/2]` of `h^2 d2/dx2`: the centre, then the weight of each pair of neighbours.

    "taylor": Fornberg (1988), in closed form `c_j = 2 (-1)^(j+1) (m!)^2 / (j^2 (m-j)! (m+j)!)`, `m = order / 2`.
    "optimised": the equal-ripple weights of the widest band within `PHASE_BOUND`, exact for quadratic functions
    (`sum j^2 c_j = 1`); of order 2 nothing is left to choose, so it is Taylor's. After Zhang & Yao (2013), who bound
    the largest error too, but compute them by annealing; Liu (2013) has them by least squares. Raises ValueError.
    """
    m = _neighbours(order, coefficients)
    pairs = _taylor_pairs(m, 2) if coefficients == "taylor" or m == 1 else _widest_band(m, 2)[0]
    return np.asarray([-2 * sum(pairs), *pairs])


def first_derivative(order: int, coefficients: Coefficients = "taylor") -> np.ndarray:
    """Weights `[1..order/2]` of `h d/dx`, antisymmetric: `h f'(x) = sum_j d_j (f(x + j h) - f(x - j h))`.

    "taylor": Fornberg (1988), `d_j = (-1)^(j+1) (m!)^2 / (j (m-j)! (m+j)!)`. "optimised": as for the second derivative,
    exact for linear functions (`sum 2 j d_j = 1`); the aim of Tam & Webb (1993), in the largest error instead of its
    square. Raises ValueError.
    """
    m = _neighbours(order, coefficients)
    return np.asarray(_taylor_pairs(m, 1) if coefficients == "taylor" or m == 1 else _widest_band(m, 1)[0])


def courant_limit(order: int, coefficients: Coefficients = "taylor") -> float:
    """Largest stable `v dt / h` of the leapfrog scheme in two dimensions (von Neumann)."""
    c = second_derivative(order, coefficients)
    largest = abs(c[0]) + 2 * np.abs(c[1:]).sum()  # the signs alternate: reached at two points per wavelength
    return float(2 / math.sqrt(2 * largest))


def phase_error(order: int, points: float, coefficients: Coefficients = "taylor", *, courant: float = 0.0) -> float:
    """Relative error of the phase velocity at `points` per wavelength: negative where numerical waves are too slow.

    For a wave along an axis of the grid, the worst direction. `courant` is `v dt / h` of the leapfrog; 0 takes time as
    exact. From `sin(w dt / 2) = (courant / 2) sqrt(S)`, S the symbol of minus the second derivative. The
    leapfrog's waves are too fast, so it hides part of what a stencil lacks. Raises ValueError where it is unstable.
    """
    if points == math.inf:
        return 0.0
    k = 2 * np.pi / points
    root = math.sqrt(_symbol(second_derivative(order, coefficients)[1:], np.asarray([k]), 2)[0]) * k
    numerical = root if courant == 0 else 2 / courant * math.asin(courant * root / 2)
    return numerical / k - 1


def shortest_wavelength(order: int, derivative: Literal[1, 2] = 2) -> float:
    """Points per wavelength down to which the optimised coefficients keep `PHASE_BOUND`; orders 4, 6 and 8."""
    return 2 * math.pi / _widest_band(_neighbours(order, "optimised"), derivative)[1]


def _neighbours(order: int, coefficients: str) -> int:
    if order not in ORDERS:
        raise ValueError(f"order {order}, expected one of {ORDERS}")
    if coefficients not in get_args(Coefficients):
        raise ValueError(f"coefficients {coefficients!r}, expected one of {get_args(Coefficients)}")
    return order // 2


def _taylor_pairs(m: int, derivative: int) -> list[float]:
    def weight(j: int) -> float:
        share = (-1) ** (j + 1) * math.factorial(m) ** 2 / (math.factorial(m - j) * math.factorial(m + j))
        return share / j if derivative == 1 else 2 * share / j**2

    return [weight(j) for j in range(1, m + 1)]


def _symbol(pairs: np.ndarray, k: np.ndarray, derivative: int) -> np.ndarray:
    """What the stencil makes of `exp(i k x)`, over what the derivative makes of it; k is `k h`, any shape."""
    j = np.arange(1, len(pairs) + 1)
    angle = k[..., None] * j
    parts = 2 * np.sin(angle) / k[..., None] if derivative == 1 else (2 * np.sin(angle / 2) / k[..., None]) ** 2
    return parts @ pairs


@functools.cache
def _widest_band(m: int, derivative: int) -> tuple[tuple[float, ...], float]:
    """Weights of the widest band whose phase error stays within the bound, and that band's highest `k h`."""
    if m == 1:
        raise ValueError("order 2 has one weight, which consistency fixes: there is nothing to optimise")
    # The phase velocity goes with the square root of the second derivative's symbol, with the first's symbol itself.
    bound = 1 - (1 - PHASE_BOUND) ** derivative
    low, high = 0.1, 2.6
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _equal_ripple(m, derivative, middle)[1] < bound else (low, middle)
    return tuple(float(weight) for weight in _equal_ripple(m, derivative, low)[0]), low


def _equal_ripple(m: int, derivative: int, band: float) -> tuple[np.ndarray, float]:
    """Weights `[m]` of the smallest largest error of the symbol on `0 < k h <= band`, and that error (Remez exchange).

    The first weight follows from consistency, so m - 1 are free and the error has m equal extremes, the last at the
    end of the band; at k = 0 it vanishes.
    """
    k = np.linspace(band / 1000, band, 1000)
    powers = np.arange(1, m + 1) ** 2.0 if derivative == 2 else 2.0 * np.arange(1, m + 1)
    # Column j: what one unit of weight j adds to the symbol, the first weight making up for it.
    free = np.eye(m)[1:] - np.outer(powers[1:] / powers[0], np.eye(m)[0])
    columns = np.stack([_symbol(row, k, derivative) for row in free], axis=-1)
    wanted = 1 - _symbol(np.eye(m)[0] / powers[0], k, derivative)
    at = np.linspace(0.3 * k.size, k.size - 1, m).astype(int)
    for _ in range(50):
        ripple = (-1.0) ** np.arange(m)
        weights = np.linalg.solve(np.column_stack([columns[at], ripple]), wanted[at])[:-1]
        error = columns @ weights - wanted
        rising = np.append(np.diff(np.abs(error)) > 0, False)
        extremes = np.flatnonzero(np.append(True, rising[:-1]) & ~rising)
        if extremes.size != m or (extremes == at).all():
            break
        at = extremes
    return weights @ free + np.eye(m)[0] / powers[0], float(np.abs(error).max())

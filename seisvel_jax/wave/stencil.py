"""Central finite differences of the second derivative, and how large a time step they stand."""

import math

import numpy as np

ORDERS = (2, 4, 6, 8)


def second_derivative(order: int) -> np.ndarray:
    """Taylor coefficients `[0..order/2]` of `h^2 d2/dx2`: the centre, then the weight of each pair of neighbours.

    Fornberg (1988), in closed form: `c_j = 2 (-1)^(j+1) (m!)^2 / (j^2 (m-j)! (m+j)!)`, `m = order / 2`.
    """
    if order not in ORDERS:
        raise ValueError(f"order {order}, expected one of {ORDERS}")
    m = order // 2
    pairs = [
        2 * (-1) ** (j + 1) * math.factorial(m) ** 2 / (j**2 * math.factorial(m - j) * math.factorial(m + j))
        for j in range(1, m + 1)
    ]
    return np.asarray([-2 * sum(pairs), *pairs])


def courant_limit(order: int) -> float:
    """Largest stable `v dt / h` of the leapfrog scheme in two dimensions (von Neumann)."""
    c = second_derivative(order)
    largest = abs(c[0]) + 2 * np.abs(c[1:]).sum()
    return float(2 / math.sqrt(2 * largest))

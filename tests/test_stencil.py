"""The stencils against published weights, plane waves, the theory of best approximation and von Neumann's."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from seisvel_jax.wave.stencil import (
    ORDERS,
    PHASE_BOUND,
    courant_limit,
    first_derivative,
    phase_error,
    second_derivative,
    shortest_wavelength,
)

OPTIMISED = (4, 6, 8)  # order 2 has nothing to optimise


def pairs_of(order: int, derivative: int, coefficients: str) -> np.ndarray:
    return first_derivative(order, coefficients) if derivative == 1 else second_derivative(order, coefficients)[1:]


def symbol(pairs: np.ndarray, k: np.ndarray, derivative: int) -> np.ndarray:
    """Response to a plane wave over the exact one, by applying the stencil to samples of the wave."""
    j = np.arange(-len(pairs), len(pairs) + 1)
    half = pairs[::-1], pairs
    weights = np.concatenate([-half[0], [0], half[1]] if derivative == 1 else [half[0], [-2 * pairs.sum()], half[1]])
    return (np.exp(1j * np.outer(k, j)) @ weights / (1j * k) ** derivative).real


def test_taylor_weights_are_fornbergs():
    # Fornberg (1988), table 1: the weights of first and second derivatives at the centre.
    second = {2: [1], 4: [4 / 3, -1 / 12], 6: [3 / 2, -3 / 20, 1 / 90], 8: [8 / 5, -1 / 5, 8 / 315, -1 / 560]}
    first = {2: [1 / 2], 4: [2 / 3, -1 / 12], 6: [3 / 4, -3 / 20, 1 / 60], 8: [4 / 5, -1 / 5, 4 / 105, -1 / 280]}
    centre = {2: -2, 4: -5 / 2, 6: -49 / 18, 8: -205 / 72}
    for order in ORDERS:
        np.testing.assert_allclose(second_derivative(order), [centre[order], *second[order]], rtol=1e-12)
        np.testing.assert_allclose(first_derivative(order), first[order], rtol=1e-12)


@pytest.mark.parametrize(("order", "derivative"), list(itertools.product(OPTIMISED, (1, 2))))
def test_optimised_weights_are_the_best_of_their_band(order, derivative):
    pairs, m = pairs_of(order, derivative, "optimised"), order // 2
    j = np.arange(1, m + 1)
    band = 2 * np.pi / shortest_wavelength(order, derivative)
    assert (2 * j * pairs if derivative == 1 else j**2 * pairs).sum() == pytest.approx(1, abs=1e-12)  # consistent

    k = np.linspace(1e-3, band, 4001)
    error = symbol(pairs, k, derivative) ** (1 / derivative) - 1
    assert np.abs(error).max() == pytest.approx(PHASE_BOUND, rel=1e-4)
    # The error leaves the bound right behind the band, which is therefore the widest of these weights.
    behind = symbol(pairs, np.asarray([1.01 * band]), derivative) ** (1 / derivative) - 1
    assert abs(behind[0]) > 1.05 * PHASE_BOUND

    # And nobody else's weights do better on it: a linear program over all of them finds the same least error.
    columns = np.stack([symbol(np.eye(m)[i], k[::8], derivative) for i in range(m)], axis=1)
    ones = np.ones((len(columns), 1))
    best = linprog(
        [0] * m + [1],
        A_ub=np.block([[columns, -ones], [-columns, -ones]]),
        b_ub=np.concatenate([ones[:, 0], -ones[:, 0]]),
        A_eq=[[*(2.0 * j if derivative == 1 else j**2.0), 0]],
        b_eq=[1],
        bounds=[(None, None)] * (m + 1),
    )
    assert best.status == 0
    np.testing.assert_allclose(pairs, best.x[:m], atol=2e-5)


def test_order_2_has_nothing_to_optimise():
    np.testing.assert_array_equal(second_derivative(2, "optimised"), second_derivative(2))
    np.testing.assert_array_equal(first_derivative(2, "optimised"), first_derivative(2))


@pytest.mark.parametrize("order", ORDERS)
def test_convergence_of_the_phase_velocity(order):
    def slope(coefficients, derivative, coarse):
        k = 2 * np.pi / np.asarray([coarse, 2 * coarse])
        errors = np.abs(symbol(pairs_of(order, derivative, coefficients), k, derivative) - 1)
        return np.log2(errors[0] / errors[1])

    for derivative in (1, 2):
        assert slope("taylor", derivative, 20) == pytest.approx(order, abs=0.1)
        assert slope("optimised", derivative, 100) == pytest.approx(2, abs=0.1)


def test_phase_error_is_that_of_a_plane_wave():
    for order, coefficients, points in itertools.product(ORDERS, ("taylor", "optimised"), (3.0, 5.0, 10.0)):
        k = np.asarray([2 * np.pi / points])
        scale = symbol(pairs_of(order, 2, coefficients), k, 2)[0]
        assert phase_error(order, points, coefficients) == pytest.approx(np.sqrt(scale) - 1, abs=1e-12)
        # One leapfrog step turns the wave by the angle of the roots of r^2 - (2 - C^2 k^2 scale) r + 1.
        courant = 0.4
        root = np.roots([1, -(2 - courant**2 * k[0] ** 2 * scale), 1])[0]
        turned = abs(np.angle(root)) / (courant * k[0]) - 1
        assert phase_error(order, points, coefficients, courant=courant) == pytest.approx(turned, abs=1e-12)
    # The magic time step: second order in space and time is exact along an axis at Courant number 1.
    assert phase_error(2, 5.0, courant=1.0) == pytest.approx(0, abs=1e-12)


def test_optimised_stencils_need_fewer_points():
    def needed(order, coefficients):
        points = np.linspace(2.1, 40, 4000)
        errors = np.asarray([abs(phase_error(order, p, coefficients)) for p in points])
        return points[np.flatnonzero(errors > 1.001 * PHASE_BOUND)[-1]]

    for order, taylor, optimised in ((4, 9.56, 6.23), (6, 5.99, 3.67), (8, 4.75, 2.93)):
        assert needed(order, "taylor") == pytest.approx(taylor, abs=0.02)
        assert needed(order, "optimised") == pytest.approx(optimised, abs=0.02)


@pytest.mark.parametrize(("order", "coefficients"), list(itertools.product(ORDERS, ("taylor", "optimised"))))
def test_courant_limit_is_von_neumanns(order, coefficients):
    k = np.linspace(1e-3, np.pi, 400)
    axis = symbol(pairs_of(order, 2, coefficients), k, 2) * k**2
    assert (axis > 0).all()  # never growing without a time step
    largest = (axis[:, None] + axis[None, :]).max()
    assert courant_limit(order, coefficients) == pytest.approx(2 / np.sqrt(largest), rel=1e-6)


def test_what_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="order 5"):
        second_derivative(5)
    with pytest.raises(ValueError, match="optimized"):
        first_derivative(4, "optimized")
    with pytest.raises(ValueError, match="nothing to optimise"):
        shortest_wavelength(2)


def test_weights_may_be_changed_by_their_owner():
    second_derivative(8, "optimised")[:] = 0
    assert second_derivative(8, "optimised")[0] < -2

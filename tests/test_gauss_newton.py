"""Gauss-Newton: the dense Jacobian against the solver's own derivatives, its quadratic against a closed form."""

import dataclasses

import numpy as np
import pytest
from training_support import quick_compilation

from seisvel_jax.errors import UserError
from seisvel_jax.inversion.gauss_newton import (
    Curvature,
    Stepped,
    curvature,
    differences,
    gauss_newton,
    lowest,
    lowest_tied,
)
from seisvel_jax.inversion.jacobian import frames, jacobian
from seisvel_jax.inversion.priors import total_variation
from seisvel_jax.survey import Boundary, from_arrays, ricker
from seisvel_jax.wave.derivatives import born
from seisvel_jax.wave.propagate import propagate
from seisvel_jax.wave.scheme import Scheme

FASTEST = 3000.0
PLAIN = Scheme(order=4, correct_dispersion=False)
SHAPE = (12, 14)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    dt, nt = 2e-3, 200
    survey = from_arrays(
        np.array([[20.0, 10.0], [100.0, 10.0]]),
        np.stack([np.arange(0, 140.0, 10), np.full(14, 10.0)], -1),
        ricker(12.0, dt, nt, 0.1),
        dt=dt,
        shape=SHAPE,
        spacing=10.0,
    )
    velocity = np.full(SHAPE, 1800, np.float32)
    velocity[6:, 5:] = 2300
    with quick_compilation(tmp_path_factory.mktemp("programs")):
        yield survey, velocity


def test_jacobian_times_a_change_is_single_scattering(toy):
    survey, velocity = toy
    every = 4
    change = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)  # the edges too: they stand for the layer
    scattered = born(velocity[None], change[None], survey, max_velocity=FASTEST, scheme=PLAIN)[1]
    expected = np.moveaxis(np.asarray(scattered)[0][:, frames(survey, every)], 1, 2)
    columns = jacobian(velocity, survey, max_velocity=FASTEST, every=every, scheme=PLAIN)
    found = np.stack([shot @ change.ravel() for shot in columns])
    assert np.sqrt(np.square(found - expected).sum() / np.square(expected).sum()) < 0.01


def test_jacobians_of_other_experiments_are_refused(toy):
    survey, velocity = toy
    damped = dataclasses.replace(survey, boundary=Boundary("devito", 100.0, survey.boundary.start))
    with pytest.raises(UserError, match="PML all around"):
        next(jacobian(velocity, damped, max_velocity=FASTEST))


def test_lowest_is_where_misfit_and_variation_are_in_balance():
    draw = np.random.default_rng(1)
    shape, weight = (4, 5), 3.0
    root = draw.normal(size=(40, 20)) / 100
    center = draw.uniform(1900, 2100, shape)
    around = Curvature(root.T @ root, draw.normal(size=20) / 1000)
    found = lowest(around, center, weight, bounds=(1000.0, 3000.0), reweightings=200)

    def objective(model):
        change = (model - center).ravel()
        value = around.gradient @ change + change @ around.hessian @ change / 2
        return value + weight * float(total_variation(model))

    best = objective(found)
    for _ in range(50):
        assert objective(found + draw.normal(size=shape)) > best
    down, across = differences(shape)
    np.testing.assert_array_equal((down @ center.ravel()).reshape(shape), np.diff(center, axis=0, append=center[-1:]))
    np.testing.assert_array_equal(
        (across @ center.ravel()).reshape(shape), np.diff(center, axis=1, append=center[:, -1:])
    )


def test_steps_from_near_find_the_model(toy):
    survey, velocity = toy
    observed = np.asarray(propagate(velocity[None], survey, max_velocity=FASTEST, scheme=PLAIN))[0]
    start = velocity + np.random.default_rng(2).normal(0, 30, SHAPE).astype(np.float32)
    seen: list[Stepped] = []
    found = gauss_newton(
        observed,
        start,
        survey,
        weights=(1e-5, 1e-7, 1e-8),
        bounds=(1500.0, FASTEST),
        every=4,
        scheme=PLAIN,
        on_step=seen.append,
    )
    assert found.misfit < 1e-3 * seen[0].misfit or found.misfit < 1e-8
    assert np.abs(found.velocity - velocity).mean() < 0.1 * np.abs(start - velocity).mean()
    assert [step.step for step in seen] == [1, 2, 3] and seen[-1].forward_runs == found.forward_runs >= 1 + 3 * 4
    gradient = curvature(start, np.zeros_like(observed), survey, 1.0, bounds=(1500.0, FASTEST), every=4).gradient
    assert not gradient.any()
    with pytest.raises(UserError, match="without a batch"):
        gauss_newton(observed[None], start, survey, weights=(1.0,))


def test_tied_regions_get_the_values_of_least_squares():
    draw = np.random.default_rng(3)
    labels = np.array([[0, 0, 1], [2, 2, 1]])
    root, true = draw.normal(size=(30, 6)), np.array([100.0, -50.0, 30.0])[labels]
    velocity = np.array([2000.0, 2500.0, 3000.0])[labels]
    around = Curvature(root.T @ root, -root.T @ (root @ true.ravel()))
    np.testing.assert_allclose(lowest_tied(around, velocity, labels, bounds=(1500.0, 4500.0)), velocity + true)
    held = lowest_tied(around, velocity, labels, bounds=(1500.0, 2450.0))
    assert held.max() == 2450

"""The derivatives of the wave engine: exact for the discrete scheme, both ways, in every memory mode."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Boundary, Grid, Survey, ricker
from seisvel_jax.wave.derivatives import born, gauss_newton_product
from seisvel_jax.wave.plan import make_plan
from seisvel_jax.wave.propagate import propagate
from seisvel_jax.wave.scheme import Scheme

pytestmark = pytest.mark.usefixtures("quickly", "double")
FASTEST = 4000.0
MEMORY = ("full", "checkpoint", "reconstruct")
BOUNDARIES = {
    "pml": ("pml", False),
    "pml, free surface": ("pml", True),
    "devito": ("devito", False),
    "devito, free surface": ("devito", True),
    "openfwi": ("openfwi", False),
}


def survey_of(boundary="pml", *, nt=40, depth=20.0) -> Survey:
    """Sources and receivers on and between nodes, close to the edges, so that everything takes part."""
    kind, free_surface = BOUNDARIES[boundary]
    return Survey(
        sources=np.asarray([[33, depth + 3], [110, depth]], np.float32),
        receivers=np.asarray([[x, 20] for x in (0, 20, 75, 150)], np.float32),
        wavelet=100 * ricker(15.0, 1e-3, nt, 0.02),
        dt=1e-3,
        nt=nt,
        grid=Grid(18, 16, 10.0),
        boundary=Boundary(kind, 50.0, (170.0, 150.0), free_surface),
        record_start=0 if kind == "devito" else 1,
        name="small",
    )


def random_velocity(seed=0, batch=2):
    return np.random.default_rng(seed).uniform(1500, FASTEST, (batch, 18, 16))


def random_like(values, seed=1):
    return np.random.default_rng(seed).normal(size=values.shape)


def modelling(survey, scheme):
    return lambda velocity: propagate(velocity, survey, scheme=scheme, max_velocity=FASTEST)


def forward_and_back(survey, scheme, velocity, change, residual):
    """`J change` and `J^T residual`."""
    f = modelling(survey, scheme)

    @jax.jit
    def both(velocity, change, residual):
        return jax.jvp(f, (velocity,), (change,))[1], jax.vjp(f, velocity)[1](residual)[0]

    return both(velocity, change, residual)


def check_transpose(boundary, order, memory, coefficients="taylor"):
    survey, velocity = survey_of(boundary), random_velocity()
    scheme = Scheme(order, coefficients, precision="float64", memory=memory)
    change = 100 * random_like(velocity)
    residual = random_like(np.empty((2, *survey.gather_shape)), 2)
    there, back = forward_and_back(survey, scheme, velocity, change, residual)
    forwards, backwards = (there * residual).sum(), (back * change).sum()
    assert abs(forwards - backwards) < 1e-10 * np.linalg.norm(there) * np.linalg.norm(residual)
    assert abs(forwards) > 1e-3 * np.linalg.norm(there) * np.linalg.norm(residual) / np.sqrt(residual.size)
    return back


@pytest.mark.parametrize(
    ("boundary", "order", "memory"),
    [
        ("pml", 4, "checkpoint"),
        ("pml, free surface", 8, "reconstruct"),
        ("devito", 6, "full"),
        ("devito, free surface", 2, "checkpoint"),
        ("openfwi", 4, "reconstruct"),
    ],
)
def test_dot_product(boundary, order, memory):
    check_transpose(boundary, order, memory)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_dot_product_everywhere_and_the_same_gradient_in_every_memory_mode(boundary, order):
    for coefficients in ("taylor", "optimised"):
        gradients = [check_transpose(boundary, order, memory, coefficients) for memory in MEMORY]
        for gradient in gradients[1:]:
            np.testing.assert_allclose(gradient, gradients[0], atol=1e-10 * np.abs(gradients[0]).max())


def test_gradient_is_the_same_in_every_memory_mode():
    # Several segments, substeps, and the filters of the dispersion correction in between.
    survey, velocity = survey_of(nt=50), random_velocity()
    survey = dataclasses.replace(survey, dt=2e-3, wavelet=100 * ricker(15.0, 2e-3, 50, 0.04))
    observed = 0.9 * jax.jit(modelling(survey, Scheme(4, precision="float64")))(velocity)
    gradients = []
    for memory in MEMORY:
        f = modelling(survey, Scheme(4, correct_dispersion=True, precision="float64", memory=memory))
        gradients.append(jax.jit(jax.grad(lambda v, f=f: 0.5 * ((f(v) - observed) ** 2).sum()))(velocity))
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], atol=1e-10 * np.abs(gradients[0]).max())


def test_taylor_slopes():
    """|f(v + h d) - f(v)| falls with h, less h times the derivative with h^2; of gathers and of a misfit's gradient."""
    survey, velocity = survey_of("pml, free surface"), random_velocity(batch=1)
    f = modelling(survey, Scheme(8, precision="float64"))
    change = 50 * random_like(velocity)
    observed = jax.jit(f)(velocity * 1.02)

    def misfit(velocity):
        return 0.5 * ((f(velocity) - observed) ** 2).sum()

    misfit_and_gradient = jax.jit(jax.value_and_grad(misfit))
    value, gradient = misfit_and_gradient(velocity)
    gathers, scattered = jax.jit(
        lambda v, d: born(v, d, survey, max_velocity=FASTEST, scheme=Scheme(8, precision="float64"))
    )(velocity, change)
    steps = [1e-2, 1e-3]
    of_gathers, of_misfit = [], []
    for h in steps:
        moved = jax.jit(f)(velocity + h * change)
        of_gathers.append([np.linalg.norm(moved - gathers), np.linalg.norm(moved - gathers - h * scattered)])
        difference = misfit_and_gradient(velocity + h * change)[0] - value
        of_misfit.append([abs(difference), abs(difference - h * (gradient * change).sum())])
    for errors in (of_gathers, of_misfit):
        slopes = np.log10(np.asarray(errors[0]) / np.asarray(errors[1]))
        np.testing.assert_allclose(slopes, [1, 2], atol=0.05)


def test_gradient_of_the_wavelet():
    """Linear in the wavelet, so the derivative is the forward run, and the gradient its transpose."""
    survey, velocity = survey_of(), random_velocity(batch=1)
    rng = np.random.default_rng(3)
    for wavelet, correct in (
        (rng.normal(size=40), True),
        (rng.normal(size=(2, 40)), False),
        (rng.normal(size=(3, 2, 40)), False),
    ):
        own = dataclasses.replace(survey, wavelet=wavelet.astype(np.float32))
        scheme = Scheme(4, correct_dispersion=correct, precision="float64")

        def f(wavelet, velocity, own=own, scheme=scheme):
            return propagate(velocity, own, wavelet=wavelet, scheme=scheme, max_velocity=FASTEST)

        other = rng.normal(size=wavelet.shape)
        gathers, change = jax.jit(lambda w, d, v, f=f: jax.jvp(lambda w: f(w, v), (w,), (d,)))(wavelet, other, velocity)
        np.testing.assert_allclose(change, jax.jit(f)(other, velocity), atol=1e-10 * np.abs(change).max())
        assert gathers.shape == (1, len(wavelet) if wavelet.ndim == 3 else 2, 40, 4)
        residual = random_like(gathers)
        gradient = jax.jit(lambda w, r, v, f=f: jax.vjp(lambda w: f(w, v), w)[1](r)[0])(wavelet, residual, velocity)
        np.testing.assert_allclose((gradient * other).sum(), (change * residual).sum(), rtol=1e-9)
        given = jax.jit(f)(own.wavelet.astype(np.float64), velocity)
        expected = jax.jit(modelling(own, scheme))(velocity)
        np.testing.assert_allclose(given, expected, atol=1e-10 * np.abs(expected).max())


def test_gauss_newton_product():
    survey, velocity = survey_of("devito"), random_velocity(batch=1)
    scheme = Scheme(2, precision="float64")
    a, b = 100 * random_like(velocity, 4), 100 * random_like(velocity, 5)
    product = jax.jit(lambda d: gauss_newton_product(velocity, d, survey, max_velocity=FASTEST, scheme=scheme))
    of_a, of_b = product(a), product(b)
    np.testing.assert_allclose((b * of_a).sum(), (a * of_b).sum(), rtol=1e-9)
    scattered = jax.jit(lambda v, d: born(v, d, survey, max_velocity=FASTEST, scheme=scheme))(velocity, a)[1]
    np.testing.assert_allclose((a * of_a).sum(), (scattered**2).sum(), rtol=1e-9)


def test_encoded_shots_are_sums_of_shots():
    survey, velocity = survey_of(), random_velocity()
    scheme = Scheme(4, precision="float64")
    codes = np.asarray([[1.0, -0.5], [0.25, 2.0], [0.0, 1.0]])
    encoded = dataclasses.replace(survey, wavelet=(codes[:, :, None] * survey.wavelet).astype(np.float32))
    single = jax.jit(modelling(survey, scheme))(velocity)
    found = jax.jit(modelling(encoded, scheme))(velocity)
    expected = np.einsum("es,bstr->betr", codes, single)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())  # wavelets are float32
    change = 100 * random_like(velocity)
    residual = random_like(expected)
    there, back = forward_and_back(encoded, scheme, velocity, change, residual)
    np.testing.assert_allclose((there * residual).sum(), (back * change).sum(), rtol=1e-9)


def test_single_precision_is_close():
    survey, velocity = survey_of(), random_velocity()
    residual = random_like(np.empty((2, *survey.gather_shape)))

    def gradient(precision, velocity, residual):
        f = modelling(survey, Scheme(4, precision=precision))
        return jax.jit(lambda v, r: jax.vjp(f, v)[1](r)[0])(velocity, residual)

    exact = gradient("float64", velocity, residual)
    found = gradient("float32", velocity.astype(np.float32), residual.astype(np.float32))
    assert found.dtype == jnp.float32
    assert np.linalg.norm(np.asarray(found, np.float64) - exact) < 1e-4 * np.linalg.norm(exact)


def test_devices_share_the_work(tmp_path):
    """Two devices, chunks that do not come out even: gathers and gradient as on one."""
    script = tmp_path / "two_devices.py"
    script.write_text(
        "import sys, jax\n"
        "jax.config.update('jax_num_cpu_devices', int(sys.argv[1]))\n"
        "jax.config.update('jax_enable_x64', True)\n"
        "import numpy as np\n"
        "import test_adjoint as t\n"
        "v = t.random_velocity(batch=3)\n"
        "scheme = t.Scheme(4, precision='float64')\n"
        "survey = t.survey_of('openfwi', nt=20)\n"
        "r = t.random_like(np.empty((3, *survey.gather_shape)))\n"
        "found = t.forward_and_back(survey, scheme, v, 100 * t.random_like(v), r)\n"
        "np.save(sys.argv[2], np.concatenate([np.ravel(a) for a in found]))\n"
    )
    results = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.npy"
        subprocess.run(
            [sys.executable, str(script), str(devices), str(out)],
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            timeout=300,
        )
        results.append(np.load(out))
    np.testing.assert_allclose(results[1], results[0], atol=1e-12 * np.abs(results[0]).max())


def test_what_cannot_be_is_refused():
    survey = survey_of("openfwi")
    with pytest.raises(UserError, match="scheme order 3"):
        Scheme(3)  # type: ignore[arg-type]
    surface = dataclasses.replace(survey, boundary=dataclasses.replace(survey.boundary, free_surface=True))
    with pytest.raises(UserError, match="free surface"):
        jax.eval_shape(modelling(surface, Scheme(precision="float64")), random_velocity())
    with pytest.raises(UserError, match="wavelet of shape"):
        jax.eval_shape(lambda v: propagate(v, survey, wavelet=np.zeros(7), max_velocity=FASTEST), random_velocity())
    with jax.enable_x64(False), pytest.raises(UserError, match="jax_enable_x64"):
        make_plan(survey, FASTEST, Scheme(precision="float64"))

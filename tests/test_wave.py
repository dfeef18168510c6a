"""The solver against closed forms, genuine gathers, other people's solver, and its own plain form."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import hankel2

from seisvel_jax.data.coarsen import effective_velocity
from seisvel_jax.errors import UserError
from seisvel_jax.survey import Boundary, Grid, Survey, openfwi, ricker, speed_and_structure
from seisvel_jax.wave import boundary, checks, sampling, stencil
from seisvel_jax.wave import propagate as propagate_module
from seisvel_jax.wave.plainly import propagate_plainly
from seisvel_jax.wave.plan import make_plan
from seisvel_jax.wave.propagate import propagate, run_plan
from seisvel_jax.wave.scheme import Scheme
from seisvel_jax.wave.wavefield import illumination, snapshots


def small_survey(kind="openfwi", *, spacing=10.0, nt=120, sources=(30.0, 110.0), depth=20.0) -> Survey:
    """A few cells, a few samples: what it tests does not depend on size, and it compiles quickly."""
    return Survey(
        sources=np.asarray([[x, depth] for x in sources], np.float32),
        receivers=np.asarray([[x, 20] for x in (0, 20, 70, 150)], np.float32),
        wavelet=100 * ricker(15.0, 1e-3, nt, 0.05),
        dt=1e-3,
        nt=nt,
        grid=Grid(round(220 / spacing), round(160 / spacing), spacing),
        boundary=Boundary(kind, 100.0, (210.0, 150.0)),
        record_start=0 if kind == "devito" else 1,
        name="small",
    )


def random_velocity(survey: Survey, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(1500, 4000, (batch, *survey.grid.shape)).astype(np.float32)


def relative(found, expected):
    return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)


# ---- stencil and time step ----------------------------------------------------------------------------------------


def test_coefficients_are_taylors():
    np.testing.assert_allclose(stencil.second_derivative(4), [-5 / 2, 4 / 3, -1 / 12])
    np.testing.assert_allclose(stencil.second_derivative(8), [-205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])
    for order in stencil.ORDERS:
        c = stencil.second_derivative(order)
        j = np.arange(1, len(c))
        for power in range(2, order + 1, 2):  # exact for x^2, blind to all higher powers up to the order
            assert 2 * (c[1:] * j.astype(float) ** power).sum() == pytest.approx(2.0 if power == 2 else 0.0, abs=1e-9)


def test_courant_limit_is_where_the_scheme_blows_up():
    assert stencil.courant_limit(2) == pytest.approx(1 / np.sqrt(2))
    survey = small_survey("devito", nt=400)
    limit = stencil.courant_limit(8) * survey.grid.spacing / survey.dt
    plan = make_plan(survey, 0.9 * limit)
    assert plan.substeps == 1 and make_plan(survey, limit).substeps == 2

    def largest(v):
        unchecked = jax.jit(lambda velocity: run_plan(velocity, plan))  # what is traced cannot be refused
        gathers = np.abs(unchecked(np.full((1, *survey.grid.shape), v, np.float32)))
        return np.where(np.isfinite(gathers), gathers, np.inf).max()

    assert largest(0.98 * limit) < 100
    assert largest(1.03 * limit) > 1e6


# ---- against the outside ------------------------------------------------------------------------------------------


def green_2d(wavelet, dt, nt, distance, v):
    """Pressure of a line source: wavelet convolved with the 2-D Green's function `-i/4 H0(omega r / v)`."""
    pad = 16 * nt
    omega = 2 * np.pi * np.fft.rfftfreq(pad, dt)
    spectrum = np.fft.rfft(wavelet, pad)
    response = np.zeros_like(spectrum)
    response[1:] = -0.25j * hankel2(0, omega[1:] * distance / v)
    return np.fft.irfft(spectrum * response, pad)[:nt]


@pytest.mark.parametrize("source_x", [200.0, 203.0], ids=["on a node", "between nodes"])
def test_greens_function_and_its_convergence(source_x):
    v, dt, nt = 2000.0, 1e-3, 260
    receivers = np.asarray([[260, 200], [300, 240], [321.5, 158.2]], np.float32)
    wavelet = ricker(15.0, dt, nt, 0.1)
    distance = np.hypot(receivers[:, 0] - source_x, receivers[:, 1] - 200)
    exact = np.stack([green_2d(wavelet, dt, nt, r, v) for r in distance], axis=-1)
    errors = []
    for spacing in (20.0, 10.0):
        count = round(400 / spacing) + 1
        survey = Survey(
            sources=np.asarray([[source_x, 200]], np.float32),
            receivers=receivers,
            wavelet=wavelet,
            dt=dt,
            nt=nt,
            grid=Grid(count, count, spacing),
            boundary=Boundary("devito", 400.0, (400.0, 400.0)),
            record_start=0,
            name="homogeneous",
        )
        velocity = np.full((1, *survey.grid.shape), v, np.float32)
        gathers = run_plan(velocity, make_plan(survey, v))
        errors.append(relative(gathers[0, 0], exact))
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] > 8


def test_genuine_openfwi_gathers(shared_data):
    cases = {
        "curvefault_b_sample0": openfwi(),
        "marmousi_70x190": openfwi(x_count=190, source_columns=(0, 47, 94, 142, 189)),
    }
    for name, survey in cases.items():
        velocity = np.load(shared_data / "openfwi" / f"{name}_vel.npy")[:, 0]
        genuine = np.load(shared_data / "openfwi" / f"{name}_seis.npy")
        error = np.asarray(propagate(velocity, survey)) - genuine
        assert np.sqrt((error[:, :, :-1] ** 2).mean()) < 2e-5, name  # the last row is zeroed in the files


def test_devito_gathers_from_a_five_times_coarser_grid(shared_data):
    survey = speed_and_structure(spacing=5, dt=1e-3)
    samples = [np.load(shared_data / "challenge_like" / "compact" / f"sample_{n:03d}.npz") for n in (9, 18)]
    fine = np.stack([1000 * sample["vp"].T for sample in samples])
    found = propagate(np.stack([effective_velocity(v, 5, survey.grid.shape) for v in fine]), survey)
    for gathers, sample in zip(np.asarray(found), samples, strict=True):
        assert relative(gathers, sample["gathers"]) < 3e-3  # no shift, no scaling


@pytest.mark.slow
def test_devito_gathers_on_their_own_grid(shared_data):
    sample = shared_data / "challenge_like" / "full" / "sample_010"
    survey = speed_and_structure()
    survey = dataclasses.replace(survey, sources=survey.sources[3:4])
    velocity = 1000 * np.load(sample / "vp_model.npy").T.astype(np.float32)
    found = propagate(velocity[None], survey)[0, 0]
    assert relative(found, np.load(sample / "receiver_data_src_225.npy")) < 1e-3


# ---- what physics demands -----------------------------------------------------------------------------------------


def test_reciprocity():
    survey = small_survey("devito", spacing=5.0, nt=200)
    a, b = [37.0, 35.0], [111.0, 140.0]
    there = dataclasses.replace(survey, sources=np.asarray([a], np.float32), receivers=np.asarray([b], np.float32))
    back = dataclasses.replace(survey, sources=there.receivers, receivers=there.sources)
    velocity = np.repeat(random_velocity(survey, 1)[:, ::4, ::4].repeat(4, 1), 4, 2)[:, : survey.grid.depth_count]
    plan = [make_plan(s, 4500.0) for s in (there, back)]
    one, two = (np.asarray(run_plan(velocity, p)) for p in plan)
    assert relative(one, two) < 1e-4 and np.abs(one).max() > 0


def test_mirror_commutes_with_simulation():
    survey = small_survey()
    velocity = random_velocity(survey)
    mirrored = propagate(velocity[..., ::-1].copy(), survey.mirrored(), max_velocity=4000.0)
    np.testing.assert_allclose(mirrored[:, ::-1, :, ::-1], propagate(velocity, survey, max_velocity=4000.0), atol=2e-5)


def test_linear_in_the_wavelet_and_causal_in_nt():
    survey = small_survey(nt=120)
    velocity = random_velocity(survey, 1)
    gathers = np.asarray(propagate(velocity, survey))
    other = np.random.default_rng(1).normal(size=120).astype(np.float32)
    both, alone = (
        np.asarray(run_plan(velocity, make_plan(dataclasses.replace(survey, wavelet=w), 4000.0)))
        for w in (survey.wavelet + other, other)
    )
    np.testing.assert_allclose(both, gathers + alone, atol=1e-5 * np.abs(both).max())
    longer = dataclasses.replace(survey, nt=200)
    np.testing.assert_array_equal(np.asarray(propagate(velocity, longer))[:, :, :120], gathers)


def test_coarse_devito_grid_is_the_same_experiment():
    # 1 m at 0.1 ms as published against 4 m at 1 ms: width of the sponge, source strength, time axis, dispersion.
    fine = dataclasses.replace(
        small_survey("devito", spacing=1.0, nt=180),
        wavelet=ricker(15.0, 1e-4, 1791, 0.05),
        dt=1e-4,
        nt=1791,
        boundary=Boundary("devito", 100.0, (219.0, 159.0)),
    )
    coarse = fine.resampled(spacing=4.0, dt=1e-3)
    depth = np.arange(220)[:, None] + np.zeros((1, 160))
    velocity = np.where(depth < 80, 1500, np.where(depth < 140, 2200, 3000)).astype(np.float32)
    expected = np.asarray(propagate(velocity[None], fine))[:, :, ::10]
    found = propagate(effective_velocity(velocity, 4, coarse.grid.shape)[None], coarse)
    assert relative(found, expected) < 1e-2


# ---- the fast form against the plain one --------------------------------------------------------------------------


def other_boundary(survey: Survey, kind: str, *, free_surface=False) -> Survey:
    return dataclasses.replace(survey, boundary=Boundary(kind, 50.0, (210.0, 150.0), free_surface))


@pytest.mark.parametrize(
    ("survey", "order"),
    [
        (small_survey(), 4),
        (small_survey("devito", spacing=5.0, nt=60, sources=(0.0, 33.0, 150.0), depth=12.0), 8),
        (other_boundary(small_survey(), "pml"), 4),
        (other_boundary(small_survey(depth=3.0), "pml", free_surface=True), 8),
        (other_boundary(small_survey("devito", depth=8.0), "devito", free_surface=True), 2),
        (other_boundary(small_survey(), "openfwi"), 6),
    ],
    ids=["openfwi", "devito off-grid", "pml", "pml free surface", "devito free surface", "openfwi order 6"],
)
def test_fast_form_equals_plain_form(survey, order):
    velocity = random_velocity(survey)
    scheme = Scheme(order)
    plain = propagate_plainly(velocity, survey, max_velocity=4000.0, scheme=scheme)
    plan = make_plan(survey, 4000.0, scheme)
    scale = np.abs(plain).max()
    for lanes in (1, 4):
        np.testing.assert_allclose(run_plan(velocity, plan, lanes=lanes), plain, atol=4e-6 * scale)


def test_results_do_not_depend_on_the_batch():
    survey = small_survey()
    velocity = random_velocity(survey, 4)
    plan = make_plan(survey, 4000.0)
    together = np.asarray(run_plan(velocity, plan))
    np.testing.assert_array_equal(np.asarray(run_plan(velocity[2:4], plan)), together[2:4])


def test_positions_may_differ_within_a_batch():
    survey = small_survey()
    velocity = random_velocity(survey, 2)
    moved = survey.mirrored()
    both = dataclasses.replace(
        survey,
        sources=np.stack([survey.sources, moved.sources]),
        receivers=np.stack([survey.receivers, moved.receivers]),
    )
    found = propagate(velocity, both, max_velocity=4000.0)
    np.testing.assert_array_equal(found[0], propagate(velocity, survey, max_velocity=4000.0)[0])
    np.testing.assert_array_equal(found[1], propagate(velocity, moved, max_velocity=4000.0)[1])


def test_under_jit():
    survey = small_survey()
    velocity = random_velocity(survey, 2)
    found = jax.jit(lambda v: propagate(v, survey, max_velocity=4000.0))(velocity)
    np.testing.assert_allclose(found, propagate(velocity, survey, max_velocity=4000.0), atol=1e-6)
    with pytest.raises(UserError, match="max_velocity"):
        jax.jit(lambda v: propagate(v, survey))(velocity)


def test_lengths_of_record_share_a_program():
    survey = small_survey(nt=120)
    velocity = random_velocity(survey, 1)
    long = np.asarray(run_plan(velocity, make_plan(survey, 4000.0)))
    programs = propagate_module._run._cache_size()
    short = np.asarray(run_plan(velocity, make_plan(dataclasses.replace(survey, nt=117), 4000.0)))
    faster = np.asarray(run_plan(velocity, make_plan(survey, 4100.0)))
    assert propagate_module._run._cache_size() == programs
    np.testing.assert_array_equal(short, long[:, :, :117])
    np.testing.assert_array_equal(faster, long)  # the same steps: max_velocity only has to be high enough


def test_snapshots_hold_what_receivers_read():
    survey = dataclasses.replace(
        small_survey("devito", nt=61), receivers=np.asarray([[x, z] for x in (0, 70) for z in (20, 210)], np.float32)
    )
    velocity = random_velocity(survey, 2)
    gathers = np.asarray(run_plan(velocity, make_plan(survey, 4000.0, Scheme(4))))
    frames = np.asarray(snapshots(velocity, survey, every=7, scheme=Scheme(4), max_velocity=4000.0))
    assert frames.shape == (2, 2, 8, *survey.grid.shape)
    read = frames[:, :, :, [2, 21, 2, 21], [0, 0, 7, 7]]
    np.testing.assert_allclose(read, gathers[:, :, 7:57:7], atol=1e-6 * np.abs(gathers).max())
    with pytest.raises(UserError, match="every 0"):
        snapshots(velocity, survey, every=0)


def test_illumination_is_the_energy_that_receivers_would_read():
    survey = small_survey("devito", nt=60)  # not a whole number of turns: what follows the record does not count
    velocity = random_velocity(survey, 2)
    gathers = np.asarray(run_plan(velocity, make_plan(survey, 4000.0, Scheme(4))))
    energy = np.asarray(illumination(velocity, survey, scheme=Scheme(4), max_velocity=4000.0))
    columns = [0, 2, 7, 15]
    np.testing.assert_allclose(energy[:, 2, columns], (gathers**2).sum((1, 2)) * survey.dt, rtol=1e-4)


def test_what_blows_up_is_reported_with_sample_shot_and_step():
    survey = small_survey("devito", nt=400)
    velocity = random_velocity(survey, 2)
    velocity[1] *= 2.2  # faster than the plan is made for: unstable
    with pytest.raises(UserError, match=r"Courant number .*expected at most"):
        run_plan(velocity, make_plan(survey, 4000.0))
    gathers = np.array(run_plan(velocity[:1], make_plan(survey, 4000.0)))
    gathers[0, 1, 123:, 2] = np.nan
    with pytest.raises(UserError, match=r"sample 0 .*time sample 123 of shot 1"):
        checks.check_finite(gathers)


# ---- parts --------------------------------------------------------------------------------------------------------


def test_off_grid_weights_read_band_limited_signals():
    positions = np.asarray([[103.3, 57.9], [121.0, 60.0]])
    nodes, weights = sampling.position_weights(positions, 10.0, (0, 0))
    wave = np.cos(2 * np.pi * (0.4 * nodes[..., 1] + 0.1 * nodes[..., 0]) / 2 + 0.3)
    exact = np.cos(2 * np.pi * (0.4 * positions[:, 0] + 0.1 * positions[:, 1]) / 20 + 0.3)
    np.testing.assert_allclose((wave * weights).sum(-1), exact, atol=5e-3)
    nodes, weights = sampling.position_weights(np.asarray([[30.0, 20.0]]), 10.0, (5, 7))
    np.testing.assert_array_equal(nodes[0], [[7, 10]])
    np.testing.assert_array_equal(weights, [[1]])


def test_readout_undoes_what_the_leapfrog_does_to_an_oscillator():
    # u_tt = -omega0^2 u + w(t): one spatial mode. The leapfrog answers too early; filters on both ends repair it.
    dt, nt, omega0 = 1e-3, 500, 2 * np.pi * 30
    wavelet = ricker(15.0, dt, nt, 0.1)

    def leapfrog(force, steps, dt):
        u = np.zeros(steps + 1)
        for n in range(1, steps):
            u[n + 1] = 2 * u[n] - u[n - 1] + dt**2 * (force[n] - omega0**2 * u[n])
        return u

    exact = leapfrog(ricker(15.0, dt / 64, nt * 64, 0.1), 64 * nt, dt / 64)[:-1:64]
    steps = nt + sampling.TAIL
    raw = leapfrog(np.pad(wavelet, (0, 40)), steps, dt)[:nt]
    fine = sampling.fine_wavelet(wavelet, dt, 1, correct_dispersion=True)
    repaired = sampling.readout(nt, dt, 1) @ leapfrog(np.pad(fine, (0, 40)), steps, dt)[:-1]
    # The oscillator never dies out, so the last rows see the end of the record; a wave leaves.
    assert relative(raw[:450], exact[:450]) > 0.04
    assert relative(repaired[:450], exact[:450]) < 5e-3


def test_sponge_profiles_are_the_published_ones():
    grid, edge = Grid(30, 20, 1.0), Boundary("devito", 40.0, (29.0, 19.0))
    profile = boundary.devito_profile(grid, edge, boundary.pad_of(grid, edge))
    # Devito: pos = (n - i + 1) / n at the i-th cell from the outer edge.
    pos = (40 - np.arange(40) + 1) / 40
    expected = 1.5 * np.log(1000) / 40 * (pos - np.sin(2 * np.pi * pos) / (2 * np.pi))
    assert profile.shape == (110, 100)
    np.testing.assert_allclose(profile[50, :40], expected)
    np.testing.assert_allclose(profile[-1:-41:-1, 50], expected)
    np.testing.assert_allclose(profile[0, 0], 2 * expected[0])
    assert (profile[40:70, 40:60] == 0).all()

    survey = openfwi()
    pad = boundary.pad_of(survey.grid, survey.boundary)
    assert dataclasses.astuple(pad) == (120,) * 4
    profile = boundary.openfwi_profile(survey.grid, pad)
    np.testing.assert_allclose(profile[119::-1, 150], (np.arange(120) / 119) ** 2)
    np.testing.assert_array_equal(profile[0, :120], profile[150, :120])  # the x profile holds in the corners
    np.testing.assert_array_equal(profile[0, 120:190], 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:, :-1], "expected \\(batch, 22, 16\\)"),
        (lambda v: v / 1000, "km/s"),
        (lambda v: np.where(v == v.max(), np.nan, v).astype(np.float32), "NaN"),
        (lambda v: np.clip(v, 0, None) * 0 + 9500, "300 to 9000"),
        (lambda v: v * 0 + 320, "grid points per shortest wavelength"),
    ],
)
def test_bad_velocity_is_refused_with_a_cure(change, message):
    survey = small_survey()
    with pytest.raises(UserError, match=message):
        propagate(change(random_velocity(survey)), survey)


def test_bad_surveys_are_refused():
    survey = small_survey()
    far = dataclasses.replace(survey, receivers=np.asarray([[900.0, 20.0]], np.float32))
    with pytest.raises(UserError, match="receivers at x, depth"):
        propagate(random_velocity(survey), far)
    with pytest.raises(UserError, match="shorter dt"):
        checks.check_sampling(dataclasses.replace(survey, dt=1e-2, wavelet=ricker(15, 1e-2, 50, 0.1)), 4, 1500.0)
    with pytest.raises(UserError, match="sample 1 is not finite"):
        checks.check_finite(np.stack([np.zeros((1, 2, 3)), np.full((1, 2, 3), np.inf)]))

"""Random earths: the same geology on any grid, and the statistics of the data they stand for."""

from functools import lru_cache, partial

import jax
import numpy as np
import pytest

from seisvel_jax.earth import openfwi as openfwi_earth
from seisvel_jax.earth import speed_and_structure as challenge_earth
from seisvel_jax.survey import Grid, openfwi, speed_and_structure

GRID = speed_and_structure(spacing=5).grid


@lru_cache
def generator(room, grid):
    return jax.jit(jax.vmap(partial(room.random_model, grid=grid)))


def draw(count, grid=GRID, seed=0, room=challenge_earth):
    return np.asarray(generator(room, grid)(jax.random.split(jax.random.key(seed), count)))


@pytest.fixture(scope="module")
def models():
    return draw(400)


def below_seabed(velocity, depths, spacing):
    """Rock `[model and column, depth]` at metres below each column's own seabed, NaN beyond the model; no salt."""
    velocity = velocity[~(velocity == 4500).any((1, 2))]
    traces = np.moveaxis(velocity, 1, 2).reshape(-1, velocity.shape[1])
    index = (traces != 1500).argmax(1)[:, None] + np.rint(np.asarray(depths) / spacing).astype(int)
    rock = np.take_along_axis(traces, np.minimum(index, traces.shape[1] - 1), axis=1)
    return np.where(index < traces.shape[1], rock, np.nan)


def test_global_statistics_are_the_published_ones(models):
    assert models.dtype == np.float32 and models.shape == (400, 252, 60)
    assert abs(models.mean() - 2770) < 90
    assert abs(models.std() - 930) < 50
    assert abs((models <= 1800).mean() - 0.265) < 0.03
    assert abs((models == 4500).any((1, 2)).mean() - 0.24) < 0.06
    rock = models[(models != 1500) & (models != 4500)]
    assert rock.min() > 1500 and rock.max() <= 4300
    fastest = np.where(models == 4500, 0, models).max((1, 2))
    assert np.percentile(fastest, 5) > 3700
    # Water lies only above rock.
    water = models == 1500
    assert (water[:, 1:] <= water[:, :-1]).all()


def test_profile_follows_the_compaction_trends(models):
    depths = np.asarray([20, 60, 100, 200, 300, 400, 600])
    rock = below_seabed(models, depths, 5.0)
    z = 4.0 * depths
    shale, sand = -0.00013 * z**2 + 1.13 * z + 1580, -1.34e-5 * z**2 + 0.49 * z + 2317
    mean = np.nanmean(rock, 0)
    assert (mean > np.minimum(shale, sand) - 60).all() and (mean < np.maximum(shale, sand) + 60).all()


def test_statistics_of_the_look_alikes(models, shared_data):
    found = np.load(shared_data / "challenge_like" / "velocity_slices.npz")["vp"].astype(np.float32)
    reference = np.swapaxes(found, 1, 2)[:, ::5, ::5] * 1000
    assert abs(models.mean() / reference.mean() - 1) < 0.04
    depths = np.arange(20, 700, 40)
    ours, theirs = below_seabed(models, depths, 5.0), below_seabed(reference, depths, 5.0)
    np.testing.assert_allclose(np.nanmean(ours, 0), np.nanmean(theirs, 0), atol=60)
    np.testing.assert_allclose(np.nanstd(ours, 0), np.nanstd(theirs, 0), rtol=0.4)


def test_a_key_is_one_earth_on_any_grid():
    fine, coarse = draw(4, Grid(504, 120, 2.5))[:, ::2, ::2], draw(4)
    # Rounding moves a boundary past a node here and there.
    assert (np.abs(fine - coarse) > 1).mean() < 2e-3
    assert (np.abs(draw(4, seed=1) - coarse) > 1).mean() > 0.3
    np.testing.assert_array_equal(draw(4), coarse)


def test_openfwi_models_are_layers_of_whole_velocities():
    models = draw(64, openfwi().grid, room=openfwi_earth)
    assert models.shape == (64, 70, 70) and (models == np.rint(models)).all()
    assert models.min() >= 1500 and models.max() <= 4500
    counts = np.asarray([len(np.unique(model)) for model in models])
    assert counts.min() >= 2 and counts.max() <= 8 and 4 <= counts.mean() <= 7
    steps = np.diff(models, axis=1)
    flat = (models == models[:, :, :1]).all((1, 2))
    assert 0.02 < flat.mean() < 0.5  # some models are flat and unfaulted, most are not
    rising = (steps[flat] >= 0).all((1, 2))
    assert rising.any() and not rising.all()

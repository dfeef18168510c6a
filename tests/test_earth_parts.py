"""Each part of a random section by itself: rock, layers, seabed, salt, channels; and the mix of OpenFWI's families."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_support import quick_compilation

from seisvel_jax.earth.families import random_model
from seisvel_jax.earth.rock import random_rock, velocity
from seisvel_jax.earth.salt import random_salt
from seisvel_jax.earth.speed_and_structure import _channels
from seisvel_jax.earth.strata import random_stack
from seisvel_jax.survey import Grid

DEPTH, X = jnp.arange(0.0, 1260.0, 4.0)[:, None], jnp.arange(0.0, 300.0, 4.0)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with quick_compilation():
        yield


def draw(part, count):
    """`part` of so many keys, as NumPy arrays."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(part))(jax.random.split(jax.random.key(0), count)))


def test_rock_is_shale_with_beds_of_sand_about_the_trends():
    rock = draw(partial(random_rock, layers=100), 400)
    is_sand = rock.sand > 0
    assert rock.sand[is_sand].min() >= 0.45 and rock.sand.max() <= 0.9
    assert abs(is_sand[:, 0].mean() - 0.5) < 0.08  # the youngest bed
    old = is_sand[:, 10:]
    assert abs(old.mean() - 0.15) < 0.02 and 0.06 < old.mean(1).std() < 0.11  # from 0.05 to 0.25, and chance
    assert abs((old[:, 1:] & old[:, :-1]).sum() / old[:, :-1].sum() - 0.5) < 0.05  # beds of two layers
    for shift in (rock.shale_shift, rock.sand_shift):
        assert (shift[:, :20] == 0).all()
        largest = np.abs(shift[:, 20:]).max(1)
        assert 38 < largest.min() < 55 and 115 < largest.max() < 145 and abs(shift.mean()) < 2
    between = np.abs(rock.shale_shift - rock.sand_shift).max(1)
    assert 8 < between.min() < 14 and 28 < between.max() < 40


def test_velocity_is_that_of_the_trends_mixed_in_travel_time():
    z = np.asarray([0.0, 400.0, 2000.0])
    shale, sand = np.asarray([1580.0, 2011.2, 3320.0]), np.asarray([2317.0, 2510.856, 3243.4])
    np.testing.assert_allclose(velocity(z, z + 7.0, 0.0), shale, rtol=1e-6)
    np.testing.assert_allclose(velocity(z + 7.0, z, 1.0), sand, rtol=1e-6)
    np.testing.assert_allclose(1 / velocity(z, z, 0.25), 0.75 / shale + 0.25 / sand, rtol=1e-6)


def test_layers_lie_on_one_another_and_lap_onto_unconformities():
    stack = draw(partial(random_stack, x=X, depth=1258.0, width=299.0), 300)
    seabed, thickness = stack.top[:, 0], stack.base - stack.top
    np.testing.assert_array_equal(stack.base[:, :-1], stack.top[:, 1:])
    assert thickness.min() >= -1e-3 and thickness.max() < 18.01
    assert seabed.min() >= 66 and np.abs(stack.deepest - seabed.max(1)).max() < 8  # taken every 25 m
    assert 285 < seabed.mean() < 345 and 70 < np.std(seabed.mean(1)) < 140
    # Six metres, less where the ground leant: the youngest layers most. Nothing is left of some, above unconformities.
    whole = np.where(thickness > 0.06, thickness, np.nan)
    young, old = np.nanmean(whole[:, :15]), np.nanmean(whole[:, 120:])
    assert 5.05 < young < 5.3 and 5.4 < old < 5.65
    gone = (thickness < 1e-3).any(2).sum(1)
    assert (gone > 0).mean() > 0.8 and 10 < np.median(gone) < 90
    # Along the section they change, by nearly as much as they are thick from one end to the other.
    mean = thickness.mean(2)
    spread = np.ptp(thickness, axis=2)[mean > 1] / mean[mean > 1]
    assert 0.6 < np.median(spread) < 1.0


def test_salt_is_a_tapering_body_in_a_quarter_of_the_models():
    salt = draw(lambda key: random_salt(key, DEPTH, X[None], deepest=jnp.asarray(300.0), width=300.0), 600)
    there = salt.any((1, 2))
    assert abs(there.mean() - 0.24) < 0.05
    rows = salt.any(2)[there]
    top, end = 4 * rows.argmax(1), 4 * (rows.shape[1] - rows[:, ::-1].argmax(1))
    assert 400 < top.min() < 440 and 600 < top.max() < 680 and 1050 < end.max() < 1240
    wide = 4 * salt[there].sum(2).max(1)
    assert 110 < wide.max() < 170 and 0.03 < salt[there].mean() < 0.055
    edge = np.abs(np.diff(salt[there].sum(2).astype(int), axis=1)).max()
    assert edge < 30  # no flat lid


def test_channels_cut_half_of_the_models_from_a_layers_top():
    tops = jnp.broadcast_to(6.0 * jnp.arange(200.0)[:, None], (200, X.size))
    empty = jnp.full((DEPTH.size, X.size), -1.0)
    filled = draw(
        lambda key: _channels(key, empty, jnp.broadcast_to(DEPTH, empty.shape) + 0.5, tops, x=X / 300, width=300.0), 600
    )
    cut = filled >= 0
    there = cut.any((1, 2))
    assert 0.42 < there.mean() < 0.56 and filled.max() < 0.91  # 1 - 0.7^2, less those between nodes
    depth, wide = 4 * cut.sum(1).max(1)[there], 4 * cut.any(1).sum(1)[there]
    assert 16 <= depth.max() <= 2 * 28 and 4 <= np.median(depth) <= 12
    assert 120 < wide.max() < 300 and 60 < np.median(wide) < 130
    fills = np.asarray([model.max() for model in filled[there]])
    assert 0.1 < (fills == 0).mean() < 0.35  # mud
    rows = 4 * cut.any(2).argmax(1)[there]
    assert rows.min() < 120 and 600 < rows.max() <= 724


def test_openfwi_stands_for_its_ten_families():
    models = draw(lambda key: random_model("openfwi", key, Grid(20, 20, 35.0)), 400)
    continuous = (models != np.rint(models)).any((1, 2))
    assert abs(continuous.mean() - 0.2) < 0.05
    flat = (models == models[:, :, :1]).all((1, 2))
    assert abs(flat.mean() - 0.2) < 0.06
    assert 0.1 < ((np.diff(models, axis=1) >= 0).all((1, 2)) & flat).mean() / flat.mean() < 0.9

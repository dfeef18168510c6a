"""Random earths: the same geology on any grid, and the statistics of the data they stand for."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seisvel_jax.earth import openfwi as openfwi_earth
from seisvel_jax.earth import speed_and_structure as challenge_earth
from seisvel_jax.earth.combine import augment, blend, scale, warp
from seisvel_jax.earth.families import FAMILIES, random_model
from seisvel_jax.earth.faults import random_slip
from seisvel_jax.earth.rock import random_rock
from seisvel_jax.earth.strata import random_stack
from seisvel_jax.errors import UserError
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
    # A cell that holds a sliver of the ground is rock, and of 1 m of it 0.4 m is freshest shale: one in 5 m, of 0.4.
    first = below_seabed(models, [0], 5.0)
    assert 0.06 < (first < 1580.5).mean() < 0.1
    assert first.min() == 1580


def test_profile_follows_the_compaction_trends(models):
    depths = np.asarray([20, 60, 100, 200, 300, 400, 600])
    rock = below_seabed(models, depths, 5.0)
    z = 4.0 * depths
    shale, sand = -0.00013 * z**2 + 1.13 * z + 1580, -1.34e-5 * z**2 + 0.49 * z + 2317
    mean = np.nanmean(rock, 0)
    # A tenth of the rock is sand: 15 % of the layers, two thirds of each.
    np.testing.assert_allclose(mean, 1 / (0.9 / shale + 0.1 / sand), atol=55)
    # The youngest rock is no slower than its trend; older layers seem deeper or shallower than they lie.
    assert np.nanpercentile(rock[:, 1], 2) > 1800
    assert 130 < np.nanstd(rock[:, 4]) < 170


def test_cells_below_the_seabed_hold_what_the_layers_say(models):
    """The means over each cell of the first layers, by 50 depths in it: burial and sand by length, slowness by both."""
    keys = jax.vmap(lambda key: jax.random.split(key, 5))(jax.random.split(jax.random.key(0), 400)[:20])
    depth, width = GRID.extent
    x = jnp.arange(GRID.x_count, dtype=jnp.float32) * GRID.spacing
    stacks = jax.jit(jax.vmap(lambda key: random_stack(key, x, depth=depth, width=width)))(keys[:, 0])
    rocks = jax.jit(jax.vmap(lambda key: random_rock(key, stacks.top.shape[1])))(keys[:, 1])
    top, sand = np.asarray(stacks.top, np.float64), np.asarray(rocks.sand, np.float64)
    errors = []
    for model, column in np.ndindex(20, GRID.x_count):
        tops = top[model, :10, column]
        node = np.arange(int(np.ceil(tops[0] / 5)) + 1, int((tops[8] - 1) / 5))
        inside = 5.0 * node[:, None] + (np.arange(50) + 0.5) / 50 - 0.5  # [node, depth in its cell]
        layer = np.searchsorted(tops, inside, side="right") - 1
        z, share = 4 * (tops[layer + 1] - tops[0]).mean(1), sand[model][layer].mean(1)
        shale, brine = -0.00013 * z**2 + 1.13 * z + 1580, -1.34e-5 * z**2 + 0.49 * z + 2317
        errors.append(np.abs(models[model, node, column] - 1 / ((1 - share) / shale + share / brine)))
    errors = np.concatenate(errors)
    assert errors.size > 3000
    assert np.percentile(errors, 95) < 1  # not where faults reach so high


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


def test_channels_faults_and_unconformities_are_there():
    """Beds end against faults, channels and unconformities: where nothing did, a layer could be followed throughout."""
    depth, x = jnp.arange(0.0, 1260.0, 6.0)[:, None], jnp.concatenate([jnp.arange(300.0), jnp.asarray([-3e3, 3e3])])
    draw_slip = jax.jit(jax.vmap(lambda key: random_slip(key, depth, x[None], deepest=jnp.asarray(200.0), width=300.0)))
    slip = np.asarray(draw_slip(jax.random.split(jax.random.key(0), 100)))
    slip, far = slip[:, :, :300], slip[:, :, 300:]
    assert far.max() < 1e-3  # beds roll over: nothing has moved far away
    assert 0.2 < (slip == 0).all((1, 2)).mean() < 0.4  # no faults
    assert slip.min() >= 0 and 20 < slip.max() < 80  # normal faults only move rock down; several throws add up
    assert (slip[:, :33] < 0.5).all()  # the seabed is whole
    jumps = np.abs(np.diff(slip, axis=2)).max(1)  # metres by which neighbouring columns are offset
    share = (jumps.max(1) > 3).mean()
    assert 0.2 < share < 0.8
    # Drag: beside the largest jump the beds bend towards it on both sides.
    model, column = np.unravel_index(jumps[:, 20:-20].argmax(), jumps[:, 20:-20].shape)
    row = np.abs(np.diff(slip[model], axis=1))[:, column + 20].argmax()
    beside = slip[model, row, column : column + 41]
    low, high = (beside[:20], beside[21:][::-1]) if beside[0] < beside[-1] else (beside[21:][::-1], beside[:20])
    assert low[-1] > low[0] + 0.5 and high[-1] < high[5]


RULES = openfwi_earth.RULES


@lru_cache
def family(name):
    grid = openfwi().grid
    return np.asarray(
        jax.jit(jax.vmap(lambda key: random_model(name, key, grid)))(jax.random.split(jax.random.key(7), 1000))
    )


@pytest.mark.parametrize("name", RULES)
def test_rules_of_the_layered_families_hold_in_1000_draws(name):
    rule, models = RULES[name], family(name)
    # The published rules, not what the module says of itself.
    assert rule.curved == name.startswith("curve") and rule.rising == (name[-1] == "a" or "fault" in name)
    assert rule.counts == ((3, 4, 5, 6, 7, 8) if "vel" in name else (2, 3, 4) if name[-1] == "a" else (6, 7, 8))
    likely = np.asarray([1, 2, 2, 2, 2, 1]) / 10 if "vel" in name else np.ones(3) / 3
    assert models.shape == (1000, 70, 70) and (models == np.rint(models)).all()
    assert models.min() >= 1500 and models.max() <= 4500
    counts = np.asarray([len(np.unique(model)) for model in models])
    blocks = 1 + (rule.faults[1] > 1)
    assert counts.min() >= rule.counts[0] and counts.max() <= blocks * rule.counts[-1]
    if blocks == 1:
        found = [(counts == count).mean() for count in rule.counts]
        np.testing.assert_allclose(found, likely, atol=0.04)
    else:
        assert np.isin(counts, np.asarray(rule.counts) * 2).mean() > 0.7  # two blocks, as in the genuine maps
    flat = (models == models[:, :, :1]).all((1, 2))
    rising = (np.diff(models, axis=1) >= 0).all((1, 2))
    changes = (np.diff(models, axis=2) != 0).sum(2).max(1)  # the most along any row
    if rule.faults == (0, 0):
        assert flat.all() if not rule.curved else not flat.any()
        assert rising.all() if rule.rising else rising.mean() < 0.1
    elif not rule.curved:
        assert (changes == 1).all() if rule.faults[1] == 1 else (changes > 1).mean() > 0.9


def test_curved_interfaces_are_nearly_parallel():
    models = family("curvevel-a")[:200]
    first = (models != models[:, :1]).argmax(1)  # cells above the first interface and above the last
    last = 70 - (models[:, ::-1] != models[:, -1:]).argmax(1)
    assert 15 < np.ptp(first, axis=1).mean() < 28
    assert 0.9 < np.median(np.ptp(last, axis=1) / np.maximum(np.ptp(first, axis=1), 1)) < 1.1


def test_families_of_one_seed_are_different_draws():
    first = [(np.diff(family(name)[:, :, 0], axis=1) != 0).argmax(1) for name in ("flatvel-a", "flatvel-b")]
    assert (first[0] == first[1]).mean() < 0.3


def test_maps_of_curvefault_b_are_like_the_genuine_ones(shared_data):
    genuine = np.load(shared_data / "openfwi" / "curvefault_b_maps_0to4_vel.npy")[:, 0]
    models = family("curvefault-b")
    for statistic in (
        lambda m: m.mean((1, 2)),
        lambda m: m.std((1, 2)),
        lambda m: (np.diff(m, axis=1) > 0).sum(1).mean(1),  # steps up a column
        lambda m: (np.diff(m, axis=1) < 0).sum(1).mean(1),  # and down: faults
        lambda m: (np.diff(m, axis=2) != 0).sum(2).mean(1),  # changes a row
    ):
        lowest, highest = np.percentile(statistic(models), [1, 99])
        assert lowest <= statistic(genuine).min() and statistic(genuine).max() <= highest


@pytest.mark.parametrize(("name", "length", "deviation"), [("style-a", 32.0, 183.0), ("style-b", 7.0, 168.0)])
def test_style_models_are_smooth_fields_over_a_gradient(name, length, deviation):
    models = family(name)
    assert models.min() >= 1500 and models.max() <= 4500 and (models != np.rint(models)).mean() > 0.9
    growth = (models[:, -1] - models[:, 0]).mean(1)
    assert 250 < growth.mean() < 950
    level = models.mean((1, 2))
    assert abs(level.mean() - 3000) < 90 and 450 < level.std() < 800
    # The structure function of a stationary field, E (v(x) - v(x + h))^2 = 2 s^2 (1 - exp(-h^2 / (2 l^2))).
    for lag in (4, 16):
        found = ((models[:, :, lag:] - models[:, :, :-lag]) ** 2).mean()
        expected = 2 * deviation**2 * (1 - np.exp(-(lag**2) / (2 * length**2)))
        if name == "style-a" or lag == 16:
            np.testing.assert_allclose(found, expected, rtol=0.15)


def test_unknown_families_are_refused():
    with pytest.raises(UserError, match="speed-and-structure"):
        random_model("flatvel", jax.random.key(0), GRID)
    assert len(FAMILIES) == 11


def test_combinations_keep_water_salt_and_whole_numbers(models):
    keys = jax.random.split(jax.random.key(1), 64)
    change = jax.jit(
        jax.vmap(lambda key, a, b: augment(key, a, b, GRID, keep=(1500.0, 4500.0))),
    )
    first, other = models[:64], models[64:128]
    found = np.asarray(change(keys, first, other))
    np.testing.assert_array_equal(found, change(keys, first, other))
    assert found.min() == 1500 and found.max() <= 4500
    assert 0.85 < (found != first).any((1, 2)).mean() < 1
    water = found == 1500
    assert (water.mean((1, 2)) > 0.02).all() and (np.diff(water.astype(int), axis=1) <= 0).mean() > 0.999

    grid = openfwi().grid
    maps, others = family("curvevel-b")[:64], family("flatfault-b")[:64]
    found = np.asarray(jax.jit(jax.vmap(lambda key, a, b: augment(key, a, b, grid, whole=True)))(keys, maps, others))
    assert (found == np.rint(found)).all() and found.min() >= 1500 and found.max() <= 4500


def test_each_combination_does_what_it_says():
    grid, keys = Grid(20, 30, 5.0), jax.random.split(jax.random.key(2), 500)
    a = jnp.asarray(np.random.default_rng(0).uniform(2000, 3000, grid.shape).astype(np.float32)).at[:4].set(1500.0)
    b = a + 100.0

    def each(change):
        return np.asarray(jax.jit(jax.vmap(change))(keys))

    weights = each(lambda key: blend(key, a, b, keep=(1500.0,))) - np.asarray(a)
    assert (weights[:, :4] == 0).all()
    assert 29.9 < weights[:, 5:].min() < 31 and 69 < weights[:, 5:].max() < 70.1
    factors = each(lambda key: scale(key, a, keep=(1500.0,))) / np.asarray(a)
    assert (factors[:, :4] == 1).all() and np.ptp(factors[:, 5:], axis=(1, 2)).max() < 1e-5
    assert 0.86 < factors[:, 5:].min() < 0.89 and 1.13 < factors[:, 5:].max() < 1.16
    assert (each(lambda key: warp(key, a, grid, strength=0.0)) == np.asarray(a)).all()
    turned = each(lambda key: warp(key, a, grid))
    assert np.isin(turned, a).all() and 0.5 < (turned != np.asarray(a)).mean() < 1
    only = {"warped": 0.0, "blended": 0.0, "mirrored": 1.0, "scaled": 0.0}
    assert (each(lambda key: augment(key, a, b, grid, **only)) == np.asarray(a)[:, ::-1]).all()

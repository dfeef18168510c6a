"""How like the genuine velocity models the random ones are: `python benchmarks/earth_statistics.py` (CPU, minutes).

Random Speed and Structure models at 1 m against the 144 slices of 12 cubes in ../shared/data/challenge_like: statistics
of a slice, each compared with the spread between the cubes, and two-sample tests by small classifiers whose held-out
slices are of cubes that they have not seen. Prints a table in Markdown and writes it to --output. --models FILE.npy
`[model, depth, x]` m/s at 1 m: judge these instead (the generator of another version, or your own). The classifiers are
trained on genuine slices to judge by, and go nowhere else.
"""

import argparse
import itertools
import os
import subprocess
import time
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from seisvel_jax.earth.speed_and_structure import random_model
from seisvel_jax.survey import Grid

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "challenge_like" / "velocity_slices.npz"
GRID = Grid(1259, 300, 1.0)
WATER, SALT = 1500.0, 4500.0
DEPTHS = (20, 100, 200, 400, 800)
FOLDS = 4


def genuine_slices(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Velocity `[slice, depth, x]` m/s and the cube of each slice."""
    with np.load(path) as found:
        return np.swapaxes(found["vp"].astype(np.float32), 1, 2) * 1000, found["cube"]


def drawn_models(count: int, seed: int) -> np.ndarray:
    """`[model, depth, x]` m/s, rounded as the genuine slices are stored (float16 km/s)."""
    draw = jax.jit(jax.vmap(lambda key: random_model(key, GRID)))
    keys = jax.random.split(jax.random.key(seed), count)
    return stored(np.concatenate([np.asarray(draw(keys[i : i + 12])) for i in range(0, count, 12)]))


def stored(velocity: np.ndarray) -> np.ndarray:
    return (velocity / 1000).astype(np.float16).astype(np.float32) * 1000


def statistics(velocity: np.ndarray) -> dict[str, float]:
    """The statistics of one slice `[depth, x]` m/s at 1 m; NaN where there is nothing to measure."""
    depth_count = len(velocity)
    rock = (velocity != WATER) & (velocity != SALT)
    seabed = (velocity != WATER).argmax(0)
    found = {
        "mean (m/s)": velocity.mean(),
        "standard deviation (m/s)": velocity.std(),
        "median (m/s)": np.median(velocity),
        "share of water": (velocity == WATER).mean(),
        "share of salt": (velocity == SALT).mean(),
        "slices with salt": float((velocity == SALT).any()),
        "fastest rock (m/s)": velocity[rock].max(),
        "slowest rock (m/s)": velocity[rock].min(),
        "seabed, mean depth (m)": seabed.mean(),
        "seabed, relief (m)": np.ptp(seabed),
    }
    shares = np.histogram(velocity[rock], np.arange(1500, 4501, 500))[0] / velocity.size
    found |= {f"share of rock in {1500 + 500 * i}-{2000 + 500 * i} m/s": share for i, share in enumerate(shares)}
    for depth in DEPTHS:
        at = seabed + depth
        values = velocity[np.minimum(at, depth_count - 1), np.arange(len(at))]
        values = values[(at < depth_count) & (values != SALT)]
        found[f"mean {depth} m below the seabed"] = values.mean() if len(values) else np.nan
    # The layering: what is left of a column after a mean over 41 m, where no water or salt is near.
    padded = np.concatenate([np.zeros((1, velocity.shape[1])), np.cumsum(velocity, 0, dtype=np.float64)])
    inside = np.concatenate([np.zeros((1, velocity.shape[1])), np.cumsum(~rock, 0)])
    layering = velocity[20:-20] - (padded[41:] - padded[:-41]) / 41
    layering = np.where(inside[41:] == inside[:-41], layering, np.nan)
    found["layering, standard deviation (m/s)"] = np.nanstd(layering)
    found |= {f"vertical correlation at {lag} m": correlation(layering[:-lag], layering[lag:]) for lag in (2, 5, 10)}
    found |= {
        f"lateral correlation at {lag} m": correlation(layering[:, :-lag], layering[:, lag:]) for lag in (1, 5, 20)
    }
    # Layers: stretches of a column in which nothing changes by more than 3 m/s from one metre to the next.
    change = (np.abs(np.diff(velocity, axis=0)) > 3) & rock[1:] & rock[:-1]
    edges = [np.flatnonzero(column) for column in change[:, ::10].T]
    runs = np.concatenate([np.diff(each) for each in edges])
    found["layer thickness, mean (m)"] = runs[(runs > 1) & (runs < 60)].mean()
    return {name: float(value) for name, value in found.items()}


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    both = ~(np.isnan(a) | np.isnan(b))
    return float(np.corrcoef(a[both], b[both])[0, 1]) if both.sum() > 100 else np.nan


def table_of(velocity: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names, and values `[slice, statistic]`."""
    rows = [statistics(each) for each in velocity]
    return list(rows[0]), np.asarray([list(row.values()) for row in rows])


class Judge(nnx.Module):
    """Four strided convolutions, mean and maximum over what is left, one logit."""

    def __init__(self, rngs: nnx.Rngs):
        widths = (2, 8, 16, 32, 32)
        self.convolutions = nnx.List(
            [
                nnx.Conv(a, b, (5, 5) if i == 0 else (3, 3), strides=2, rngs=rngs)
                for i, (a, b) in enumerate(itertools.pairwise(widths))
            ]
        )
        self.head = nnx.Linear(2 * widths[-1], 1, rngs=rngs)

    def __call__(self, velocity: jax.Array) -> jax.Array:
        """`[batch, depth, x]` m/s to `[batch]`."""
        level = (velocity - 2800) / 900
        step = jnp.diff(velocity, axis=1, append=velocity[:, -1:]) / 100
        x = jnp.stack([level, jnp.clip(step, -5, 5)], -1)
        for convolution in self.convolutions:
            x = nnx.relu(convolution(x))
        return self.head(jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], -1))[:, 0]


@lru_cache
def training(batches: int):
    """Functions to begin, to take one step and to judge: compiled once for all folds."""
    optimiser = optax.adamw(optax.cosine_decay_schedule(4e-3, batches), weight_decay=1e-3)
    graph, _ = nnx.split(Judge(nnx.Rngs(0)))

    def begin(seed: int):
        params = nnx.split(Judge(nnx.Rngs(seed)))[1]
        return params, optimiser.init(params)

    @jax.jit
    def step(params, state, velocity, genuine):
        def loss(params):
            return optax.sigmoid_binary_cross_entropy(nnx.merge(graph, params)(velocity), genuine).mean()

        change, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, change), state

    return begin, step, jax.jit(lambda params, velocity: nnx.merge(graph, params)(velocity))


def windows(velocity: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A window of `size` x `size` m out of each slice, from anywhere below 20 m above its shallowest seabed."""
    found = []
    for each in velocity:
        top = max((each != WATER).any(1).argmax() - 20, 0)
        row, column = rng.integers(top, each.shape[0] - size), rng.integers(0, each.shape[1] - size)
        found.append(each[row : row + size, column : column + size])
    return np.stack(found)


def convolutional(genuine: np.ndarray, drawn: np.ndarray, cube: np.ndarray, *, size: int, batches: int) -> np.ndarray:
    """Held-out logits `[slice of both, view]`: whole slices at 5 m, or with `size` windows of so many metres at 1 m."""
    samples = np.concatenate([genuine, drawn])
    samples = samples if size else samples[:, ::5, ::5]
    label = np.r_[np.ones(len(genuine)), np.zeros(len(drawn))].astype(np.float32)
    fold = np.r_[np.unique(cube, return_inverse=True)[1] % FOLDS, np.arange(len(drawn)) % FOLDS]
    logits = np.zeros((len(samples), 8 if size else 1))
    for i in range(FOLDS):
        seen = [np.flatnonzero((fold != i) & (label == value)) for value in (0, 1)]

        def pick(rng: np.random.Generator, seen=seen):
            index = np.concatenate([rng.choice(each, 16, replace=False) for each in seen])
            chosen = windows(samples[index], rng, size) if size else samples[index]
            mirrored = rng.random(len(index))[:, None, None] < 0.5
            return np.where(mirrored, chosen[:, :, ::-1], chosen), label[index]

        begin, step, judge = training(batches)
        (params, state), rng = begin(i), np.random.default_rng(i)
        for _ in range(batches):
            params, state = step(params, state, *pick(rng))
        hidden, rng = np.flatnonzero(fold == i), np.random.default_rng(9)
        for view in range(logits.shape[1]):
            chosen = windows(samples[hidden], rng, size) if size else samples[hidden]
            logits[hidden, view] = np.asarray(judge(params, chosen))
    return logits


def logistic(values: np.ndarray, fold: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Held-out logits of a ridge-penalised logistic regression on the statistics `[slice, statistic]`."""
    filled = np.where(np.isnan(values), np.nanmean(values, 0), values)
    logits = np.zeros(len(values))
    for i in range(FOLDS):
        seen = fold != i
        scaled = (filled - filled[seen].mean(0)) / (filled[seen].std(0) + 1e-9)
        inputs = np.c_[scaled, np.ones(len(values))]
        weights = np.zeros(inputs.shape[1])
        for _ in range(30):  # Newton's steps
            chance = 1 / (1 + np.exp(-np.clip(inputs[seen] @ weights, -30, 30)))
            gradient = inputs[seen].T @ (chance - label[seen]) + 5.0 * weights
            hessian = (inputs[seen].T * (chance * (1 - chance))) @ inputs[seen] + 5.0 * np.eye(len(weights))
            weights -= np.linalg.solve(hessian, gradient)
        logits[fold == i] = inputs[fold == i] @ weights
    return logits


def score(logits: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Accuracy, and area under the curve: how often a genuine sample gets the larger logit of a pair."""
    accuracy = float(((logits > 0) == (label > 0.5)).mean())
    pairs = logits[label > 0.5][:, None] - logits[label < 0.5][None]
    return accuracy, float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())


def judged(genuine: np.ndarray, drawn: np.ndarray, cube: np.ndarray, batches: int) -> tuple[str, int]:
    """The tables in Markdown, and how many statistics lie outside the spread between cubes."""
    names, theirs = table_of(genuine)
    _, ours = table_of(drawn)
    by_cube = np.stack([np.nanmean(theirs[cube == each], 0) for each in np.unique(cube)])
    mean, lowest, highest = np.nanmean(ours, 0), by_cube.min(0), by_cube.max(0)
    inside = (mean >= lowest) & (mean <= highest)
    lines = [
        "| statistic, mean of the slices | random | genuine | cubes, least to most | within |",
        "|---|---|---|---|---|",
    ]
    for i, name in enumerate(names):
        figures = [f"{value:.4g}" for value in (mean[i], np.nanmean(theirs[:, i]), lowest[i], highest[i])]
        lines.append(
            f"| {name} | {figures[0]} | {figures[1]} | {figures[2]} to {figures[3]} | {'yes' if inside[i] else 'NO'} |"
        )
    label = np.r_[np.ones(len(genuine)), np.zeros(len(drawn))]
    fold = np.r_[np.unique(cube, return_inverse=True)[1] % FOLDS, np.arange(len(drawn)) % FOLDS]
    lines += ["", "| classifier, held-out cubes | accuracy | area under the curve |", "|---|---|---|"]
    tests = {"logistic regression on these statistics": logistic(np.concatenate([theirs, ours]), fold, label)[:, None]}
    if batches:
        tests["convolutions on whole slices at 5 m"] = convolutional(genuine, drawn, cube, size=0, batches=batches)
        tests["convolutions on 64 m windows at 1 m"] = convolutional(genuine, drawn, cube, size=64, batches=batches)
    for name, logits in tests.items():
        accuracy, area = score(logits.reshape(-1), np.repeat(label, logits.shape[1]))
        lines.append(f"| {name} | {accuracy:.3f} | {area:.3f} |")
    return "\n".join(lines), int((~inside).sum())


def figure(genuine: np.ndarray, drawn: np.ndarray, path: Path) -> None:
    """Twelve genuine slices, one a cube, above twelve random ones."""
    import matplotlib.pyplot as plt

    shown, axes = plt.subplots(2, 12, figsize=(18, 9), constrained_layout=True)
    for row, models in zip(axes, (genuine[::12], drawn[:12]), strict=True):
        for axis, velocity in zip(row, models, strict=True):
            axis.imshow(velocity, vmin=1500, vmax=4500, cmap="turbo", aspect="auto")
            axis.set(xticks=[], yticks=[])
    shown.savefig(path, dpi=60)
    plt.close(shown)


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", type=Path, help="[model, depth, x] m/s at 1 m instead of random ones")
    parser.add_argument("--count", type=int, default=144)
    parser.add_argument("--batches", type=int, default=200, help="steps of a classifier, of 16 + 16 samples; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="PNG of genuine slices above random ones")
    parser.add_argument("--output", type=Path, help="Markdown file for the tables")
    options = parser.parse_args()
    genuine, cube = genuine_slices(options.data)
    start = time.time()
    drawn = stored(np.load(options.models)) if options.models else drawn_models(options.count, options.seed)
    if options.figure:
        figure(genuine, drawn, options.figure)
    text, outside = judged(genuine, drawn, cube, options.batches)
    what = f" --models {options.models.name}" if options.models else ""
    text = (
        "# Random Speed and Structure models against genuine ones\n\n"
        f"`python benchmarks/earth_statistics.py --batches {options.batches}{what}`, commit {commit()}, "
        f"{os.cpu_count()} cores, no GPU.\n\n"
        f"{len(drawn)} random models against {len(genuine)} genuine slices of {len(np.unique(cube))} cubes, at 1 m; "
        f"{outside} statistics outside the spread between cubes. "
        f"Classifiers: {FOLDS} folds, {options.batches} steps.\n\n"
        f"{text}\n"
    )
    print(text)
    if options.output:
        options.output.write_text(text)
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()

"""How near samplers, compositions and guidances come to exact posteriors, with exact denoisers of 2 x 3 cells.

    python benchmarks/diffusion_rules.py        writes benchmarks/results/diffusion_rules.md

Errors are Monte Carlo of 6000 samples: about 0.03 for the mean (largest over cells, in exact standard deviations) and
0.03 for the covariance (spectral norm, relative) are not distinguishable from 0.
"""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from diffusion_support import CELLS, SHAPE, draw, gap, gaussian, mixture, moments  # noqa: E402

from seisvel_jax.diffusion import diffusionvel  # noqa: E402
from seisvel_jax.diffusion.compose import independent, weighted_mean  # noqa: E402
from seisvel_jax.diffusion.daps import DAPSConfig, daps  # noqa: E402
from seisvel_jax.diffusion.guidance import dps, known, moment_matching, sda  # noqa: E402
from seisvel_jax.diffusion.likelihood import Likelihood  # noqa: E402
from seisvel_jax.diffusion.sampler import SamplerConfig  # noqa: E402

COUNT = 6000
FIRST, SECOND = np.zeros((2, CELLS)), np.zeros((2, CELLS))
FIRST[0, [0, 4]], FIRST[1, [2, 3]] = (1, -0.5), (0.7, 1)
SECOND[0, [1, 4]], SECOND[1, [2, 5]] = (1, 0.5), (0.7, -1)
SAW, ALSO, DEVIATION = np.asarray([0.5, -0.2]), np.asarray([0.1, 0.3]), 0.2
PLAIN, CORRECTED = SamplerConfig("dpm", 48), SamplerConfig("heun", 32, corrections=8)


def row(what, samples, exact, evaluations=""):
    off, wide = gap(samples, exact)
    ratio = np.mean(np.diag(moments(samples)[1]) / np.diag(exact.covariance))
    line = f"| {what} | {evaluations} | {off:.2f} | {wide:.2f} | {ratio:.2f} |"
    print(line, flush=True)
    return line


def share(samples, exact):
    """How many samples lie nearer to a mixture's first part, beside how many should."""
    if not hasattr(exact, "parts"):
        return ""
    flat, logs = np.asarray(samples, np.float64).reshape(-1, CELLS), []
    for weight, part in zip(exact.weights, exact.parts):
        away = flat - part.mean
        size = np.linalg.slogdet(part.covariance)[1]
        logs.append(np.log(weight) - (size + np.einsum("bi,ij,bj->b", away, np.linalg.inv(part.covariance), away)) / 2)
    return f" ({100 * np.mean(logs[0] > logs[1]):.1f} % in the part that has {100 * exact.weights[0]:.1f} %)"


def main():
    prior, two = gaussian(), mixture()
    a, b = prior.given(FIRST, SAW, DEVIATION), prior.given(SECOND, ALSO, DEVIATION)
    both = prior.given(np.concatenate([FIRST, SECOND]), np.concatenate([SAW, ALSO]), DEVIATION)
    head = ["| | evaluations | mean | covariance | variance ratio |", "|---|---|---|---|---|"]
    lines = ["", "## Samplers: a Gaussian prior", "", *head]
    for steps in (8, 16, 32):
        for method in ("heun", "dpm"):
            config = SamplerConfig(method, steps)
            samples = draw(prior.denoise, config, count=COUNT)
            lines.append(row(f"{method}, {steps} steps", samples, prior, config.evaluations))
        config = SamplerConfig("dpm", steps, sigma_min=0.002, sigma_max=80.0, rho=7.0)
        samples = draw(prior.denoise, config, count=COUNT)
        lines.append(row(f"dpm, {steps} steps, EDM's grid", samples, prior, config.evaluations))
    lines += ["", "## Two independent sources: against the exact posterior", "", *head]
    joined, mean = independent(prior.denoise, [a.denoise, b.denoise]), weighted_mean([a.denoise, b.denoise], [0.5, 0.5])
    for corrections in (0, 2, 8):
        config = SamplerConfig("heun", 32, corrections=corrections)
        samples = draw(joined, config, (None, None, None), count=COUNT)
        lines.append(row(f"prior + sum of differences, {corrections} corrections", samples, both, config.evaluations))
    samples = draw(mean, CORRECTED, (None, None), count=COUNT)
    lines.append(row("weighted mean, 8 corrections", samples, both, CORRECTED.evaluations))
    predicts = [diffusionvel.as_predict(a.denoise), diffusionvel.as_predict(b.denoise)]
    for steps in (10, 100):
        run = jax.jit(
            lambda key, steps=steps: diffusionvel.ddim(
                predicts, (None, None), (1, *SHAPE), key, weights=[0.5, 0.5], steps=steps, samples=COUNT, clamp=False
            )
        )
        lines.append(row(f"DiffusionVel: weighted mean, DDIM, {steps} steps", run(jax.random.key(0)), both, steps))
    for name, exact_prior in (("a Gaussian prior", prior), ("two geologies, which the data decide", two)):
        lines += ["", f"## A linear likelihood: {name}", "", *head]
        exact = exact_prior.given(FIRST, SAW, DEVIATION)
        matrix = jnp.asarray(FIRST.T, jnp.float32)
        seen = Likelihood(lambda c, m=matrix: c.reshape(-1, CELLS) @ m, jnp.asarray(SAW[None], jnp.float32), DEVIATION)
        for label, guide in (
            ("DPS, strength 0.3", dps(exact_prior.denoise, seen, strength=0.3)),
            ("SDA, gamma 1.37", sda(exact_prior.denoise, seen, gamma=1.37)),
            ("moment matching", moment_matching(exact_prior.denoise, seen, iterations=4)),
        ):
            for ending, config in (("", PLAIN), (", 8 corrections", CORRECTED)):
                samples = draw(guide, config, count=COUNT)
                lines.append(row(label + ending + share(samples, exact), samples, exact, config.evaluations))
        config = DAPSConfig(levels=50, langevin_steps=20)
        run = jax.jit(
            lambda key, d=exact_prior.denoise, s=seen, c=config: daps(
                d, s, None, (1, *SHAPE), key, config=c, samples=COUNT // 2
            )
        )
        samples = run(jax.random.key(0))
        lines.append(row("DAPS, 50 levels of 20 steps" + share(samples, exact), samples, exact, 50))
    lines += ["", "## Two cells known exactly: the other four against the conditional Gaussian", "", *head]
    select, values = np.eye(CELLS)[[0, 4]], np.asarray([0.5, -0.6])
    exact = prior.given(select, values, 0.0)
    mask, field = select.sum(0).reshape(1, *SHAPE), (values @ select).reshape(1, *SHAPE)
    noise = 0.01 * np.random.default_rng(0).normal(size=(COUNT, 2))
    exact.covariance[[0, 4], [0, 4]] = 1e-4
    for label, iterations, config in (
        ("replacement", 0, PLAIN),
        ("replacement, 8 corrections", 0, CORRECTED),
        ("conditioned", 4, PLAIN),
    ):
        flat = draw(known(prior.denoise, field, mask, iterations=iterations), config, count=COUNT).reshape(COUNT, CELLS)
        flat = np.array(flat)
        flat[:, [0, 4]] += noise
        lines.append(row(label, flat, exact, config.evaluations))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    text = [
        "# Samplers, composition and guidance against exact posteriors",
        "",
        __doc__.split("\n\n", 2)[2].strip(),
        "",
    ]
    text.append(f"`python benchmarks/diffusion_rules.py`, commit {commit}.")
    (ROOT / "benchmarks" / "results" / "diffusion_rules.md").write_text("\n".join(text + lines) + "\n")


if __name__ == "__main__":
    main()

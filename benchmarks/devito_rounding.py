"""Why Devito's own grid takes one of its roundings: `python benchmarks/devito_rounding.py SHARED_DATA`.

One shot of a full look-alike sample (1 m, 0.1 ms, Devito in single precision) against the same scheme in double
precision, written plainly, as it is and with one rounding of Devito's put in. Devito divides by
`m / dt^2 + damp / dt`, a single precision number that is off by a factor 1 + d. So its update is
`u+ = (1 - d) (2 u - u-) + ...`: d acts like a
mass, `c^2 = d / (v dt)^2`, which makes waves too fast by a phase that grows with distance and falls with frequency. In
the water d = 3.1e-8, and the phase of the data shows it. The division itself (a reciprocal and a Newton step, as
compilers make it) rounds again, in a way that cannot be predicted. `wave.boundary.spring` is that
mass; what is traced by JAX runs without it. About three minutes.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seisvel_jax.survey import speed_and_structure
from seisvel_jax.wave import boundary, stencil
from seisvel_jax.wave.propagate import propagate


def double(velocity: np.ndarray, survey: object, source: int, *, rounded: bool) -> np.ndarray:
    """`[time, receiver]` of one shot in float64; velocity `[depth, x]` m/s."""
    grid, dt = survey.grid, survey.dt  # type: ignore[attr-defined]
    pad = boundary.pad_of(grid, survey.boundary)  # type: ignore[attr-defined]
    alpha, beta = (a[0] for a in boundary.coefficients(velocity[None], dt, grid, survey.boundary))  # type: ignore
    wide = np.pad(velocity, ((pad.top, pad.bottom), (pad.left, pad.right)), mode="edge")
    one = np.float32(1)
    slowness = one / ((wide / 1000).astype(np.float32) ** 2)  # Devito's units: km/s and ms
    rate = one / (np.float32(0.1) * np.float32(0.1))
    excess = (rate * slowness).astype(np.float64) / (float(rate) * slowness.astype(np.float64)) - 1
    excess = jnp.asarray(excess if rounded else 0 * excess)
    c = stencil.second_derivative(4)
    at = (pad.top + 20, pad.left + source)
    strength = velocity[20, source] ** 2 * dt**2
    columns = pad.left + 10 * np.arange(31)
    b = (np.pi * 15 * (np.arange(10_000) * dt - 1 / 15)) ** 2
    wavelet = jnp.asarray((1 - 2 * b) * np.exp(-b))

    def step(fields: tuple, amplitude: jax.Array) -> tuple:
        before, now = fields
        w = jnp.pad(now, 2)
        (depth, x), bend = now.shape, 2 * c[0] * now
        for j in (1, 2):
            for dz, dx in ((j, 0), (-j, 0), (0, j), (0, -j)):
                bend = bend + c[j] * w[2 + dz : 2 + dz + depth, 2 + dx : 2 + dx + x]
        new = before + alpha * (now - before) + beta * bend - excess * (2 * now - before)
        new = new.at[at].add(amplitude * strength)
        return (now, new), new[pad.top + 10, columns]

    rest = jnp.zeros(wide.shape)
    record = jax.jit(lambda w: jax.lax.scan(step, (rest, rest), w)[1])(wavelet)
    return np.concatenate([np.zeros((1, 31)), record])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared_data", type=Path, help="the folder with challenge_like/full")
    sample = parser.parse_args().shared_data / "challenge_like" / "full" / "sample_010"
    data = np.load(sample / "receiver_data_src_225.npy").astype(np.float64)
    velocity = 1000 * np.load(sample / "vp_model.npy").T
    survey = speed_and_structure()
    survey = dataclasses.replace(survey, sources=survey.sources[3:4])
    model = velocity[None].astype(np.float32)
    single = np.asarray(propagate(model, survey)[0, 0])
    without = np.asarray(jax.jit(lambda v: propagate(v, survey, max_velocity=float(model.max())))(model)[0, 0])
    jax.config.update("jax_enable_x64", True)
    exact, rounded = (double(velocity, survey, 224, rounded=r) for r in (False, True))

    def relative(found: np.ndarray, expected: np.ndarray) -> str:
        return f"{np.linalg.norm(found - expected) / np.linalg.norm(expected):.2e}"

    print("against the data: double precision                   ", relative(exact, data))
    print("                  with Devito's rounding put in      ", relative(rounded, data))
    print("                  this package                       ", relative(single, data))
    print("                  this package without that rounding ", relative(without, data))
    print("this package without that rounding against double    ", relative(without, exact))


if __name__ == "__main__":
    main()

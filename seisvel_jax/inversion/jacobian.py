"""Every derivative of every sample by every cell: the dense Jacobian of a small experiment, for Gauss-Newton steps.

What a change of velocity at x adds to the gathers is, to first order, the field that the change sends out, `2 dv / v`
times the second difference of the shot's field in time, carried from x to the receiver. By reciprocity the way back is
the field of a shot at the receiver: `g(r, x) = g(x, r) v_r^2 / v_x^2`, and in a PML the same times `s_z s_x`, how much
the layer stretches (Collino & Tsogka 2001). So one run of as many shots as there are sources and receivers gives all
columns, each a convolution along time (Shin, Yoon, Marfurt et al. 2001). Fields are kept every `every` samples, which
loses nothing below half that rate. Cells at the edge stand for the layer beyond them too, where they are repeated.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.fft

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey
from seisvel_jax.wave.plan import Plan, make_plan
from seisvel_jax.wave.scheme import Scheme
from seisvel_jax.wave.wavefield import snapshots

LEAD = 8
"""Frames before the receivers' shots are fired: their band-limited impulse begins before its peak."""
FAINT = 1e-4
"""Of the wavelet: strength of that impulse, so that the wavelet alone says how the PML is tuned."""


def frames(survey: Survey, every: int) -> np.ndarray:
    """The rows of the gathers that the Jacobian holds, every `every`-th, without OpenFWI's last: it holds no field."""
    return np.arange(1, (survey.nt - 1) // every + 1) * every - survey.record_start


def jacobian(
    velocity: np.ndarray, survey: Survey, *, max_velocity: float, every: int = 8, scheme: Scheme | None = None
) -> Iterator[np.ndarray]:
    """Of each shot in turn, `[receiver, frame, cell]` float32: derivatives by the velocity in m/s.

    velocity `[depth, x]` m/s; survey: its boundary a PML, one wavelet for all sources. The frames are the rows
    `frames(survey, every)`. Memory is that of `receiver * 2 frame` models, twice. Raises UserError for other surveys.
    """
    if survey.boundary.kind != "pml" or survey.boundary.free_surface or np.ndim(survey.wavelet) != 1:
        raise UserError(
            f"survey {survey.name}: a dense Jacobian wants a PML all around and one wavelet for all sources: use "
            "with_pml(survey), or L-BFGS"
        )
    sources, receivers = np.asarray(survey.sources), np.asarray(survey.receivers)
    count = (survey.nt - 1) // every
    everywhere, impulse = _experiment(survey, every)
    plan = make_plan(everywhere, max_velocity, scheme)
    fields = np.asarray(
        snapshots(
            velocity[None].astype(np.float32),
            everywhere,
            every=every,
            scheme=scheme,
            max_velocity=max_velocity,
            layers=True,
        )
    )[0]
    pad = plan.pad
    padded = np.pad(velocity.astype(np.float64), ((pad.top, pad.bottom), (pad.left, pad.right)), mode="edge")
    sent = _second_difference(fields[: len(sources)], count, every * survey.dt, plan) * (2 / padded).astype(np.float32)
    heard = fields[len(sources) :] / ((padded * survey.dt / survey.grid.spacing) ** 2 * impulse / every).astype(
        np.float32
    )
    length = scipy.fft.next_fast_len(2 * count + LEAD + 1, real=True)
    back = [scipy.fft.rfft(one.reshape(len(one), -1), length, axis=0, workers=-1) for one in heard]
    for shot in sent:
        out = scipy.fft.rfft(shot.reshape(count, -1), length, axis=0, workers=-1)
        found = np.empty((len(receivers), count, velocity.size), np.float32)
        for r, way in enumerate(back):
            both = scipy.fft.irfft(out * way, length, axis=0, workers=-1)[LEAD - 1 : LEAD - 1 + count]
            found[r] = _folded(both.reshape(count, *padded.shape), plan).reshape(count, -1)
        yield found


def _experiment(survey: Survey, every: int) -> tuple[Survey, float]:
    """The sources with their wavelet and the receivers with an impulse below Nyquist's frequency of the frames, as
    shots; and how strong the impulse is."""
    length = survey.nt + every * LEAD + 1
    wavelet = np.asarray(survey.wavelet, np.float64)
    fired = np.zeros(length)
    fired[: min(len(wavelet), length)] = wavelet[:length]
    nyquist = 0.5 / (every * survey.dt)
    frequency = np.fft.rfftfreq(4 * length, survey.dt)
    band = 0.5 + 0.5 * np.cos(np.pi * np.clip((frequency / nyquist - 0.75) / 0.25, 0, 1))
    # Injected at step n it is in the field at n + 1: the way takes no time from frame LEAD on.
    late = np.exp(-2j * np.pi * frequency * (every * LEAD - 1) * survey.dt)
    strength = FAINT * np.abs(fired).max()
    impulse = strength * np.fft.irfft(band * late, 4 * length)[:length]
    count = len(survey.sources), len(survey.receivers)
    wavelets = np.concatenate([np.tile(fired, (count[0], 1)), np.tile(impulse, (count[1], 1))])
    places = np.concatenate([survey.sources, survey.receivers])
    everywhere = dataclasses.replace(
        survey,
        sources=places,
        receivers=np.asarray(survey.receivers)[:1],
        wavelet=wavelets.astype(np.float32),
        nt=length,
    )
    return everywhere, float(strength)


def _second_difference(fields: np.ndarray, count: int, step: float, plan: Plan) -> np.ndarray:
    """`u(t) - 2 u(t - dt) + u(t - 2 dt)` of fields `[shot, frame, depth, x]` at `step` seconds a frame, stretched as
    the PML stretches; the first `count` frames."""
    dt = plan.dt * plan.substeps
    length = 4 * count
    angle = 2 * np.pi * np.fft.rfftfreq(length, step) * dt
    curve = (np.exp(-1j * angle) * (2 * np.cos(angle) - 2)).astype(np.complex64)[:, None]
    fade = np.ones(count + LEAD, np.float32)
    fade[count:] = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, LEAD + 1) / (LEAD + 1))
    layer, stretch, damping = _stretch(plan, length, step)
    result = np.empty((len(fields), count, *fields.shape[2:]), np.float32)
    for shot, field in enumerate(fields):
        flat = (field[: count + LEAD] * fade[:, None, None]).reshape(count + LEAD, -1)
        bent = scipy.fft.irfft(curve * scipy.fft.rfft(flat, length, axis=0), length, axis=0)[:count]
        damped = damping[:count, None]
        spectrum = scipy.fft.rfft(bent[:, layer] * damped, length, axis=0) * stretch
        bent[:, layer] = scipy.fft.irfft(spectrum, length, axis=0)[:count] / damped
        result[shot] = bent.reshape(count, *fields.shape[2:])
    return result


def _stretch(plan: Plan, length: int, step: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes of the layer, `s_z s_x` there `[frequency, node]`, and the decay `[length]` under which it is taken.

    `s` has a pole at frequency 0 or near it, whose long tail must not come round again.
    """
    decay = 12 / (length * step)
    delay = np.exp(-(decay + 2j * np.pi * np.fft.rfftfreq(length, step)) * plan.dt)[:, None]  # z^-1 of one solver step

    def side(profile: tuple) -> np.ndarray:
        a, b = (np.asarray(values, np.float64) for values in profile)
        return (1 - b * delay) / (1 - b * delay + a)  # derivatives in the layer are those outside over this

    top, bottom, left, right = (side(profile) for profile in plan.layer)
    depth = np.concatenate([top[:, ::-1], np.ones((len(delay), plan.grid.depth_count)), bottom], axis=1)
    x = np.concatenate([left[:, ::-1], np.ones((len(delay), plan.grid.x_count)), right], axis=1)
    layer = ((depth != 1).any(0)[:, None] | (x != 1).any(0)[None]).ravel()
    both = (depth[:, :, None] * x[:, None, :]).reshape(len(delay), -1)[:, layer]
    return layer, both.astype(np.complex64), np.exp(-decay * step * np.arange(length)).astype(np.float32)


def _folded(values: np.ndarray, plan: Plan) -> np.ndarray:
    """Of `[..., depth, x]` with the layer around, the model's cells, the layer's added to the nearest of them."""
    pad, (depth, x) = plan.pad, plan.grid.shape
    rows = values[..., pad.top : pad.top + depth, :].copy()
    rows[..., 0, :] += values[..., : pad.top, :].sum(-2)
    rows[..., -1, :] += values[..., pad.top + depth :, :].sum(-2)
    cells = rows[..., pad.left : pad.left + x].copy()
    cells[..., 0] += rows[..., : pad.left].sum(-1)
    cells[..., -1] += rows[..., pad.left + x :].sum(-1)
    return cells

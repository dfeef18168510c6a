"""Whether gathers are of the experiment a run was trained on, and at which sampling."""

import numpy as np

from seisvel_jax.errors import UserError
from seisvel_jax.survey import Survey


def other_experiment(survey: Survey, trained: Survey) -> str | None:
    """How the experiment differs from the one trained on, whatever the sampling of either; None where it does not."""
    near = max(survey.grid.spacing, trained.grid.spacing)
    for name, have, want in (
        ("sources", survey.sources, trained.sources),
        ("receivers", survey.receivers, trained.receivers),
    ):
        if have.shape[-2] != want.shape[-2]:
            return f"{have.shape[-2]} {name}, expected {want.shape[-2]}"
        apart = float(np.abs(np.asarray(have) - np.asarray(want)).max())
        if apart > near / 2:
            return f"its {name} lie up to {apart:g} m from those trained on"
    lasts, wanted = (s.dt * (s.nt - 1) for s in (survey, trained))
    if abs(lasts - wanted) > 2 * max(survey.dt, trained.dt):
        return f"records of {lasts:g} s, expected {wanted:g} s"
    if max(abs(a - b) for a, b in zip(survey.grid.extent, trained.grid.extent)) > near:
        return "a model of {:g} m x {:g} m (depth, x), ".format(
            *survey.grid.extent
        ) + "expected {:g} m x {:g} m".format(*trained.grid.extent)
    return None


def survey_of_gathers(batch: np.ndarray, trained: Survey, dt: float | None) -> Survey:
    """The run's experiment at the sampling of these gathers."""
    source, time, receiver = batch.shape[1:]
    want = trained.gather_shape
    if (source, receiver) != (want[0], want[2]):
        raise UserError(
            f"gathers with {source} sources and {receiver} receivers, expected {want[0]} and {want[2]} as in the run's "
            f"survey '{trained.name}' (axes are source, time, receiver); for another experiment give its survey"
        )
    if time < 2:
        raise UserError(f"gathers with {time} time samples, expected a record of {(want[1] - 1) * trained.dt:g} s")
    length = (trained.nt - 1) * trained.dt
    survey = trained.resampled(dt=dt or (trained.dt if time == trained.nt else length / (time - 1)))
    if survey.nt != time:
        raise UserError(
            f"gathers of {time} samples every {survey.dt:g} s, expected {survey.nt} samples for the run's record of "
            f"{length:g} s: check dt"
        )
    return survey

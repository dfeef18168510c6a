# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: from shot gathers to a velocity model
#
# Needs a trained run and a folder of samples; `make demo` makes both (about seven minutes on two cores).
# Point `SEISVEL_RUN` and `SEISVEL_DATA` elsewhere to use your own.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from seisvel_jax import load
from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.metrics import mape

demo = next((p for p in (Path("demo"), Path("../demo")) if p.is_dir()), Path("demo"))
run = Path(os.environ.get("SEISVEL_RUN", demo / "run"))
data = Path(os.environ.get("SEISVEL_DATA", demo / "test"))

# %% [markdown]
# ## Look at the data
# A data set is opened by what lies in its folder. Inside the package everything is SI: gathers are
# `[source, time, receiver]`, velocity is `[depth, x]` in m/s.

# %%
samples = open_dataset(data)
survey = samples.survey
print(
    f"{len(samples)} samples in the layout '{samples.layout}', gathers {survey.gather_shape} at {1e3 * survey.dt:g} ms"
)
gathers, truth = samples.gathers(0), samples.velocity(0)

duration = survey.dt * (survey.nt - 1)
clip = np.percentile(np.abs(gathers), 97)
figure, axes = plt.subplots(1, len(gathers), figsize=(14, 4), sharey=True, layout="constrained")
for axis, gather, (x, _) in zip(axes, gathers, survey.sources):
    left, right = survey.receivers[0, 0], survey.receivers[-1, 0]
    axis.imshow(gather, cmap="gray", vmin=-clip, vmax=clip, aspect="auto", extent=(left, right, duration, 0))
    axis.set(title=f"shot at {x:.0f} m", xlabel="receiver x (m)")
axes[0].set_ylabel("time (s)")

# %% [markdown]
# ## Predict
# `load` takes a run (or several: their ensembles are joined). The prediction is the members' mean under the weights
# that were fitted on validation data.

# %%
predictor = load(run)
prediction = predictor.predict(gathers[None], survey=survey)[0]
print(f"MAPE of this sample: {100 * float(mape(prediction[None], truth[None])[0]):.2f} %")

# %% [markdown]
# ## How sure is the ensemble?
# The members disagree where the gathers say little: below strong contrasts and at depth.

# %%
members = predictor.predict_members(gathers[None], survey=survey)[:, 0]
spread = members.std(axis=0)
print(f"{len(members)} members with weights {np.round(predictor.weights, 3)}")

depth, width = survey.grid.extent
extent = (0, width, depth, 0)
figure, axes = plt.subplots(1, 4, figsize=(12, 7), sharey=True, layout="constrained")
velocity = dict(cmap="turbo", vmin=1500, vmax=4500, extent=extent, aspect="equal")
for axis, panel, title in zip(axes[:2], (truth, prediction), ("truth", "prediction")):
    picture = axis.imshow(panel, **velocity)
    axis.set(title=title, xlabel="x (m)")
figure.colorbar(picture, ax=axes[:2], label="P-wave velocity (m/s)", shrink=0.6)
error = axes[2].imshow(prediction - truth, cmap="RdBu_r", vmin=-600, vmax=600, extent=extent, aspect="equal")
axes[2].set(title="error", xlabel="x (m)")
figure.colorbar(error, ax=axes[2], label="prediction - truth (m/s)", shrink=0.6)
deviation = axes[3].imshow(spread, cmap="magma", vmin=0, extent=extent, aspect="equal")
axes[3].set(title="ensemble spread", xlabel="x (m)")
figure.colorbar(deviation, ax=axes[3], label="standard deviation (m/s)", shrink=0.6)
axes[0].set_ylabel("depth (m)")

# %% [markdown]
# ## Test-time augmentation and post-processing
# Mirroring reverses the shots, the receivers and the lateral axis together. Post-processing (edge-preserving
# smoothing, bounds, exact water and salt) uses what was fitted on validation data, and only what helped there.

# %%
for name, options in {
    "plain": {},
    "mirror TTA": {"tta": True},
    "post-processing": {"post_process": True},
    "both": {"tta": True, "post_process": True},
}.items():
    result = predictor.predict(gathers[None], survey=survey, **options)
    print(f"{name:16s} MAPE {100 * float(mape(result, truth[None])[0]):.2f} %")

"""The challenge at full size: five attention networks of width 512, 8 heads, 12 layers, on 1 m grids at 1 ms.

    python -m seisvel_jax.train configs/speed_and_structure.py --data.path DATA/train --workdir RUN

Decimating time by ten loses nothing: nothing in these data lies above 50 Hz. Where samples are named after the cube
they were cut from, give `--data.split-by prefix`: slices of one cube resemble each other. Without a GPU of 40 GB or
more, lower `--groups.0.members` or `--batch-size` (with `--optim.accumulate`).

Hardware: one GPU of 80 GB. Time: not yet measured. Expected score: not yet measured. Commit: not yet measured.
"""

from seisvel_jax.config import Config
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.training.config import OptimConfig

config = Config(
    name="speed_and_structure",
    groups=(
        GroupConfig(
            VelocityNetConfig(
                width=512,
                heads=8,
                encoder_layers=8,
                decoder_layers=4,
                dtype="bfloat16",
                remat=True,
            ),
            members=5,
        ),
    ),
    data=DataConfig(split_by="file", dt=1e-3, read_threads=8, prefetch=16),
    # Warm restarts at 5,000 and 15,000 steps after the warm-up; the third cycle ends at 36,000, some 64 epochs.
    optim=OptimConfig(learning_rate=1e-4, weight_decay=0.01, warmup_steps=1000, cycle_steps=5000, cycle_growth=2.0),
    batch_size=8,
    steps=36_000,
    eval_every=1000,
)

"""Which output: a sigmoid to the bounds or softplus above the lower one? Two members of each, all else equal.

    python -m seisvel_jax.train configs/output_heads.py --data.path demo/train --workdir RUN

Hardware: 2 CPU cores, shared. Time: 4 minutes on the demo's 480 samples. Expected score: validation MAPE of the members
4.06 and 3.73 % (sigmoid), 4.08 and 4.09 % (softplus): no difference beyond the seeds. Commit: 67cd8c4.
"""

import dataclasses

from seisvel_jax.config import Config
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, OptimConfig

sigmoid = VelocityNetConfig(
    width=96,
    heads=4,
    encoder_layers=1,
    decoder_layers=1,
    stem_channels=(16, 32),
    stem_blocks=(0, 1),
    patch_duration=0.04,
    token_duration=0.04,
    receiver_tokens=1,
    moments=(2, 4),
    patch_shape=(12, 10),
    refine_channels=0,
    dropout=0.0,
    spacing=5.0,
    output="sigmoid",
)

config = Config(
    name="output_heads",
    groups=(
        GroupConfig(sigmoid, members=2),
        GroupConfig(dataclasses.replace(sigmoid, output="softplus"), members=2),
    ),
    data=DataConfig(split_by="none", validation_fraction=0.1),
    optim=OptimConfig(kind="muon", learning_rate=3e-3, warmup_steps=40),
    augment=AugmentConfig(noise=0.0, trace_dropout=0.0, shot_dropout=0.0, shift=0.0, time_mask=0.0, frequency_mask=0.0),
    steps=500,
    eval_every=500,
    ema_decay=0.98,
    figures=0,
)

"""The demo's ensemble: two architectures, small enough to learn the challenge's experiment on a laptop in minutes.

    python -m seisvel_jax.train configs/demo.py --data.path demo/train --workdir demo/run

Hardware: 2 CPU cores. Time: not yet measured. Expected score: not yet measured. Commit: not yet measured.
"""

from seisvel_jax.config import Config
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, InversionNetConfig, VelocityNetConfig
from seisvel_jax.training.augment import AugmentConfig
from seisvel_jax.training.optim import OptimConfig

config = Config(
    name="demo",
    groups=(
        GroupConfig(
            VelocityNetConfig(
                width=128,
                heads=4,
                encoder_layers=2,
                decoder_layers=2,
                stem_channels=(16, 64),
                stem_blocks=(1, 1),
                patch_duration=0.02,
                token_duration=0.04,
                receiver_tokens=4,
                patch_shape=(12, 12),
                refine_channels=8,
                dropout=0.0,
                spacing=5.0,
            ),
            members=2,
        ),
        GroupConfig(
            InversionNetConfig(width=0.25, decoder="pixel_shuffle", amplitude=0.0155),
            members=1,
        ),
    ),
    data=DataConfig(split_by="none", validation_fraction=0.1),
    optim=OptimConfig(learning_rate=2e-3, warmup_steps=40),
    augment=AugmentConfig(noise=0.0, trace_dropout=0.0, shot_dropout=0.0, shift=0.0, time_mask=0.0, frequency_mask=0.0),
    batch_size=8,
    steps=600,
    eval_every=300,
    ema_decay=0.97,
)

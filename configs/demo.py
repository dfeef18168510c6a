"""The demo's ensemble: two architectures, small enough to learn the challenge's experiment on a laptop in minutes.

    python -m seisvel_jax.train configs/demo.py --data.path demo/train --workdir demo/run

Hardware: 2 CPU cores. Time: 3.9 minutes on 480 simulated samples, 50 s of it compiling (timed at 7c9f6cd).
Expected score: validation MAPE 3.51 % (members 3.75, 3.49, 3.74); held-out 2.90 % with test-time augmentation and
post-processing, against 9.00 % of the best constant profile. Commit: 7f7da4e.
"""

from seisvel_jax.config import Config
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, OptimConfig

config = Config(
    name="demo",
    groups=(
        GroupConfig(
            VelocityNetConfig(
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
            ),
            members=2,
        ),
        GroupConfig(
            VelocityNetConfig(
                width=96,
                heads=4,
                encoder_layers=1,
                decoder_layers=1,
                stem_channels=(16, 32),
                stem_blocks=(0, 1),
                patch_duration=0.04,
                token_duration=0.08,
                receiver_tokens=2,
                moments=(2, 2),
                patch_shape=(12, 12),
                refine_channels=0,
                dropout=0.0,
                spacing=5.0,
                output="softplus",
            ),
        ),
    ),
    data=DataConfig(split_by="none", validation_fraction=0.1),
    optim=OptimConfig(kind="muon", learning_rate=3e-3, warmup_steps=40),
    augment=AugmentConfig(noise=0.0, trace_dropout=0.0, shot_dropout=0.0, shift=0.0, time_mask=0.0, frequency_mask=0.0),
    batch_size=8,
    steps=850,
    eval_every=425,
    ema_decay=0.98,
)

"""The smallest ensemble that learns something on data of OpenFWI's geometry: about a minute on two CPU cores.

    python -m seisvel_jax.train configs/openfwi_minute.py --data.path DATA --workdir RUN

Hardware: 2 CPU cores. Time: not yet measured. Expected score: not yet measured. Commit: not yet measured.
"""

from seisvel_jax.config import Config
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, OptimConfig

config = Config(
    name="openfwi_minute",
    groups=(
        GroupConfig(
            VelocityNetConfig(
                width=64,
                heads=4,
                encoder_layers=1,
                decoder_layers=1,
                stem_channels=(16, 32),
                stem_blocks=(1, 1),
                patch_duration=0.02,
                token_duration=0.1,
                receiver_tokens=7,
                patch_shape=(7, 7),
                refine_channels=8,
                dropout=0.0,
                spacing=10.0,
                amplitude=1.46,
            ),
            members=2,
        ),
    ),
    data=DataConfig(split_by="none"),
    optim=OptimConfig(learning_rate=2e-3, warmup_steps=20),
    augment=AugmentConfig(noise=0.2, trace_dropout=0.0, shot_dropout=0.0, time_mask=0.0, frequency_mask=0.0),
    batch_size=8,
    steps=200,
    eval_every=100,
    ema_decay=0.97,
)

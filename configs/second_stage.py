"""A second stage that corrects the demo's ensemble from the residual of its simulated gathers, trained on online data.

    python -m seisvel_jax.train configs/second_stage.py --first-stage.checkpoint RUN1 --workdir RUN2

RUN1 is a run on the challenge's experiment at 5 m and 1 ms, such as configs/online_speed_and_structure.py leaves.

Hardware: one GPU. Time: not yet measured. Expected score: not yet measured; benchmarks/second_stage.py is a smaller run
for a CPU. Commit: not yet measured.
"""

from seisvel_jax.config import Config
from seisvel_jax.data.online import OnlineConfig
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, FirstStageConfig, OptimConfig

config = Config(
    name="second_stage",
    groups=(
        GroupConfig(
            VelocityNetConfig(
                width=192,
                heads=6,
                encoder_layers=3,
                decoder_layers=2,
                stem_channels=(32, 64),
                stem_blocks=(1, 1),
                patch_duration=0.04,
                token_duration=0.04,
                receiver_tokens=2,
                moments=(2, 4),
                patch_shape=(12, 10),
                refine_channels=0,
                dropout=0.0,
                spacing=5.0,
                second_stage=True,
            ),
            members=2,
        ),
    ),
    first_stage=FirstStageConfig("RUN1"),
    data=DataConfig(online=OnlineConfig(survey="speed-and-structure"), grid_spacing=5.0, dt=1e-3, seed=1),
    optim=OptimConfig(kind="muon", learning_rate=1e-3, warmup_steps=500),
    augment=AugmentConfig(
        amplitude=0.0, noise=0.2, trace_dropout=0.0, shot_dropout=0.0, shift=0.0, time_mask=0.0, frequency_mask=0.0
    ),
    batch_size=16,
    steps=10_000,
    eval_every=1000,
    validation_samples=128,
)

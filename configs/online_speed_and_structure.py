"""The demo's ensemble on samples that nobody stored: challenge-like earths, drawn and simulated while it trains.

    python -m seisvel_jax.train configs/online_speed_and_structure.py --workdir RUN

No data are needed: every step sees new ones, on a 5 m grid at 1 ms, with six sponge widths from 350 to 600 m in turn.
With `--data.path DATA --data.online.survey ""` the samples there validate, or fill the rest of each batch
(`--data.online.share 0.5`).

Hardware: one GPU; on a CPU the simulation sets the pace (docs/online.md). Time: not yet measured. Expected score: not
yet measured. Commit: not yet measured. A smaller run for a CPU, benchmarks/online.py, is measured in
benchmarks/results/online_cpu.md: a lower error on unseen samples than 256 stored ones give in as many steps.
"""

from seisvel_jax.config import Config
from seisvel_jax.data.online import OnlineConfig
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, OptimConfig

config = Config(
    name="online_speed_and_structure",
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
            ),
            members=3,
        ),
    ),
    data=DataConfig(
        online=OnlineConfig(survey="speed-and-structure", sponge_widths=(350.0, 400.0, 450.0, 500.0, 550.0, 600.0)),
        grid_spacing=5.0,
        dt=1e-3,
    ),
    optim=OptimConfig(kind="muon", learning_rate=1e-3, warmup_steps=500),
    augment=AugmentConfig(noise=0.2, trace_dropout=0.0, shot_dropout=0.0, time_mask=0.0, frequency_mask=0.0),
    batch_size=16,
    steps=20_000,
    eval_every=1000,
    validation_samples=128,
)

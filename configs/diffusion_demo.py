"""A small diffusion model of two OpenFWI families: velocity from gathers, wells, background and family, or any of them.

    python -m seisvel_jax.train_diffusion configs/diffusion_demo.py --workdir RUN
    python -m seisvel_jax.sample --checkpoint RUN --data DATA --samples 16 --output samples.npz

The samples are drawn once, kept in RUN/pool (1.8 GB; 5 GB of memory while training), and trained on for eight epochs,
mirrored or not, with other noise and conditions each time. A matched layer ends seven of eight of them, nine times as
fast as OpenFWI's sponge, whose late echo the network learns from the eighth.

Hardware: 2 CPU cores. Time: 21 min 37 s, 5 minutes of them to simulate.
Expected score: 236 and 296 m/s MAE of the mean of 24 samples given gathers alone on models of the two families, 119 and
168 given wells and a background too; 90 % intervals hold 90 to 95 % (benchmarks/results/diffusion_cpu.md).
Commit: 2475d06.
"""

from dataclasses import replace

from seisvel_jax.config import DiffusionConfig
from seisvel_jax.data.online import OnlineConfig
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.diffusion.config import ConditionConfig, DenoiserConfig
from seisvel_jax.models.config import VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, OptimConfig

config = DiffusionConfig(
    name="diffusion_demo",
    denoiser=DenoiserConfig(
        encoder=VelocityNetConfig(
            width=96,
            heads=4,
            encoder_layers=1,
            decoder_layers=1,
            stem_channels=(16, 32),
            stem_blocks=(0, 1),
            patch_duration=0.04,
            token_duration=0.08,
            receiver_tokens=2,
            moments=(2, 4),
            patch_shape=(7, 7),
            refine_channels=0,
            dropout=0.0,
            spacing=10.0,
            dt=4e-3,
            amplitude=1.46,
        ),
        layers=4,
        channels=16,
        blocks=1,
        patch_shape=(7, 7),
        families=("curvefault-b", "flatfault-b"),
    ),
    log_levels=(-0.4, 1.4),
    condition=ConditionConfig(drop_gathers=0.15, drop_shot=0.05, drop_wells=0.6, drop_background=0.6),
    data=DataConfig(
        online=OnlineConfig(survey="openfwi", family="curvefault-b,flatfault-b", pool=5120, pml=100.0, sponge_every=8),
        dt=4e-3,
        read_threads=1,
    ),
    optim=OptimConfig(kind="muon", learning_rate=4e-3, warmup_steps=100),
    augment=replace(AugmentConfig.off(), mirror=0.5),
    batch_size=16,
    steps=2500,
    eval_every=1250,
    ema_decay=0.998,
    validation_samples=32,
    validation_steps=8,
    figures=4,
)

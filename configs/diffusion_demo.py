"""A small diffusion model of two OpenFWI families: velocity from gathers, wells, background and family, or any of them.

    python -m seisvel_jax.train_diffusion configs/diffusion_demo.py --workdir RUN
    python -m seisvel_jax.sample --checkpoint RUN --data DATA --samples 16 --output samples.npz

Drawing and simulating a sample takes 0.12 s on 2 cores, a training step on it a fraction of that. So the samples are
drawn once, kept in RUN/pool, and trained on for many epochs, mirrored or not, with other noise and conditions.

Hardware: 2 CPU cores. Time: 32 minutes beside other work, 22 of one core. Expected score: 450 m/s MAE of the mean given
gathers alone, CRPS 289 m/s (step 0: 581), 90 % intervals hold 90 %; given wells and a background too, 172 to 222 m/s
(benchmarks/results/diffusion_cpu.md). Calibrated, but it has learnt little from the gathers yet. Commit: dfd8c99.
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
        online=OnlineConfig(survey="openfwi", family="curvefault-b,flatfault-b", pool=6000, pml=100.0),
        dt=4e-3,
        read_threads=1,
    ),
    optim=OptimConfig(kind="muon", learning_rate=4e-3, warmup_steps=100),
    augment=replace(AugmentConfig.off(), mirror=0.5),
    batch_size=16,
    steps=2800,
    eval_every=1400,
    ema_decay=0.998,
    validation_samples=32,
    figures=4,
)

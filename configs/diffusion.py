"""The diffusion model of OpenFWI's ten families at full size, on samples that nobody stores.

    python -m seisvel_jax.train_diffusion configs/diffusion.py --workdir RUN
    python -m seisvel_jax.sample --checkpoint RUN --data DATA --samples 16 --output samples.npz

Every step draws and simulates new models, the ten families in turn. For stored ones copy this file and give
`data=DataConfig("DATA")`: their labels are read from the names of folders such as CurveFault_B.

Hardware: one GPU of 80 GB. Time: not yet measured. Expected score: not yet measured. Commit: not yet measured.
"""

from seisvel_jax.config import DiffusionConfig
from seisvel_jax.data.online import OnlineConfig
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.diffusion.config import ConditionConfig, DenoiserConfig
from seisvel_jax.models.config import VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, OptimConfig

FAMILIES = (
    "flatvel-a",
    "flatvel-b",
    "curvevel-a",
    "curvevel-b",
    "flatfault-a",
    "flatfault-b",
    "curvefault-a",
    "curvefault-b",
    "style-a",
    "style-b",
)

config = DiffusionConfig(
    name="diffusion",
    denoiser=DenoiserConfig(
        encoder=VelocityNetConfig(
            width=384,
            heads=6,
            patch_duration=0.01,
            token_duration=0.05,
            receiver_tokens=7,
            patch_shape=(5, 5),
            spacing=10.0,
            amplitude=1.46,
            dtype="bfloat16",
        ),
        layers=10,
        channels=32,
        patch_shape=(5, 5),
        families=FAMILIES,
    ),
    condition=ConditionConfig(drop_gathers=0.15, drop_shot=0.1),
    data=DataConfig(online=OnlineConfig(survey="openfwi", family=",".join(FAMILIES))),
    optim=OptimConfig(kind="muon", learning_rate=1e-3, warmup_steps=1000),
    augment=AugmentConfig(noise=0.3, shift=0.0, time_mask=0.0, frequency_mask=0.0),
    batch_size=32,
    steps=200_000,
    eval_every=10_000,
    ema_decay=0.9995,
    validation_samples=128,
)

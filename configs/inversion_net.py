"""InversionNet, the baseline everybody quotes, trained as published: L1 in effect, AdamW 1e-4, batch 256, 120 epochs.

    python -m seisvel_jax.train configs/inversion_net.py --data.path DATA/FlatVel_A --workdir RUN

GroupNorm stands where the publication has BatchNorm; the loss is relative (MAPE), the others off.

Hardware: one GPU of 40 GB. Time: not yet measured. Expected score: not yet measured (published, FlatVel-A: MAE 19.7
m/s). Commit: not yet measured.
"""

from seisvel_jax.config import Config
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, InversionNetConfig
from seisvel_jax.training.config import AugmentConfig, LossConfig, OptimConfig

config = Config(
    name="inversion_net",
    groups=(GroupConfig(InversionNetConfig(), members=1),),
    data=DataConfig(split_by="file", read_threads=8, prefetch=8),
    loss=LossConfig(mape=1.0, l2=0.0, gradient=0.0, physics=0.0),
    augment=AugmentConfig.off(),
    optim=OptimConfig(learning_rate=1e-4, weight_decay=1e-4, warmup_steps=0, final_fraction=1.0),
    batch_size=256,
    steps=11_250,
    eval_every=500,
    ema_decay=0.99,
)

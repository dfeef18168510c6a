"""One family, or all, of OpenFWI at full size: three attention networks and one InversionNet in one step.

    python -m seisvel_jax.train configs/openfwi.py --data.path DATA/FlatVel_A --workdir RUN

Split by file: neighbours within a file of 500 leak. Zero offset and near offsets carry the shallow velocities.

Hardware: one GPU of 80 GB. Time: not yet measured. Expected score: not yet measured. Commit: not yet measured.
"""

from seisvel_jax.config import Config
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.models.config import GroupConfig, InversionNetConfig, VelocityNetConfig
from seisvel_jax.training.config import AugmentConfig, OptimConfig

config = Config(
    name="openfwi",
    groups=(
        GroupConfig(
            VelocityNetConfig(
                width=384,
                heads=6,
                patch_duration=0.01,
                token_duration=0.05,
                receiver_tokens=7,
                patch_shape=(7, 7),
                spacing=10.0,
                amplitude=1.46,
                dtype="bfloat16",
            ),
            members=3,
        ),
        GroupConfig(InversionNetConfig(decoder="pixel_shuffle", dtype="bfloat16"), members=1),
    ),
    data=DataConfig(split_by="file", read_threads=8, prefetch=16),
    # The benchmark's gathers carry no noise and no dead traces: mirrored and slightly scaled is all they need.
    augment=AugmentConfig(
        noise=0.1,
        noise_snr_db=(30.0, 50.0),
        amplitude=0.0,
        trace_dropout=0.0,
        shot_dropout=0.0,
        shift=0.0,
        time_mask=0.0,
        frequency_mask=0.0,
    ),
    optim=OptimConfig(learning_rate=3e-4, warmup_steps=1000),
    batch_size=64,
    steps=45_000,
    eval_every=1500,
    validation_samples=512,
)

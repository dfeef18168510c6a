"""The smallest ensemble that learns something on data of OpenFWI's geometry: about a minute on two CPU cores.

    python -m seisvel_jax.simulate --survey openfwi --layout openfwi --count 192 --file-size 48 --seed 1 --output DATA
    python -m seisvel_jax.train configs/openfwi_minute.py --data.path DATA --workdir RUN

Hardware: 2 CPU cores. Time: 72 s, half of it compiling. Expected score: validation MAPE 16.9 %; on the genuine
CurveFault-B pair 17.0 %, 397 m/s MAE, SSIM 0.51 with --tta: little more than a depth profile. Commit: 67cd8c4.
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
                amplitude=1.46,
            ),
            members=2,
        ),
    ),
    data=DataConfig(split_by="none"),
    optim=OptimConfig(kind="muon", learning_rate=3e-3, warmup_steps=20),
    augment=AugmentConfig(noise=0.2, trace_dropout=0.0, shot_dropout=0.0, time_mask=0.0, frequency_mask=0.0),
    batch_size=8,
    steps=150,
    eval_every=150,
    ema_decay=0.97,
)

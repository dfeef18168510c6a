"""Online data against 256 stored samples: the same network, the same number of steps, the same unseen test samples.

    python benchmarks/online.py [--steps 800] [--output benchmarks/results/online_cpu.md]

Small enough for a CPU: 600 m x 600 m every 25 m, 3 shots of 5 Hz, 24 receivers, layered and faulted models.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from seisvel_jax.config import Config, write_config
from seisvel_jax.data.online import OnlineConfig, Simulated
from seisvel_jax.data.pipeline import DataConfig
from seisvel_jax.data.writers import write_openfwi, write_survey
from seisvel_jax.inference.pretrained import load
from seisvel_jax.metrics import mae, mape
from seisvel_jax.models.config import GroupConfig, VelocityNetConfig
from seisvel_jax.survey import from_arrays, ricker
from seisvel_jax.train import train
from seisvel_jax.training.config import AugmentConfig, OptimConfig
from seisvel_jax.training.mesh import one_device

STORED, TEST = 256, 128
SPACING, DT, NT, SIDE = 25.0, 16e-3, 64, 24
FAMILY = "curvefault-a"

SURVEY = from_arrays(
    sources=np.asarray([[0.0, 25.0], [300.0, 25.0], [575.0, 25.0]]),
    receivers=np.asarray([[SPACING * i, 25.0] for i in range(SIDE)]),
    wavelet=ricker(5.0, DT, NT, 0.25),
    dt=DT,
    shape=(SIDE, SIDE),
    spacing=SPACING,
    name="small",
)

MODEL = VelocityNetConfig(
    width=96,
    heads=4,
    encoder_layers=1,
    decoder_layers=1,
    stem_channels=(16, 32),
    stem_blocks=(0, 1),
    patch_duration=0.032,
    token_duration=0.064,
    receiver_tokens=4,
    moments=(2, 2),
    patch_shape=(6, 6),
    refine_channels=0,
    dropout=0.0,
    spacing=SPACING,
    dt=DT,
    gains=(1.0, 20.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = compare(Path(folder), options.steps)
    print(text)
    if options.output:
        options.output.write_text(text)


def network(gathers: np.ndarray) -> VelocityNetConfig:
    """The network for gathers as strong as these."""
    return replace(MODEL, amplitude=float(np.sqrt(np.mean(gathers**2))))


def training(name: str, model: VelocityNetConfig, steps: int) -> Config:
    """One network; what it is trained on is for the caller to say."""
    return Config(
        name=name,
        groups=(GroupConfig(model),),
        optim=OptimConfig(kind="muon", learning_rate=2e-3, warmup_steps=50),
        augment=replace(AugmentConfig.off(), mirror=0.5),
        batch_size=8,
        steps=steps,
        eval_every=steps,
        ema_decay=0.98,
        figures=0,
        tensorboard=False,
    )


def compare(folder: Path, steps: int) -> str:
    """Train both and give their scores as a Markdown page."""
    write_config(folder / "small.json", SURVEY.to_dict())
    online = OnlineConfig(survey=str(folder / "small.json"), family=FAMILY)
    simulated = Simulated(online, SURVEY, 0, one_device())
    start = time.perf_counter()
    stored = simulated.samples("stored", STORED, 8)
    rate = STORED / (time.perf_counter() - start)
    write_openfwi(folder / "data", 1, stored.gathers_of, stored.velocity_of)
    write_survey(folder / "data", SURVEY)
    test = simulated.samples("test", TEST, 8)

    base = training("online", network(stored.gathers_of), steps)
    rows: list[str] = []
    for words, data in (
        (f"{STORED} stored samples", DataConfig(str(folder / "data"), validation_fraction=0.0)),
        ("drawn online", DataConfig(online=online, validation_fraction=0.0)),
    ):
        run = folder / f"run{len(rows)}"
        start = time.perf_counter()
        train(replace(base, data=data), run)
        seconds = time.perf_counter() - start
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        last = [line["mape"][0] for line in lines if line["kind"] == "train"][-10:]
        velocity = load(run).predict(test.gathers_of, survey=SURVEY)
        rows.append(
            f"| {words} | {100 * np.mean(last):.2f} | {100 * mape(velocity, test.velocity_of).mean():.2f} "
            f"| {mae(velocity, test.velocity_of).mean():.0f} | {seconds:.0f} |"
        )
    constant = np.broadcast_to(np.median(stored.velocity_of, axis=(0, 2))[None, :, None], test.velocity_of.shape)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f"""# Online data against stored data

`python benchmarks/online.py --steps {steps}`, commit {commit.stdout.strip()}, {os.cpu_count()} cores
({platform.machine()}, no GPU).

{steps} steps of 8 samples: {steps * 8 / STORED:.1f} epochs of the stored samples, or {steps * 8} different ones; half
of either mirrored. {FAMILY} models of {SIDE} x {SIDE} nodes every {SPACING:g} m, gathers {SURVEY.gather_shape}; the
same {TEST} test samples for both, from a stream of their own. The best constant profile has
{100 * mape(constant, test.velocity_of).mean():.2f} %. Samples were made at {rate:.0f} a second, compilation included.

| trained on | MAPE of the last training batches, % | test MAPE, % | test MAE, m/s | seconds |
|---|---|---|---|---|
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()

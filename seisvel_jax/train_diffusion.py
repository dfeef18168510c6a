"""Train a diffusion model: `python -m seisvel_jax.train_diffusion CONFIG --workdir RUN [any field of the config]`.

CONFIG is a file such as configs/diffusion_demo.py; `CONFIG --help` lists its fields. Samples are drawn online or read
from `--data.path DATA`. The same command again goes on where a run stopped; Ctrl-C saves first. RUN then holds
checkpoints, metrics.jsonl, tensorboard and figures; draw from it with `python -m seisvel_jax.sample`.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from seisvel_jax.config import DiffusionConfig, load_config_file, to_dict, write_config
from seisvel_jax.errors import UserError, run_command
from seisvel_jax.logging import progress, say
from seisvel_jax.training.records import log_step

if TYPE_CHECKING:
    from seisvel_jax.training.source import Source


def train_diffusion(
    config: DiffusionConfig, workdir: Path, *, on_commit: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Train, or go on training, the run in `workdir`; return its last validation metrics and step.

    A fork of `train.train`, with the same promises: `on_commit` is called after every finished checkpoint; raises
    UserError for bad data or a run that does not fit, `Interrupted` after SIGINT or SIGTERM, when everything is saved.
    """
    from seisvel_jax.inference.diffusion_validation import DiffusionValidation, make_judge
    from seisvel_jax.training.checkpoint import Checkpoints
    from seisvel_jax.training.diffusion_step import make_diffusion_step
    from seisvel_jax.training.distributed import Agreement, is_first
    from seisvel_jax.training.memory import out_of_memory_explained
    from seisvel_jax.training.mesh import make_mesh, say_mesh
    from seisvel_jax.training.optim import learning_rate, make_optimizer
    from seisvel_jax.training.records import Records
    from seisvel_jax.training.signals import Interrupted, StopSignals
    from seisvel_jax.training.source import open_source
    from seisvel_jax.training.state import abstract_params, abstract_state, init_state
    from seisvel_jax.training.step import stream_key

    workdir = Path(workdir).absolute()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir}: a file stands where --workdir is to be a folder: choose another")

    # ---- devices and data: each process reads or makes its own rows of every batch ----
    mesh = make_mesh(config)
    agree = Agreement(mesh)
    source = open_source(config, mesh, workdir / "pool")
    survey, names = source.survey, config.member_names

    # ---- model and state ----
    (graphdef,), (abstract,) = abstract_params(config.groups, survey)
    optimizer = make_optimizer(config.optim, config.steps)
    rate = learning_rate(config.optim, config.steps)
    step_function = make_diffusion_step(config, graphdef, optimizer, survey, mesh)
    judge = make_judge(config, graphdef, survey, mesh)

    # ---- a new run, or the rest of one ----
    metadata: dict[str, Any] = {
        "config": to_dict(config),
        "survey": survey.to_dict(),
        "samples": {"train": source.training, "validation": source.validation, "digest": source.digest},
        "weights": [1 / len(names)] * len(names),
        "postprocess": {},
        "validation": {},
    }
    checkpoints = Checkpoints(workdir)
    with out_of_memory_explained(config, survey, mesh):
        resumed = checkpoints.resume(abstract_state(config.groups, survey, optimizer, mesh), metadata)
        if resumed is None:
            state = init_state(config.groups, survey, optimizer, stream_key(config.seed, "init"), mesh)
        else:
            state, saved = resumed
            metadata |= {name: saved[name] for name in ("weights", "postprocess", "validation")}
    cleanup = contextlib.ExitStack()
    cleanup.callback(checkpoints.close)
    start = int(state.step)
    evaluated = start if metadata["validation"].get("step") == start else None
    records = None  # written down once, by the first process
    if is_first():
        write_config(workdir / "config.json", {name: metadata[name] for name in ("config", "survey", "samples")})
        validated = metadata["validation"].get("step", -1)
        records = Records(workdir, start, names, tensorboard=config.tensorboard, validated=validated)
        cleanup.callback(records.close)
    validate = DiffusionValidation(config, judge, mesh, source, workdir, records)
    say_mesh(mesh, config)
    _say_first_lines(config, abstract, source)
    say(f"steps       {config.steps} of {config.batch_size} samples, from step {start}")
    say(f"output      {workdir}")
    if start >= config.steps and evaluated is not None:
        say(f"{workdir}: all {config.steps} steps are done; give a larger --steps to go on")

    # ---- the loop: evaluate -> save -> next batch -> dispatch step n -> log step n - 1 ----
    pending: tuple[int, Any] | None = None
    stopped = 0
    stream = source.from_step(start)
    bar = progress(
        None, config.name, total=config.steps * config.batch_size, unit="sample", initial=start * config.batch_size
    )
    with cleanup, out_of_memory_explained(config, survey, mesh), StopSignals() as stop, bar:
        for step in range(start, config.steps + 1):
            stopped = agree(stop.received or 0)
            due = evaluated != step and (step % config.eval_every == 0 or step == config.steps)
            if due or stopped:
                if pending is not None:
                    log_step(records, pending, names, config, rate=rate, describe=source.describe)
                    pending = None
                if due:
                    metadata |= validate(state.ema, step)
                    evaluated = step
                if due or step != start:
                    checkpoints.save(state, metadata)
                    if on_commit is not None:
                        on_commit()
            if stopped or step == config.steps:
                break
            batch = next(stream)
            state, metrics = step_function(state, batch)
            del batch
            if pending is not None:
                shown = log_step(records, pending, names, config, rate=rate, describe=source.describe)
                bar.set_postfix_str(f"loss {shown:.4f}", refresh=False)
            pending = (step + 1, metrics)
            bar.update(config.batch_size)
    if stopped:
        raise Interrupted(stopped)
    return {"step": int(state.step), **metadata["validation"]}


def _say_first_lines(config: DiffusionConfig, params: Any, source: "Source") -> None:
    import jax

    each = sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(params))
    say(f"members     {config.members} of {each:,} parameters; {config.process}")
    for line in source.lines:
        say(line)
    say(f"families    {', '.join(config.denoiser.families) or 'none is told'}")
    if source.validation == 0:
        say("            no validation: the temperature stays 1, and the latest checkpoint counts as the best")
    rms = float(np.sqrt(np.mean(source.example.astype(np.float64) ** 2)))
    amplitude = config.denoiser.encoder.amplitude
    if rms > 0 and not 0.2 < rms / amplitude < 5:
        say(
            f"warning: the gathers' root mean square is {rms:.3g}, and the network is scaled for {amplitude:.3g}: give "
            f"--denoiser.encoder.amplitude {rms:.3g}"
        )


@dataclass(frozen=True)
class Options:
    """What to train is the config's business; where its output goes is not."""

    config: Annotated[DiffusionConfig, tyro.conf.arg(name="")]
    workdir: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """Where checkpoints, metrics and figures go; an earlier run there goes on."""
    dry_run: bool = False
    """Only tell what the run needs: parameters, FLOPs, memory, devices, estimated speed. Writes nothing."""
    distributed: bool = False
    """One of several processes of a cluster (SLURM, Open MPI, Kubernetes, Cloud TPU); see docs/devices.md."""


def parse(arguments: list[str]) -> Options:
    """The options of a command line whose first word is the config file. Raises UserError; tyro exits on a bad word."""
    if not arguments or arguments[0].startswith("-"):
        first = arguments[0] if arguments else "no words"
        raise UserError(f"{first}: expected the config file first, e.g. configs/diffusion_demo.py")
    default = Options(load_config_file(arguments[0], DiffusionConfig), workdir=tyro.MISSING)
    return tyro.cli(
        Options,
        args=arguments[1:],
        default=default,
        prog=f"python -m seisvel_jax.train_diffusion {arguments[0]}",
        description=__doc__,
        config=(tyro.conf.AvoidSubcommands,),
    )


def main() -> int:
    """Entry point."""
    from seisvel_jax.training.distributed import is_first, together
    from seisvel_jax.training.signals import Interrupted

    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    options = parse(arguments)
    with together(options.distributed):
        if options.dry_run:
            from seisvel_jax.training.dry_run import dry_run_diffusion

            result = dry_run_diffusion(options.config)
        else:
            try:
                result = train_diffusion(options.config, options.workdir)
            except Interrupted as stopped:
                say(f"{options.workdir}: {stopped}")
                return stopped.exit_code
        if is_first():
            print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)

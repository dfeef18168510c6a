"""Train an ensemble: `python -m seisvel_jax.train CONFIG --data.path DATA --workdir RUN [any field of the config]`.

CONFIG is a file such as configs/speed_and_structure.py; `CONFIG --help` lists its fields. The same command again goes
on where a run stopped; Ctrl-C saves first. RUN then holds checkpoints, metrics.jsonl, tensorboard and figures.
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

from seisvel_jax.config import Config, from_dict, load_config_file, to_dict, write_config
from seisvel_jax.errors import UserError, run_command
from seisvel_jax.logging import progress, say
from seisvel_jax.training.records import log_step

if TYPE_CHECKING:
    from seisvel_jax.training.source import Source


def train(config: Config, workdir: Path, *, on_commit: Callable[[], None] | None = None) -> dict[str, Any]:
    """Train, or go on training, the run in `workdir`; return its last validation metrics and step.

    `on_commit` is called after every finished checkpoint. Raises UserError for bad data or a run that does not fit,
    `Interrupted` after SIGINT or SIGTERM, when everything is saved.
    """
    from seisvel_jax.inference.validation import Validation, make_predict
    from seisvel_jax.models.ensemble import member_names
    from seisvel_jax.training.checkpoint import Checkpoints
    from seisvel_jax.training.distributed import Agreement, is_first
    from seisvel_jax.training.first_stage import resolved
    from seisvel_jax.training.memory import fit, keep, out_of_memory_explained
    from seisvel_jax.training.mesh import make_mesh, say_mesh
    from seisvel_jax.training.optim import learning_rate, make_optimizer
    from seisvel_jax.training.records import Records, write_skipped
    from seisvel_jax.training.signals import Interrupted, StopSignals
    from seisvel_jax.training.source import open_source
    from seisvel_jax.training.state import abstract_params, abstract_state, check_networks, init_state
    from seisvel_jax.training.step import stream_key

    workdir = Path(workdir).absolute()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir}: a file stands where --workdir is to be a folder: choose another")

    # ---- devices ----
    config = resolved(config)
    mesh = make_mesh(config)
    agree = Agreement(mesh)

    # ---- data: each process reads or makes its own rows of every batch ----
    source = open_source(config, mesh, workdir / "pool")
    survey = source.survey

    # ---- model and state ----
    names = member_names(config.groups)
    graphdefs, abstract = abstract_params(config.groups, survey)
    check_networks(graphdefs, abstract, survey, config.batch_size)
    optimizer = make_optimizer(config.optim, config.steps)
    rate = learning_rate(config.optim, config.steps)
    predict = make_predict(graphdefs, survey, mesh, source.stage)

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
    cleanup = contextlib.ExitStack()
    cleanup.callback(checkpoints.close)
    if resumed is not None:
        metadata |= {name: saved[name] for name in ("weights", "postprocess", "validation")}
        config = keep(config, from_dict(saved["config"]))
        metadata["config"] = to_dict(config)
    start = int(state.step)
    evaluated = start if metadata["validation"].get("step") == start else None
    records = None  # written down once, by the first process
    if is_first():
        write_config(workdir / "config.json", {name: metadata[name] for name in ("config", "survey", "samples")})
        records = cleanup.enter_context(
            contextlib.closing(
                Records(
                    workdir,
                    start,
                    names,
                    tensorboard=config.tensorboard,
                    validated=metadata["validation"].get("step", -1),
                )
            )
        )
    validate = Validation(config, predict, mesh, source.samples, source.held_out, names, workdir, records)
    say_mesh(mesh, config)
    _say_first_lines(config, abstract, source)
    _warn_of_amplitudes(config, source.example)
    say(f"steps       {config.steps} of {config.batch_size} samples, from step {start}")
    say(f"output      {workdir}")
    if start >= config.steps and evaluated is not None:
        say(f"{workdir}: all {config.steps} steps are done; give a larger --steps to go on")

    # ---- the loop: evaluate -> save -> next batch -> dispatch step n -> log step n - 1 ----
    pending: tuple[int, Any] | None = None
    step_function: Any = None
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
                    if source.skipping is not None and records is not None:
                        write_skipped(workdir / "skipped.json", source.skipping.skipped)
                    if on_commit is not None:
                        on_commit()
            if stopped or step == config.steps:
                break
            batch = next(stream)
            if step_function is None:
                config, step_function = fit(config, survey, mesh, batch)
                metadata["config"] = to_dict(config)
            state, metrics = step_function(state, batch)
            del batch
            if pending is not None:
                shown = log_step(records, pending, names, config, rate=rate, describe=source.describe)
                bar.set_postfix_str(f"loss {shown:.4f}", refresh=False)
            pending = (step + 1, metrics)
            bar.update(config.batch_size)
    if stopped:
        raise Interrupted(stopped)
    result = {"step": int(state.step), **metadata["validation"]}
    return result if source.skipping is None else {**result, "skipped": len(source.skipping.skipped)}


def _say_first_lines(config: Config, params: tuple, source: "Source") -> None:
    import jax

    from seisvel_jax.models.ensemble import member_names

    each: list[int] = []
    for group, tree in zip(config.groups, params):
        each += [sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(tree))] * group.members
    counted = ", ".join(f"{name} {count:,}" for name, count in zip(member_names(config.groups), each))
    say(f"members     {len(each)}: {counted} parameters; {sum(each):,} in all")
    for line in source.lines:
        say(line)
    if source.validation == 0:
        say("            no validation: the weights stay uniform, and the latest checkpoint counts as the best")


def _warn_of_amplitudes(config: Config, gathers: np.ndarray) -> None:
    """A network scaled for other amplitudes learns badly without failing: say so. `gathers` is any sample."""
    rms = float(np.sqrt(np.mean(gathers.astype(np.float64) ** 2)))
    for index, group in enumerate(config.groups):
        if rms > 0 and not 0.2 < rms / group.model.amplitude < 5:
            say(
                f"warning: the gathers' root mean square is {rms:.3g}, and the model is scaled for "
                f"{group.model.amplitude:.3g}: give --groups.{index}.model.amplitude {rms:.3g}"
            )


@dataclass(frozen=True)
class Options:
    """What to train is the config's business; where its output goes is not."""

    config: Annotated[Config, tyro.conf.arg(name="")]
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
        raise UserError(f"{first}: expected the config file first, e.g. configs/speed_and_structure.py")
    default = Options(load_config_file(arguments[0]), workdir=tyro.MISSING)
    return tyro.cli(
        Options,
        args=arguments[1:],
        default=default,
        prog=f"python -m seisvel_jax.train {arguments[0]}",
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
            from seisvel_jax.training.dry_run import dry_run

            result = dry_run(options.config)
        else:
            try:
                result = train(options.config, options.workdir)
            except Interrupted as stopped:
                say(f"{options.workdir}: {stopped}")
                return stopped.exit_code
        if is_first():
            print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)

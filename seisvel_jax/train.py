"""Train an ensemble: `python -m seisvel_jax.train CONFIG --data.path DATA --workdir RUN [any field of the config]`.

CONFIG is a file such as configs/speed_and_structure.py; `CONFIG --help` lists its fields. The same command again goes
on where a run stopped; Ctrl-C saves first. RUN then holds checkpoints, metrics.jsonl, tensorboard and figures.
"""

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from seisvel_jax.config import Config, load_config_file, to_dict, write_config
from seisvel_jax.errors import UserError, run_command
from seisvel_jax.logging import progress, say

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from seisvel_jax.data.pipeline import Batches
    from seisvel_jax.survey import Survey
    from seisvel_jax.training.records import Records

FIT_PIXELS = 2_000_000
"""Pixels (of one member) that weights and post-processing are fitted on at most: seconds, not minutes."""


def train(config: Config, workdir: Path, *, on_commit: Callable[[], None] | None = None) -> dict[str, Any]:
    """Train, or go on training, the run in `workdir`; return its last validation metrics and step.

    `on_commit` is called after every finished checkpoint. Raises UserError for bad data or a run that does not fit,
    `Interrupted` after SIGINT or SIGTERM, when everything is saved.
    """
    import jax

    from seisvel_jax.data.pipeline import Batches, Resampled, SkipBad, open_data, training_survey
    from seisvel_jax.data.split import split_indices
    from seisvel_jax.models.ensemble import apply_member, member_names
    from seisvel_jax.training.checkpoint import Checkpoints
    from seisvel_jax.training.distributed import Agreement, is_first
    from seisvel_jax.training.memory import out_of_memory_explained
    from seisvel_jax.training.mesh import make_mesh, place_rows, say_mesh
    from seisvel_jax.training.optim import learning_rate, make_optimizer
    from seisvel_jax.training.records import Records, write_skipped
    from seisvel_jax.training.signals import Interrupted, StopSignals
    from seisvel_jax.training.state import abstract_params, abstract_state, init_state
    from seisvel_jax.training.step import make_step, stream_key

    workdir = Path(workdir).absolute()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir}: a file stands where --workdir is to be a folder: choose another")

    # ---- devices ----
    mesh = make_mesh(config)
    agree = Agreement(mesh)
    process_count = jax.process_count()

    # ---- data: each process reads its own rows of every batch ----
    dataset = open_data(config.data)
    survey = training_survey(dataset, config.data)
    samples: Resampled | SkipBad = Resampled(dataset, survey, config.data.cache_gib)
    training, validation = split_indices(
        dataset,
        split_by=config.data.split_by,
        validation_fraction=config.data.validation_fraction,
        seed=config.data.seed,
    )
    if config.batch_size > len(training):
        raise UserError(
            f"{config.data.path}: {len(training)} training samples, fewer than --batch-size {config.batch_size}: "
            "give a smaller batch size or more data"
        )
    skipping = SkipBad(samples, (training, validation)) if config.data.skip_bad else None
    samples = skipping or samples
    batches = Batches(
        samples,
        training,
        survey,
        config.batch_size // process_count,
        config.data.seed,
        read_threads=config.data.read_threads,
        prefetch=config.data.prefetch,
        process_index=jax.process_index(),
        process_count=process_count,
    )
    held_out = spread(validation, config.validation_samples)

    # ---- model and state ----
    names = member_names(config.groups)
    graphdefs, abstract = abstract_params(config.groups, survey)
    gathers = jax.ShapeDtypeStruct((config.batch_size, *survey.gather_shape), np.float32)
    for graphdef, params in zip(graphdefs, abstract):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
        jax.eval_shape(lambda p, g, graphdef=graphdef: apply_member(graphdef, p, g, survey), one, gathers)
    optimizer = make_optimizer(config.optim, config.steps)
    rate = learning_rate(config.optim, config.steps)
    step_function = make_step(config, graphdefs, optimizer, survey, mesh)
    predict = make_predict(graphdefs, survey, mesh)

    # ---- a new run, or the rest of one ----
    metadata: dict[str, Any] = {
        "config": to_dict(config),
        "survey": survey.to_dict(),
        "samples": {"train": len(training), "validation": len(validation), "digest": _digest(dataset, training)},
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
    if resumed is not None:
        metadata |= {name: saved[name] for name in ("weights", "postprocess", "validation")}
    start = int(state.step)
    evaluated = start if metadata["validation"].get("step") == start else None
    cleanup = contextlib.ExitStack()
    cleanup.callback(checkpoints.close)
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
    validate = Validation(config, predict, mesh, samples, held_out, names, workdir, records)
    say_mesh(mesh, config)
    _say_first_lines(config, abstract, training=len(training), validation=len(validation), used=len(held_out))
    _warn_of_amplitudes(config, samples.gathers(int(training[0])))
    say(f"steps       {config.steps} of {config.batch_size} samples, from step {start}")
    say(f"output      {workdir}")
    if start >= config.steps and evaluated is not None:
        say(f"{workdir}: all {config.steps} steps are done; give a larger --steps to go on")

    # ---- the loop: evaluate -> save -> next batch -> dispatch step n -> log step n - 1 ----
    pending: tuple[int, Any] | None = None
    stopped = 0
    stream = batches.from_step(start)
    bar = progress(
        None, config.name, total=config.steps * config.batch_size, unit="sample", initial=start * config.batch_size
    )
    with cleanup, out_of_memory_explained(config, survey, mesh), StopSignals() as stop, bar:
        for step in range(start, config.steps + 1):
            stopped = agree(stop.received or 0)
            due = evaluated != step and (step % config.eval_every == 0 or step == config.steps)
            if due or stopped:
                if pending is not None:
                    _log(records, pending, names, rate, config, batches=batches)
                    pending = None
                if due:
                    metadata |= validate(state.ema, step)
                    evaluated = step
                if due or step != start:
                    checkpoints.save(state, metadata)
                    if skipping is not None and records is not None:
                        write_skipped(workdir / "skipped.json", skipping.skipped)
                    if on_commit is not None:
                        on_commit()
            if stopped or step == config.steps:
                break
            batch = place_rows(mesh, next(stream))
            state, metrics = step_function(state, batch)
            if pending is not None:
                shown = _log(records, pending, names, rate, config, batches=batches)
                bar.set_postfix_str(f"loss {shown:.4f}", refresh=False)
            pending = (step + 1, metrics)
            bar.update(config.batch_size)
    if stopped:
        raise Interrupted(stopped)
    result = {"step": int(state.step), **metadata["validation"]}
    return result if skipping is None else {**result, "skipped": len(skipping.skipped)}


def make_predict(graphdefs: tuple, survey: "Survey", mesh: "Mesh") -> Callable[[tuple, Any], np.ndarray]:
    """`(params, gathers [batch, ...]) -> velocity [member, batch, depth, x]`, jitted, without dropout.

    Each process gives its own rows of the batch and gets the whole answer.
    """
    import jax

    from seisvel_jax.models.ensemble import predict_members
    from seisvel_jax.training.mesh import everywhere, over_data, over_member, place_rows

    jitted = jax.jit(
        lambda params, gathers: predict_members(graphdefs, params, gathers, survey, mesh),
        in_shardings=(over_member(mesh), over_data(mesh)),
        out_shardings=everywhere(mesh),
    )
    return lambda params, gathers: np.asarray(jitted(params, place_rows(mesh, gathers)))


@dataclass(frozen=True)
class Validation:
    """Scores the ensemble on held-out samples, and fits its weights and post-processing there.

    What is fitted on these samples would flatter itself on them. So each half of them is also scored with what was
    fitted on the other half: `mape` (learned weights) and `mape_postprocessed` are these honest scores; the weights
    and parameters that are saved are fitted on both halves.
    """

    config: Config
    predict: Callable[[tuple, Any], np.ndarray]
    mesh: "Mesh"
    samples: Any
    indices: np.ndarray
    names: tuple[str, ...]
    workdir: Path
    records: "Records | None"
    """None in all processes but the first: they predict with it, and leave the writing to it."""

    def __call__(self, ema: tuple, step: int) -> dict[str, Any]:
        """`{"weights", "postprocess", "validation"}` of the averaged parameters; {} without validation samples.

        Raises UserError where a prediction is not finite.
        """
        from seisvel_jax.metrics import mape
        from seisvel_jax.models.weights import combine, median

        if len(self.indices) == 0:
            return {}
        velocity, truth = self._predict_all(ema)
        for name, member in zip(self.names, velocity):
            if not np.isfinite(member).all():
                raise UserError(f"step {step}: {name} predicts values that are not finite; nothing was saved")

        weights, postprocess = self._fit(velocity, truth)
        answer = np.asarray(combine(velocity, weights))
        # Fitted on some of the samples perhaps: taken only where it is no worse on all of them.
        if mape(self._postprocessed(answer, postprocess), truth).mean() > mape(answer, truth).mean():
            postprocess = {}
        plain, processed = self._scores_on_other_half(velocity, truth)
        uniform = np.full(len(self.names), 1 / len(self.names), np.float32)
        values: dict[str, Any] = {
            "mape": float(plain.mean()),
            "mape_postprocessed": float(processed.mean()),
            "mape_uniform": float(mape(np.asarray(combine(velocity, uniform)), truth).mean()),
            "mape_median": float(mape(median(velocity), truth).mean()),
            "mape_members": [float(mape(member, truth).mean()) for member in velocity],
            "weights": [float(weight) for weight in weights],
        }
        if self.records is not None:
            self.records.add("validation", step, values)
        members = ", ".join(f"{100 * value:.2f}" for value in values["mape_members"])
        say(
            f"step {step}: validation MAPE {100 * values['mape']:.2f} % (weights fitted on the other half), "
            f"post-processed {100 * values['mape_postprocessed']:.2f}, uniform {100 * values['mape_uniform']:.2f}, "
            f"median {100 * values['mape_median']:.2f}; members {members}"
        )
        if step:
            self._draw(velocity, answer, truth, step)
        return {"weights": values["weights"], "postprocess": postprocess, "validation": {"step": step, **values}}

    def _predict_all(self, ema: tuple) -> tuple[np.ndarray, np.ndarray]:
        from seisvel_jax.logging import chunks
        from seisvel_jax.training.mesh import my_rows

        size = self.config.batch_size
        velocity = []
        for chunk in chunks(len(self.indices), size):
            # One shape, one compilation: the last batch is filled up. Each process reads its rows of it alone.
            filled = np.resize(self.indices[chunk.start : chunk.stop], size)
            gathers = np.stack([self.samples.gathers(int(index)) for index in filled[my_rows(self.mesh, size)]])
            velocity.append(self.predict(ema, gathers)[:, : len(chunk)])
        truth = np.stack([self.samples.velocity(int(index)) for index in self.indices])
        return np.concatenate(velocity, axis=1), truth

    def _fit(self, velocity: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        from seisvel_jax.inference.postprocess import fit_postprocess
        from seisvel_jax.models.weights import combine, fit_weights

        few = spread(np.arange(len(truth)), max(2, FIT_PIXELS // truth[0].size))
        weights = np.asarray(fit_weights(velocity[:, few], truth[few]), np.float32)
        answer = np.asarray(combine(velocity[:, few], weights))
        found = fit_postprocess(answer, truth[few], self.samples.survey.grid)
        return weights, {name: float(value) for name, value in found.items()}

    def _scores_on_other_half(self, velocity: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """MAPE of each sample with learned weights, and post-processed, both fitted on the other half."""
        from seisvel_jax.metrics import mape
        from seisvel_jax.models.weights import combine

        halves = np.array_split(np.arange(len(truth)), 2)
        if len(truth) == 1:
            halves = [halves[0], halves[0]]
        plain, processed = [], []
        for fitted, scored in (halves, halves[::-1]):
            weights, postprocess = self._fit(velocity[:, fitted], truth[fitted])
            answer = np.asarray(combine(velocity[:, scored], weights))
            plain.append(mape(answer, truth[scored]))
            processed.append(mape(self._postprocessed(answer, postprocess), truth[scored]))
        return np.concatenate(plain), np.concatenate(processed)

    def _postprocessed(self, answer: np.ndarray, parameters: dict[str, float]) -> np.ndarray:
        from seisvel_jax.inference.postprocess import apply_postprocess

        return apply_postprocess(answer, parameters, self.samples.survey.grid)

    def _draw(self, velocity: np.ndarray, answer: np.ndarray, truth: np.ndarray, step: int) -> None:
        from seisvel_jax.plotting import draw_comparison, draw_history

        if self.config.figures == 0 or self.records is None:
            return
        folder = self.workdir / "figures"
        for k in range(min(self.config.figures, len(truth))):
            index = int(self.indices[k])
            path = folder / f"validation_{k}.png"
            title = f"{self.samples.names[index]}, step {step}"
            deviation = velocity[:, k].std(axis=0) if len(velocity) > 1 else None
            gathers = self.samples.gathers(index)
            draw_comparison(path, gathers, truth[k], answer[k], self.samples.survey, title, deviation=deviation)
            self.records.figure(f"validation/{k}", path, step)
        draw_history(folder / "history.png", self.records.records, self.config.name)


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `indices`, evenly spread over them."""
    return indices[np.linspace(0, len(indices) - 1, min(len(indices), count)).astype(int)]


def _log(
    records: "Records | None",
    pending: tuple[int, Any],
    names: tuple[str, ...],
    rate: Callable,
    config: Config,
    *,
    batches: "Batches",
) -> float:
    """Write down a finished step; return its mean loss. Raises UserError where a member's loss is not finite."""
    step, metrics = pending
    values = {name: np.asarray(value, np.float32) for name, value in metrics.items()}
    bad = ~np.isfinite(values["loss"]) | ~np.isfinite(values["gradient_norm"])
    if bad.any():
        members = ", ".join(name for name, wrong in zip(names, bad) if wrong)
        raise UserError(
            f"step {step}: the loss or gradient of {members} is not finite; nothing of it was saved. Its samples: "
            f"{batches.describe(step - 1)}. Lower --optim.learning-rate, or look for bad samples with "
            "python -m seisvel_jax.inspect DATA"
        )
    if records is not None and (step % config.log_every == 0 or step == config.steps):
        numbers = {name: [float(one) for one in value] for name, value in values.items()}
        records.add("train", step, {**numbers, "learning_rate": float(rate(step - 1)), "time": round(time.time(), 3)})
    return float(values["loss"].mean())


def _digest(dataset: Any, training: np.ndarray) -> str:
    """A short name of which samples are trained on, in which order: it must not change within a run."""
    text = "\n".join([*dataset.names, *(str(i) for i in training)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _say_first_lines(config: Config, params: tuple, *, training: int, validation: int, used: int) -> None:
    import jax

    from seisvel_jax.models.ensemble import member_names

    each: list[int] = []
    for group, tree in zip(config.groups, params):
        each += [sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(tree))] * group.members
    counted = ", ".join(f"{name} {count:,}" for name, count in zip(member_names(config.groups), each))
    say(f"members     {len(each)}: {counted} parameters; {sum(each):,} in all")
    seen = "" if used == validation else f" ({used} of them each time)"
    epochs = config.steps * config.batch_size / training
    say(f"data        {config.data.path}: {training} to train on ({epochs:.1f} epochs), {validation} to validate{seen}")
    if validation == 0:
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

"""Damaged and hostile files into every door: each is read, or refused in one line; no traceback, hang or flood.

    python tests/fuzz.py --inputs 10000 [--seed 0] [--only npy checkpoint ...]

hypothesis draws what is done to good files: cuts, flipped bits, headers that lie, huge shapes, NaN, links out of the
tree, pipes, odd names, swapped files, JSON with other values (with and without renewed checksums), overrides of the
command line. The same seed gives the same inputs. Exit code 0: nothing was found.
"""

import argparse
import contextlib
import copy
import faulthandler
import functools
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 10.0
"""Of computing that an input may take; thirty times as many on the clock; the slowest honest ones trace a network."""
MEMORY = 1.5 * 2**30
"""Bytes of address space that all inputs together may take beyond what the program has when it begins."""
Draw = Callable[[st.SearchStrategy], Any]


# ---- what is done to good files ----

NAMES = st.one_of(
    st.sampled_from(
        [
            "..",
            "../out",
            "/tmp/out",
            "a/b",
            "a\\b",
            "",
            " ",
            ".hidden",
            "a\nb",
            "\x1b[31mred",
            "ö",
            "a" * 200,
            "\ufeff",
            "名前",
            "a\u202eb",
            "con",
            "-x",
            "%s",
            "{0}",
            "s1 ",
            "data1",
            "model1",
            "vp_model",
            "x_seis",
            "0123456789",
        ]
    ),
    st.text(max_size=12),
)
VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, 2**64, 10**30, -(10**30)]),
    st.sampled_from([0.0, -0.0, 1e-300, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 1.5]),
    st.sampled_from(["", "x", "1", "../x", "/etc/passwd", "a\nb", "float32", "VelocityNetConfig", "devito"]),
    st.sampled_from([[], {}, [[]], [None], {"a": 1}, [1, 2], [1.0] * 40, [[0, 0]] * 3, [[1]], [[[[]]]]]),
    st.integers(-3, 70),
    st.floats(),
)


def damaged(draw: Draw, content: bytes) -> bytes:
    """`content` with one to three faults, as often near its ends as anywhere."""
    for _ in range(draw(st.integers(1, 3))):
        size = len(content)
        place = draw(st.sampled_from(["head", "tail", "any"]))
        low, high = {"head": (0, min(size, 160)), "tail": (max(0, size - 160), size), "any": (0, size)}[place]
        at = draw(st.integers(low, max(low, high)))
        kind = draw(st.sampled_from(["cut", "flip", "flip", "flip", "bytes", "insert", "remove", "zeros", "repeat"]))
        some = draw(st.integers(1, 64))
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and at < size:
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif kind == "bytes":
            content = content[:at] + draw(st.binary(min_size=1, max_size=some)) + content[at + some :]
        elif kind == "insert":
            content = content[:at] + draw(st.binary(min_size=1, max_size=some)) + content[at:]
        elif kind == "remove":
            content = content[:at] + content[at + some :]
        elif kind == "zeros":
            content = content[:at] + bytes(some) + content[at + some :]
        elif kind == "repeat":
            content = content[:at] + content[max(0, at - some) :]
    return content


def changed(draw: Draw, values: Any) -> Any:
    """A JSON value with one to three leaves or branches replaced, removed, added or doubled."""
    values = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 3))):
        place, depth = values, 0
        while isinstance(place, dict | list) and place:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner) or (depth > 0 and draw(st.integers(0, 5)) == 0):
                kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "double"]))
                if kind == "replace":
                    place[key] = copy.deepcopy(draw(VALUES))
                elif kind == "remove":
                    del place[key]
                elif kind == "add" and isinstance(place, dict):
                    place[draw(st.sampled_from(["more", "kind", "version", "", "__class__"]))] = copy.deepcopy(
                        draw(VALUES)
                    )
                elif isinstance(place, list):
                    place.append(inner)
                break
            place, depth = inner, depth + 1
    return values


def json_text(draw: Draw, values: Any) -> bytes:
    """JSON with other values, or damaged, or of another kind altogether."""
    kind = draw(st.sampled_from(["changed", "changed", "changed", "damaged", "odd"]))
    if kind == "changed":
        return json.dumps(changed(draw, values)).encode()
    if kind == "damaged":
        return damaged(draw, json.dumps(values).encode())
    odd = [b"", b"null", b"[" * 100_000, b'{"a":' * 20_000, b"1" * 10_000, b"\xff\xfe", b"\x00" * 50, b"{}", b"[]"]
    return draw(st.sampled_from([*odd, b'"\\ud800"', b"NaN", b"1e999", b'{"version": 1e999}', b"-" * 99]))


def header(draw: Draw) -> bytes:
    """A `.npy` file whose header may say anything."""
    shape = draw(st.lists(st.one_of(st.integers(-3, 70), st.integers(0, 2**66)), max_size=6).map(tuple))
    kinds = [
        "'<f4'",
        "'<f8'",
        "'>f8'",
        "'|O'",
        "'<c8'",
        "'<U9'",
        "'|V8'",
        "'<i2'",
        "'x'",
        "'<f16'",
        "3",
        "'|S0'",
        "'<M8'",
    ]
    text = draw(
        st.one_of(
            st.builds(
                lambda descr, order: f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}",
                st.sampled_from([*kinds, "[('a', '<f4')]", "'<f4', 'more': 1", "('<f4', (2**40,))", "'f4, f4'"]),
                st.sampled_from(["False", "True", "2"]),
            ),
            st.text(max_size=60),
            st.sampled_from(["(" * 3000, "{'a': " * 300, "9" * 6000, "-" * 5000 + "1", "{'shape': " + "1," * 9000]),
        )
    ).encode("utf-8", "surrogatepass")
    version = draw(st.sampled_from([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x00\x07"]))
    size = len(text) + draw(st.sampled_from([0, 0, 0, -1, 1, 2**15, 2**31]))
    length = (size % 2**16).to_bytes(2, "little") if version == b"\x01\x00" else (size % 2**32).to_bytes(4, "little")
    return b"\x93NUMPY" + version + length + text + draw(st.binary(max_size=64))


def mischief(draw: Draw, folder: Path) -> None:
    """Do something to one or two of the files below `folder`."""
    for _ in range(draw(st.integers(1, 2))):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size < 2**24)
        if not files:
            return
        path = draw(st.sampled_from(files))
        kinds = ["damage"] * 5 + [
            "header",
            "array",
            "sparse",
            "remove",
            "folder",
            "link",
            "pipe",
            "swap",
            "rename",
            "json",
        ]
        kind = draw(st.sampled_from(kinds))
        if kind == "damage":
            path.write_bytes(damaged(draw, path.read_bytes()))
        elif kind == "header":
            path.write_bytes(header(draw))
        elif kind == "array":
            path.write_bytes(odd_array(draw))
        elif kind == "sparse":
            sparse(draw, path)
        elif kind == "json":
            path.write_bytes(json_text(draw, {"a": [1, 2]}))
        elif kind == "swap":
            other = draw(st.sampled_from(files))
            mine, others = path.read_bytes(), other.read_bytes()
            path.write_bytes(others)
            other.write_bytes(mine)
        elif kind == "rename":
            with contextlib.suppress(OSError, ValueError):
                path.rename(path.with_name(draw(NAMES) + draw(st.sampled_from(["", path.suffix]))))
        else:
            path.unlink()
            if kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind == "link":
                targets = [
                    "/etc/passwd",
                    "/dev/zero",
                    "/dev/null",
                    "/",
                    str(path),
                    str(path.parent),
                    "nowhere",
                    "../..",
                ]
                path.symlink_to(draw(st.sampled_from(targets)))


def odd_array(draw: Draw) -> bytes:
    """A sound `.npy` file of numbers that nobody expects there."""
    shape = draw(st.lists(st.integers(0, 9), max_size=5).map(tuple))
    fill = draw(st.sampled_from([0.0, 2000.0, 2.0, -1.0, 1e300, 1e38, float("nan"), float("inf"), 3.4e38]))
    dtype = draw(
        st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i4", "<u8", "|b1", "<c8", "<U3", "<f16", "|S4", "<M8[s]"])
    )
    stream = io.BytesIO()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            array = np.full(shape, fill).astype(dtype)
        except (ValueError, TypeError, OverflowError):
            array = np.zeros(shape, dtype)
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def sparse(draw: Draw, path: Path) -> None:
    """A file that claims, and has, terabytes, on no disk space."""
    shape = draw(st.sampled_from([(2**38,), (5, 10**8, 31), (2**20, 2**15), (10**6, 1, 70, 70), (2**33, 5)]))
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    path.write_bytes(stream.getvalue())
    with contextlib.suppress(OSError):
        os.truncate(path, len(stream.getvalue()) + 4 * int(np.prod(shape, dtype=object)))


# ---- the doors ----


@dataclass
class Doors:
    """Good files, made once, and one function a door: it damages a copy in `folder` and uses it."""

    pristine: Path

    def __post_init__(self) -> None:
        from training_support import SURVEY, arrays, write_data

        from seisvel_jax.data.dataset import open_dataset
        from seisvel_jax.data.writers import write_challenge_sample, write_survey

        write_data(self.pristine / "openfwi", count=4)
        gathers, velocity = arrays(3)
        for i in range(3):
            write_challenge_sample(self.pristine / "challenge", f"s{i}", gathers[i], velocity[i])
        write_survey(self.pristine / "challenge", SURVEY)
        velocities = self.pristine / "velocities"
        velocities.mkdir()
        np.save(velocities / "v1.npy", velocity[:, None])
        np.save(velocities / "v2.npy", velocity[0])
        np.savez_compressed(self.pristine / "s.npz", **{f"s{i}": velocity[i].T / 1000 for i in range(3)})
        lines = ["oid_ypos," + ",".join(f"x_{x}" for x in range(1, 70, 2))]
        lines += [f"s0_y_{row}," + ",".join(["2000.0"] * 35) for row in range(70)]
        (self.pristine / "s.csv").write_text("\n".join(lines) + "\n")
        from seisvel_jax.data.packed_writer import Format, pack_dataset
        from seisvel_jax.logging import progress

        dataset = open_dataset(self.pristine / "challenge")
        pack_dataset(dataset, dataset.survey, self.pristine / "pack", Format(), progress=progress)
        self.make_run()
        (self.pristine / "metrics.jsonl").write_text(
            "".join(json.dumps({"kind": "train", "step": n, "loss": [1.0, 2.0]}) + "\n" for n in range(5))
        )

    def make_run(self) -> None:
        """Two checkpoints of a tiny run."""
        import jax
        from training_support import CONFIG, SURVEY

        from seisvel_jax.config import to_dict
        from seisvel_jax.training import checkpoint
        from seisvel_jax.training.checkpoint import Checkpoints
        from seisvel_jax.training.optim import make_optimizer
        from seisvel_jax.training.state import TrainState, abstract_state, init_state

        optimizer = make_optimizer(CONFIG.optim, CONFIG.steps)
        state = init_state(CONFIG.groups, SURVEY, optimizer, jax.random.key(0))
        self.metadata = {
            "config": to_dict(CONFIG),
            "survey": SURVEY.to_dict(),
            "samples": {"train": 9, "validation": 3, "digest": "abc"},
            "weights": [0.5, 0.5],
            "postprocess": {"low": 1500.0},
            "validation": {"mape": 0.1},
        }
        # Tracing a network takes a second; the same one is traced once.
        traced = checkpoint.abstract_params
        kept: dict[str, Any] = {}

        def trace(groups: tuple, survey: Any) -> Any:
            key = repr((groups, survey.to_dict()))
            if key not in kept:
                kept[key] = traced(groups, survey)
            return kept[key]

        checkpoint.abstract_params = trace
        self.abstract = abstract_state(CONFIG.groups, SURVEY, optimizer)
        checkpoints = Checkpoints(self.pristine / "run")
        for step in (1, 2):
            moved = TrainState(jax.numpy.int32(step), state.params, state.opt_state, state.ema)
            checkpoints.save(moved, self.metadata)
        checkpoints.close()

    def copy(self, name: str, folder: Path) -> Path:
        """A copy of a good file or folder."""
        source, target = self.pristine / name, folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return target

    def npy(self, draw: Draw, folder: Path) -> None:
        """Single arrays, under names that mean something to the readers."""
        from seisvel_jax.data.dataset import open_dataset
        from seisvel_jax.data.velocity_files import open_velocities
        from seisvel_jax.files import load_npy, npy_header
        from seisvel_jax.inference.submission import read_field

        path = folder / draw(st.sampled_from(["x_seis.npy", "v.npy", "vp_model.npy", "0123456789.npy", "data1.npy"]))
        shutil.copy(self.pristine / "velocities" / "v1.npy", path)
        mischief(draw, folder)
        for use in (
            lambda: npy_header(path),
            lambda: load_npy(path),
            lambda: load_npy(path, memory_map=True),
            lambda: open_dataset(path).gathers(0),
            lambda: open_velocities(path).velocity(0),
            lambda: read_field(path, "a", 0),
        ):
            refused(use)

    def npz(self, draw: Draw, folder: Path) -> None:
        """Archives: damaged, with odd names, bombs, other compressions, things that are no arrays."""
        from seisvel_jax.evaluate import open_prediction
        from seisvel_jax.inference.submission import read_field

        path = folder / "s.npz"
        if draw(st.booleans()):
            self.copy("s.npz", folder)
        else:
            with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
                warnings.simplefilter("ignore")  # names that are there twice
                for _ in range(draw(st.integers(0, 3))):
                    name = draw(NAMES) + draw(st.sampled_from([".npy", ".npy", ""])) or "x"  # zipfile needs a name
                    kind = draw(st.sampled_from(["array", "header", "bomb", "good"]))
                    content = {"array": odd_array, "header": header, "bomb": bomb, "good": good}[kind](draw)
                    archive.writestr(name, content, draw(st.sampled_from([0, 8, 8, 12, 14])))
        if draw(st.integers(0, 2)) > 0 and path.stat().st_size < 2**20:
            path.write_bytes(damaged(draw, path.read_bytes()))

        def use() -> None:
            velocities = open_prediction(path)
            for index, name in enumerate(velocities.names[:3]):
                assert Path(name).name == name and name.isprintable(), f"name {name!r} would leave its folder"
                refused(lambda index=index: velocities.velocity(index))
                refused(lambda name=name, index=index: read_field(path, name, index))

        refused(use)
        refused(lambda: read_field(path, draw(NAMES), 0))

    def csv(self, draw: Draw, folder: Path) -> None:
        """Competition files."""
        from seisvel_jax.inference.submission import CompetitionCSV

        path = self.copy("s.csv", folder)
        content = path.read_bytes()
        words = [b"\x00", b'"', b"1e999", b"nan", b"9" * 5000, b",", b"\r", b"a" * 140_000, b"_y_", "٣".encode()]
        if draw(st.booleans()):
            at = draw(st.integers(0, len(content)))
            content = content[:at] + draw(st.sampled_from(words)) + content[at:]
        else:
            content = damaged(draw, content)
        path.write_bytes(content)

        def use() -> None:
            models = CompetitionCSV(path)
            for index in range(len(models)):
                models.velocity(index)

        refused(use)

    def dataset(self, draw: Draw, folder: Path) -> None:
        """Folders of samples of either layout, and packs."""
        from seisvel_jax.data.dataset import open_dataset
        from seisvel_jax.data.inspection import inspect_dataset
        from seisvel_jax.data.packed import verify
        from seisvel_jax.data.split import split_indices
        from seisvel_jax.data.velocity_files import open_velocities

        name = draw(st.sampled_from(["challenge", "openfwi", "velocities", "pack"]))
        path = self.copy(name, folder)
        inner = draw(st.sampled_from(["", "", "", "", "train", "deep/deeper", "train/data"]))
        if inner:
            (folder / "up" / inner).parent.mkdir(parents=True)
            path.rename(folder / "up" / inner)
            path = folder / "up"
        if draw(st.integers(0, 3)) == 0:
            folders = sorted(p for p in path.rglob("*") if p.is_dir())
            if folders:
                with contextlib.suppress(OSError, ValueError):
                    chosen = draw(st.sampled_from(folders))
                    raw = draw(st.sampled_from([None, b"a\xff", b"\xed\xa0\x80"]))
                    target = os.path.join(os.fsencode(chosen.parent), raw) if raw else chosen.with_name(draw(NAMES))
                    os.rename(chosen, target)
        mischief(draw, path)

        def use() -> None:
            data = open_dataset(path)
            for index in range(min(len(data), 4)):
                refused(lambda index=index: data.gathers(index))
                refused(lambda index=index: data.velocity(index))
            refused(lambda: split_indices(data, validation_fraction=0.5, seed=0))
            json.dumps(inspect_dataset(data, range(min(len(data), 4))).to_dict())
            for index in range(len(data)):
                data.names[index].encode()  # into a digest, a file, a terminal

        def models() -> None:
            velocities = open_velocities(path)
            for index in range(min(len(velocities.names), 4)):
                velocities.names[index].encode()
                refused(lambda index=index: velocities.velocity(index))

        refused(use)
        refused(models)
        if name == "pack" and path.is_dir():
            refused(lambda: verify(path))

    def pack(self, draw: Draw, folder: Path) -> None:
        """pack.json with other values, and a checksum that fits."""
        from seisvel_jax.data import packed
        from seisvel_jax.data.dataset import open_dataset

        path = self.copy("pack", folder)
        values = json.loads((path / "pack.json").read_text())
        digest = values.pop("digest")
        values = changed(draw, values)
        if isinstance(values, dict):
            with contextlib.suppress(ValueError):
                digest = packed._digest(values)
            values = {"digest": digest, **values}
        (path / "pack.json").write_text(json.dumps(values))
        if draw(st.integers(0, 3)) == 0:
            mischief(draw, path)

        def use() -> None:
            data = open_dataset(path)
            for index in range(min(len(data), 4)):
                refused(lambda index=index: data.gathers(index))
                refused(lambda index=index: data.velocity(index))

        refused(use)
        refused(lambda: packed.verify(path))

    def survey(self, draw: Draw, folder: Path) -> None:
        """survey.json, beside samples and by itself."""
        from seisvel_jax.data.dataset import open_dataset
        from seisvel_jax.survey import read_survey

        name = draw(st.sampled_from(["challenge", "openfwi"]))
        path = self.copy(name, folder)
        file = path / "survey.json"
        file.write_bytes(json_text(draw, json.loads(file.read_text())))
        if draw(st.integers(0, 9)) == 0:
            mischief(draw, path)

        def use() -> None:
            survey = read_survey(file)
            json.dumps(survey.to_dict())

        refused(use)
        refused(lambda: open_dataset(path).gathers(0))
        refused(lambda: open_dataset(path).velocity(0))

    def config(self, draw: Draw, folder: Path) -> None:
        """Saved configs, and config files."""
        from training_support import CONFIG

        from seisvel_jax.config import differences, from_dict, load_config_file, to_dict

        good = to_dict(CONFIG)
        values = changed(draw, good)

        def use() -> None:
            config = from_dict(values)
            json.dumps(differences(good, to_dict(config)))

        refused(use)
        words = [
            "config = ",
            "Config(",
            ")",
            "CONFIG",
            "\n",
            "x",
            "1",
            "import ",
            "from ",
            "replace(",
            "steps=",
            "name=1",
        ]
        text = "from training_support import CONFIG as config\n" + "".join(draw(st.lists(st.sampled_from(words))))
        path = folder / "config.py"
        path.write_bytes(draw(st.sampled_from([text.encode(), damaged(draw, text.encode())])))
        refused(lambda: load_config_file(path))

    def override(self, draw: Draw, folder: Path) -> None:
        """Words of the command line."""
        import tyro
        from training_support import CONFIG

        from seisvel_jax.predict import Predict
        from seisvel_jax.predict import _check as check_predict
        from seisvel_jax.simulate import Simulate, survey_of
        from seisvel_jax.train import Options

        options = ["--steps", "--batch-size", "--data.path", "--data.dt", "--seed", "--ema-decay", "--groups.0.members"]
        options += [
            "--groups.0.model.width",
            "--optim.learning-rate",
            "--data.limit",
            "--tensorboard",
            "--no-tensorboard",
        ]
        options += ["--checkpoint", "--output", "--data", "--limit", "--tta", "--survey", "--count", "--dt", "--layout"]
        options += ["--grid-spacing", "--sponge-width", "--shard", "--help", "--nonsense", "--", "--data.skip-bad"]
        words = st.one_of(st.sampled_from(options), VALUES.map(str), NAMES, st.sampled_from(["nan", "inf", "1e999"]))
        given_words = [word.replace("\x00", "") for word in draw(st.lists(words, max_size=6))]
        kind = draw(st.sampled_from(["train", "predict", "simulate"]))

        def use() -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                if kind == "train":
                    tyro.cli(
                        Options,
                        args=["--workdir", "x", *given_words],
                        default=Options(CONFIG, workdir=Path("x")),
                        config=(tyro.conf.AvoidSubcommands,),
                    )
                elif kind == "predict":
                    check_predict(tyro.cli(Predict, args=["--checkpoint", "x", *given_words]))
                else:
                    survey_of(tyro.cli(Simulate, args=["--survey", "openfwi", "--output", "x", *given_words]))

        try:
            refused(use)
        except SystemExit as left:
            assert left.code in (0, 2), left.code

    def checkpoint(self, draw: Draw, folder: Path) -> None:
        """Runs whose files are damaged, swapped, linked, missing."""
        from seisvel_jax.training.checkpoint import _verified, load_run

        run = self.copy("run", folder)
        mischief(draw, run)
        for step in (run / "checkpoints" / "1", run / "checkpoints" / "2"):
            refused(lambda step=step: _verified(step))
        if draw(st.integers(0, 11)) == 0:  # loading what is whole takes half a second
            self.use_run(run, load_run)

    def signed(self, draw: Draw, folder: Path) -> None:
        """Checkpoints with other metadata and a manifest that fits: what somebody could make who wants to."""
        from seisvel_jax.training.checkpoint import load_run
        from seisvel_jax.training.manifest import write_manifest

        run = self.copy("run", folder)
        shutil.rmtree(run / "checkpoints" / "1")
        step = run / "checkpoints" / "2"
        path = step / "_CHECKPOINT_METADATA"
        values = json.loads(path.read_text())
        if draw(st.booleans()):
            values["custom_metadata"] = changed(draw, values["custom_metadata"])
        else:
            values = changed(draw, values)
        path.write_text(json.dumps(values))
        (step / "manifest.json").unlink()
        if draw(st.integers(0, 5)):
            write_manifest(step, 2)
        if draw(st.integers(0, 5)) == 0:
            file = step / "manifest.json"
            if file.exists():
                file.write_bytes(json_text(draw, json.loads(file.read_text())))
        self.use_run(run, load_run)

    def use_run(self, run: Path, load_run: Callable) -> None:
        """Load it to predict, and to go on."""
        from seisvel_jax.training.checkpoint import Checkpoints

        with contextlib.redirect_stderr(io.StringIO()):
            refused(lambda: load_run(run))
            checkpoints = Checkpoints(run)
            refused(lambda: checkpoints.resume(self.abstract, self.metadata), lines=25)
            checkpoints.close()

    def record(self, draw: Draw, folder: Path) -> None:
        """What commands keep beside their results: metrics.jsonl, simulate.json, made_with.json."""
        from seisvel_jax.inference.submission import Finished
        from seisvel_jax.simulate import _claim
        from seisvel_jax.training.records import Records, read_records

        path = self.copy("metrics.jsonl", folder)
        if draw(st.booleans()):
            path.write_bytes(damaged(draw, path.read_bytes()))
        else:
            path.write_bytes(path.read_bytes() + json_text(draw, {"kind": "train", "step": 3, "loss": [1.0]}) + b"\n{}")
        refused(lambda: read_records(path))
        refused(lambda: Records(folder, 3, ("a", "b"), tensorboard=False).close())
        settings_ = {"layout": "challenge", "models": 3}
        (folder / "set").mkdir()
        (folder / "set" / "simulate.json").write_bytes(json_text(draw, settings_))
        refused(lambda: _claim(folder / "set", settings_))
        part = folder / "s.npz.part"
        part.mkdir()
        (part / "made_with.json").write_bytes(json_text(draw, {"version": 2, "checkpoint": "a"}))
        np.save(part / "velocity_000000.npy", np.ones((3, 4), np.float32))
        if draw(st.booleans()):
            mischief(draw, part)
        with contextlib.redirect_stderr(io.StringIO()):
            refused(lambda: Finished(folder / "s.npz", {"checkpoint": "a"}, fields=("velocity",)))


def bomb(draw: Draw) -> bytes:
    """Zeros that pack well: as many as a test can afford to make, under a header that claims as many or more."""
    shape = draw(st.sampled_from([(2**12, 2**11), (2**20, 2**19), (2**22,)]))
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(2**22)


def good(draw: Draw) -> bytes:
    """A model as it should be."""
    stream = io.BytesIO()
    np.save(stream, np.full((8, 8), draw(st.sampled_from([1.5, 2.0, 4.5]))))
    return stream.getvalue()


def refused(use: Callable[[], Any], lines: int = 1) -> bool:
    """Whether `use` raised the error that users see, in one line; anything else goes through."""
    from seisvel_jax.errors import UserError

    try:
        use()
    except UserError as error:
        message = str(error)
        assert message.strip() and message.count("\n") < lines, f"a message of several lines: {message!r}"
        return True
    except OSError as error:
        # `run_command` says these in one line. These are of the file system's doing, not of our reading.
        from seisvel_jax.errors import describe_os_error

        assert describe_os_error(error), error
        if error.errno is None:
            raise
        return True
    return False


# ---- running ----


WEIGHTS = {
    "npy": 8,
    "npz": 6,
    "csv": 3,
    "dataset": 6,
    "pack": 6,
    "survey": 6,
    "config": 6,
    "override": 2,
    "checkpoint": 5,
    "signed": 0.4,
    "record": 4,
}
"""Shares of the inputs."""


@dataclass
class Found:
    """What a run has done and found."""

    inputs: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


class Slow(BaseException):
    """An input took too long. No Exception, so that nothing on the way swallows it."""


def _too_slow(number: int, frame: Any) -> None:
    raise Slow


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Inside, an input that takes too long is ended by `Slow`."""
    before = {which: signal.signal(which, _too_slow) for which in (signal.SIGALRM, signal.SIGPROF)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _attempt(found: Found, name: str, door: Callable, place: Path, draw: Draw) -> None:
    """One input, with its limit of time."""
    found.inputs[name] += 1
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    begun = time.process_time()
    faulthandler.dump_traceback_later(40 * SECONDS, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 30 * SECONDS)
    try:
        door(draw, place)
    except Slow:
        raise AssertionError(f"{name}: not done within {SECONDS:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    found.slowest = max(found.slowest, (time.process_time() - begun, name))


def _with_draw(attempt: Callable) -> Callable:
    def run(data: Any) -> None:
        attempt(data.draw)

    return run


def fuzz(inputs: int, number: int, only: list[str] | None, folder: Path) -> Found:
    """Run `inputs` inputs, shared out among the doors."""
    found = Found()
    doors = Doors(folder / "pristine")
    chosen = {name: weight for name, weight in WEIGHTS.items() if not only or name in only}
    total = sum(chosen.values())
    soft = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (int(used + MEMORY), soft[1]))
    for name, weight in chosen.items():
        attempt = functools.partial(_attempt, found, name, getattr(doors, name), folder / "input")
        run = seed(number)(
            settings(
                max_examples=max(1, round(inputs * weight / total)),
                database=None,
                deadline=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )(given(st.data())(_with_draw(attempt)))
        )
        begun = time.monotonic()
        try:
            with limited_time():
                run()
        except KeyboardInterrupt:
            raise
        except BaseException:
            found.problems.append(f"{name}: {traceback.format_exc()}")
        print(f"{name}: {found.inputs[name]} inputs, {time.monotonic() - begun:.0f} s", flush=True)
    resource.setrlimit(resource.RLIMIT_AS, soft)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    warnings.simplefilter("error")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    begun = time.monotonic()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = fuzz(options.inputs, options.seed, options.only, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"seed {options.seed}: {found.inputs.total()} inputs in {time.monotonic() - begun:.0f} s, "
        f"peak memory {peak:.0f} MiB, slowest {found.slowest[0]:.1f} s of computing ({found.slowest[1]}), "
        f"{len(found.problems)} problems"
    )
    for problem in found.problems:
        print(f"PROBLEM {problem}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())

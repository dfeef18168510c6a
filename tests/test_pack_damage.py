"""Packs that are damaged, cut short, newer or hostile are named and refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pack_support import write_challenge

from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.packed_info import digest_of, plain_name
from seisvel_jax.errors import UserError
from seisvel_jax.pack import Pack, pack


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_challenge(tmp_path_factory.mktemp("source") / "train")


@pytest.fixture
def made(source, tmp_path):
    assert pack(Pack(source, tmp_path / "pack", shard_size=2)) == 0
    return tmp_path / "pack"


def test_a_flipped_bit_anywhere_is_named(made, capsys):
    assert pack(Pack(made, verify=True)) == 0
    for name in ("gathers-00001.npy", "velocity-00000.npy"):
        path = made / name
        whole = path.read_bytes()
        path.write_bytes(whole[:120] + b"\t" + whole[121:])  # numpy would read this header as it was
        with pytest.raises(UserError, match=rf"{name}: damaged \(the checksum of its header"):
            open_dataset(made)
        rng = np.random.default_rng(0)
        for place in [0, 60, 100, 127, 128, len(whole) - 1, *rng.integers(0, len(whole), 10)]:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=rf"{name}.*(damaged|truncated|shape)"):
                dataset = open_dataset(made)
                for index in range(len(dataset)):
                    dataset.gathers(index)
                    dataset.velocity(index)
            assert pack(Pack(made, verify=True)) == 1
            assert name in capsys.readouterr().out
        path.write_bytes(whole)
    assert pack(Pack(made, verify=True)) == 0


def test_truncated_missing_linked_and_grown_files_are_named(made, tmp_path):
    path = made / "velocity-00001.npy"
    whole = path.read_bytes()
    dataset = open_dataset(made)
    dataset.velocity(3)
    for content, match in ((whole[:-7], "truncated"), (whole + b"x", "too long"), (b"", "truncated")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"velocity-00001.npy: {match}.*run the pack command again"):
            open_dataset(made)
        with pytest.raises(UserError, match=match):  # also where it was open before: no crash
            dataset.velocity(3)
    path.rename(tmp_path / "elsewhere.npy")
    with pytest.raises(UserError, match=r"velocity-00001.npy: missing"):
        open_dataset(made)
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(UserError, match=r"velocity-00001.npy: a link"):
        open_dataset(made)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"velocity-00001.npy: not a plain file"):
        open_dataset(made)


def _rewrite(folder: Path, change) -> None:
    path = folder / "pack.json"
    values = json.loads(path.read_text())
    values.pop("digest")
    change(values)
    path.write_text(json.dumps({"digest": digest_of(values), **values}))


def test_pack_json_newer_damaged_or_hostile(made):
    path = made / "pack.json"
    whole = path.read_text()

    def refused(match):
        with pytest.raises(UserError, match=match):
            open_dataset(made)
        path.write_text(whole)

    _rewrite(made, lambda values: values.update(version=2))
    refused(r"pack.json: version 2, expected 1: upgrade")
    _rewrite(made, lambda values: values.update(version="x"))
    refused(r"version 'x'")
    path.write_text(whole.replace('"float16"', '"float32"'))
    refused(r"pack.json: damaged \(its checksum")
    for text in (whole[:-40], "[]", "[" * 100000, '{"format": NaN}', whole.replace("1", "1" * 5000, 1)):
        path.write_text(text)
        refused(r"pack.json: (damaged|format)")
    for name in ("../evil", "a/b", "..", ".hidden", "", "a" * 300, "a\nb", 7):
        _rewrite(made, lambda values, name=name: values["shards"][0]["names"].__setitem__(0, name))
        refused(r"pack.json: not a description of a pack")
        assert not plain_name(name)
        _rewrite(made, lambda values, name=name: values["shards"][0]["files"][0].__setitem__(0, f"x/{name}/y.npy"))
        if name != "a/b":
            refused(r"pack.json: not a description of a pack") if name != 7 else path.write_text(whole)
    path.write_text(whole)
    for change in (
        lambda values: values["survey"].update(nt=10**9),
        lambda values: values["survey"]["grid"].update(depth_count=10**15),
        lambda values: values["shards"][1].update(names=["id2", "id2"]),
        lambda values: values["shards"][1]["exponents"].__setitem__(0, 4000),
        lambda values: values["shards"][0]["arrays"].pop("velocity"),
        lambda values: values["shards"][0]["arrays"]["gathers"].update(checksums=[1]),
        lambda values: values.update(shards=[]),
        lambda values: values.update(dtype="float64"),
        lambda values: values.update(survey=None),
        lambda values: values.pop("statistics"),
    ):
        _rewrite(made, change)
        refused(r"00000.npy|pack.json: not a description of a pack")
    path.unlink()
    refused(r"pack.json: missing beside the arrays of a pack")
    with pytest.raises(UserError, match=r"one file of a pack.*give the folder"):
        open_dataset(made / "gathers-00000.npy")

"""Packs unpacked again: the samples that were packed, in the layout they had."""

import numpy as np
import pytest
from pack_support import contents, write_challenge
from training_support import SURVEY, arrays, write_data

from seisvel_jax.data.dataset import open_dataset
from seisvel_jax.data.writers import write_openfwi, write_survey
from seisvel_jax.errors import UserError
from seisvel_jax.pack import Pack, pack
from seisvel_jax.survey import openfwi


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_challenge(tmp_path_factory.mktemp("source") / "train")


def test_unpacked_challenge_folders_are_the_packed_ones(source, tmp_path, monkeypatch):
    pack(Pack(source, tmp_path / "pack", dtype="float32", velocity_dtype="float32"))
    output = tmp_path / "out"
    from seisvel_jax.data import packed_unpack

    real = packed_unpack.write_challenge_sample
    monkeypatch.setattr(
        packed_unpack,
        "write_challenge_sample",
        lambda *a: (_ for _ in ()).throw(KeyboardInterrupt) if a[1] == "id3" else real(*a),
    )
    with pytest.raises(KeyboardInterrupt):
        pack(Pack(tmp_path / "pack", output, unpack=True))
    monkeypatch.undo()
    (output / ".id3.abc.part").mkdir()
    pack(Pack(tmp_path / "pack", output, unpack=True))
    found = contents(output)
    assert found.keys() - {".unpack.json"} == contents(source).keys()
    for name, content in contents(source).items():
        if "receiver" in name:
            assert found[name] == content
        else:
            np.testing.assert_allclose(np.load(output / name), np.load(source / name), rtol=1e-7)
    pack(Pack(source, tmp_path / "other"))
    with pytest.raises(UserError, match="another pack's samples"):
        pack(Pack(tmp_path / "other", output, unpack=True))
    with pytest.raises(UserError, match="holds other files"):
        pack(Pack(tmp_path / "other", source, unpack=True))


def test_unpacked_openfwi_files_are_the_packed_ones(tmp_path):
    rng = np.random.default_rng(0)
    shape = openfwi().gather_shape
    gathers = rng.normal(size=(2, *shape)).astype(np.float32)
    gathers[:, :, -1] = 0
    velocity = rng.integers(1500, 4500, (2, 70, 70)).astype(np.float32)
    source = tmp_path / "source"
    write_openfwi(source / "FlatVel_A", 1, gathers, velocity)
    (source / "CurveFault_B").mkdir()
    np.save(source / "CurveFault_B" / "seis6_1_0.npy", gathers[:1])
    np.save(source / "CurveFault_B" / "vel6_1_0.npy", velocity[:1, None])
    pack(Pack(source, tmp_path / "pack", dtype="float32"))
    pack(Pack(tmp_path / "pack", tmp_path / "out", unpack=True))
    found = contents(tmp_path / "out")
    found.pop(".unpack.json")
    assert found == contents(source)
    # Packed again, from a pack.
    pack(Pack(tmp_path / "pack", tmp_path / "half", shard_size=1))
    pack(Pack(tmp_path / "half", tmp_path / "back", unpack=True))
    assert open_dataset(tmp_path / "back").names == open_dataset(source).names
    np.testing.assert_array_equal(open_dataset(tmp_path / "back").velocity(2), open_dataset(source).velocity(2))
    single = tmp_path / "test"
    single.mkdir()
    np.save(single / "000039dca2.npy", gathers[0])
    pack(Pack(single, tmp_path / "pack1", dtype="float32"))
    pack(Pack(tmp_path / "pack1", tmp_path / "out1", unpack=True))
    assert contents(tmp_path / "out1")["000039dca2.npy"] == contents(single)["000039dca2.npy"]


def test_another_survey_comes_back_with_the_samples(tmp_path):
    write_data(tmp_path / "data", 4)
    write_survey(tmp_path / "data", SURVEY)
    pack(Pack(tmp_path / "data", tmp_path / "pack", dtype="float32"))
    pack(Pack(tmp_path / "pack", tmp_path / "out", unpack=True))
    assert open_dataset(tmp_path / "out").survey.to_dict() == SURVEY.to_dict()
    np.testing.assert_array_equal(open_dataset(tmp_path / "out").gathers(2)[:, :-1], arrays(4)[0][2, :, :-1])

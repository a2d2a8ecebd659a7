"""The benchmark of feeding."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from bench import data
from npconvnet.data.loader import Loader
from npconvnet.data.shards.reading import open_prepared


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(data, "SIMULATED", (100, 5000))


def report(*arguments):
    chosen = ["--photos", "24", "--repetitions", "1", "--device", "cpu", *arguments, "--json"]
    result = CliRunner().invoke(data.main, chosen, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_npconvnet_alone(small, own_threads):
    found = report("--threads", "1")
    for part in ("prepare", "read_by_one_core", "feed"):
        assert found[part].keys() == {data.RAW, data.JPEG}
        assert min(found[part].values()) > 0
    assert found["ratio"] is None
    assert found["begin"].keys() == {"100", "5000"}
    assert "ratio" not in data.as_text(found)


def test_beside_the_data_loader(small, own_threads):
    pytest.importorskip("torch")
    found = report("--against", "torch", "--threads", "1")
    assert found["ratio"] == pytest.approx(found["feed"][data.RAW] / found["feed"][data.FILES])


def test_a_simulated_data_set_is_one(tmp_path):
    data.simulate(tmp_path, 5000)
    prepared = open_prepared(tmp_path)
    assert len(prepared.train) == 5000
    assert prepared.train.name(4999) == "train/n00000999/n00000999_00004999.JPEG"
    (batch, *_) = Loader(prepared.train, 8).epoch(0, 0)
    assert not batch.squares.any()
    np.testing.assert_array_equal(batch.labels, batch.numbers % 1000)


def test_the_peer_does_the_same_work():
    torch = pytest.importorskip("torch")
    from bench.torch_data_peer import SquaresInMemory
    from npconvnet.data.augment import Augmentation

    squares = np.random.default_rng(0).integers(0, 256, (6, 256, 256, 3), np.uint8)
    peer = SquaresInMemory(squares, np.arange(6), data.PREPROCESSING)
    found = torch.stack([peer[number][0] for number in range(6)]).permute(0, 2, 3, 1).numpy()
    views = Augmentation().draw(0, 0, np.arange(6), data.PREPROCESSING, np.eye(3))
    np.testing.assert_allclose(found, data.PREPROCESSING.apply(squares, views), rtol=1e-5, atol=1e-6)

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


def test_the_peer_does_the_same_work(monkeypatch):
    torch = pytest.importorskip("torch")
    from bench import torch_data_peer

    monkeypatch.setattr(torch_data_peer, "COLOUR_NOISE", 0)
    square = np.stack([*np.indices((256, 256)), np.full((256, 256), 7)], axis=2).astype(np.uint8)  # tells where it is
    peer = torch_data_peer.SquaresInMemory(square[None], np.zeros(1), data.PREPROCESSING)
    torch.manual_seed(0)
    erased = reflected = 0
    for _ in range(30):
        x = peer[0][0].permute(1, 2, 0).numpy()
        kept = x[:, :, 2] != 0
        erased += not kept.all()
        rgb = data.PREPROCESSING.picture(x)
        top, left = (int(rgb[kept][:, axis].min()) for axis in (0, 1))
        crop = square[top : top + 224, left : left + 224]
        if not any(np.array_equal(rgb[kept], crop[kept]) for crop in (crop, crop[:, ::-1])):
            pytest.fail("neither a crop nor its reflection")
        reflected += not np.array_equal(rgb[kept], crop[kept])
    assert 5 < erased < 25
    assert 5 < reflected < 25

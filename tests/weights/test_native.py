"""The weight file: what goes in comes out, and nothing that was damaged does."""

import errno
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save

from npconvnet.errors import InputError
from npconvnet.models import MODELS
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset, imagenet_synsets
from npconvnet.weights.native import bundled_network, load_network, read_file, save_network, write_file


@pytest.fixture
def network():
    network = MODELS["tiny"](classes=3)
    network.initialize(np.random.default_rng(0))
    network.preprocessing = Preprocessing(73, 64, mean=(1.5, 2.25, 1 / 3), std=(50.0, 60.0, 70.0))
    network.synsets = (Synset("n1", "a dog"), Synset("n2", "chat, minou"), Synset("n3", "Vögel"))
    return network


def test_network_comes_back_whole(network, tmp_path):
    save_network(tmp_path / "w.safetensors", network)
    again = load_network(tmp_path / "w.safetensors")
    assert again.model == "tiny"
    assert again.options == {"classes": 3}
    assert again.preprocessing == network.preprocessing
    assert again.synsets == network.synsets
    assert again.parameters.keys() == network.parameters.keys()
    for name, parameter in network.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], parameter)


def test_a_mean_image_is_a_tensor_of_the_file(network, tmp_path, rng):
    path = tmp_path / "w"
    mean = rng.uniform(0, 255, (64, 64, 3)).astype(np.float32)
    network.preprocessing = Preprocessing(73, 64, mean, interpolation="bicubic", keep_aspect=False)
    save_network(path, network, position={"step": 1})
    assert load_network(path).preprocessing == network.preprocessing
    tensors, header = read_file(path)
    del tensors["mean_image"]
    write_file(path, tensors, header)
    with pytest.raises(InputError, match="the mean image is missing"):
        load_network(path)


def test_options_of_the_paper_are_kept(tmp_path):
    network = MODELS["paper"](classes=2, lrn=False, rounding="cudaconvnet")
    save_network(tmp_path / "w.safetensors", network)
    again = load_network(tmp_path / "w.safetensors")
    assert "norm1" not in again.shapes
    assert again.shapes["conv1"] == (55, 55, 64)


def test_float64_and_extra_tensors_are_kept(tmp_path):
    tensors = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2], np.int64)}
    write_file(tmp_path / "f", tensors, {"note": "ü"})
    again, header = read_file(tmp_path / "f")
    assert header == {"note": "ü"}
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        np.testing.assert_array_equal(again[name], tensor)


def test_every_flipped_byte_is_noticed(tmp_path):
    """Wherever one byte is changed, the file is refused or (in safetensors' own padding) reads the same."""
    path = tmp_path / "f"
    tensors = {"a": np.arange(4, dtype=np.float32)}
    write_file(path, tensors, {"note": "x"})
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            again, header = read_file(path)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        assert header == {"note": "x"}
        np.testing.assert_array_equal(again["a"], tensors["a"])


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_cut_off_file_is_refused(network, tmp_path, kept):
    path = tmp_path / "w"
    save_network(path, network)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"w: damaged, cut off, or not a safetensors file"):
        load_network(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no such weight file"):
        load_network(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder; give a weight file"):
        load_network(tmp_path)
    (tmp_path / "foreign").write_bytes(save({"a": np.zeros(1, np.float32)}))
    with pytest.raises(InputError, match="not one that npconvnet wrote"):
        load_network(tmp_path / "foreign")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "resnet"},
        {"options": {"classes": 4}},
        {"options": {"depth": 3}},
        {"preprocessing": {"resize": 73}},
        {"preprocessing": {"resize": 73, "crop": 64, "mean": [1, 2], "std": [1, 1, 1]}},
        {"preprocessing": {"resize": 73, "crop": 64, "mean": [1, 2, 3], "std": [1, 1, 1], "interpolation": ["x"]}},
        {"synsets": [["n1", "one"]]},
        {"synsets": 5},
    ],
)
def test_header_that_does_not_fit_is_refused(network, tmp_path, change):
    path = tmp_path / "w"
    save_network(path, network)
    tensors, header = read_file(path)
    write_file(path, tensors, header | change)
    with pytest.raises(InputError, match="does not describe a network"):
        load_network(path)


def test_a_missing_tensor_is_named(network, tmp_path):
    path = tmp_path / "w"
    save_network(path, network)
    tensors, header = read_file(path)
    del tensors["conv1.bias"]
    write_file(path, tensors, header)
    with pytest.raises(InputError, match=r"conv1\.bias"):
        load_network(path)


def test_full_disk_leaves_the_old_file(network, tmp_path, monkeypatch):
    path = tmp_path / "w"
    save_network(path, network)
    before = path.read_bytes()

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    network.initialize(np.random.default_rng(1))
    with pytest.raises(InputError, match="No space left on device"):
        save_network(path, network)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w"]


def test_bundled_squeezenet_is_whole():
    network = bundled_network()
    assert network.model == "squeezenet"
    assert network.synsets == imagenet_synsets()
    assert network.preprocessing.mean == (123.68, 116.779, 103.939)
    assert json.dumps(network.preprocessing.to_json())
    assert all(np.isfinite(parameter).all() for parameter in network.parameters.values())


@pytest.mark.parametrize(
    "changes", [{"crop": 32}, {"crop": 65, "resize": 65}, {"std": [1, 1, 0]}, {"mean": [1, 1, 1e300]}]
)
def test_preprocessing_that_the_network_cannot_be_fed_with(changes, tmp_path):
    network = MODELS["tiny"](classes=3)
    save_network(tmp_path / "w", network)
    tensors, header = read_file(tmp_path / "w")
    header["preprocessing"] |= changes
    write_file(tmp_path / "w", tensors, header)
    with pytest.raises(InputError, match="w: its header does not describe a network of npconvnet"):
        load_network(tmp_path / "w")


def test_names_keep_to_their_line(tmp_path):
    network = MODELS["tiny"](classes=2)
    network.synsets = (Synset("n1", "a\nb\x1b[31m"), Synset("n2", "c"))
    save_network(tmp_path / "w", network)
    assert load_network(tmp_path / "w").synsets[0].names == "a b [31m"


def test_the_same_network_is_written_as_the_same_bytes(tmp_path):
    """safetensors' own writer shuffles the metadata."""
    network = MODELS["tiny"](classes=4)
    written = set()
    for number in range(8):
        save_network(tmp_path / f"{number}.safetensors", network)
        written.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(written) == 1

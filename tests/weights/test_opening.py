"""Weight files of every format: recognised by their contents, opened by one function, refused in one line."""

import os

import numpy as np
import pytest
import scipy.io

from npconvnet.errors import InputError
from npconvnet.models import MODELS
from npconvnet.models.graph import graph
from npconvnet.synsets import Synset, imagenet_synsets
from npconvnet.weights import FORMATS, load_network, save_network
from npconvnet.weights.caffe.messages import CLASSES
from npconvnet.weights.conventions import torchvision_preprocessing, vgg_preprocessing
from npconvnet.weights.onnx.writer import onnx_model, write_onnx
from npconvnet.weights.opening import recognise
from npconvnet.weights.torchvision import write_torchvision
from tests.command_line import ASSETS


def random_network(classes=5):
    rows = [
        ("conv1", "Conv2d", {"in_channels": 3, "filters": 4, "window": 5, "stride": 3}, ("input",)),
        ("relu1", "ReLU", {}, ("conv1",)),
        ("fc2", "Linear", {"in_features": 10 * 10 * 4, "out_features": classes}, ("relu1",)),
    ]
    network = graph(rows, crop=32)
    network.initialize(np.random.default_rng(0))
    return network


def save_matconvnet(path, classes=5):
    """A convolution as large as the image, whose classes have names."""
    rng = np.random.default_rng(0)
    weights = np.empty((1, 2), object)
    weights[0] = [rng.standard_normal((32, 32, 3, classes)).astype(np.float32), np.zeros((1, classes), np.float32)]
    layers = np.empty((1, 2), object)
    layers[0] = [
        {"type": "conv", "name": "fc8", "weights": weights, "pad": [0.0, 0, 0, 0], "stride": [1.0, 1]},
        {"type": "softmax", "name": "prob"},
    ]
    names, descriptions = np.empty((1, classes), object), np.empty((1, classes), object)
    names[0] = [f"n{number:08}" for number in range(classes)]
    descriptions[0] = [f"thing {number}" for number in range(classes)]
    meta = {
        "classes": {"name": names, "description": descriptions},
        "normalization": {
            "imageSize": [32.0, 32, 3],
            "averageImage": np.array([[[120, 110, 100]]], np.float32),
            "interpolation": "bilinear",
            "keepAspect": 1.0,
            "border": [4.0, 4],
        },
    }
    with path.open("wb") as file:
        scipy.io.savemat(file, {"layers": layers, "meta": meta})


def save_caffe(path, classes=5):
    """Inner products of the image, and probabilities."""
    net = CLASSES["NetParameter"](name="small", input=["data"], input_dim=[1, 3, 32, 32])
    fc = net.layer.add(name="fc", type="InnerProduct", bottom=["data"], top=["fc"])
    fc.inner_product_param.num_output = classes
    for shape in (classes, 3 * 32 * 32), (classes,):
        blob = fc.blobs.add(data=np.random.default_rng(0).standard_normal(shape).ravel())
        blob.shape.dim.extend(shape)
    net.layer.add(name="prob", type="Softmax", bottom=["fc"], top=["prob"])
    path.write_bytes(net.SerializeToString())


def save_torchvision(path, classes=5):
    network = MODELS["squeezenet"](classes=classes)
    network.initialize(np.random.default_rng(0))
    file = path.with_suffix(".safetensors")
    write_torchvision(file, network)
    file.rename(path)


#: What makes a small file of each format, for any number of classes.
SMALL_FILES = {
    "npconvnet": lambda path, classes=5: save_network(path, random_network(classes)),
    "matconvnet": save_matconvnet,
    "caffe": save_caffe,
    "torchvision": save_torchvision,
    "onnx": lambda path, classes=5: write_onnx(path, random_network(classes)),
}


def test_there_is_a_small_file_of_every_format():
    assert SMALL_FILES.keys() == FORMATS.keys()


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_is_recognised_by_what_is_in_the_file(format, tmp_path):
    SMALL_FILES[format](tmp_path / "photo.jpg")
    assert recognise(tmp_path / "photo.jpg") == format
    network = load_network(tmp_path / "photo.jpg")
    assert len(network.synsets) == 5
    scores = network.scores(network.preprocess([np.zeros((40, 50, 3), np.uint8)]))
    assert scores.shape == (1, 5)
    assert scores.dtype == np.float32


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_that_is_given_is_believed(format, tmp_path):
    path = tmp_path / "weights"
    SMALL_FILES[format](path)
    assert len(load_network(path, format).synsets) == 5
    for other in FORMATS.keys() - {format}:
        with pytest.raises(InputError, match=str(path)) as refusal:
            load_network(path, other)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("format", ["npconvnet", "caffe", "torchvision", "onnx"])
def test_names_of_imagenet_stand_in_where_there_are_none_for_its_1000_classes(format, tmp_path):
    for classes, names in (1000, imagenet_synsets()[999].names), (999, "class 998"):
        SMALL_FILES[format](tmp_path / "weights", classes)
        assert load_network(tmp_path / "weights").synsets[-1].names == names


def test_names_in_the_file_stay(tmp_path):
    save_matconvnet(tmp_path / "net.mat", classes=1000)
    assert load_network(tmp_path / "net.mat").synsets[999] == Synset("n00000999", "thing 999")


def test_names_that_are_given(tmp_path):
    save_matconvnet(tmp_path / "net.mat")
    given = tuple(Synset(f"n{number:08}", f"other {number}") for number in range(5))
    assert load_network(tmp_path / "net.mat", synsets=given).synsets == given
    with pytest.raises(InputError, match=r"net\.mat: has 5 classes, and 4 names were given"):
        load_network(tmp_path / "net.mat", synsets=given[:4])


def test_a_prototxt_goes_with_a_caffemodel(tmp_path):
    save_caffe(tmp_path / "net.caffemodel")
    (tmp_path / "net.prototxt").write_text(
        """
        input: "data"  input_dim: 1  input_dim: 3  input_dim: 32  input_dim: 32
        layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 5 } }
        layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
        """
    )
    network = load_network(tmp_path / "net.caffemodel", prototxt=tmp_path / "net.prototxt")
    assert [node.name for node in network.nodes] == ["fc", "relu"]
    save_matconvnet(tmp_path / "net.mat")
    with pytest.raises(InputError, match=r"net\.mat: a \.prototxt goes with a \.caffemodel, and this is matconvnet"):
        load_network(tmp_path / "net.mat", prototxt=tmp_path / "net.prototxt")


def test_how_an_onnx_is_fed_can_be_said(tmp_path):
    network = MODELS["tiny"](classes=5)
    network.initialize(np.random.default_rng(0))
    model = onnx_model(network)
    model.ClearField("metadata_props")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    usual = load_network(tmp_path / "net.onnx")
    assert usual.preprocessing == torchvision_preprocessing(usual.preprocessing.crop)
    fed_like_vgg = load_network(tmp_path / "net.onnx", convention="vgg")
    assert fed_like_vgg.preprocessing == vgg_preprocessing(usual.preprocessing.crop)
    weight = "conv1.weight"
    np.testing.assert_array_equal(fed_like_vgg.parameters[weight], usual.parameters[weight][..., ::-1])
    save_matconvnet(tmp_path / "net.mat")
    with pytest.raises(InputError, match=r"net\.mat: only an \.onnx has to be told how its network is fed"):
        load_network(tmp_path / "net.mat", convention="vgg")


@pytest.mark.parametrize("format", FORMATS)
def test_a_network_has_the_name_of_its_model_or_of_its_file(format, tmp_path):
    SMALL_FILES[format](tmp_path / "weights.of.mine")
    network = load_network(tmp_path / "weights.of.mine")
    assert network.name == ("weights.of" if network.model == "graph" else network.model)
    save_network(tmp_path / "own", network)
    assert load_network(tmp_path / "own").name == network.name


def test_a_pointer_to_a_file_is_no_file(tmp_path):
    (tmp_path / "net.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=r"net\.onnx: a pointer to the file, not the file itself"):
        load_network(tmp_path / "net.onnx")


@pytest.mark.parametrize("contents", [b"x", b"\0" * 100, b"PK", b"\x89PNG", b"MATLAB", b"{}", b"model: net\n"])
def test_what_is_no_weight_file(contents, tmp_path):
    (tmp_path / "file").write_bytes(contents)
    with pytest.raises(InputError, match="file: not a weight file that npconvnet knows"):
        load_network(tmp_path / "file")


@pytest.mark.parametrize("photo", ["chelsea.jpg", "imagenet_classes.tsv"])
def test_other_files_are_no_weight_files(photo):
    with pytest.raises(InputError, match="not a weight file that npconvnet knows"):
        load_network(ASSETS / photo)


def test_places_without_a_file(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        load_network(tmp_path)
    with pytest.raises(InputError, match="no such weight file"):
        load_network(tmp_path / "none")


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_bytes_alone(format, tmp_path):
    """What still looks like its format but has been cut off, at each of its first bytes and at some others."""
    path = tmp_path / "weights"
    SMALL_FILES[format](path)
    contents = path.read_bytes()
    for size in (*range(64), len(contents) // 3, len(contents) // 2, len(contents) - 1):
        path.write_bytes(contents[:size])
        with pytest.raises(InputError, match=str(path)) as refusal:
            load_network(path)
        assert "\n" not in str(refusal.value)


@pytest.mark.skipif(os.name != "posix", reason="names of 300 letters are too long on POSIX")
def test_names_that_no_file_can_have(tmp_path):
    for format in (None, *FORMATS):
        with pytest.raises(InputError, match="cannot be read"):
            load_network(tmp_path / ("a" * 300), format)
    network = random_network(5)
    for name in ("a" * 300, "a" * 253):  # too long with what is added while it is written
        with pytest.raises(InputError, match="cannot be written"):
            save_network(tmp_path / name, network)


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_file_is_said_to_be_empty(format, tmp_path):
    (tmp_path / "net").touch()
    with pytest.raises(InputError, match="net: is empty"):
        load_network(tmp_path / "net", format)

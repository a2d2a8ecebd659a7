"""ONNX out: onnxruntime computes the same scores, onnx's checker is content, and the reader gives the network back."""

import base64
import json
from itertools import product

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession

from npconvnet.data.image import read_image
from npconvnet.errors import InputError
from npconvnet.kernels.shapes import Rounding
from npconvnet.layers import (
    LRN,
    Add,
    AveragePool2d,
    Concatenate,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAveragePool2d,
    Linear,
    MaxPool2d,
    ReLU,
)
from npconvnet.models import MODELS
from npconvnet.models.graph import LAYERS
from npconvnet.models.paper import paper
from npconvnet.network import Network, Row
from npconvnet.preprocessing import Preprocessing
from npconvnet.randomness import Chances, Purpose
from npconvnet.synsets import Synset
from npconvnet.weights import bundled_network
from npconvnet.weights.onnx.reader import read_onnx
from npconvnet.weights.onnx.writer import onnx_model, write_onnx
from tests.command_line import ASSETS
from tests.conftest import assert_close
from tests.models.test_models import narrowed, prepared


def outputs(model, x, *names):
    """What onnxruntime makes of the images `x` (N, H, W, 3)."""
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names or None, {"image": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})


def assert_same_scores(network, x, dynamic_batch=False):
    model = onnx_model(network, dynamic_batch)
    onnx.checker.check_model(model, full_check=True)
    (scores,) = outputs(model, x)
    assert_close(scores, network.scores(x))


def every_layer():
    """Each layer that npconvnet has, with what is easily got wrong: sides that differ, overhangs, groups."""
    return Network(
        "graph",
        [
            ("conv1", Conv2d(3, 8, (7, 3), stride=2, padding=(0, 1, 2, 0), rounding="ceil")),
            ("relu1", ReLU()),
            ("norm1", LRN(size=5, alpha_per_element=0.2, beta=0.6, k=1.5)),
            ("pool1", MaxPool2d(3, stride=2, padding=(0, 0, 0, 1), rounding="ceil")),
            ("conv2", Conv2d(8, 12, 3, padding=1, groups=4)),
            ("conv3", Conv2d(8, 12, 1), ("pool1",)),
            ("sum", Add(), ("conv2", "conv3", "conv2")),
            ("average", AveragePool2d(3, stride=2, padding=(1, 0, 1, 1))),
            ("norm2", LRN(size=3, alpha_per_element=0.1), ("sum",)),
            ("uncounted", AveragePool2d(3, stride=2, padding=(1, 0, 1, 0), rounding="ceil", count_padding=False)),
            ("both", Concatenate(), ("average", "uncounted")),
            ("drop", Dropout(0.3)),
            ("mean", GlobalAveragePool2d()),
            ("flat", Flatten(), ("drop",)),
            ("fc1", Linear(3 * 4 * 24, 10), ("drop",)),
            ("fc2", Linear(3 * 4 * 24, 10), ("flat",)),
            ("vectors", Concatenate(), ("fc1", "fc2", "mean")),
            ("fc3", Linear(44, 6)),
        ],
        Preprocessing(resize=32, crop=27),
    )


def test_every_layer_is_in_the_graph_of_these_tests():
    assert {type(node.layer) for node in every_layer().nodes} == set(LAYERS.values())


@pytest.mark.parametrize("model", MODELS)
def test_onnxruntime_gives_the_scores_of_every_architecture(model, rng):
    network, x = prepared(narrowed(MODELS[model]()), "float32", rng)
    assert_same_scores(network, x[:1])


def test_onnxruntime_gives_the_scores_of_the_paper_where_convolutions_round_up(rng):
    network, x = prepared(narrowed(paper(rounding="cudaconvnet")), "float32", rng)
    assert_same_scores(network, x, dynamic_batch=True)


@pytest.mark.parametrize(("count", "dynamic_batch"), [(1, False), (1, True), (3, True)])
def test_onnxruntime_gives_the_scores_of_every_layer(count, dynamic_batch, rng):
    network, _ = prepared(every_layer(), "float32", rng)
    x = rng.standard_normal((count, 27, 27, 3)).astype(np.float32)
    assert_same_scores(network, x, dynamic_batch)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1, (1, 0, 0, 1), (0, 1, 1, 0)])
def test_windows_lie_where_npconvnet_puts_them(stride, padding, rng):
    """Every pooling and convolution of one small image, and all of them in one file."""
    rows: list[Row] = []
    roundings: tuple[Rounding, ...] = ("floor", "ceil")
    for window, rounding in product((2, 3), roundings):
        placement = (window, stride, padding, rounding)
        rows += [
            (f"max {placement}", MaxPool2d(*placement), ("input",)),
            (f"average {placement}", AveragePool2d(*placement), ("input",)),
            (f"uncounted {placement}", AveragePool2d(*placement, count_padding=False), ("input",)),
            (f"conv {placement}", Conv2d(3, 2, window, stride, padding, 1, rounding), ("input",)),
        ]
    for size in (7, 8, 9):
        network = Network("graph", [*rows, ("mean", GlobalAveragePool2d())], Preprocessing(size, size))
        network, x = prepared(network, "float32", rng)
        model = onnx_model(network, dynamic_batch=True)
        names = [row[0] for row in rows]
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        for name, y in zip(names, outputs(model, x, *names), strict=True):
            assert_close(y.transpose(0, 2, 3, 1), network.activation(x, name))


def test_lrn_over_an_even_number_of_channels(rng):
    """By ONNX's own definition of it, because onnxruntime has odd windows only."""
    rows = [("norm", LRN(size=4, alpha_per_element=0.5)), ("mean", GlobalAveragePool2d())]
    network = Network("graph", rows, Preprocessing(6, 6))
    x = rng.standard_normal((3, 6, 6, 3)).astype(np.float32)  # the evaluator wants as many images as channels
    images = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    (scores,) = ReferenceEvaluator(onnx_model(network, dynamic_batch=True)).run(None, {"image": images})
    assert_close(scores, network.scores(x))


def test_one_image_at_a_time_unless_the_batch_is_dynamic():
    for dynamic_batch, shape in (False, [1, 3, 64, 64]), (True, ["N", 3, 64, 64]):
        image = onnx_model(MODELS["tiny"](), dynamic_batch).graph.input[0]
        assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == shape


def test_layers_may_be_called_as_they_like(rng):
    rows = [
        ("image", Conv2d(3, 4, 3)),
        ("scores", ReLU()),
        ("fc.weight", Flatten()),
        ("fc", Linear(4 * 4 * 4, 5)),
        ("fc.bias", ReLU()),
    ]
    network, x = prepared(Network("graph", rows, Preprocessing(6, 6)), "float32", rng)
    assert_same_scores(network, x, dynamic_batch=True)


def test_float64_is_written_as_float32(rng):
    network, x = prepared(MODELS["tiny"](), "float64", rng)
    (scores,) = outputs(onnx_model(network, dynamic_batch=True), x.astype(np.float32))
    assert_close(scores, network.scores(x).astype(np.float32))


# -- what goes with it -----------------------------------------------------------------------------------------------


def metadata(model):
    return {entry.key: entry.value for entry in model.metadata_props}


def test_preprocessing_and_names_are_in_the_metadata():
    network = bundled_network()
    model = onnx_model(network)
    assert model.producer_name == "npconvnet"
    assert "centre 227×227" in model.doc_string
    assert set(metadata(model)) == {"npconvnet.network"}
    header = json.loads(metadata(model)["npconvnet.network"])
    assert Preprocessing.from_json(header["preprocessing"]) == network.preprocessing
    assert tuple(Synset(*row) for row in header["synsets"]) == network.synsets


def test_a_mean_image_is_in_the_metadata(rng):
    network = MODELS["tiny"]()
    mean = rng.uniform(0, 255, (64, 64, 3)).astype(np.float32)
    network.preprocessing = Preprocessing(73, 64, mean)
    held = metadata(onnx_model(network))
    image = np.frombuffer(base64.b64decode(held["npconvnet.mean"]), "<f4").reshape(64, 64, 3)
    np.testing.assert_array_equal(image, mean)
    assert (
        Preprocessing.from_json(json.loads(held["npconvnet.network"])["preprocessing"], image) == network.preprocessing
    )


# -- the file --------------------------------------------------------------------------------------------------------


def test_the_same_photo_gives_the_same_scores_elsewhere(tmp_path):
    network = bundled_network()
    write_onnx(tmp_path / "net.onnx", network)
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    x = network.preprocess([read_image(ASSETS / "chelsea.jpg")])
    (scores,) = outputs(onnx.load(tmp_path / "net.onnx"), x)
    assert_close(scores, network.scores(x))


def test_the_reader_gives_the_network_back(tmp_path, rng):
    network, x = prepared(every_layer(), "float32", rng)
    mean = rng.uniform(0, 255, (27, 27, 3)).astype(np.float32)
    network.preprocessing = Preprocessing(32, 27, mean, (50, 60, 70), "bicubic", keep_aspect=False)
    network.synsets = tuple(Synset(f"n{number:08}", f"Ding Nr. {number}, “thing”") for number in range(6))
    write_onnx(tmp_path / "net.onnx", network, dynamic_batch=True)
    again = read_onnx(tmp_path / "net.onnx")
    assert_close(again.scores(x), network.scores(x))
    assert again.preprocessing == network.preprocessing
    assert again.synsets == network.synsets
    assert [node.layer.rate for node in again.nodes if isinstance(node.layer, Dropout)] == [pytest.approx(0.3)]
    in_training, _ = again.forward(x, chances=Chances.of(np.arange(len(x)), 0, Purpose.DROPOUT))
    assert not np.allclose(in_training, network.scores(x))


def test_more_than_a_protobuf_holds(tmp_path):
    network = MODELS["tiny"]()
    fc6 = network.nodes[15].layer
    fc6.parameters["weight"] = np.broadcast_to(np.float32(0), (1 << 15, 1 << 14))  # 2 GiB, of one number
    with pytest.raises(InputError, match=r"net\.onnx: 2\.0 GiB of parameters"):
        write_onnx(tmp_path / "net.onnx", network)
    assert not list(tmp_path.iterdir())


def test_a_place_that_can_not_be_written(tmp_path):
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(InputError, match=r"net\.onnx: cannot be written"):
        write_onnx(tmp_path / "net.onnx", MODELS["tiny"]())
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]

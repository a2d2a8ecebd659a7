"""The architectures: their sizes as published, and their gradients beside PyTorch's."""

import json
from typing import Any

import numpy as np
import pytest

from npconvnet.layers import LRN, Dropout, Layer, Linear, MaxPool2d, ReLU
from npconvnet.models import MODELS, make_again
from npconvnet.models.paper import paper
from npconvnet.models.squeezenet import VERSIONS
from npconvnet.models.vgg import CONVOLUTIONS
from npconvnet.network import Network, Node, Trace
from npconvnet.randomness import Chances, Purpose
from npconvnet.weights import bundled_network
from tests.conftest import Numbers, assert_close, from_nchw, to_nchw

# -- sizes -----------------------------------------------------------------------------------------------------------


def heights(network: Network, *names: str) -> list[int]:
    return [network.shapes[name][0] for name in names]


def parameter_count(network: Network) -> int:
    return sum(parameter.size for parameter in network.parameters.values())


def multiplications(network: Network) -> dict[str, int]:
    """Multiply-accumulates of one forward of one image, by layer."""
    places = {node.name: int(np.prod(network.shapes[node.name][:-1])) for node in network.nodes}
    return {
        node.name: places[node.name] * node.layer.parameters["weight"].size
        for node in network.nodes
        if node.layer.parameters
    }


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("paper", 60_834_536),
        ("vgg_f", 60_834_536),
        ("alexnet", 60_965_224),
        ("alexnet_owt", 61_100_840),
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("squeezenet", 1_235_496),
        ("squeezenet1_0", 1_248_424),
        ("squeezenet1_1", 1_235_496),
    ],
)
def test_parameter_count(model, count):
    assert parameter_count(MODELS[model]()) == count


@pytest.mark.parametrize(("rounding", "conv1"), [("caffe", 54), ("cudaconvnet", 55)])
def test_the_papers_sizes_under_both_roundings(rounding, conv1):
    network = paper(rounding=rounding)
    layers = ("input", "conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    assert heights(network, *layers) == [224, conv1, 27, 27, 13, 13, 13, 13, 6]
    assert network.shapes["pool5"] == (6, 6, 256)
    assert network.shapes["fc8"] == (1000,)
    assert parameter_count(network) == 60_834_536


def test_the_papers_multiplications():
    millions = {name: round(count / 1e6, 1) for name, count in multiplications(paper()).items()}
    convolutions = {"conv1": 67.7, "conv2": 298.6, "conv3": 99.7, "conv4": 99.7, "conv5": 99.7}
    assert millions == convolutions | {"fc6": 37.7, "fc7": 16.8, "fc8": 4.1}
    assert round(sum(multiplications(paper()).values()) / 1e9, 3) == 0.724


@pytest.mark.parametrize("model", ["alexnet", "alexnet_owt"])
def test_the_sizes_of_both_alexnets(model):
    layers = ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")
    assert heights(MODELS[model](), *layers) == [55, 27, 27, 13, 13, 6]


@pytest.mark.parametrize("model", CONVOLUTIONS)
def test_the_sizes_of_vgg(model):
    network = MODELS[model]()
    assert heights(network, *(f"pool{block}" for block in range(1, 6))) == [112, 56, 28, 14, 7]
    layers_with_weights = sum(bool(node.layer.parameters) for node in network.nodes)
    assert model == f"vgg{layers_with_weights}"


def test_the_sizes_of_squeezenet():
    assert heights(MODELS["squeezenet"](), "conv1", "pool1", "pool3", "pool5", "conv10") == [113, 56, 27, 13, 13]
    assert heights(MODELS["squeezenet1_1"](), "conv1", "pool1", "pool3", "pool5", "conv10") == [111, 55, 27, 13, 13]
    assert heights(MODELS["squeezenet1_0"](), "conv1", "pool1", "pool4", "pool8", "conv10") == [109, 54, 27, 13, 13]


def test_options_of_earlier_weight_files_make_the_same_networks():
    """They name the classes only."""
    vgg16 = make_again("vgg16", {"classes": 1000})
    layers = [
        f"conv{block}_{number}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for number in range(1, count + 1)
    ]
    assert [name for name in vgg16.parameters if name.endswith("weight")] == [
        f"{layer}.weight" for layer in (*layers, "fc6", "fc7", "fc8")
    ]
    squeezenet = make_again("squeezenet", {"classes": 1000})
    assert squeezenet.parameters.keys() == bundled_network().parameters.keys()
    assert squeezenet.preprocessing.crop == 227


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("alexnet_owt", {"widths": (2, 3, 4, 5, 6), "hidden": 7}),
        ("vgg13", {"widths": (2, 3, 4, 5, 6), "hidden": 7}),
        ("squeezenet1_0", {"widths": tuple(range(2, 19))}),
    ],
)
def test_widths_of_layers(model, options):
    network = MODELS[model](classes=8, **options)
    filters = [len(weight) for name, weight in network.parameters.items() if name.endswith("weight")]
    assert set(filters) == {*options["widths"], options.get("hidden", 8), 8}
    assert make_again(model, json.loads(json.dumps(network.options))).shapes == network.shapes
    with pytest.raises(ValueError):
        MODELS[model](widths=options["widths"][1:])


def test_tiny_is_the_papers_sequence_of_layers():
    def kinds(network: Network) -> list[tuple[str, type]]:
        return [(node.name, type(node.layer)) for node in network.nodes]

    assert kinds(MODELS["tiny"]()) == kinds(paper())


def test_vgg_f_is_the_papers_table():
    vgg_f, table = MODELS["vgg_f"](), paper()
    assert vgg_f.shapes == table.shapes
    assert [node.name for node in vgg_f.nodes] == [node.name for node in table.nodes]
    assert vgg_f.model == "vgg_f"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("classes", [1, 7])
def test_any_number_of_classes(model, classes):
    network = MODELS[model](classes=classes)
    assert network.shapes[network.last] == (classes,)


@pytest.mark.parametrize("lrn", [True, False])
def test_lrn_follows_conv1_and_conv2_or_is_left_out(lrn):
    network = paper(lrn=lrn)
    normalised = [node.name for node in network.nodes if isinstance(node.layer, LRN)]
    assert normalised == (["norm1", "norm2"] if lrn else [])
    assert network.shapes["pool5"] == (6, 6, 256)


@pytest.mark.parametrize("model", MODELS)
def test_model_and_options_make_the_network_again(model):
    network = MODELS[model](classes=3)
    again = MODELS[network.model](**network.options)
    assert again.shapes == network.shapes
    assert again.options == network.options


@pytest.mark.parametrize("lrn", [True, False])
@pytest.mark.parametrize("rounding", ["caffe", "cudaconvnet"])
def test_the_papers_options_make_it_again(lrn, rounding):
    network = paper(classes=2, lrn=lrn, rounding=rounding)
    assert MODELS["paper"](**network.options).shapes == network.shapes


# -- gradients -------------------------------------------------------------------------------------------------------


def narrowed(network: Network) -> Network:
    """The same table with 64 features instead of 4096, which would hold nine tenths of the parameters and the time."""

    def narrow(features: int) -> int:
        return 64 if features == 4096 else features

    def layer(node: Node) -> Layer:
        if not isinstance(node.layer, Linear):
            return node.layer
        out_features, in_features = node.layer.parameters["weight"].shape
        return Linear(narrow(in_features), narrow(out_features))

    rows = [(node.name, layer(node), node.inputs) for node in network.nodes]
    return Network(network.model, rows, network.preprocessing)


def small(model: str) -> Network:
    """`model` with fewer features, and those of which there are several versions with fewer filters, to save time."""
    widths = dict.fromkeys(CONVOLUTIONS, (8, 8, 16, 16, 16)) | dict.fromkeys(VERSIONS, (16, *(4, 8) * 8))
    return narrowed(MODELS[model](**({"widths": widths[model]} if model in widths else {})))


def prepared(network: Network, dtype: str, rng: np.random.Generator) -> tuple[Network, Numbers]:
    """The network with random parameters, biases too, and a batch of images."""
    network.initialize(rng)
    for name, parameter in network.parameters.items():
        if name.endswith(".bias"):
            parameter[...] = 0.1 * rng.standard_normal(parameter.shape)
    return network.astype(dtype), rng.standard_normal((2, *network.shapes["input"])).astype(dtype)


def assert_gradients_match(network: Network, x: Numbers, peer: Any, torch: Any, trace: Trace, scores: Numbers) -> None:
    """The scores, the gradient of every parameter and of the image are those of `peer`, for a random d_scores."""
    d_scores = np.random.default_rng(1).standard_normal(scores.shape).astype(scores.dtype)
    dx, gradients = network.backward(trace, d_scores)
    images = to_nchw(x, torch).requires_grad_()
    peer_scores = peer(images)
    peer_scores.backward(torch.from_numpy(d_scores))
    assert_close(scores, peer_scores.detach().numpy())
    assert_close(dx, from_nchw(images.grad))
    expected = peer.gradients()
    assert gradients.keys() == expected.keys() == network.parameters.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name])


def make_peer(network: Network) -> Any:
    from bench.torch_peer import TorchPeer  # here, because PyTorch may be missing

    return TorchPeer(network).eval()


@pytest.mark.parametrize("model", MODELS)
def test_float64_gradients_are_pytorchs(model, rng, torch):
    network, x = prepared(small(model), "float64", rng)
    scores, trace = network.forward(x)
    assert_gradients_match(network, x, make_peer(network), torch, trace, scores)


@pytest.mark.parametrize("model", MODELS)
def test_float32_gradients_are_pytorchs(model, rng, torch):
    network, x = prepared(small(model), "float32", rng)
    scores, trace = network.forward(x)
    peer = on_the_same_side_of_every_kink(make_peer(network), network, trace, torch)
    assert_gradients_match(network, x, peer, torch, trace, scores)


@pytest.mark.parametrize("options", [{"lrn": False}, {"rounding": "cudaconvnet"}])
def test_gradients_of_the_papers_variants_are_pytorchs(options, rng, torch):
    network, x = prepared(narrowed(paper(classes=5, **options)), "float64", rng)
    scores, trace = network.forward(x)
    assert_gradients_match(network, x, make_peer(network), torch, trace, scores)


def test_gradients_with_dropout_are_pytorchs_with_the_same_mask(rng, torch):
    network, x = prepared(MODELS["tiny"](), "float64", rng)
    scores, trace = network.forward(x, chances=Chances.of(np.arange(len(x)), 0, Purpose.DROPOUT))
    peer = make_peer(network)
    for node in network.nodes:
        if isinstance(node.layer, Dropout):
            factor = torch.from_numpy(trace.saved[node.name] / (1 - node.layer.rate))
            assert 0 < factor.mean() < 1.5
            peer.steps[node.name] = lambda y, factor=factor: y * factor
    assert_gradients_match(network, x, peer, torch, trace, scores)


def on_the_same_side_of_every_kink(peer: Any, network: Network, trace: Trace, torch: Any) -> Any:
    """The peer with the signs and switches of `trace`.

    Among millions of float32 activations some lie within rounding error of 0, or of their neighbour in a pool; the two
    libraries then take different sides, both rightly, and the gradients differ by more than any tolerance.
    """
    for node in network.nodes:
        if isinstance(node.layer, ReLU):
            positive = to_nchw_or_flat(trace.saved[node.name] > 0, torch)
            peer.steps[node.name] = lambda y, positive=positive: torch.where(positive, y, 0)
        elif isinstance(node.layer, MaxPool2d):
            pixels = to_nchw(switched_pixels(node.layer, *trace.saved[node.name]), torch)
            peer.steps[node.name] = lambda y, pixels=pixels: (
                y.flatten(2).gather(2, pixels.flatten(2)).reshape(pixels.shape)
            )
    return peer


def to_nchw_or_flat(x: Numbers, torch: Any) -> Any:
    return to_nchw(x, torch) if x.ndim == 4 else torch.from_numpy(x)


def switched_pixels(layer: MaxPool2d, switches: Numbers, x_shape: tuple[int, ...]) -> Numbers:
    """The pixel h·W + w that each switch (N, P, Q, C) points to, for a pool without padding."""
    assert not any(layer.padding)
    p, q = np.arange(switches.shape[1])[:, None, None], np.arange(switches.shape[2])[:, None]
    r, s = np.divmod(switches.astype(np.int64), layer.window[1])
    pixels: Numbers = (p * layer.stride + r) * x_shape[2] + q * layer.stride + s
    return pixels


def test_initial_weights_keep_the_scale_of_the_activations(rng):
    network = MODELS["tiny"]()
    network.initialize(rng)
    for node in network.nodes:
        if node.layer.parameters:
            weight, bias = node.layer.parameters["weight"], node.layer.parameters["bias"]
            expected = 0.01 if node.name == network.last else np.sqrt(2 / weight[0].size)
            assert weight.std() == pytest.approx(expected, rel=0.1)
            assert abs(weight.mean()) < 0.1 * expected
            assert not bias.any()

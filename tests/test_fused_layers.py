"""Fused layers: what each takes the place of, and that whole networks of them compute what the layers one by one do."""

import importlib
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from npconvnet.backend import Precision, to_device, to_host, why_no_gpu
from npconvnet.forward_pass import ForwardPass, class_scores, joint
from npconvnet.fused_layers import FirstConv2d, PooledConv2d, Widened
from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from npconvnet.kernels.cuda.space_to_depth import image_cells, images_of_cells
from npconvnet.layers import (
    EVERYTHING,
    LRN,
    Add,
    Affine,
    AveragePool2d,
    Concatenate,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAveragePool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
)
from npconvnet.network import INPUT, Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.randomness import Chances, Purpose

SIZE = 32
#: ‖ours − theirs‖ / ‖theirs‖ for scores and gradients.
TOLERANCE: dict[Precision, float] = {"tf32": 2e-3, "bfloat16": 2e-2}
PRECISIONS: tuple[Precision, ...] = ("tf32", "bfloat16")
RULES: Any = ("gradient", "deconvnet", "guided")


@pytest.fixture(params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)], autouse=True)
def xp(request):
    """cupy: in the tests' own form, and as it is where there is a GPU."""
    if request.param == "gpu":
        if reason := why_no_gpu():
            pytest.skip(reason)
        return importlib.import_module("cupy")
    return request.getfixturevalue("cupy")


def table(*rows: Any) -> Network:
    return Network("test", rows, Preprocessing(resize=SIZE, crop=SIZE))


def paper_like(lrn: bool) -> Network:
    """The paper's sequence of layers on small pictures."""
    rows = [
        ("conv1", Conv2d(3, 8, 5, stride=2)),
        ("relu1", ReLU()),
        ("norm1", LRN(alpha_per_element=0.1)),
        ("pool1", MaxPool2d(3, stride=2, rounding="ceil")),
        ("conv2", Conv2d(8, 16, 3, padding=1)),
        ("relu2", ReLU()),
        ("norm2", LRN(alpha_per_element=0.1)),
        ("pool2", MaxPool2d(3, stride=2, rounding="ceil")),
        ("conv3", Conv2d(16, 16, 3, padding=1)),
        ("relu3", ReLU()),
        ("conv4", Conv2d(16, 16, 3, padding=1)),
        ("relu4", ReLU()),
        ("fc5", Linear(3 * 3 * 16, 32)),
        ("relu5", ReLU()),
        ("drop5", Dropout(0.25)),
        ("fc6", Linear(32, 16)),
    ]
    return table(*(row for row in rows if lrn or not isinstance(row[1], LRN)))


def paper_like_without_lrn() -> Network:
    return paper_like(lrn=False)


def squeezenet_like() -> Network:
    """A fire module, whose parts read one activation, and the averages of maps for scores."""
    return table(
        ("conv1", Conv2d(3, 16, 3, stride=2)),
        ("relu1", ReLU()),
        ("pool1", MaxPool2d(3, stride=2)),
        ("squeeze", Conv2d(16, 8, 1)),
        ("squeeze_relu", ReLU()),
        ("left", Conv2d(8, 16, 1), ("squeeze_relu",)),
        ("left_relu", ReLU()),
        ("right", Conv2d(8, 16, 3, padding=1), ("squeeze_relu",)),
        ("right_relu", ReLU()),
        ("fire", Concatenate(), ("left_relu", "right_relu")),
        ("pool2", MaxPool2d(3, stride=2)),
        ("drop", Dropout()),
        ("conv10", Conv2d(32, 8, 1)),
        ("relu10", ReLU()),
        ("pool10", GlobalAveragePool2d()),
    )


def with_skip() -> Network:
    """Convolutions without a ReLU, in groups, on 3 channels that are no image; activations that two layers read."""
    return table(
        ("conv1", Conv2d(3, 16, 7, stride=4, padding=3)),
        ("conv2", Conv2d(16, 16, 3, padding=1, groups=2)),
        ("skip", Add(), ("conv1", "conv2")),
        ("relu2", ReLU()),
        ("norm2", LRN()),
        ("pool2", AveragePool2d(2, stride=2)),
        ("narrow", Conv2d(16, 3, 1)),
        ("wide", Conv2d(3, 16, 3, padding=1)),
        ("flat", Flatten()),
        ("fc3", Linear(16 * 4 * 4, 24)),
        ("relu3", ReLU()),
        ("fc4", Linear(24, 8)),
        ("last", Concatenate(), ("fc4", "relu3")),
    )


def linear_on_the_image() -> Network:
    return table(("fc1", Linear(3 * SIZE**2, 16)), ("relu1", ReLU()), ("drop1", Dropout()), ("fc2", Linear(16, 8)))


def ends_with_a_convolution() -> Network:
    return table(
        ("conv1", Conv2d(3, 8, 5, stride=4)), ("relu1", ReLU()), ("conv2", Conv2d(8, 16, 7)), ("relu2", ReLU())
    )


NETWORKS = {
    "paper": lambda: paper_like(lrn=True),
    "paper without LRN": paper_like_without_lrn,
    "squeezenet": squeezenet_like,
    "skip": with_skip,
    "linear on the image": linear_on_the_image,
    "ends with a convolution": ends_with_a_convolution,
}


def rounded(x):
    """The nearest numbers of bfloat16, in the type of `x`."""
    return from_bfloat16(to_bfloat16(x.astype(np.float32))).astype(x.dtype)


def drawn(make: Any, rng: np.random.Generator) -> Network:
    """With weights that are numbers of bfloat16."""
    network: Network = make()
    for parameter in network.parameters.values():
        spread = 0.1 if parameter.ndim == 1 else np.sqrt(2 / parameter[0].size)
        parameter[...] = rounded(spread * rng.standard_normal(parameter.shape))
    return network


def images(rng, count=2):
    return rounded(rng.standard_normal((count, SIZE, SIZE, 3), np.float32))


def chances(count=2):
    return Chances.of(np.arange(count), 5, Purpose.DROPOUT)


def rounded_to_tf32(x):
    """The nearest numbers with a fraction of 10 bits, in the type of `x`."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32).astype(x.dtype)


class Rounded(Layer):
    """Another layer on the CPU, which reads what `of_x` makes of x, and gives what `of_y` makes of y."""

    def __init__(self, layer, of_x=lambda x: x, of_y=lambda y: y):
        super().__init__()
        self.layer, self.of_x, self.of_y, self.parameters = layer, of_x, of_y, layer.parameters

    def output_shape(self, *x_shapes):
        return self.layer.output_shape(*x_shapes)

    def forward(self, *xs, chances=None):
        y, saved = self.layer.forward(*map(self.of_x, xs), chances=chances)
        return self.of_y(y), saved

    def backward(self, dy, saved, options=EVERYTHING):
        return self.layer.backward(dy, saved, options)


def definition(network, precision):
    """The same network in float64, layer by layer, on the CPU.

    Only the activations are rounded where tensor cores round them, in what they read, or where words are written: where
    two numbers of a window are nearly as large, the pools would choose differently.
    """
    exact = deepcopy(network).astype(np.float64).fused()
    read_by_pools = {node.inputs[0] for node in exact.nodes if isinstance(node.layer, MaxPool2d)}

    def in_precision(node):
        if precision == "tf32":
            multiplies = isinstance(node.layer, Affine | PooledConv2d)
            return Rounded(node.layer, of_x=rounded_to_tf32) if multiplies else node.layer
        is_word = node.name not in (exact.last, *read_by_pools)
        return Rounded(node.layer, of_y=rounded) if is_word else node.layer

    exact.nodes = tuple(replace(node, layer=in_precision(node)) for node in exact.nodes)
    return exact


def error(ours, theirs):
    assert (ours.shape, ours.dtype) == (theirs.shape, np.float32)
    return np.linalg.norm(to_host(ours) - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "bfloat16") for name in NETWORKS), ("paper", "tf32"), ("paper without LRN", "tf32"), ("skip", "tf32")],
)
def test_like_the_layers_one_by_one(name, precision, rng):
    """Scores, all gradients and that of the image, under every rule, with dropout."""
    network, x = drawn(NETWORKS[name], rng), images(rng)
    exact = definition(network, precision)
    scores, trace = exact.forward(x.astype(np.float64), chances=chances())
    d_scores = rounded(rng.standard_normal(scores.shape))

    fused = network.to("gpu").fused(precision)
    own_scores, own_trace = fused.forward(to_device(x, "gpu"), chances=chances())
    assert error(own_scores, scores) < TOLERANCE[precision]
    arrived = to_device(d_scores.astype(np.float32), "gpu")
    for rule in RULES:
        dx, gradients = exact.backward(trace, d_scores, relu_rule=rule)
        own_dx, own_gradients = fused.backward(own_trace, arrived, relu_rule=rule)
        assert own_gradients.keys() == gradients.keys()
        errors = {name: error(own_gradients[name], gradient) for name, gradient in gradients.items()}
        errors["image"] = error(own_dx, dx)
        assert max(errors.values()) < TOLERANCE[precision], errors


@pytest.mark.parametrize("name", ["paper without LRN", "squeezenet"])
def test_float32_like_the_layers_one_by_one(name, rng):
    """Pools are inside convolutions there, too."""
    network, x = drawn(NETWORKS[name], rng), images(rng, 3)
    scores, trace = network.forward(x)
    d_scores = rng.standard_normal(scores.shape, np.float32)
    expected = {rule: network.backward(trace, d_scores, relu_rule=rule) for rule in RULES}

    fused = network.to("gpu").fused()
    assert "pool1" not in fused.shapes
    own_scores, own_trace = fused.forward(to_device(x, "gpu"))
    assert max(error(own_scores, scores), error(fused.scores(to_device(x, "gpu")), scores)) < 1e-5
    for rule, (dx, gradients) in expected.items():
        own_dx, own_gradients = fused.backward(own_trace, to_device(d_scores, "gpu"), relu_rule=rule)
        errors = {name: error(own_gradients[name], gradient) for name, gradient in gradients.items()}
        assert max(error(own_dx, dx), *errors.values()) < 1e-5, errors


@pytest.mark.parametrize("name", ["paper without LRN", "squeezenet", "skip"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_some_classes_of_what_is_fused(name, precision, rng):
    """Of what has been fused, to the bit; and of what is fused afterwards."""
    network, x = drawn(NETWORKS[name], rng).to("gpu"), to_device(images(rng), "gpu")
    whole = network.fused(precision)
    scores, trace = whole.forward(x)
    d_scores = to_device(np.eye(scores.shape[1], dtype=np.float32)[[5, 1]], "gpu")
    expected, _ = whole.backward(trace, d_scores)
    assert expected is not None
    for some, tolerance in [
        (whole.for_classes([1, 5]), 0),
        (network.for_classes([1, 5]).fused(precision), TOLERANCE[precision]),
    ]:
        own_scores, own_trace = some.forward(x)
        assert error(own_scores, to_host(scores)[:, [1, 5]]) <= tolerance
        dx, _ = some.backward(own_trace, to_device(np.eye(2, dtype=np.float32)[::-1], "gpu"))
        assert error(dx, to_host(expected)) <= tolerance


# -- what is fused ---------------------------------------------------------------------------------------------------


LETTERS: dict[Any, str] = {Conv2d: "c", ReLU: "r", LRN: "l", MaxPool2d: "p", Linear: "f", Dropout: "d"}
MAKE: dict[str, Any] = {
    "c": lambda: Conv2d(3, 3, 1),
    "r": ReLU,
    "l": LRN,
    "p": lambda: MaxPool2d(3, stride=1, padding=1),
    "f": lambda: Linear(3 * SIZE**2, 8),
    "d": Dropout,
    "P": lambda: MaxPool2d(9, stride=1, padding=4),
}


def described(network):
    """For each node the layers that are in it, by their letters; in brackets where they are widened."""

    def letters(layer):
        if isinstance(layer, Widened):
            return f"({letters(layer.layer)})"
        return "".join(LETTERS.get(type(part), "?") for part in getattr(layer, "layers", [layer]))

    return " ".join(f"{node.name}:{letters(node.layer)}" for node in network.nodes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("paper", "conv1:crlp conv2:crlp conv3:cr conv4:cr fc5:fr drop5:d fc6:f"),
        ("paper without LRN", "conv1:crp conv2:crp conv3:cr conv4:cr fc5:fr drop5:d fc6:f"),
        ("squeezenet", "conv1:crp squeeze:cr left:cr right:cr fire:? pool2:(p) drop:d conv10:cr pool10:(?)"),
        ("skip", "conv1:c conv2:c skip:(?) relu2:(r) norm2:(l) pool2:(?) narrow:c wide:c flat:? fc3:fr fc4:f last:(?)"),
    ],
)
def test_runs_of_layers_are_one(name, expected):
    network = NETWORKS[name]().to("gpu")
    before = network.nodes
    assert described(network.fused("bfloat16")) == expected
    assert described(network.fused("tf32")) == expected.replace("(", "").replace(")", "")
    assert network.nodes is before


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("crlpf", "a:crlp e:f"),
        ("crlrp", "a:crl d:(r) e:(p)"),
        ("crplc", "a:crp d:(l) e:c"),
        ("crrc", "a:cr c:(r) d:c"),
        ("cpr", "a:c b:(p) c:(r)"),
        ("clc", "a:c b:(l) c:c"),
        ("crpp", "a:crp d:(p)"),
        ("crP", "a:cr c:(p)"),  # too large for a tile
        ("dfr", "a:(d) b:fr"),  # it reads the image
        ("fd", "a:f b:(d)"),  # it gives the scores
        ("rdf", "a:(r) b:d c:f"),
    ],
)
def test_a_run_ends_where_another_kind_of_layer_follows(layers, expected):
    network = table(*((name, MAKE[letter]()) for name, letter in zip("abcde", layers, strict=False)))
    assert described(network.to("gpu").fused("bfloat16")) == expected


def test_a_run_ends_where_two_layers_read():
    rows = [(name, MAKE[letter]()) for name, letter in zip("abc", "crl", strict=True)]
    network = table(*rows, ("both", Add(), ("b", "c"))).to("gpu")
    assert described(network.fused("bfloat16")) == "a:cr c:(l) both:(?)"


def test_activations_are_words_but_for_image_and_scores(rng):
    network = drawn(squeezenet_like, rng).to("gpu").fused("bfloat16")
    names = [INPUT, *(node.name for node in network.nodes)]
    kept = network.forward(to_device(images(rng), "gpu"), keep=names)[1].kept
    assert [kept[name].dtype for name in names] == [np.float32, *[np.uint16] * (len(names) - 2), np.float32]
    assert {name: x.shape[1:] for name, x in kept.items()} == network.shapes


def test_it_is_the_same_network_on_the_same_parameters(rng):
    network = drawn(paper_like_without_lrn, rng).to("gpu")
    fused = network.fused("bfloat16")
    assert fused.parameters.keys() == network.parameters.keys()
    assert all(value is network.parameters[name] for name, value in fused.parameters.items())
    assert fused.fused("bfloat16") is fused.fused("tf32") is fused.fused() is fused
    assert (network.precision, network.fused().precision, fused.precision) == ("float32", "float32", "bfloat16")
    assert joint(fused) == "conv4"
    x = to_device(images(rng), "gpu")
    scores = to_host(fused.scores(x))
    np.testing.assert_array_equal(to_host(ForwardPass(fused, x).scores), scores)
    np.testing.assert_array_equal(to_host(class_scores(fused, x)), scores)


def test_tensor_cores_are_on_a_gpu():
    with pytest.raises(ValueError, match="tf32 is for a network on a GPU, and test is on the CPU"):
        squeezenet_like().fused("tf32")


# -- weights ---------------------------------------------------------------------------------------------------------


def test_copies_are_what_layers_of_words_compute_with(rng):
    """But for the filters in cells, which are made of the parameters every time."""
    network = drawn(paper_like_without_lrn, rng).to("gpu")
    assert network.copies == network.fused("tf32").copies == {}
    fused, x = network.fused("bfloat16"), to_device(images(rng), "gpu")
    names = [name for name in network.parameters if name.endswith("weight") and name != "conv1.weight"]
    assert list(fused.copies) == names
    for name in names:
        np.testing.assert_array_equal(to_host(fused.copies[name]), to_bfloat16(to_host(network.parameters[name])))
    for changed in (fused.parameters["conv1.weight"], fused.parameters["fc5.bias"], *fused.copies.values()):
        before, held = to_host(fused.scores(x)), changed.copy()
        changed[...] = 0
        assert (to_host(fused.scores(x)) != before).any()
        changed[...] = held


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_may_be_written_over_those_of_the_step_before(precision, rng, xp):
    network, x = drawn(paper_like_without_lrn, rng).to("gpu").fused(precision), to_device(images(rng), "gpu")
    into = {name: xp.empty_like(value) for name, value in network.parameters.items()}
    run = ForwardPass(network, x, chances())
    _, gradients = run.backward(run.scores, input_gradient=False)
    _, written = run.backward(run.scores, input_gradient=False, into=into)
    for name, gradient in gradients.items():
        assert written[name] is into[name]
        np.testing.assert_array_equal(to_host(written[name]), to_host(gradient))


# -- images and scores -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_first_convolution_takes_images_or_their_cells(precision, rng):
    network, x = drawn(squeezenet_like, rng).to("gpu").fused(precision), to_device(images(rng), "gpu")
    first = network.nodes[0].layer
    assert isinstance(first, FirstConv2d)
    scores, trace = network.forward(x)
    dx, gradients = network.backward(trace, scores)
    cells = image_cells(x, first.cells, first.dtype)
    own_scores, own_trace = network.forward(cells)
    own_dx, own_gradients = network.backward(own_trace, scores)
    np.testing.assert_array_equal(to_host(own_scores), to_host(scores))
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(to_host(own_gradients[name]), to_host(gradient))
    assert dx is not None
    assert own_dx is not None
    np.testing.assert_array_equal(to_host(images_of_cells(own_dx, x.shape, first.cells)), to_host(dx))


def test_the_derivative_of_scores_may_come_as_words(rng):
    network, x = drawn(paper_like_without_lrn, rng).to("gpu").fused("bfloat16"), to_device(images(rng), "gpu")
    scores, trace = network.forward(x)
    words = to_bfloat16(to_host(scores))
    _, expected = network.backward(trace, to_device(from_bfloat16(words), "gpu"), keep=["conv1"])
    _, gradients = network.backward(trace, to_device(words, "gpu"), keep=["conv1"])
    for name, gradient in expected.items():
        np.testing.assert_array_equal(to_host(gradients[name]), to_host(gradient))


# -- CUDA graphs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["paper", "paper without LRN"])
def test_a_training_step_launches_kernels_and_nothing_else(name, precision, rng, xp, cupy, monkeypatch):
    """Only so can it be captured: nothing is copied from or to the host, and CuPy computes nothing by itself."""
    if xp is not cupy:
        pytest.skip("on a GPU it is captured, which shows more")
    network, x = drawn(NETWORKS[name], rng).to("gpu").fused(precision), to_device(images(rng), "gpu")
    items, key = to_device(chances().items, "gpu"), to_device(chances().key.astype(np.uint32), "gpu")
    into = {name: cupy.empty_like(value) for name, value in network.parameters.items()}

    def refuse(*args, **kwargs):
        raise AssertionError("CuPy was asked to compute or to copy")

    monkeypatch.setattr(cupy, "asarray", lambda x: x if isinstance(x, cupy.ndarray) else refuse())
    for function in set(cupy.FUNCTIONS) - {"ascontiguousarray"}:
        monkeypatch.setattr(cupy, function, refuse, raising=False)
    operators = [f"__{operator}__" for operator in cupy.OPERATORS if operator not in ("getitem", "len")]
    for method in {"get", "set", *cupy.METHODS, *operators} - {"reshape", "view"}:
        monkeypatch.setattr(cupy.ndarray, method, refuse)
    run = ForwardPass(network, x, Chances(items, key))
    run.backward(run.scores, input_gradient=False, into=into)

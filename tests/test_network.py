"""The network: what goes forward and back between the layers, and what does not."""

import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.layers import (
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
    Selected,
)
from npconvnet.models import MODELS
from npconvnet.network import INPUT, Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.randomness import Chances, Purpose
from tests.conftest import Numbers, assert_close, assert_is_gradient, distinct

RULES: tuple[ReLURule, ...] = ("gradient", "deconvnet", "guided")


def table(rows: Any, size: int = 1) -> Network:
    return Network("test", rows, Preprocessing(resize=size, crop=size))


def branching(rng: np.random.Generator) -> Network:
    """A float64 network with a fire module and a skip connection over it, on 9×9 pixels."""
    network = table(
        [
            ("conv1", Conv2d(3, 6, 3, padding=1)),
            ("relu1", ReLU()),
            ("norm1", LRN(size=3, alpha_per_element=0.1)),
            ("pool1", MaxPool2d(3, stride=2, rounding="ceil")),
            ("squeeze", Conv2d(6, 4, 1)),
            ("squeeze_relu", ReLU()),
            ("left", Conv2d(4, 3, 1), ("squeeze_relu",)),
            ("left_relu", ReLU()),
            ("right", Conv2d(4, 3, 3, padding=1), ("squeeze_relu",)),
            ("right_relu", ReLU()),
            ("fire", Concatenate(), ("left_relu", "right_relu")),
            ("skip", Add(), ("fire", "pool1")),
            ("pool2", AveragePool2d(2, stride=2)),
            ("fc1", Linear(2 * 2 * 6, 8)),
            ("fc1_relu", ReLU()),
            ("drop", Dropout()),
            ("fc2", Linear(8, 4)),
        ],
        size=9,
    ).astype(np.float64)
    for parameter in network.parameters.values():
        parameter[...] = rng.standard_normal(parameter.shape) / np.sqrt(parameter[0].size)
    return network


@pytest.fixture
def network(rng):
    return branching(rng)


@pytest.fixture
def x(rng):
    return distinct(rng, (2, 9, 9, 3))


def chances(x: Numbers, seed: int) -> Chances:
    return Chances.of(np.arange(len(x)), seed, Purpose.DROPOUT)


LAYERS = [node.name for node in branching(np.random.default_rng(0)).nodes]
#: Those that every way from the image to the scores leads through.
CUTS = ["conv1", "relu1", "norm1", "pool1", "skip", "pool2", "fc1", "fc1_relu", "drop"]


def assert_same_bits(actual: dict[str, Numbers], expected: dict[str, Numbers]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


# -- the derivative --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", LAYERS)
def test_dx_from_any_layer_is_the_derivative_of_its_activation(start, network, x, rng):
    _, trace = network.forward(x)
    dy = rng.standard_normal((2, *network.shapes[start]))
    dx, _ = network.backward(trace, dy, start=start)
    assert_is_gradient(lambda moved: network.forward(moved, until=start)[0], x, dx, dy)


@pytest.mark.parametrize("name", branching(np.random.default_rng(0)).parameters)
def test_parameter_gradients_are_derivatives(name, network, x, rng):
    y, trace = network.forward(x)
    dy = rng.standard_normal(y.shape)
    _, gradients = network.backward(trace, dy)
    before = network.parameters[name].copy()

    def scores(parameter: Numbers) -> Numbers:
        network.parameters[name][...] = parameter
        y: Numbers = network.scores(x)
        return y

    assert_is_gradient(scores, before, gradients[name], dy)


@pytest.mark.parametrize("stop", ["conv1", "squeeze", "left", "right", "fc1", "fc2"])
def test_the_derivative_of_any_layer_sums_to_that_of_its_bias(stop, network, x, rng):
    y, trace = network.forward(x)
    dy = rng.standard_normal(y.shape)
    _, gradients = network.backward(trace, dy)
    d_stop, _ = network.backward(trace, dy, stop=stop)
    assert d_stop.shape == (2, *network.shapes[stop])
    assert_close(d_stop.reshape(-1, d_stop.shape[-1]).sum(axis=0), gradients[f"{stop}.bias"])


@pytest.mark.parametrize("middle", CUTS)
@pytest.mark.parametrize("relu_rule", RULES)
def test_two_parts_of_the_way_make_the_whole(middle, relu_rule, network, x, rng):
    y, trace = network.forward(x)
    dy = rng.standard_normal(y.shape)
    whole, gradients = network.backward(trace, dy, relu_rule=relu_rule)
    d_middle, upper = network.backward(trace, dy, stop=middle, relu_rule=relu_rule)
    dx, lower = network.backward(trace, d_middle, start=middle, relu_rule=relu_rule)
    np.testing.assert_array_equal(dx, whole)
    assert not upper.keys() & lower.keys()
    assert_same_bits(upper | lower, gradients)


def test_the_parts_of_a_concatenation_are_the_derivatives_of_its_branches(network, x, rng):
    y, trace = network.forward(x)
    dy = rng.standard_normal(y.shape)
    d_fire, _ = network.backward(trace, dy, stop="fire")
    for branch, part in zip(("left_relu", "right_relu"), np.split(d_fire, 2, axis=-1), strict=True):
        np.testing.assert_array_equal(network.backward(trace, dy, stop=branch)[0], part)


@pytest.mark.parametrize("relu_rule", RULES)
def test_derivatives_kept_on_the_way_are_those_of_a_backward_that_stops_there(relu_rule, network, x, rng):
    scores, trace = network.forward(x)
    dy = rng.standard_normal(scores.shape)
    names = (INPUT, "pool1", "left", "fire", "fc2")
    _, kept = network.backward(trace, dy, relu_rule=relu_rule, parameter_gradients=False, keep=names)
    assert set(kept) == set(names)
    for name in names:
        expected, _ = network.backward(trace, dy, stop=name, relu_rule=relu_rule, parameter_gradients=False)
        np.testing.assert_array_equal(kept[name], expected)


def test_an_unknown_activation_cannot_be_kept_on_the_way_back(network, x):
    scores, trace = network.forward(x)
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        network.backward(trace, scores, keep=["nothing"])


def test_stopping_where_it_starts_gives_dy_back(network, x, rng):
    _, trace = network.forward(x)
    dy = rng.standard_normal((2, *network.shapes["fire"]))
    dx, gradients = network.backward(trace, dy, start="fire", stop="fire")
    np.testing.assert_array_equal(dx, dy)
    assert gradients == {}


def test_only_the_parameters_between_have_gradients(network, x):
    y, trace = network.forward(x)
    _, gradients = network.backward(trace, np.ones_like(y), stop="left")
    assert gradients.keys() == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    dy = np.ones((2, *network.shapes["left_relu"]))
    _, gradients = network.backward(trace, dy, start="left_relu", stop="pool1")
    assert gradients.keys() == {"squeeze.weight", "squeeze.bias", "left.weight", "left.bias"}


def test_an_activation_that_is_read_twice_by_one_layer_counts_twice(rng):
    network = table([("double", Add(), (INPUT, INPUT)), ("pair", Concatenate(), ("double", "double"))])
    x, dy = distinct(rng, (1, 1, 1, 3)), distinct(rng, (1, 1, 1, 6))
    y, trace = network.forward(x)
    np.testing.assert_array_equal(y, np.concatenate([2 * x, 2 * x], axis=-1))
    before = dy.copy()
    dx, _ = network.backward(trace, dy)
    np.testing.assert_array_equal(dx, 2 * (dy[..., :3] + dy[..., 3:]))
    np.testing.assert_array_equal(dy, before)


# -- nothing is written over -----------------------------------------------------------------------------------------


def snapshot(saved: Any) -> Any:
    """A deep copy of what a trace holds, as nested lists."""
    if isinstance(saved, dict):
        return {name: snapshot(value) for name, value in saved.items()}
    if isinstance(saved, tuple | list):
        return [snapshot(value) for value in saved]
    return saved.tolist() if isinstance(saved, np.ndarray) else saved


def test_a_trace_can_be_sent_back_as_often_as_one_likes(network, x, rng):
    y, trace = network.forward(x, chances=chances(x, 3), keep=["fire"])
    dy = rng.standard_normal(y.shape)
    before = snapshot(trace.saved), snapshot(trace.kept), dy.copy(), x.copy()
    for rule in (*RULES, *RULES):
        dx, gradients = network.backward(trace, dy, relu_rule=rule)
        _, fresh_trace = network.forward(x, chances=chances(x, 3))
        expected_dx, expected = network.backward(fresh_trace, dy, relu_rule=rule)
        np.testing.assert_array_equal(dx, expected_dx)
        assert_same_bits(gradients, expected)
    assert (snapshot(trace.saved), snapshot(trace.kept)) == before[:2]
    np.testing.assert_array_equal(dy, before[2])
    np.testing.assert_array_equal(x, before[3])


# -- less work when less is asked for --------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """How often each kernel was called."""
    counted: Counter[str] = Counter()

    def counting(name, kernel):
        def run(*args, **kwargs):
            counted[name] += 1
            return kernel(*args, **kwargs)

        return run

    for name, kernel in vars(kernels).copy().items():
        if name.endswith(("_forward", "_backward", "_input", "_filters", "_weights")):
            monkeypatch.setattr(kernels, name, counting(name, kernel))
    return counted


def test_saliency_computes_no_parameter_gradients(network, x, calls):
    y, trace = network.forward(x)
    whole, _ = network.backward(trace, np.ones_like(y))
    calls.clear()
    dx, gradients = network.backward(trace, np.ones_like(y), parameter_gradients=False)
    assert gradients == {}
    np.testing.assert_array_equal(dx, whole)
    assert calls["conv2d_backward_filters"] == calls["linear_backward_weights"] == calls["bias_backward"] == 0
    assert (calls["conv2d_backward_input"], calls["linear_backward_input"]) == (4, 2)


def test_training_computes_no_derivative_of_the_image(network, x, calls):
    y, trace = network.forward(x)
    _, whole = network.backward(trace, np.ones_like(y))
    assert (calls["conv2d_backward"], calls["conv2d_backward_input"], calls["conv2d_backward_filters"]) == (4, 0, 0)
    calls.clear()
    dx, gradients = network.backward(trace, np.ones_like(y), input_gradient=False)
    assert dx is None
    assert_same_bits(gradients, whole)
    assert (calls["conv2d_backward"], calls["conv2d_backward_input"], calls["conv2d_backward_filters"]) == (3, 0, 1)


def test_branches_that_lead_nowhere_are_skipped(network, x, calls):
    y, trace = network.forward(x)
    calls.clear()
    network.backward(trace, np.ones_like(y), stop="left_relu", parameter_gradients=False)
    assert calls["conv2d_backward_input"] == calls["relu_backward"] - 1 == 0  # no layer below `fire`: one ReLU, fc1's
    calls.clear()
    network.backward(trace, np.ones_like(y), stop="squeeze", parameter_gradients=False)
    assert (calls["conv2d_backward_input"], calls["lrn_backward"]) == (2, 0)


def test_nothing_is_done_when_nothing_is_asked_for(network, x, calls):
    y, trace = network.forward(x)
    calls.clear()
    asked = {"input_gradient": False, "parameter_gradients": False}
    assert network.backward(trace, np.ones_like(y), stop="fc2", start="fc2", **asked) == (None, {})
    assert network.backward(trace, np.ones_like(y), stop="drop", **asked) == (None, {})
    assert not calls


def test_a_forward_stops_where_it_is_told_to(network, x, calls):
    y, trace = network.forward(x, until="squeeze")
    assert calls["conv2d_forward"] == 2
    assert calls["linear_forward"] == 0
    np.testing.assert_array_equal(network.forward(x, keep=["squeeze"])[1].kept["squeeze"], y)
    dx, gradients = network.backward(trace, np.ones_like(y))
    assert dx.shape == x.shape
    assert gradients.keys() == {"conv1.weight", "conv1.bias", "squeeze.weight", "squeeze.bias"}


def test_activations_are_kept_on_request(network, x):
    _, trace = network.forward(x, keep=[INPUT, *LAYERS])
    assert trace.kept.keys() == {INPUT, *LAYERS}
    for name, activation in trace.kept.items():
        np.testing.assert_array_equal(activation, network.forward(x, until=name)[0])


# -- memory ----------------------------------------------------------------------------------------------------------


class Witness(Layer):
    """x + 1; notes which of the outputs of all witnesses are still alive when it starts."""

    def __init__(self, made: list[Any], alive: list[int], saves: bool) -> None:
        super().__init__()
        self.made, self.alive, self.saves = made, alive, saves

    def output_shape(self, *x_shapes):
        return x_shapes[0]

    def forward(self, *xs, chances=None):
        self.alive.append(sum(reference() is not None for reference in self.made))
        y = xs[0] + 1
        self.made.append(weakref.ref(y))
        return y, xs[0] if self.saves else None

    def backward(self, dy, saved, options=None):
        return dy, {}


@pytest.mark.parametrize("saves", [True, False])
def test_scores_lets_go_of_every_activation_that_no_later_layer_reads(saves):
    made: list[Any] = []
    alive: list[int] = []
    rows: list[Any] = [(name, Witness(made, alive, saves)) for name in "abcde"]
    network = table([*rows, ("skip", Add(), ("b", "e")), ("f", Witness(made, alive, saves))])
    scores = network.scores(np.zeros((1, 1, 1, 3)))
    assert scores.ravel().tolist() == [8, 8, 8]
    assert alive == [0, 1, 1, 2, 2, 0]  # c only needs b; d and e need what is before them, and the skip needs b
    assert sum(reference() is not None for reference in made) == 1


def test_a_trace_holds_only_what_a_layer_saved():
    made: list[Any] = []
    alive: list[int] = []
    rows = [(name, Witness(made, alive, saves=name == "c")) for name in "abcd"]
    y, trace = table(rows).forward(np.zeros((1, 1, 1, 3)), keep=["a"])
    assert [reference() is not None for reference in made] == [True, True, False, True]  # kept, saved by c, -, returned
    del trace
    assert [reference() is not None for reference in made] == [False, False, False, True]
    assert y.ravel().tolist() == [4, 4, 4]


# -- the three rules -------------------------------------------------------------------------------------------------


def two_layers() -> Network:
    """On one pixel: h = relu(W₁x), S = W₂h, with h of both signs and W₂ of both signs."""
    network = table([("fc1", Linear(3, 4)), ("relu", ReLU()), ("fc2", Linear(4, 1))])
    network.load(
        {
            "fc1.weight": np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [1, -1, 0]]),
            "fc1.bias": np.zeros(4),
            "fc2.weight": np.array([[2.0, -3, 5, -7]]),
            "fc2.bias": np.zeros(1),
        }
    )
    return network


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("gradient", [2, -3, 0]),  # x = (1, 2, 3) makes W₁x = (1, 2, −3, −1): 2·row 1 − 3·row 2
        ("deconvnet", [2, 0, -5]),  # W₂ is positive at 1 and 3: 2·row 1 + 5·row 3
        ("guided", [2, 0, 0]),  # both: 2·row 1
    ],
)
def test_the_three_rules_by_hand(rule, expected):
    network = two_layers()
    y, trace = network.forward(np.array([1.0, 2, 3]).reshape(1, 1, 1, 3))
    assert y.tolist() == [[2 * 1 - 3 * 2]]
    dx, _ = network.backward(trace, np.ones((1, 1)), relu_rule=rule)
    assert dx is not None
    assert dx.ravel().tolist() == expected


def test_the_rules_coincide_where_all_is_positive(network, x):
    for parameter in network.parameters.values():
        np.abs(parameter, out=parameter)
    for node in network.nodes:
        if isinstance(node.layer, LRN):
            node.layer.alpha_per_element = 0.0  # its gradient has both signs
    y, trace = network.forward(np.abs(x))
    dxs = [network.backward(trace, np.ones_like(y), relu_rule=rule)[0] for rule in RULES]
    assert dxs[0].any()
    np.testing.assert_array_equal(dxs[1], dxs[0])
    np.testing.assert_array_equal(dxs[2], dxs[0])


def test_the_rules_differ_elsewhere(network, x, rng):
    y, trace = network.forward(x)
    dy = rng.standard_normal(y.shape)
    dxs = [network.backward(trace, dy, relu_rule=rule)[0] for rule in RULES]
    assert all((dxs[a] != dxs[b]).any() for a, b in [(0, 1), (0, 2), (1, 2)])


# -- training --------------------------------------------------------------------------------------------------------


def losses(network: Network, images: Numbers, labels: Numbers, steps: int, seed: int | None = None) -> list[float]:
    """The loss before each of some steps of SGD on one batch; with a `seed`, something else is dropped in each."""
    velocities = {name: np.zeros_like(parameter) for name, parameter in network.parameters.items()}
    found = []
    for step in range(steps):
        dropping = None if seed is None else Chances.of(np.arange(len(images)), seed, Purpose.DROPOUT, step)
        scores, trace = network.forward(images, chances=dropping)
        loss, d_scores = kernels.softmax_cross_entropy(scores, labels, of=len(labels))
        _, gradients = network.backward(trace, d_scores, input_gradient=False)
        for name, parameter in network.parameters.items():
            kernels.sgd_update(parameter, velocities[name], gradients[name], 0.05, 0.9, 0.0)
        found.append(float(loss))
    return found


def test_one_batch_can_be_learnt_by_heart(network, rng):
    history = losses(network, distinct(rng, (8, 9, 9, 3)), np.arange(8) % 4, steps=300)
    assert history[0] > 1
    assert history[-1] < 0.01


def test_the_same_seed_gives_the_same_bits(rng):
    images, labels = rng.standard_normal((4, 64, 64, 3), np.float32), np.arange(4)

    def train(seed: int) -> tuple[Network, list[float]]:
        network = MODELS["tiny"]()
        network.initialize(np.random.default_rng(seed))
        return network, losses(network, images, labels, steps=3, seed=seed)

    (first, history), (second, again), (other, _) = train(1), train(1), train(2)
    assert history == again
    assert_same_bits(first.parameters, second.parameters)
    assert (first.parameters["fc8.weight"] != other.parameters["fc8.weight"]).any()


def test_dropout_needs_chances(network, x):
    y, trace = network.forward(x)
    assert trace.saved["drop"] is None
    np.testing.assert_array_equal(y, network.scores(x))
    first, second = (network.forward(x, chances=chances(x, seed))[0] for seed in (1, 2))
    assert (first != y).any()
    assert (first != second).any()


def test_every_dropout_drops_other_numbers():
    """By its row in the table, fused or not."""
    network = table(
        [("drop1", Dropout()), ("conv", Conv2d(3, 1, 1)), ("relu", ReLU()), ("drop2", Dropout(), ("drop1",))], 8
    )
    x = np.ones((2, 8, 8, 3))
    for form in (network, network.fused()):
        saved = form.forward(x, chances=chances(x, 0))[1].saved
        for name, row in (("drop1", 0), ("drop2", 3)):
            np.testing.assert_array_equal(saved[name], kernels.draw_kept(x, chances(x, 0).in_stream(row), 0.5))
        assert (saved["drop1"] != saved["drop2"]).any()


# -- fused -----------------------------------------------------------------------------------------------------------


def test_fused_gives_the_same_bits(network, x, rng):
    scores, trace = network.forward(x, chances=chances(x, 3))
    fused_scores, fused_trace = network.fused().forward(x, chances=chances(x, 3))
    np.testing.assert_array_equal(fused_scores, scores)
    np.testing.assert_array_equal(network.fused().scores(x), network.scores(x))
    dy = rng.standard_normal(scores.shape)
    for rule in (*RULES, *RULES):  # the trace can be sent back again
        dx, gradients = network.backward(trace, dy, relu_rule=rule)
        fused_dx, fused_gradients = network.fused().backward(fused_trace, dy, relu_rule=rule)
        np.testing.assert_array_equal(fused_dx, dx)
        assert_same_bits(fused_gradients, gradients)


def test_fused_has_no_relus_left_and_changes_nothing_in_the_network(network):
    before = network.nodes
    fused = network.fused()
    assert [node.name for node in fused.nodes] == [name for name in LAYERS if "relu" not in name]
    assert network.nodes is before
    assert not any(node.layer.relu for node in network.nodes if isinstance(node.layer, Affine))
    network.astype(np.float32)
    assert all(value is network.parameters[name] for name, value in fused.parameters.items())


def pooled(window: int, padding: int, groups: int = 1) -> Network:
    """Convolutions with a pool behind each, the second one of no image."""
    return table(
        [
            ("conv1", Conv2d(3, 6, 3, stride=2, groups=3 if groups > 1 else 1)),
            ("relu1", ReLU()),
            ("pool1", MaxPool2d(window, stride=2, padding=padding, rounding="ceil")),
            ("conv2", Conv2d(6, 8, 3, padding=1, groups=groups)),
            ("relu2", ReLU()),
            ("pool2", MaxPool2d(window, stride=window, padding=padding)),
        ],
        size=19,
    )


@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize(("window", "padding", "groups"), [(3, 0, 1), (3, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_pool_inside_gives_the_same_bits(rng, images, window, padding, groups, kind):
    """Of whole numbers, of which many are equal and many windows hold nothing above zero."""
    network = pooled(window, padding, groups).astype(kind)
    for parameter in network.parameters.values():
        parameter[...] = rng.integers(-3, 3, parameter.shape)
    fused = network.fused()
    assert [node.name for node in fused.nodes] == ["conv1", "conv2"]
    x = rng.integers(-2, 3, (images, 19, 19, 3)).astype(kind)
    scores, trace = network.forward(x)
    fused_scores, fused_trace = fused.forward(x)
    for own in (fused_scores, fused.scores(x)):
        np.testing.assert_array_equal(own, scores)
    dy = rng.integers(-9, 9, scores.shape).astype(kind)
    for rule in RULES:
        for of_x, of_w in ((True, True), (True, False), (False, True)):
            dx, gradients = network.backward(trace, dy, relu_rule=rule, input_gradient=of_x, parameter_gradients=of_w)
            fused_dx, fused_gradients = fused.backward(
                fused_trace, dy, relu_rule=rule, input_gradient=of_x, parameter_gradients=of_w
            )
            np.testing.assert_array_equal(fused_dx, dx)
            assert_same_bits(fused_gradients, gradients)


def test_a_pool_inside_keeps_nothing_of_the_size_of_the_convolution(rng):
    network = pooled(3, 0)
    _, trace = network.fused().forward(rng.standard_normal((4, 19, 19, 3), np.float32))
    x, y, switches = trace.saved["conv1"]
    assert (x.shape, y.shape, switches.shape) == ((4, 19, 19, 3), (4, 4, 4, 6), (4, 4, 4, 6))


def test_an_image_comes_a_few_at_a_time(rng, monkeypatch):
    """Unless the gradients of the filters are wanted, which are sums over all of them."""
    seen: list[int] = []

    def counted(kernel):
        def run(x, *args):
            seen.append(len(x))
            return kernel(x, *args)

        return run

    for name in ("max_pool2d_forward", "max_pool2d", "max_pool2d_backward"):
        monkeypatch.setattr(kernels, name, counted(getattr(kernels, name)))
    fused, x = pooled(3, 0).fused(), rng.standard_normal((5, 19, 19, 3), np.float32)
    y, trace = fused.forward(x)
    fused.scores(x)
    fused.backward(trace, y, parameter_gradients=False)
    fused.backward(trace, y)
    forward, scores, back, back_with_filters = [2, 3, 5], [2, 3, 5], [5, 2, 3], [5, 5]
    assert seen == [*forward, *scores, *back, *back_with_filters]
    dy = np.ones((5, 4, 4, 6), np.float32)
    nothing = fused.backward(trace, dy, start="conv1", input_gradient=False, parameter_gradients=False)
    assert nothing == (None, {})


def test_a_relu_behind_a_relu_that_others_read_stays(rng):
    """Where both read the same convolution, the rules would be applied once instead of twice on one of the ways."""
    network = table(
        [
            ("conv", Conv2d(3, 4, 1)),
            ("relu1", ReLU()),
            ("relu2", ReLU()),
            ("both", Concatenate(), ("relu1", "relu2")),
        ],
        size=3,
    ).astype(np.float64)
    network.initialize(rng)
    assert [node.name for node in network.fused().nodes] == ["conv", "relu2", "both"]
    x, dy = distinct(rng, (2, 3, 3, 3)), distinct(rng, (2, 3, 3, 8))
    for rule in RULES:
        expected, _ = network.backward(network.forward(x)[1], dy, relu_rule=rule)
        dx, _ = network.fused().backward(network.fused().forward(x)[1], dy, relu_rule=rule)
        np.testing.assert_array_equal(dx, expected)


def test_a_relu_stays_where_others_read_what_it_reads_or_no_sum_comes_before_it(rng):
    network = table(
        [
            ("relu0", ReLU()),
            ("conv", Conv2d(3, 3, 1)),
            ("relu1", ReLU()),
            ("relu2", ReLU(), ("conv",)),
            ("add", Add(), ("relu1", "relu2")),
            ("relu3", ReLU()),
        ]
    )
    assert [node.name for node in network.fused().nodes] == [node.name for node in network.nodes]


# -- some of the classes ---------------------------------------------------------------------------------------------

#: Ends of networks on 3×3 pixels: the layer where classes are chosen, whether that has their filters alone, the table.
ENDS: dict[str, tuple[str, bool, list[Any]]] = {
    "fully connected": ("fc", True, [("fc", Linear(27, 6))]),
    "as in SqueezeNet": ("conv", True, [("conv", Conv2d(3, 6, 1)), ("relu", ReLU()), ("mean", GlobalAveragePool2d())]),
    "all that keeps channels apart": (
        "conv",
        True,
        [
            ("conv", Conv2d(3, 6, 1)),
            ("relu", ReLU()),
            ("drop", Dropout()),
            ("pool1", MaxPool2d(2, stride=1)),
            ("pool2", AveragePool2d(2, stride=1)),
            ("flat", Flatten()),
        ],
    ),
    "more pixels than one": ("flat", False, [("conv", Conv2d(3, 2, (3, 1))), ("flat", Flatten())]),
    "groups": ("conv", False, [("conv", Conv2d(3, 6, 3, groups=3)), ("flat", Flatten())]),
    "LRN": ("norm", False, [("conv", Conv2d(3, 6, 3)), ("norm", LRN(3, alpha_per_element=0.2)), ("flat", Flatten())]),
    "Concatenate": (
        "both",
        False,
        [("a", Linear(27, 4)), ("b", Linear(27, 2), (INPUT,)), ("both", Concatenate(), ("a", "b")), ("relu", ReLU())],
    ),
    "Add": ("sum", False, [("a", Linear(27, 6)), ("b", Linear(27, 6), (INPUT,)), ("sum", Add(), ("a", "b"))]),
    "another reader": (
        "drop",
        False,
        [("fc", Linear(27, 6)), ("relu", ReLU()), ("side", Linear(6, 2)), ("drop", Dropout(), ("relu",))],
    ),
    "no parameters": ("mean", False, [("mean", GlobalAveragePool2d())]),
}


def ending(end: str, rng: np.random.Generator) -> Network:
    """A float64 network of `ENDS`, for 3×3 pixels."""
    network = table(ENDS[end][2], size=3).astype(np.float64)
    for parameter in network.parameters.values():
        parameter[...] = rng.standard_normal(parameter.shape)
    return network


@pytest.mark.parametrize("end", ENDS)
def test_classes_are_chosen_as_early_as_their_channels_stay_apart(end, rng):
    whole = ending(end, rng)
    some = whole.for_classes([2, 0])
    where, of_filters, _ = ENDS[end]
    assert [b.name for a, b in zip(whole.nodes, some.nodes, strict=True) if b.layer is not a.layer] == [where]
    (chosen,) = (node.layer for node in some.nodes if node.name == where)
    assert isinstance(chosen, Selected) is not of_filters
    assert some.shapes[some.last] == (2,)
    assert [synset.names for synset in some.synsets] == ["class 2", "class 0"]
    for name, parameter in some.parameters.items():
        if of_filters and name.startswith(where):
            np.testing.assert_array_equal(parameter, whole.parameters[name][[2, 0]])
        else:
            assert parameter is whole.parameters[name]


@pytest.mark.parametrize("form", [lambda network: network, Network.fused], ids=["one by one", "fused"])
@pytest.mark.parametrize("end", ENDS)
def test_some_classes_have_the_scores_and_gradients_of_the_whole(end, form, rng):
    whole, x, classes = ending(end, rng), distinct(rng, (8, 3, 3, 3)), [2, 0]
    before, shapes = snapshot(whole.parameters), dict(whole.shapes)
    some = form(form(whole).for_classes(classes))
    scores, trace = whole.forward(x)
    own_scores, own_trace = some.forward(x)
    assert_close(own_scores, scores[:, classes])
    assert_close(some.scores(x), scores[:, classes])
    d_own, d_scores = rng.standard_normal((8, 2)), np.zeros_like(scores)
    d_scores[:, classes] = d_own
    for rule in RULES:
        expected, gradients = whole.backward(trace, d_scores, relu_rule=rule)
        assert expected is not None
        assert expected.any()
        dx, own_gradients = some.backward(own_trace, d_own, relu_rule=rule)
        assert_close(dx, expected)
        assert own_gradients.keys() == gradients.keys()
        for name, gradient in own_gradients.items():
            same = gradient.shape == gradients[name].shape
            assert_close(gradient, gradients[name] if same else gradients[name][classes])
    assert (snapshot(whole.parameters), whole.shapes) == (before, shapes)


@pytest.mark.parametrize("end", ["as in SqueezeNet", "LRN"])
def test_a_class_may_be_asked_for_twice(end, rng):
    whole, x = ending(end, rng), distinct(rng, (2, 3, 3, 3))
    scores, trace = whole.forward(x)
    twice, own_trace = whole.for_classes([4, 4]).forward(x)
    assert_close(twice, scores[:, [4, 4]])
    expected, _ = whole.backward(trace, np.eye(6)[[4, 4]])
    assert expected is not None
    assert expected.any()
    dx, _ = whole.for_classes([4, 4]).backward(own_trace, np.array([[3.0, -2], [0, 1]]))
    assert_close(dx, expected)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_class_that_does_not_exist(index, network):
    with pytest.raises(ValueError, match=f"no class {index}: test has classes 0 to 3"):
        network.for_classes([0, index])


# -- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_are_the_arrays_that_the_layers_compute_with(network, x):
    network.parameters["fc2.bias"][...] += 1
    before = network.scores(x)
    network.parameters["fc2.bias"][...] -= 1
    assert_close(network.scores(x), before - 1)


def test_astype(network, x):
    assert network.astype(np.float32) is network
    assert {parameter.dtype for parameter in network.parameters.values()} == {np.dtype(np.float32)}
    y, trace = network.forward(x.astype(np.float32))
    dx, gradients = network.backward(trace, np.ones_like(y))
    assert {array.dtype for array in (y, dx, *gradients.values())} == {np.dtype(np.float32)}


def test_load_takes_over_every_parameter(network, x, rng):
    other = branching(np.random.default_rng(9))
    assert (other.scores(x) != network.scores(x)).any()
    other.load(network.parameters)
    np.testing.assert_array_equal(other.scores(x), network.scores(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("fc2.bias"), "test lacks the parameters fc2.bias \\(1 in all\\)"),
        (lambda p: p.update(fc9=p["fc2.bias"]), "test has no parameters fc9 \\(1 in all\\)"),
        (lambda p: p.update({"fc2.bias": np.zeros(5)}), "fc2.bias is \\(5,\\), and test wants \\(4,\\)"),
    ],
)
def test_load_refuses_what_does_not_fit_and_changes_nothing(change, message, network, x):
    before = network.scores(x)
    parameters = {name: parameter + 1 for name, parameter in network.parameters.items()}
    change(parameters)
    with pytest.raises(ValueError, match=message):
        network.load(parameters)
    np.testing.assert_array_equal(network.scores(x), before)


def test_preprocess_makes_one_batch_of_pictures_of_any_size(rng):
    network = MODELS["tiny"]()
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in [(80, 100), (64, 64), (300, 75)]]
    images = network.preprocess(pictures)
    assert (images.shape, images.dtype) == ((3, 64, 64, 3), np.dtype(np.float32))
    assert network.preprocess(pictures, views=10).shape == (30, 64, 64, 3)


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [{"until": "fc9"}, {"keep": ["fc9"]}])
def test_an_unknown_layer_is_named_beside_those_there_are(where, network, x):
    with pytest.raises(ValueError, match=r"no layer 'fc9' in test; it has .*conv1, relu1, .*fc2$"):
        network.forward(x, **where)


@pytest.mark.parametrize("where", [{"start": "fc9"}, {"stop": "fc9"}])
def test_an_unknown_layer_is_named_in_the_backward_too(where, network, x):
    y, trace = network.forward(x)
    with pytest.raises(ValueError, match=r"no layer 'fc9' in test; it has .*conv1, relu1, .*fc2$"):
        network.backward(trace, np.ones_like(y), **where)


def test_a_backward_cannot_start_behind_the_end_of_its_forward(network, x):
    y, trace = network.forward(x, until="fire")
    with pytest.raises(ValueError, match="the forward stopped at 'fire' and did not reach 'fc1'"):
        network.backward(trace, np.ones_like(y), start="fc1")


@pytest.mark.parametrize(("start", "stop"), [("conv1", "fc1"), ("left", "right")])
def test_a_backward_cannot_stop_where_it_never_comes(start, stop, network, x):
    _, trace = network.forward(x)
    with pytest.raises(ValueError, match=f"'{start}' does not depend on '{stop}'"):
        network.backward(trace, np.ones((2, *network.shapes[start])), start=start, stop=stop)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("fc", Linear(3, 2)), ("fc", Linear(2, 2))], "two rows are named 'fc'"),
        ([("input", ReLU())], "two rows are named 'input'"),
        ([("a", ReLU(), ("b",)), ("b", ReLU())], r"row 'a' reads \['b'\], which no earlier row makes"),
        ([("a", ReLU(), ("a",))], r"row 'a' reads \['a'\], which no earlier row makes"),
        ([("conv", Conv2d(4, 2, 1))], "row 'conv': the filters take 4 channels, the input has 3"),
        ([("conv", Conv2d(3, 2, 3))], "row 'conv': a window of 3 pixels does not fit"),
        ([("fc1", Linear(3, 2)), ("fc2", Linear(3, 2))], "row 'fc2': the layer takes 3 numbers"),
        ([("conv", Conv2d(3, 2, 1)), ("add", Add(), ("conv", INPUT))], "row 'add': .* can't be added"),
    ],
)
def test_a_table_that_does_not_fit_together_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        table(rows)


def test_an_unknown_rule_is_refused(network, x):
    y, trace = network.forward(x)
    with pytest.raises(ValueError, match="no ReLU rule 'zeiler'"):
        network.backward(trace, np.ones_like(y), relu_rule="zeiler")


def test_load_copies_what_it_is_given(rng):
    first, second = MODELS["tiny"](), MODELS["tiny"]()
    first.initialize(rng)
    second.load(first.parameters)
    first.parameters["conv1.weight"][...] = 0
    assert second.parameters["conv1.weight"].any()

"""Units and their way back to the image: by hand, and against Captum's NeuronGradient and its relatives."""

from collections.abc import Sequence

import numpy as np
import pytest

from npconvnet.data.image import read_image
from npconvnet.errors import InputError
from npconvnet.layers import Conv2d, GlobalAveragePool2d, Linear, ReLU
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization.deconvnet import RULES, Unit, find_unit, reconstruct
from npconvnet.weights import bundled_network
from tests.command_line import ASSETS
from tests.conftest import Numbers, assert_close_through_relus, to_nchw


def by_hand() -> Network:
    """On 2×2 pixels, each for itself: relu(W₁x), then two channels V of both signs, then the class scores."""
    network = Network(
        "by_hand",
        [
            ("conv1", Conv2d(3, 4, 1)),
            ("relu1", ReLU()),
            ("conv2", Conv2d(4, 2, 1)),
            ("pool", GlobalAveragePool2d()),
            ("fc", Linear(2, 2)),
        ],
        Preprocessing(resize=2, crop=2),
    )
    network.load(
        {
            "conv1.weight": np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [1, -1, 0]]).reshape(4, 1, 1, 3),
            "conv1.bias": np.zeros(4),
            "conv2.weight": np.array([[2.0, -3, 5, -7], [-1, 4, 2, 0]]).reshape(2, 1, 1, 4),
            "conv2.bias": np.zeros(2),
            "fc.weight": np.array([[1.0, 0], [0, 1]]),
            "fc.bias": np.zeros(2),
        }
    )
    return network


#: W₁x is (1, 2, −3, −1) at (0, 1), where conv2 is (−4, 7); (0, 0, −1, 0) at (1, 0), where it is (0, 0); 0 elsewhere.
X = np.array([[[0.0, 0, 0], [1, 2, 3]], [[0, 0, 1], [0, 0, 0]]])[None]
#: V₂ = (−1, 4, 2, 0) sends −row 1 + 4·row 2 + 2·row 3 of W₁ back, as far as the rule lets it through.
SENT_BACK = {"gradient": [-1, 4, 0], "deconvnet": [0, 4, -2], "guided": [0, 4, 0]}


# -- which unit ------------------------------------------------------------------------------------------------------


def test_the_strongest_unit():
    unit = find_unit(by_hand(), X, "conv2")
    assert unit == Unit("conv2", 1, (0, 1))
    assert unit.value(by_hand().forward(X, until="conv2")[0]) == 7
    assert str(unit) == "conv2, channel 1 at row 0, column 1"


def test_a_channel_is_taken_where_it_is_strongest():
    assert find_unit(by_hand(), X, "conv2", "0") == Unit("conv2", 0, (0, 0))  # the first of three zeros
    assert find_unit(by_hand(), X, "conv1", "2") == Unit("conv1", 2, (0, 0))
    assert find_unit(by_hand(), X, "conv1", "3") == Unit("conv1", 3, (0, 0))
    assert find_unit(by_hand(), -X, "conv2", "0") == Unit("conv2", 0, (0, 1))


def test_by_default_the_class_with_the_largest_score():
    assert find_unit(by_hand(), X) == Unit("fc", 1)
    assert find_unit(by_hand(), X, choice="0") == Unit("fc", 0)
    assert str(Unit("fc", 1)) == "fc, channel 1"


@pytest.mark.parametrize(
    ("layer", "choice", "message"),
    [
        ("conv9", "strongest", "no layer 'conv9' in by_hand; it has conv1, relu1, conv2, pool, fc"),
        ("input", "strongest", "no layer 'input'"),
        ("conv2", "2", "conv2 has no unit 2: its 2 channels are 0 to 1"),
        (None, "17", "fc has no unit 17"),
        ("conv2", "-1", "unit '-1' is neither the number of a channel nor 'strongest'"),
        ("conv2", "loudest", "unit 'loudest'"),
    ],
)
def test_units_that_do_not_exist(layer, choice, message):
    with pytest.raises(InputError, match=message):
        find_unit(by_hand(), X, layer, choice)


@pytest.mark.parametrize(
    "unit",
    [Unit("conv2", 0, (2, 0)), Unit("conv2", 0, (0, -1)), Unit("fc", 0, (0, 0)), Unit("conv2", 2), Unit("conv9", 0)],
)
def test_units_that_a_library_call_cannot_mean(unit):
    with pytest.raises(ValueError, match=unit.layer):
        reconstruct(by_hand(), X, unit)


# -- what it sends back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_unit_sends_back_what_was_worked_out_by_hand(rule):
    expected = np.zeros((1, 2, 2, 3))
    expected[0, 0, 1] = SENT_BACK[rule]
    np.testing.assert_array_equal(reconstruct(by_hand(), X, Unit("conv2", 1, (0, 1)), rule), expected)


def test_a_whole_map_sends_back_the_sum_of_its_units():
    for rule in RULES:
        units = [
            reconstruct(by_hand(), X, Unit("conv2", 1, (row, column)), rule) for row in (0, 1) for column in (0, 1)
        ]
        np.testing.assert_array_equal(reconstruct(by_hand(), X, Unit("conv2", 1), rule), sum(units))
        np.testing.assert_array_equal(reconstruct(by_hand(), X, Unit("fc", 1), rule), sum(units) / 4)


def test_the_value_of_a_whole_map_is_its_sum():
    assert Unit("conv2", 0).value(by_hand().forward(X, until="conv2")[0]) == -4


def test_a_silent_unit_comes_back_under_the_deconvnet_rule_alone():
    silent = Unit("relu1", 2, (0, 1))
    assert silent.value(by_hand().forward(X, until="relu1")[0]) == 0
    for rule in ("gradient", "guided"):
        assert not reconstruct(by_hand(), X, silent, rule).any()
    assert reconstruct(by_hand(), X, silent, "deconvnet")[0, 0, 1].tolist() == [0, 0, -1]


def test_every_image_of_a_batch_has_its_own_reconstruction():
    batch = np.concatenate([X, -X])
    both = reconstruct(by_hand(), batch, Unit("conv2", 1, (0, 1)), "gradient")
    assert both[0, 0, 1].tolist() == [-1, 4, 0]
    assert both[1, 0, 1].tolist() == [0, 0, -2]  # −W₁x is positive in channels 2 and 3: 2·row 3 + 0·row 4


# -- against Captum --------------------------------------------------------------------------------------------------


def assert_agrees_with_captum(network: Network, x: Numbers, layers: Sequence[str]) -> None:
    """Reconstructions of the strongest unit of each layer, under each rule, on the same weights in PyTorch."""
    attr = pytest.importorskip("captum.attr")
    torch = pytest.importorskip("torch")
    from bench.torch_peer import TorchPeer

    peer = TorchPeer(network).out_of_place().eval()
    peers = {
        "gradient": attr.NeuronGradient,
        "deconvnet": attr.NeuronDeconvolution,
        "guided": attr.NeuronGuidedBackprop,
    }
    for layer in layers:
        unit = find_unit(network, x, layer)
        selector = (unit.channel, *(unit.position or ()))
        for rule in RULES:
            image = to_nchw(x, torch).requires_grad_()
            captums = peers[rule](peer, peer.steps[layer]).attribute(image, selector)
            expected = captums.detach().numpy().transpose(0, 2, 3, 1)
            assert expected.any()
            assert_close_through_relus(reconstruct(network, x, unit, rule), expected)


@pytest.mark.filterwarnings("ignore:Setting (forward|backward)")  # Captum announces its hooks
def test_units_of_squeezenet_agree_with_captum(dtype):
    network = bundled_network().astype(dtype)
    x = network.preprocess([read_image(ASSETS / "chelsea.jpg")]).astype(dtype)
    assert_agrees_with_captum(network, x, ["fire3.squeeze1x1", "fire5", "relu10"])


@pytest.mark.filterwarnings("ignore:Setting (forward|backward)")
def test_units_of_a_random_alexnet_agree_with_captum(rng):
    network = MODELS["alexnet"](classes=10)
    network.initialize(rng)
    x = rng.standard_normal((1, 227, 227, 3))
    assert_agrees_with_captum(network.astype(np.float64), x, ["norm2", "relu6"])

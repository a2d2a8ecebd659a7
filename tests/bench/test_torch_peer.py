"""The peer, where the architectures do not reach: every kind of layer, however its windows lie."""

import numpy as np
import pytest

from npconvnet.layers import LRN, Add, AveragePool2d, Concatenate, Conv2d, Dropout, GlobalAveragePool2d, MaxPool2d, ReLU
from npconvnet.network import INPUT, Network
from npconvnet.preprocessing import Preprocessing
from tests.conftest import assert_close, distinct, from_nchw, to_nchw

pytest.importorskip("torch")

from bench.torch_peer import TorchPeer

PLACEMENTS = [
    {"padding": padding, "rounding": rounding}
    for padding in [0, 1, (2, 2, 1, 1), (1, 0, 2, 1), (0, 2, 0, 1)]
    for rounding in ("floor", "ceil")
]


def assert_peer_agrees(rows, rng, torch):
    network = Network("test", rows, Preprocessing(resize=11, crop=11))
    for parameter in network.astype(np.float64).parameters.values():
        parameter[...] = distinct(rng, parameter.shape)
    x = distinct(rng, (2, 11, 11, 3))
    y, trace = network.forward(x)
    dy = rng.standard_normal(y.shape)
    dx, gradients = network.backward(trace, dy)
    peer, images = TorchPeer(network).eval(), to_nchw(x, torch).requires_grad_()
    scores = peer(images)
    d_scores = to_nchw(dy, torch) if dy.ndim == 4 else torch.from_numpy(dy)
    scores.backward(d_scores)
    assert_close(y, from_nchw(scores) if y.ndim == 4 else scores.detach().numpy())
    assert_close(dx, from_nchw(images.grad))
    expected = peer.gradients()
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name])


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolutions_wherever_they_lie(stride, placement, rng, torch):
    assert_peer_agrees([("conv", Conv2d(3, 6, 4, stride, groups=3, **placement))], rng, torch)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_max_pools_wherever_they_lie(stride, placement, rng, torch):
    assert_peer_agrees([("pool", MaxPool2d(3, stride, **placement))], rng, torch)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("stride", [2, 3])
def test_average_pools_wherever_they_lie(stride, count_padding, placement, rng, torch):
    assert_peer_agrees([("pool", AveragePool2d(3, stride, count_padding=count_padding, **placement))], rng, torch)


def test_branches(rng, torch):
    rows = [
        ("conv", Conv2d(3, 5, 3, padding=1)),
        ("relu", ReLU(), ("conv",)),
        ("norm", LRN(size=3, alpha_per_element=0.2), ("conv",)),  # the ReLU must not write over what this reads
        ("sum", Add(), ("conv", "relu", "norm")),
        ("drop", Dropout()),
        ("both", Concatenate(), ("drop", INPUT)),
        ("mean", GlobalAveragePool2d()),
    ]
    assert_peer_agrees(rows, rng, torch)


def test_the_peer_has_parameters_of_its_own(rng, torch):
    network = Network("test", [("conv", Conv2d(3, 2, 3))], Preprocessing(resize=11, crop=11))
    peer = TorchPeer(network)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter += 1
    assert not any(parameter.any() for parameter in network.parameters.values())


def test_what_pytorch_has_not_is_refused(torch):
    network = Network("test", [("norm", LRN(size=4))], Preprocessing(resize=11, crop=11))
    with pytest.raises(ValueError, match="even LRN window"):
        TorchPeer(network)

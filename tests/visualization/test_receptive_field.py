"""Receptive fields: beside published numbers, and beside where the gradient of a unit is not zero."""

import numpy as np
import pytest

from npconvnet.errors import InputError
from npconvnet.layers import (
    LRN,
    Add,
    AveragePool2d,
    Concatenate,
    Conv2d,
    Dropout,
    GlobalAveragePool2d,
    Linear,
    MaxPool2d,
    ReLU,
)
from npconvnet.models import MODELS
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization.receptive_field import ReceptiveField, patch, receptive_field


def net(size, *rows):
    return Network("example", rows, Preprocessing(size, size))


def alexnet_like():
    """Caffe's rounding: the last windows of the poolings hang over, and conv1 leaves out pixels at the far border."""
    return net(
        40,
        ("conv1", Conv2d(3, 4, 5, stride=2)),
        ("relu1", ReLU()),
        ("norm1", LRN(size=3)),
        ("pool1", MaxPool2d(3, stride=2, rounding="ceil")),
        ("conv2", Conv2d(4, 4, 3, padding=1, groups=2)),
        ("relu2", ReLU()),
        ("pool2", MaxPool2d(3, stride=2, rounding="ceil")),
        ("fc3", Linear(4 * 4 * 4, 6)),
        ("relu3", ReLU()),
        ("drop3", Dropout()),
        ("fc4", Linear(6, 2)),
    )


def branching():
    """Branches of different windows and lopsided padding, joined by a concatenation and by an addition."""
    return net(
        21,
        ("conv1", Conv2d(3, 4, 2, stride=2, padding=(0, 1, 1, 0))),
        ("narrow", Conv2d(4, 4, 1), ("conv1",)),
        ("wide", Conv2d(4, 4, 5, padding=(1, 3, 2, 2)), ("conv1",)),
        ("both", Concatenate(), ("narrow", "wide")),
        ("squeeze", Conv2d(8, 4, 1, padding=0)),
        ("sum", Add(), ("squeeze", "conv1")),
        ("pool", AveragePool2d(2, stride=3, padding=(0, 1, 0, 1))),
        ("far", Conv2d(4, 2, 3, stride=2)),
    )


def off_the_formula():
    """What a formula clipped at the image gets wrong: padding upon pixels that no window reached."""
    return net(12, ("strided", Conv2d(3, 2, 3, stride=4)), ("padded", Conv2d(2, 2, 3, padding=1)))


def all_positive(network):
    """The network with averages for maxima, in float64, and with positive weights: nothing cancels or is shut off."""
    rows = [
        (
            node.name,
            AveragePool2d(layer.window[0], layer.stride, layer.padding, layer.rounding)
            if isinstance(layer := node.layer, MaxPool2d)
            else layer,
            node.inputs,
        )
        for node in network.nodes
    ]
    rng = np.random.default_rng(0)
    positive = Network("positive", rows, network.preprocessing).astype(np.float64)
    for parameter in positive.parameters.values():
        parameter[...] = rng.uniform(0.1, 1, parameter.shape) / max(parameter[0].size, 1)
    return positive


def reached(network, trace, shape, layer, row, column):
    """The smallest rectangle around all pixels that the gradient of one place reaches."""
    dy = np.zeros((1, *shape))
    dy[(0, row, column) if len(shape) == 3 else 0] = 1  # all channels: those of one branch see less than all
    dx, _ = network.backward(trace, dy, start=layer, parameter_gradients=False)
    pixels = np.argwhere((dx[0] != 0).any(axis=-1))
    return (*pixels.min(axis=0), *(pixels.max(axis=0) + 1))


def places(shape, every):
    rows, columns = (range(shape[0]), range(shape[1])) if len(shape) == 3 else ([0], [0])
    if not every:
        rows, columns = ([axis[0], axis[len(axis) // 2], axis[-1]] for axis in (rows, columns))
    return [(row, column) for row in rows for column in columns]


@pytest.mark.parametrize("make", [alexnet_like, branching, off_the_formula])
def test_patch_is_where_the_gradient_is(make):
    network = make()
    positive = all_positive(network)
    size = network.preprocessing.crop
    _, trace = positive.forward(np.random.default_rng(1).uniform(1, 2, (1, size, size, 3)))
    for node in network.nodes:
        shape = network.shapes[node.name]
        for row, column in places(shape, every=True):
            expected = reached(positive, trace, shape, node.name, row, column)
            assert patch(network, node.name, row, column) == expected, (node.name, row, column)


def test_patches_of_squeezenet():
    network = MODELS["squeezenet"](classes=10)
    positive = all_positive(network)
    _, trace = positive.forward(np.random.default_rng(1).uniform(1, 2, (1, 227, 227, 3)))
    for layer in ("conv1", "fire2", "fire5.expand3x3", "fire9", "pool10"):
        shape = network.shapes[layer]
        for row, column in places(shape, every=False)[::4]:  # two corners and the centre
            assert patch(network, layer, row, column) == reached(positive, trace, shape, layer, row, column), layer


@pytest.mark.parametrize(("model", "size", "padding"), [("alexnet", 195, 64), ("vgg16", 212, 90)])
def test_published_fields(model, size, padding):
    """The table of Araujo et al. 2019; both networks halve the image five times."""
    field = receptive_field(MODELS[model](classes=2), "pool5")
    assert field == ReceptiveField((size, size), (32, 32), (-padding, -padding))


def test_field_is_the_patch_where_it_is_inside():
    network = MODELS["squeezenet"](classes=2)
    field = receptive_field(network, "fire5")
    assert field.at(13, 14) == patch(network, "fire5", 13, 14)
    top, left, bottom, right = field.at(0, 26)
    assert (bottom - top, right - left) == field.size
    assert top < 0
    assert right > 227
    assert patch(network, "fire5", 0, 26) == (0, left, bottom, 227)


def test_layers_that_see_everything():
    network = net(9, ("conv", Conv2d(3, 2, 3)), ("mean", GlobalAveragePool2d()), ("fc", Linear(2, 2)))
    for layer in ("mean", "fc"):
        assert patch(network, layer) == (0, 0, 9, 9)
        assert receptive_field(network, layer) == ReceptiveField((9, 9), (0, 0), (0, 0))


def test_unit_that_sees_only_padding():
    network = net(4, ("conv", Conv2d(3, 2, 3)), ("padded", Conv2d(2, 2, 1, padding=1)))
    assert patch(network, "padded", 1, 1) == (0, 0, 3, 3)
    top, _, bottom, _ = patch(network, "padded", 0, 1)
    assert top == bottom


def test_branches_of_different_strides_have_no_one_field():
    network = net(
        4,
        ("far", Conv2d(3, 2, 1, stride=2, padding=2), ("input",)),  # reads the pixels -2, 0, 2 and 4
        ("near", Conv2d(3, 2, 1), ("input",)),  # 0, 1, 2 and 3
        ("sum", Add(), ("far", "near")),
    )
    with pytest.raises(InputError, match="'sum'"):
        receptive_field(network, "sum")
    assert patch(network, "sum", 1, 3) == (0, 3, 2, 4)

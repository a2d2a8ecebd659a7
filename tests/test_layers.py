"""Layers: the kernels' numbers, the announced shapes, and nothing hidden between forward and backward."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from npconvnet.layers import (
    LRN,
    Add,
    AveragePool2d,
    BackwardOptions,
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
    Shape,
)
from npconvnet.randomness import Chances, Purpose
from tests.conftest import distinct

IMAGE = (7, 6, 4)

#: Each kind of layer, with the shapes of its inputs.
CASES: dict[str, tuple[Callable[[], Layer], list[Shape]]] = {
    "conv": (lambda: Conv2d(4, 6, 3), [IMAGE]),
    "conv, placed": (lambda: Conv2d(4, 6, 3, stride=2, padding=(1, 0, 2, 1), groups=2, rounding="ceil"), [IMAGE]),
    "conv, oblong": (lambda: Conv2d(4, 6, (3, 2), padding=(1, 0, 2, 1)), [IMAGE]),
    "conv with relu": (lambda: Conv2d(4, 6, 3).with_relu(), [IMAGE]),
    "linear": (lambda: Linear(10, 3), [(10,)]),
    "linear with relu": (lambda: Linear(10, 3).with_relu(), [(10,)]),
    "linear on an image": (lambda: Linear(7 * 6 * 4, 3), [IMAGE]),
    "relu": (ReLU, [IMAGE]),
    "relu on a vector": (ReLU, [(10,)]),
    "max pool": (lambda: MaxPool2d(3, stride=2, rounding="ceil"), [IMAGE]),
    "max pool, padded": (lambda: MaxPool2d(3, stride=2, padding=(1, 0, 2, 1)), [IMAGE]),
    "max pool, oblong": (lambda: MaxPool2d((2, 3), stride=2), [IMAGE]),
    "average pool, oblong": (lambda: AveragePool2d((7, 1), stride=1), [IMAGE]),
    "average pool": (lambda: AveragePool2d(2, stride=2, rounding="ceil"), [IMAGE]),
    "average pool, padded": (lambda: AveragePool2d(3, stride=2, padding=1, count_padding=False), [IMAGE]),
    "global average pool": (GlobalAveragePool2d, [IMAGE]),
    "lrn": (LRN, [IMAGE]),
    "dropout": (Dropout, [(10,)]),
    "concatenate": (Concatenate, [IMAGE, (7, 6, 1), (7, 6, 2)]),
    "flatten": (Flatten, [IMAGE]),
    "add": (Add, [IMAGE, IMAGE]),
    "selected": (lambda: Selected(Conv2d(4, 6, 3, groups=2), [3, 0]), [IMAGE]),
    "selected of several": (lambda: Selected(Concatenate(), [5, 1, 5]), [IMAGE, (7, 6, 2)]),
}


@pytest.fixture(params=CASES)
def case(request, rng, dtype):
    """A layer with random parameters, and a batch of three for each of its inputs."""
    make, shapes = CASES[request.param]
    layer = make()
    for name, parameter in layer.parameters.items():
        layer.parameters[name] = distinct(rng, parameter.shape, dtype)
    return layer, [distinct(rng, (3, *shape), dtype) for shape in shapes]


def as_tuple(dx):
    return dx if isinstance(dx, tuple) else (dx,)


def test_shapes_and_types(case, rng, dtype):
    layer, xs = case
    y, saved = layer.forward(*xs)
    assert y.shape == (3, *layer.output_shape(*(x.shape[1:] for x in xs)))
    assert y.dtype == dtype
    dx, gradients = layer.backward(distinct(rng, y.shape, dtype), saved)
    assert [(part.shape, part.dtype) for part in as_tuple(dx)] == [(x.shape, dtype) for x in xs]
    expected = {name: (parameter.shape, dtype) for name, parameter in layer.parameters.items()}
    assert {name: (gradient.shape, gradient.dtype) for name, gradient in gradients.items()} == expected


def test_what_is_inferred_is_what_is_trained(case):
    layer, xs = case
    np.testing.assert_array_equal(layer.infer(*xs), layer.forward(*xs)[0])


def test_nothing_is_hidden_between_forward_and_backward(case, rng, dtype):
    layer, xs = case
    y, saved = layer.forward(*xs)
    dy = distinct(rng, y.shape, dtype)
    dx, gradients = layer.backward(dy, saved)
    layer.forward(*(-x for x in xs))  # another call, in the meantime
    again, gradients_again = layer.backward(dy, saved)
    for part, part_again in zip(as_tuple(dx), as_tuple(again), strict=True):
        np.testing.assert_array_equal(part, part_again)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, gradients_again[name])


def test_what_goes_in_is_left_as_it_was(case, rng, dtype):
    layer, xs = case
    dy = distinct(rng, layer.forward(*xs)[0].shape, dtype)
    arrays = [*xs, dy, *layer.parameters.values()]
    before = [array.copy() for array in arrays]
    layer.backward(dy, layer.forward(*xs)[1])
    for array, was in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, was)


def test_only_what_is_asked_for(case, rng, dtype):
    layer, xs = case
    y, saved = layer.forward(*xs)
    dy = distinct(rng, y.shape, dtype)
    dx, gradients = layer.backward(dy, saved)
    dx_alone, nothing = layer.backward(dy, saved, BackwardOptions(parameter_gradients=False))
    assert nothing == {}
    for part, alone in zip(as_tuple(dx), as_tuple(dx_alone), strict=True):
        np.testing.assert_array_equal(part, alone)
    if layer.parameters:
        no_dx, gradients_alone = layer.backward(dy, saved, BackwardOptions(input_gradient=False))
        assert no_dx is None
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(gradient, gradients_alone[name])


# -- the kernels' numbers --------------------------------------------------------------------------------------------


def test_conv2d_is_its_kernels(rng):
    layer = Conv2d(4, 6, 3, stride=2, padding=(1, 0, 2, 1), groups=2, rounding="ceil")
    layer.initialize(rng)
    weight, bias = layer.parameters["weight"], layer.parameters["bias"]
    bias[...] = rng.standard_normal(6)
    where: Any = {"stride": 2, "padding": (1, 0, 2, 1), "groups": 2, "rounding": "ceil"}
    x = distinct(rng, (2, 7, 6, 4), np.float32)
    y, saved = layer.forward(x)
    np.testing.assert_array_equal(y, kernels.conv2d_forward(x, weight, **where) + bias)
    dy = distinct(rng, y.shape, np.float32)
    dx, gradients = layer.backward(dy, saved)
    np.testing.assert_array_equal(dx, kernels.conv2d_backward_input(dy, weight, x.shape, **where))
    np.testing.assert_array_equal(gradients["weight"], kernels.conv2d_backward_filters(dy, x, weight.shape, **where))
    np.testing.assert_array_equal(gradients["bias"], kernels.bias_backward(dy))


def test_linear_is_its_kernels_and_reads_an_image_row_by_row(rng):
    layer = Linear(2 * 3 * 4, 5)
    layer.initialize(rng)
    weight, bias = layer.parameters["weight"], layer.parameters["bias"]
    bias[...] = rng.standard_normal(5)
    x = distinct(rng, (2, 2, 3, 4), np.float32)
    flat = x.reshape(2, -1)
    y, saved = layer.forward(x)
    np.testing.assert_array_equal(y, kernels.linear_forward(flat, weight) + bias)
    np.testing.assert_array_equal(y, layer.forward(flat)[0])
    dy = distinct(rng, y.shape, np.float32)
    dx, gradients = layer.backward(dy, saved)
    np.testing.assert_array_equal(dx, kernels.linear_backward_input(dy, weight).reshape(x.shape))
    np.testing.assert_array_equal(gradients["weight"], kernels.linear_backward_weights(dy, flat))
    np.testing.assert_array_equal(gradients["bias"], kernels.bias_backward(dy))


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
def test_relu_is_its_kernels_under_every_rule(rule, rng):
    x, dy = distinct(rng, (4, 5)), distinct(rng, (4, 5))
    y, saved = ReLU().forward(x)
    np.testing.assert_array_equal(y, kernels.relu_forward(x))
    dx, _ = ReLU().backward(dy, saved, BackwardOptions(relu_rule=rule))
    np.testing.assert_array_equal(dx, kernels.relu_backward(dy, y, rule))


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
@pytest.mark.parametrize("name", [name for name in CASES if "relu" not in name])
def test_the_rule_is_the_relus_alone(name, rule, rng):
    make, shapes = CASES[name]
    layer = make()
    layer.initialize(rng)
    y, saved = layer.forward(*(distinct(rng, (2, *shape), np.float32) for shape in shapes))
    dy = distinct(rng, y.shape, np.float32)
    dx, _ = layer.backward(dy, saved, BackwardOptions(relu_rule=rule))
    for part, expected in zip(as_tuple(dx), as_tuple(layer.backward(dy, saved)[0]), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_max_pool2d_is_its_kernels(rng):
    where: Any = {"window": (3, 3), "stride": 2, "padding": (1, 0, 2, 1), "rounding": "ceil"}
    layer = MaxPool2d(3, stride=2, padding=(1, 0, 2, 1), rounding="ceil")
    x = distinct(rng, (2, 7, 6, 4))
    y, saved = layer.forward(x)
    expected, switches = kernels.max_pool2d_forward(x, **where)
    np.testing.assert_array_equal(y, expected)
    dy = distinct(rng, y.shape)
    dx, _ = layer.backward(dy, saved)
    np.testing.assert_array_equal(dx, kernels.max_pool2d_backward(dy, switches, x.shape, **where))


@pytest.mark.parametrize("count_padding", [True, False])
def test_average_pool2d_is_its_kernels(count_padding, rng):
    where: Any = {
        "window": (3, 3),
        "stride": 2,
        "padding": (1, 0, 2, 1),
        "rounding": "ceil",
        "count_padding": count_padding,
    }
    layer = AveragePool2d(3, stride=2, padding=(1, 0, 2, 1), rounding="ceil", count_padding=count_padding)
    x = distinct(rng, (2, 7, 6, 4))
    y, saved = layer.forward(x)
    np.testing.assert_array_equal(y, kernels.average_pool2d_forward(x, **where))
    dy = distinct(rng, y.shape)
    np.testing.assert_array_equal(layer.backward(dy, saved)[0], kernels.average_pool2d_backward(dy, x.shape, **where))


def test_global_average_pool2d_is_its_kernels(rng):
    x, dy = distinct(rng, (2, 7, 6, 4)), distinct(rng, (2, 4))
    y, saved = GlobalAveragePool2d().forward(x)
    np.testing.assert_array_equal(y, kernels.global_average_pool2d_forward(x))
    dx, _ = GlobalAveragePool2d().backward(dy, saved)
    np.testing.assert_array_equal(dx, kernels.global_average_pool2d_backward(dy, x.shape))


def test_lrn_is_its_kernels(rng):
    layer = LRN(size=3, alpha_per_element=0.1, beta=0.6, k=1.5)
    x, dy = distinct(rng, (2, 3, 3, 6)), distinct(rng, (2, 3, 3, 6))
    y, saved = layer.forward(x)
    expected, s = kernels.lrn_forward(x, size=3, alpha_per_element=0.1, beta=0.6, k=1.5)
    np.testing.assert_array_equal(y, expected)
    dx, _ = layer.backward(dy, saved)
    np.testing.assert_array_equal(dx, kernels.lrn_backward(dy, x, s, size=3, alpha_per_element=0.1, beta=0.6))


def test_concatenate_and_add_are_their_kernels(rng):
    xs = [distinct(rng, (2, 3, 4)) for _ in range(3)]
    dy = distinct(rng, (2, 3, 12))
    y, saved = Concatenate().forward(*xs)
    np.testing.assert_array_equal(y, kernels.concatenate_forward(xs))
    for part, expected in zip(Concatenate().backward(dy, saved)[0], np.split(dy, 3, axis=-1), strict=True):
        np.testing.assert_array_equal(part, expected)
    y, saved = Add().forward(*xs)
    np.testing.assert_array_equal(y, xs[0] + xs[1] + xs[2])
    for part in Add().backward(xs[0], saved)[0]:
        np.testing.assert_array_equal(part, xs[0])


def test_a_square_window_is_one_number(rng):
    x = distinct(rng, (2, 7, 6, 4), np.float32)
    for make in (lambda window: MaxPool2d(window, 2), lambda window: AveragePool2d(window, 2)):
        np.testing.assert_array_equal(make(3).forward(x)[0], make((3, 3)).forward(x)[0])
    assert Conv2d(4, 6, 3).parameters["weight"].shape == Conv2d(4, 6, (3, 3)).parameters["weight"].shape
    assert Conv2d(4, 6, (3, 2)).parameters["weight"].shape == (6, 3, 2, 4)


def test_flatten_is_its_kernels_and_reads_an_image_channel_by_channel(rng):
    x, dy = distinct(rng, (2, 3, 5, 4)), distinct(rng, (2, 60))
    y, saved = Flatten().forward(x)
    np.testing.assert_array_equal(y, np.stack([image.transpose(2, 0, 1).ravel() for image in x]))
    np.testing.assert_array_equal(Flatten().backward(dy, saved)[0], kernels.flatten_backward(dy, x.shape))


# -- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_does_nothing_without_chances(rng):
    x, dy = distinct(rng, (4, 5)), distinct(rng, (4, 5))
    y, saved = Dropout().forward(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(Dropout().backward(dy, saved)[0], dy)


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_dropout_zeroes_its_share_and_keeps_the_expectation(rate):
    x = np.ones((200, 500), np.float32)
    y, saved = Dropout(rate).forward(x, chances=Chances.of(np.arange(200), 0, Purpose.DROPOUT))
    assert (y == 0).mean() == pytest.approx(rate, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(Dropout(rate).backward(x, saved)[0], y)


def test_dropout_draws_the_same_for_the_same_seed():
    x, images = np.ones((20, 30)), np.arange(20)
    first, second, other = (
        Dropout().forward(x, chances=Chances.of(images, seed, Purpose.DROPOUT))[0] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


# -- shapes ----------------------------------------------------------------------------------------------------------


@given(
    layer=st.sampled_from([Conv2d, MaxPool2d, AveragePool2d]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 4),
    paddings=st.tuples(*[st.integers(0, 3)] * 4),
    rounding=st.sampled_from(["floor", "ceil"]),
)
def test_the_announced_size_is_the_real_one(layer, size, window, stride, paddings, rounding):
    padding = tuple(min(p, window[side // 2] - 1) for side, p in enumerate(paddings))
    where: Any = {"stride": stride, "padding": padding, "rounding": rounding}
    made = layer(2, 3, window, **where) if layer is Conv2d else layer(window, **where)
    x = np.ones((1, *size, 2), np.float32)
    assert made.forward(x)[0].shape == (1, *made.output_shape(x.shape[1:]))


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (Conv2d(4, 6, 3), [(7, 6, 3)], "the filters take 4 channels, the input has 3"),
        (Conv2d(4, 6, 3, groups=2), [(7, 6, 2)], "the filters take 4 channels, the input has 2"),
        (Conv2d(4, 6, 5), [(4, 6, 4)], "a window of 5 pixels does not fit into 0 \\+ 4 \\+ 0 pixels"),
        (MaxPool2d(3, stride=2), [(7, 2, 4)], "a window of 3 pixels does not fit"),
        (MaxPool2d(2, stride=2, padding=2), [(7, 6, 4)], "must be smaller than its window"),
        (AveragePool2d((3, 2), stride=2, padding=(0, 0, 2, 0)), [(7, 6, 4)], "must be smaller than its window"),
        (Conv2d(4, 6, 3), [(4,)], r"reads one image \(H, W, C\), the input has \(4,\)"),
        (MaxPool2d(3, stride=2), [(7, 6, 4), (7, 6, 4)], "reads one image"),
        (GlobalAveragePool2d(), [(4,)], "reads one image"),
        (Flatten(), [(4,)], "reads one image"),
        (Linear(10, 3), [(3, 3, 1)], "the layer takes 10 numbers"),
        (Concatenate(), [(7, 6, 4), (7, 5, 4)], "different sizes can't be concatenated"),
        (Add(), [(7, 6, 4), (7, 6, 3)], "different shapes can't be added"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        layer.output_shape(*shapes)

from typing import Any

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import relu as definition
from npconvnet.kernels.cuda import elementwise
from npconvnet.kernels.cuda.relu import ReLURule, relu_backward, relu_forward

INF, NAN = np.inf, np.nan
#: Every pair of these meets in a test of a backward.
NUMBERS = np.array([3.0, -3.0, 0.0, -0.0, INF, -INF, NAN, 1e-30, -1e-30], np.float32)
SHAPES = [(1,), (3, 7), (elementwise.THREADS,), (elementwise.THREADS + 1,), (2, 5, 3, 61), (0,), (0, 3)]

over_rules = pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def assert_same(actual, expected):
    actual = to_host(actual)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def test_the_rules_by_hand(xp):
    """The four signs: where they part."""
    y, dy = (xp.asarray(np.array(x, np.float32)) for x in ([1, 1, 0, 0], [5, -5, 5, -5]))
    assert to_host(relu_backward(dy, y)).tolist() == [5, -5, 0, 0]
    assert to_host(relu_backward(dy, y, "deconvnet")).tolist() == [5, 0, 5, 0]
    assert to_host(relu_backward(dy, y, "guided")).tolist() == [5, 0, 0, 0]


@over_shapes
def test_forward_is_the_definition(xp, rng, shape):
    x = rng.standard_normal(shape, np.float32)
    assert_same(relu_forward(xp.asarray(x)), definition.relu_forward(x))


@over_shapes
@over_rules
def test_backward_is_the_definition(xp, rng, shape, rule):
    dy, y = rng.standard_normal(shape, np.float32), definition.relu_forward(rng.standard_normal(shape, np.float32))
    assert_same(relu_backward(xp.asarray(dy), xp.asarray(y), rule), definition.relu_backward(dy, y, rule))


def test_nan_stays_in_the_forward(xp):
    assert_same(relu_forward(xp.asarray(NUMBERS)), definition.relu_forward(NUMBERS))


@over_rules
def test_what_is_not_selected_is_zero(xp, rule):
    """And not NaN where dy is infinite, nor −0: what a mask would make of it."""
    dy, y = (each.ravel() for each in np.meshgrid(NUMBERS, NUMBERS))
    dx = relu_backward(xp.asarray(dy), xp.asarray(y), rule)
    expected = definition.relu_backward(dy, y, rule)
    np.testing.assert_array_equal(to_host(dx).view(np.uint32), expected.view(np.uint32))


def test_an_unknown_rule_is_refused(cupy):
    rule: Any = "backprop"
    x = cupy.zeros(3, np.float32)
    with pytest.raises(ValueError, match="no ReLU rule 'backprop'; the rules are gradient, deconvnet and guided"):
        relu_backward(x, x, rule)


def test_the_rules_are_those_of_the_definition():
    assert ReLURule == definition.ReLURule


def test_other_arrays_are_refused(cupy):
    x = cupy.zeros(3, np.float32)
    for wrong in cupy.zeros(3, np.float64), cupy.zeros(3, np.uint16), cupy.zeros(4, np.float32):
        with pytest.raises(TypeError, match="relu_backward: y is"):
            relu_backward(x, wrong)
    with pytest.raises(TypeError, match="relu_forward: x is float64"):
        relu_forward(cupy.zeros(3, np.float64))

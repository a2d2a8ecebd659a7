"""Bit by bit: a maximum is not rounded, and the sums of the backward are in the definition's order."""

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import max_pool2d as definition
from npconvnet.kernels.cuda import max_pool2d
from tests.kernels.geometry import Geometry, over_the_table
from tests.kernels.test_max_pool2d import where


def assert_same(result, expected):
    actual = to_host(result)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(actual, expected)


def check(xp, rng, x, geometry):
    kwargs = where(geometry)
    y, switches = definition.max_pool2d_forward(x, **kwargs)
    assert_same(max_pool2d.max_pool2d(xp.asarray(x), **kwargs), y)
    for result, expected in zip(max_pool2d.max_pool2d_forward(xp.asarray(x), **kwargs), (y, switches), strict=True):
        assert_same(result, expected)

    dy = rng.standard_normal(y.shape, np.float32)
    dx = max_pool2d.max_pool2d_backward(xp.asarray(dy), xp.asarray(switches), x.shape, **kwargs)
    assert_same(dx, definition.max_pool2d_backward(dy, switches, x.shape, **kwargs))


@over_the_table
def test_both_ways_are_the_definition(xp, rng, geometry):
    check(xp, rng, rng.standard_normal((2, *geometry.size, 3), np.float32), geometry)


@over_the_table
def test_ties_and_infinities_and_nan(xp, rng, geometry):
    """The first of several maxima; where all are minus infinity, so is the padding, and may be that first."""
    few = np.array([-np.inf, -1, 0, 1, np.inf, np.nan], np.float32)
    for possible in few[:1], few[:3], few[3:], few[:-1], few:
        check(xp, rng, rng.choice(possible, (3, *geometry.size, 2)), geometry)


def test_random_shapes(xp, rng):
    for _ in range(40):
        (h, w), (r, s, stride) = rng.integers(4, 12, 2).tolist(), rng.integers(1, 5, 3).tolist()
        top, bottom, left, right = rng.integers(0, [r, r, s, s]).tolist()
        geometry = Geometry((h, w), (r, s), stride, (top, bottom, left, right), rng.choice(["floor", "ceil"]))
        images, channels = rng.integers(1, [4, 9]).tolist()
        check(xp, rng, rng.standard_normal((images, h, w, channels), np.float32), geometry)


@pytest.mark.parametrize(("window", "switch_type"), [((16, 16), "u1"), ((16, 17), "u2"), ((256, 257), "u4")])
def test_a_switch_reaches_the_last_pixel_of_any_window(xp, window, switch_type):
    x = np.arange(np.prod(window), dtype=np.float32).reshape(1, *window, 1)
    y, switches = max_pool2d.max_pool2d_forward(xp.asarray(x), window, 1)
    assert switches.dtype == switch_type
    assert to_host(y).item() == to_host(switches).item() == x.size - 1
    dx = to_host(max_pool2d.max_pool2d_backward(y, switches, x.shape, window, 1))
    assert np.flatnonzero(dx).tolist() == [x.size - 1]


def test_a_diverged_gradient_stays_where_the_switch_points(xp):
    dy, switches = xp.asarray(np.full((1, 1, 1, 1), np.inf, np.float32)), xp.asarray(np.full((1, 1, 1, 1), 2, np.uint8))
    dx = max_pool2d.max_pool2d_backward(dy, switches, (1, 2, 2, 1), (2, 2), 2)
    assert to_host(dx).ravel().tolist() == [0, 0, np.inf, 0]


def test_no_images(xp):
    y, switches = max_pool2d.max_pool2d_forward(xp.zeros((0, 5, 5, 3), np.float32), (3, 3), 2)
    assert y.shape == switches.shape == (0, 2, 2, 3)
    assert max_pool2d.max_pool2d(xp.zeros((0, 5, 5, 3), np.float32), (3, 3), 2).shape == (0, 2, 2, 3)
    assert max_pool2d.max_pool2d_backward(y, switches, (0, 5, 5, 3), (3, 3), 2).shape == (0, 5, 5, 3)


def test_arrays_that_are_not_contiguous(xp, rng):
    x = rng.standard_normal((6, 5, 2, 3), np.float32)
    y, _ = max_pool2d.max_pool2d_forward(xp.asarray(x).transpose(2, 1, 0, 3), (2, 2), 1)
    assert_same(y, definition.max_pool2d(x.transpose(2, 1, 0, 3), (2, 2), 1))


def test_other_arrays_are_refused(cupy):
    x, switches = cupy.zeros((1, 4, 4, 2), np.float32), cupy.zeros((1, 2, 2, 2), np.uint16)
    with pytest.raises(TypeError, match="max_pool2d: x is float64"):
        max_pool2d.max_pool2d(cupy.zeros((1, 4, 4, 2), np.float64), (2, 2), 2)
    with pytest.raises(TypeError, match=r"max_pool2d_forward: x is float32 \(4, 4, 2\)"):
        max_pool2d.max_pool2d_forward(x[0], (2, 2), 2)
    with pytest.raises(TypeError, match=r"max_pool2d_backward: dy is .*has to be float32 \(1, 2, 2, 2\)"):
        max_pool2d.max_pool2d_backward(x, switches, x.shape, (2, 2), 2)
    with pytest.raises(TypeError, match="max_pool2d_backward: switches is uint16"):
        max_pool2d.max_pool2d_backward(x[:, :2, :2], switches, x.shape, (2, 2), 2)
    with pytest.raises(ValueError, match="smaller than its window"):
        max_pool2d.max_pool2d_forward(x, (2, 2), 2, (2, 0, 0, 0))

"""The gradient of images of few channels, plane by plane: the definition's own sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from npconvnet.kernels.cpu import conv2d
from npconvnet.kernels.cpu.conv2d_by_planes import planes_backward_input
from npconvnet.kernels.shapes import place_windows
from tests.conftest import assert_close, distinct
from tests.kernels.geometry import geometries, over_the_table


def check(g, channels, dtype="float64"):
    rng = np.random.default_rng(0)
    windows = place_windows(g.size, g.window, g.stride, g.padding, g.rounding)
    w, dy = distinct(rng, (6, *g.window, channels), dtype), distinct(rng, (2, *windows.outputs, 6), dtype)
    x_shape = (2, *g.size, channels)
    dx = planes_backward_input(dy, w, x_shape, g.stride, windows)
    expected = conv2d.conv2d_backward_input(
        dy.astype("f8"), w.astype("f8"), x_shape, g.stride, g.padding, 1, g.rounding
    )
    assert_close(dx, expected.astype(dtype))


@over_the_table
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_like_the_definition(geometry, channels, dtype):
    check(geometry, channels, dtype)


@given(geometries(), st.integers(1, 4))
def test_like_the_definition_on_any_shape(geometry, channels):
    check(geometry, channels)


def test_float64_filters_keep_their_precision(rng):
    dy, w = rng.standard_normal((2, 5, 5, 8), np.float32), rng.standard_normal((8, 3, 3, 3))
    assert kernels.conv2d_backward_input(dy, w, (2, 7, 7, 3)).dtype == np.float64


def test_no_other_precision_goes_to_winograd(rng):
    x, w = rng.integers(0, 256, (2, 16, 16, 32)).astype(np.uint8), rng.standard_normal((32, 3, 3, 32), np.float32)
    np.testing.assert_array_equal(kernels.conv2d_forward(x, w), conv2d.conv2d_forward(x, w))

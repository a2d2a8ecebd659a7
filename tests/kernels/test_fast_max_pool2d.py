"""The fast versions of max pooling beside the definition."""

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from npconvnet.kernels.cpu import max_pool2d
from npconvnet.kernels.cpu.max_pool2d_separable import max_pool2d as max_pool2d_separable
from tests.conftest import distinct
from tests.kernels.geometry import Geometry, geometries, over_the_table
from tests.kernels.test_max_pool2d import where


@pytest.fixture(scope="module", params=["cpu.max_pool2d_separable", "compiled.max_pool2d"])
def fast(request):
    if request.param.startswith("compiled"):
        pytest.importorskip("numba")
    return importlib.import_module(f"npconvnet.kernels.{request.param}")


def assert_same_bits(fast: Any, x: np.ndarray, geometry: Geometry) -> None:
    y, switches = max_pool2d.max_pool2d_forward(x, **where(geometry))
    fast_y, fast_switches = fast.max_pool2d_forward(x, **where(geometry))
    np.testing.assert_array_equal(fast_y, y)
    np.testing.assert_array_equal(fast_switches, switches)
    assert fast_y.dtype == y.dtype and fast_switches.dtype == switches.dtype
    np.testing.assert_array_equal(max_pool2d_separable(x, **where(geometry)), y)

    dy = distinct(np.random.default_rng(1), y.shape, x.dtype)
    dx = max_pool2d.max_pool2d_backward(dy, switches, x.shape, **where(geometry))
    np.testing.assert_array_equal(fast.max_pool2d_backward(dy, switches, x.shape, **where(geometry)), dx)


@over_the_table
@pytest.mark.parametrize("values", ["distinct", "ties", "NaN", "infinite"])
def test_the_definition_bit_for_bit(fast, rng, geometry, values, dtype):
    x = distinct(rng, (3, *geometry.size, 5), dtype)
    if values == "ties":
        x = rng.integers(-1, 2, x.shape).astype(dtype)
    if values == "NaN":
        x[1:][rng.random(x[1:].shape) < 0.3] = np.nan
    if values == "infinite":
        x[rng.random(x.shape) < 0.4] = -np.inf
        x[rng.random(x.shape) < 0.2] = np.inf
    assert_same_bits(fast, x, geometry)


@given(geometry=geometries(padding_smaller_than_window=True))
def test_on_any_shape_with_ties(fast, geometry):
    x = np.random.default_rng(0).integers(0, 3, (2, *geometry.size, 3)).astype(np.float32)
    assert_same_bits(fast, x, geometry)


def test_the_first_in_scan_order_is_not_the_first_column(fast):
    """Of two maxima, the one in the upper row counts, though the other column comes first."""
    x = np.array([[0, 7], [7, 0]], np.float32).reshape(1, 2, 2, 1)
    _, switches = fast.max_pool2d_forward(x, (2, 2), 1)
    assert switches.item() == 1


def test_one_channel_less_than_contiguous(fast, rng):
    assert_same_bits(fast, distinct(rng, (2, 9, 8, 4), np.float32)[..., 1:], Geometry((9, 8), (3, 3), stride=2))


def test_a_derivative_that_is_a_view(fast, rng):
    """One number seen from every pixel, as behind a global average; it can't be written to."""
    _, switches = fast.max_pool2d_forward(distinct(rng, (2, 9, 8, 3), np.float32), (3, 3), 2)
    dy = np.broadcast_to(np.float32(0.5), switches.shape)
    expected = max_pool2d.max_pool2d_backward(dy, switches, (2, 9, 8, 3), (3, 3), 2)
    np.testing.assert_array_equal(fast.max_pool2d_backward(dy, switches, (2, 9, 8, 3), (3, 3), 2), expected)


def test_a_derivative_of_other_images_is_refused(fast, rng):
    _, switches = fast.max_pool2d_forward(distinct(rng, (3, 6, 6, 2)), (2, 2), 2)
    with pytest.raises(ValueError):
        fast.max_pool2d_backward(np.ones((2, 3, 3, 2)), switches, (3, 6, 6, 2), (2, 2), 2)


@pytest.mark.parametrize("side", [15, 16, 17])
def test_windows_of_any_size(fast, rng, side):
    assert_same_bits(fast, distinct(rng, (2, 20, 20, 2), np.float32), Geometry((20, 20), (side, side), stride=2))


def test_a_window_that_could_hold_only_padding_is_refused(fast):
    with pytest.raises(ValueError, match="smaller than its window"):
        fast.max_pool2d_forward(np.zeros((1, 4, 4, 1)), (2, 2), stride=2, padding=(2, 0, 0, 0))

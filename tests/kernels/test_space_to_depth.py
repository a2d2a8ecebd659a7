"""Of integers, so that every sum is exact: a strided convolution and the one of its cells must be equal to the bit."""

import numpy as np
import pytest
from hypothesis import given

from npconvnet.kernels.cpu import conv2d
from npconvnet.kernels.cpu.space_to_depth import (
    filter_cells,
    filter_cells_shape,
    filters_of_cells,
    image_cells,
    image_cells_shape,
    images_of_cells,
)
from npconvnet.kernels.shapes import place_windows
from tests.conftest import assert_adjoint
from tests.kernels import geometry as shared
from tests.kernels.geometry import Geometry, geometries

TABLE = shared.TABLE | {
    "cells that fit": Geometry((8, 8), (4, 4), stride=2),
    "a window of one cell": Geometry((9, 6), (3, 3), stride=3),
    "a window smaller than a cell": Geometry((11, 10), (2, 3), stride=4),
    "a single pixel of every cell": Geometry((7, 8), (1, 1), stride=2),
    "5x5 by 4, padded": Geometry((13, 14), (5, 5), stride=4, padding=(2, 2, 2, 2)),
    "padding larger than a cell": Geometry((5, 6), (5, 4), stride=2, padding=(3, 4, 3, 0)),
    "three rows that no window sees": Geometry((8, 8), (5, 3), stride=4),
    "as many columns beyond the image": Geometry((8, 10), (3, 4), stride=4, rounding="ceil"),
}

over_the_table = pytest.mark.parametrize("geometry", TABLE.values(), ids=TABLE.keys())


def place(g):
    return place_windows(g.size, g.window, g.stride, g.padding, g.rounding)


def integers(rng, *shape):
    return rng.integers(-9, 10, shape).astype(np.float64)


def test_images_by_hand():
    x = np.arange(1.0, 10).reshape(1, 3, 3, 1)
    geometry = Geometry((3, 3), (2, 2), stride=2, padding=(1, 0, 0, 1))
    cells = image_cells(x, geometry.window, geometry.stride, place(geometry))
    assert cells[0].tolist() == [[[0, 0, 1, 2], [0, 0, 3, 0]], [[4, 5, 7, 8], [6, 0, 9, 0]]]


def test_filters_by_hand():
    w = np.arange(1.0, 10).reshape(1, 3, 3, 1)
    assert filter_cells(w, 2)[0].tolist() == [[[1, 2, 4, 5], [3, 0, 6, 0]], [[7, 8, 0, 0], [9, 0, 0, 0]]]


@over_the_table
def test_the_stride_is_gone(geometry):
    assert_the_stride_is_gone(geometry)


@given(geometries())
def test_the_stride_is_gone_on_any_shape(geometry):
    assert_the_stride_is_gone(geometry)


def assert_the_stride_is_gone(g):
    """The convolution and both backwards, through the cells, are those of the definition."""
    rng, windows = np.random.default_rng(0), place(g)
    x, w = integers(rng, 2, *g.size, 3), integers(rng, 4, *g.window, 3)
    dy = integers(rng, 2, *windows.outputs, 4)
    of_x, of_w = image_cells(x, g.window, g.stride, windows), filter_cells(w, g.stride)
    where = {"stride": g.stride, "padding": g.padding, "rounding": g.rounding}

    y = conv2d.conv2d_forward(of_x, of_w)
    np.testing.assert_array_equal(y, conv2d.conv2d_forward(x, w, **where))

    dx = images_of_cells(conv2d.conv2d_backward_input(dy, of_w, of_x.shape), x.shape, g.stride, windows)
    np.testing.assert_array_equal(dx, conv2d.conv2d_backward_input(dy, w, x.shape, **where))

    dw = filters_of_cells(conv2d.conv2d_backward_filters(dy, of_x, of_w.shape), g.window, g.stride)
    np.testing.assert_array_equal(dw, conv2d.conv2d_backward_filters(dy, x, w.shape, **where))


@given(geometries())
def test_the_maps_are_adjoint_and_of_the_shapes_that_are_announced(geometry):
    g, rng, windows = geometry, np.random.default_rng(0), place(geometry)
    x, w = integers(rng, 2, *g.size, 3), integers(rng, 4, *g.window, 3)

    of_x = image_cells(x, g.window, g.stride, windows)
    assert of_x.shape == image_cells_shape(x.shape, g.window, g.stride, windows)
    cells = integers(rng, *of_x.shape)
    assert_adjoint(x, of_x, cells, images_of_cells(cells, x.shape, g.stride, windows))

    of_w = filter_cells(w, g.stride)
    assert of_w.shape == filter_cells_shape(w.shape, g.stride)
    cells = integers(rng, *of_w.shape)
    assert_adjoint(w, of_w, cells, filters_of_cells(cells, g.window, g.stride))


@over_the_table
def test_the_precision_stays_and_nothing_is_written_over(geometry, dtype):
    g, rng, windows = geometry, np.random.default_rng(0), place(geometry)
    x, w = integers(rng, 2, *g.size, 3).astype(dtype), integers(rng, 4, *g.window, 3).astype(dtype)
    x.flags.writeable = w.flags.writeable = False  # writing raises ValueError
    of_x, of_w = image_cells(x, g.window, g.stride, windows), filter_cells(w, g.stride)
    back = images_of_cells(of_x, x.shape, g.stride, windows), filters_of_cells(of_w, g.window, g.stride)
    assert [a.dtype for a in (of_x, of_w, *back)] == [dtype] * 4
    np.testing.assert_array_equal(back[1], w)
    np.testing.assert_array_equal(back[0][back[0] != 0], x[back[0] != 0])  # a pixel that is seen comes back

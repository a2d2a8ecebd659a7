"""Winograd's algorithm against the definition: float64 shows wrong algebra, float32 how much rounding there is."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet.kernels.cpu import conv2d
from npconvnet.kernels.cpu.winograd import (
    MOST_POINTS,
    winograd_backward,
    winograd_backward_filters,
    winograd_backward_input,
    winograd_forward,
)
from npconvnet.kernels.shapes import place_windows
from tests.conftest import assert_adjoint, assert_close, distinct
from tests.kernels.geometry import Geometry, geometries

#: The geometries, each with tiles for it.
TABLE = {
    "one pixel": (Geometry((1, 1), (1, 1)), (1, 1)),
    "one tile": (Geometry((6, 6), (3, 3)), (4, 4)),
    "tiles that fit": (Geometry((10, 14), (3, 3)), (4, 4)),
    "an image smaller than a tile": (Geometry((4, 5), (3, 3)), (5, 5)),
    "one row, one column of it": (Geometry((3, 9), (3, 3)), (4, 2)),
    "tiles that reach beyond": (Geometry((9, 11), (3, 3), padding=(1, 1, 1, 1)), (4, 4)),
    "one tile reaches far beyond": (Geometry((8, 8), (3, 3), padding=(1, 1, 1, 1)), (6, 6)),
    "5x5": (Geometry((13, 11), (5, 5), padding=(2, 2, 2, 2)), (4, 4)),
    "tile smaller than window": (Geometry((11, 9), (5, 5), padding=(2, 2, 2, 2)), (2, 2)),
    "a window of one pixel": (Geometry((7, 9), (1, 1)), (3, 3)),
    "tiles of one pixel": (Geometry((6, 5), (3, 3)), (1, 1)),
    "oblong windows": (Geometry((9, 8), (2, 5), padding=(0, 1, 2, 2)), (4, 4)),
    "oblong tiles": (Geometry((9, 8), (3, 3), padding=(1, 1, 1, 1)), (2, 5)),
    "padding on two sides": (Geometry((7, 8), (3, 3), padding=(2, 0, 0, 1)), (4, 4)),
    "padding larger than the window": (Geometry((5, 4), (2, 3), padding=(4, 3, 0, 5)), (3, 4)),
}

over_the_table = pytest.mark.parametrize(("geometry", "tile"), TABLE.values(), ids=TABLE.keys())


def operands(rng, geometry, dtype, images=3, channels=4, filters=5):
    """(x, w, dy)"""
    outputs = place_windows(geometry.size, geometry.window, 1, geometry.padding).outputs
    shapes = (images, *geometry.size, channels), (filters, *geometry.window, channels), (images, *outputs, filters)
    return tuple(distinct(rng, shape, dtype) for shape in shapes)


def assert_like_the_definition(xwdy, padding, tile):
    x, w, dy = xwdy
    x64, w64, dy64 = (a.astype(np.float64) for a in (x, w, dy))
    y = conv2d.conv2d_forward(x64, w64, padding=padding)
    dx = conv2d.conv2d_backward_input(dy64, w64, x.shape, padding=padding)
    dw = conv2d.conv2d_backward_filters(dy64, x64, w.shape, padding=padding)
    assert_close(winograd_forward(x, w, padding, tile), y.astype(x.dtype))
    assert_close(winograd_backward_input(dy, w, x.shape, padding, tile), dx.astype(x.dtype))
    assert_close(winograd_backward_filters(dy, x, w.shape, padding, tile), dw.astype(x.dtype))
    both = winograd_backward(dy, x, w, padding, tile)
    assert_close(both[0], dx.astype(x.dtype))
    assert_close(both[1], dw.astype(x.dtype))


def test_by_hand():
    x = np.array([[1.0, 2, 3], [4, 5, 6]]).reshape(1, 2, 3, 1)
    w = np.array([[1.0, 10], [100, 1000]]).reshape(1, 2, 2, 1)
    no_padding, tile = (0, 0, 0, 0), (2, 2)
    assert_close(winograd_forward(x, w, no_padding, tile).ravel(), [5421.0, 6532])

    dy = np.array([1.0, 2]).reshape(1, 1, 2, 1)
    dx = winograd_backward_input(dy, w, x.shape, no_padding, tile)
    assert_close(dx[0, :, :, 0], [[1.0, 12, 20], [100, 1200, 2000]])
    dw = winograd_backward_filters(dy, x, w.shape, no_padding, tile)
    assert_close(dw[0, :, :, 0], [[5.0, 8], [14, 17]])


@over_the_table
def test_like_the_definition(rng, geometry, tile, dtype):
    assert_like_the_definition(operands(rng, geometry, dtype), geometry.padding, tile)


@pytest.mark.parametrize(
    ("window", "tile"), [(r, m) for r in (2, 3, 5) for m in range(1, MOST_POINTS - r + 2)], ids=str
)
def test_with_tiles_of_every_size(rng, window, tile, dtype):
    geometry = Geometry((14, 17), (window, window), padding=(1, 0, 1, 1))
    assert_like_the_definition(operands(rng, geometry, dtype), geometry.padding, (tile, tile))


@pytest.mark.parametrize(("channels", "filters"), list(product([1, 2, 33], repeat=2)))
def test_with_any_number_of_channels(rng, channels, filters, dtype):
    geometry = Geometry((8, 9), (3, 3), padding=(1, 1, 1, 1))
    xwdy = operands(rng, geometry, dtype, channels=channels, filters=filters)
    assert_like_the_definition(xwdy, geometry.padding, (4, 4))


@pytest.mark.parametrize("tiles_at_once", [1, 12, 18, 24, 1000])
@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_with_fewer_and_more_images_than_are_taken_at_once(rng, monkeypatch, images, tiles_at_once, dtype):
    """An image has six tiles: from one image at a time to all of them at once, and blocks of unlike sizes."""
    monkeypatch.setattr("npconvnet.kernels.cpu.winograd.TILES_AT_ONCE", tiles_at_once)
    geometry = Geometry((8, 11), (3, 3), padding=(1, 1, 1, 1))
    assert_like_the_definition(operands(rng, geometry, dtype, images=images), geometry.padding, (4, 4))


@st.composite
def any_shapes(draw):
    """(geometry, tile, the numbers of images, channels and filters)"""
    geometry = draw(geometries())
    tile = tuple(draw(st.integers(1, MOST_POINTS + 1 - extent)) for extent in geometry.window)
    return geometry, tile, [draw(st.integers(1, 3)) for _ in range(3)]


@given(any_shapes())
def test_on_any_shape(shapes):
    geometry, tile, counts = shapes
    x, w, dy = operands(np.random.default_rng(0), geometry, np.float64, *counts)
    assert_like_the_definition((x, w, dy), geometry.padding, tile)
    y = winograd_forward(x, w, geometry.padding, tile)
    assert_adjoint(x, y, dy, winograd_backward_input(dy, w, x.shape, geometry.padding, tile))
    assert_adjoint(w, y, dy, winograd_backward_filters(dy, x, w.shape, geometry.padding, tile))


@given(any_shapes())
def test_rounding_on_any_shape(shapes):
    """Of positive numbers: sums that come to nearly nothing have any relative error."""
    geometry, tile, counts = shapes
    x, w, dy = operands(np.random.default_rng(0), geometry, np.float32, *counts)
    assert_like_the_definition((x + 1, w + 1, dy + 1), geometry.padding, tile)


@over_the_table
def test_backwards_are_adjoint_to_the_forward(rng, geometry, tile):
    x, w, dy = operands(rng, geometry, np.float64)
    y = winograd_forward(x, w, geometry.padding, tile)
    assert_adjoint(x, y, dy, winograd_backward_input(dy, w, x.shape, geometry.padding, tile))
    assert_adjoint(w, y, dy, winograd_backward_filters(dy, x, w.shape, geometry.padding, tile))


@pytest.mark.parametrize(
    ("side", "channels", "window", "tile"),
    [(13, 256, 3, 5), (13, 256, 3, MOST_POINTS - 2), (27, 64, 5, MOST_POINTS - 4)],
    ids=["conv3 to conv5", "conv3 to conv5, most points", "conv2, most points"],
)
def test_rounding_in_the_papers_layers(rng, side, channels, window, tile):
    """Filters as they are drawn at first, images and derivatives as ReLUs leave them."""
    padding = (window // 2,) * 4
    x = np.maximum(rng.standard_normal((2, side, side, channels), np.float32), 0)
    spread = np.float32(np.sqrt(2 / (window * window * channels)))
    w = spread * rng.standard_normal((256, window, window, channels), np.float32)
    dy = rng.standard_normal((2, side, side, 256), np.float32) * (rng.random((2, side, side, 256)) < 0.5)
    assert_like_the_definition((x, w, dy), padding, (tile, tile))


def test_the_layout_in_memory_does_not_matter(rng, dtype):
    geometry = Geometry((8, 11), (3, 3), padding=(1, 1, 1, 1))
    x, w, dy = operands(rng, geometry, dtype)

    def turned(a):
        return np.asfortranarray(a)[:, ::-1].copy(order="F")[:, ::-1]

    def spread(a):
        return np.repeat(a, 2, axis=3)[..., ::2]

    for view in (turned, spread):
        assert not view(x).flags.c_contiguous
        np.testing.assert_array_equal(view(x), x)
        assert_like_the_definition((view(x), view(w), view(dy)), geometry.padding, (4, 4))


@over_the_table
def test_nothing_is_written_over(rng, geometry, tile, dtype):
    x, w, dy = operands(rng, geometry, dtype)
    for a in (x, w, dy):
        a.flags.writeable = False  # writing raises ValueError
    winograd_forward(x, w, geometry.padding, tile)
    winograd_backward_input(dy, w, x.shape, geometry.padding, tile)
    winograd_backward_filters(dy, x, w.shape, geometry.padding, tile)
    winograd_backward(dy, x, w, geometry.padding, tile)

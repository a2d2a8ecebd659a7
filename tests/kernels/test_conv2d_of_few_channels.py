"""Images of few channels, image by image: the definition's own sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from npconvnet.kernels.cpu import conv2d
from npconvnet.kernels.cpu.conv2d_of_few_channels import few_channels_backward_input, few_channels_forward
from npconvnet.kernels.shapes import place_windows
from tests.conftest import assert_adjoint, assert_close, distinct
from tests.kernels.geometry import Geometry, geometries, over_the_table


def check(g, channels, dtype="float64", images=2, filters=6):
    """Against the definition in float64; returns (x, w, y, dy, dx)."""
    rng = np.random.default_rng(0)
    windows = place_windows(g.size, g.window, g.stride, g.padding, g.rounding)
    x, w = distinct(rng, (images, *g.size, channels), dtype), distinct(rng, (filters, *g.window, channels), dtype)
    dy = distinct(rng, (images, *windows.outputs, filters), dtype)
    x64, w64, dy64 = (a.astype(np.float64) for a in (x, w, dy))
    where = g.stride, g.padding, 1, g.rounding
    y, dx = (
        few_channels_forward(x, w, g.stride, windows),
        few_channels_backward_input(dy, w, x.shape, g.stride, windows),
    )
    assert_close(y, conv2d.conv2d_forward(x64, w64, *where).astype(dtype))
    assert_close(dx, conv2d.conv2d_backward_input(dy64, w64, x.shape, *where).astype(dtype))
    return x, w, y, dy, dx


@over_the_table
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_like_the_definition(geometry, channels, dtype):
    check(geometry, channels, dtype)


@given(geometries(), st.integers(1, 4), st.integers(1, 3))
def test_like_the_definition_on_any_shape(geometry, channels, images):
    x, _, y, dy, dx = check(geometry, channels, images=images)
    assert_adjoint(x, y, dy, dx)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((227, 225), (3, 3), stride=2),
        Geometry((97, 114), (7, 7), stride=2, padding=(3, 3, 3, 3)),
        Geometry((101, 90), (11, 11), stride=4),
        Geometry((99, 91), (11, 11), stride=4, padding=(2, 1, 0, 2), rounding="ceil"),
    ],
    ids=["SqueezeNet's conv1", "7x7 by 2", "the paper's conv1", "the same, padded, up"],
)
def test_first_layers(geometry, dtype):
    check(geometry, 3, dtype, filters=64)


def test_nothing_is_written_over_and_the_layout_does_not_matter(rng):
    windows = place_windows((9, 8), (3, 2), 2, (1, 0, 0, 1))
    x, w, dy = (distinct(rng, shape) for shape in ((2, 9, 8, 3), (6, 3, 2, 3), (2, *windows.outputs, 6)))
    y, dx = few_channels_forward(x, w, 2, windows), few_channels_backward_input(dy, w, x.shape, 2, windows)
    x, w, dy = (np.asfortranarray(a) for a in (x, w, dy))
    for a in (x, w, dy):
        a.flags.writeable = False  # writing raises ValueError
    assert_close(few_channels_forward(x, w, 2, windows), y)
    assert_close(few_channels_backward_input(dy, w, x.shape, 2, windows), dx)


def test_an_image_has_the_same_bits_in_any_batch(rng):
    windows = place_windows((40, 41), (3, 3), 2)
    x, w = rng.standard_normal((5, 40, 41, 3), np.float32), rng.standard_normal((64, 3, 3, 3), np.float32)
    dy = rng.standard_normal((5, *windows.outputs, 64), np.float32)
    y, dx = few_channels_forward(x, w, 2, windows), few_channels_backward_input(dy, w, x.shape, 2, windows)
    np.testing.assert_array_equal(few_channels_forward(x[3:], w, 2, windows), y[3:])
    np.testing.assert_array_equal(few_channels_backward_input(dy[3:], w, (2, 40, 41, 3), 2, windows), dx[3:])


def test_it_is_what_runs(rng, monkeypatch):
    """For up to four channels where Winograd's algorithm would not pay, and never in groups."""
    where = "npconvnet.kernels.cpu.conv2d_by_shape.few_channels_"
    monkeypatch.setattr(where + "forward", lambda *args: "forward")
    monkeypatch.setattr(where + "backward_input", lambda *args: "backward")
    for channels, runs in ((4, True), (5, False)):
        x, w, dy = (
            rng.standard_normal(shape, np.float32) for shape in ((1, 7, 7, channels), (8, 3, 3, channels), (1, 5, 5, 8))
        )
        assert (isinstance(kernels.conv2d_forward(x, w), str)) is runs
        assert (isinstance(kernels.conv2d_backward_input(dy, w, x.shape), str)) is runs
    in_groups = rng.standard_normal((8, 3, 3, 2), np.float32)
    assert kernels.conv2d_forward(rng.standard_normal((1, 7, 7, 4), np.float32), in_groups, groups=2).shape == (
        1,
        5,
        5,
        8,
    )
    assert kernels.conv2d_backward_input(dy, in_groups, (1, 7, 7, 4), groups=2).shape == (1, 7, 7, 4)


def test_float64_filters_keep_their_precision(rng):
    x, dy = rng.standard_normal((2, 7, 7, 3), np.float32), rng.standard_normal((2, 5, 5, 8), np.float32)
    w = rng.standard_normal((8, 3, 3, 3))
    assert kernels.conv2d_forward(x, w).dtype == np.float64
    assert kernels.conv2d_backward_input(dy, w, (2, 7, 7, 3)).dtype == np.float64


def test_no_other_precision_goes_to_winograd(rng):
    x, w = rng.integers(0, 256, (2, 16, 16, 32)).astype(np.uint8), rng.standard_normal((32, 3, 3, 32), np.float32)
    np.testing.assert_array_equal(kernels.conv2d_forward(x, w), conv2d.conv2d_forward(x, w))


def test_images_of_integers(rng):
    x, w = rng.integers(0, 256, (2, 7, 8, 3)).astype(np.uint8), rng.standard_normal((8, 3, 3, 3), np.float32)
    assert_close(kernels.conv2d_forward(x, w), conv2d.conv2d_forward(x, w))


def test_a_batch_of_no_images(rng):
    w = rng.standard_normal((8, 3, 3, 3), np.float32)
    assert kernels.conv2d_forward(np.zeros((0, 7, 8, 3), np.float32), w).shape == (0, 5, 6, 8)
    assert kernels.conv2d_backward_input(np.zeros((0, 5, 6, 8), np.float32), w, (0, 7, 8, 3)).shape == (0, 7, 8, 3)

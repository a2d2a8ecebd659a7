import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import conv2d as definition
from npconvnet.kernels.cuda import conv2d
from npconvnet.kernels.cuda.tiled_product import TILE
from npconvnet.kernels.shapes import place_windows
from tests.kernels.cuda.agreement import assert_agrees
from tests.kernels.geometry import Geometry, over_the_table
from tests.kernels.test_conv2d import inputs, over_groups, where


def check(xp, x, w, dy, **kwargs):
    """All three, on float32 arrays."""
    doubled_x, doubled_w, doubled_dy = (each.astype(np.float64) for each in (x, w, dy))
    x, w, dy = (xp.asarray(each) for each in (x, w, dy))
    assert_agrees(conv2d.conv2d_forward(x, w, **kwargs), definition.conv2d_forward(doubled_x, doubled_w, **kwargs))
    dx, dw = conv2d.conv2d_backward(dy, x, w, **kwargs)
    assert_agrees(dx, definition.conv2d_backward_input(doubled_dy, doubled_w, x.shape, **kwargs))
    assert_agrees(dw, definition.conv2d_backward_filters(doubled_dy, doubled_x, w.shape, **kwargs))


@over_the_table
@over_groups
def test_all_three_are_the_definition(xp, rng, geometry, groups):
    check(xp, *inputs(rng, geometry, groups, "float32"), **where(geometry, groups))


def draw(rng, images, g, channels, filters, groups):
    """x, w and dy of so many channels and filters in all."""
    outputs = place_windows(g.size, g.window, g.stride, g.padding, g.rounding).outputs
    shapes = (images, *g.size, channels), (filters, *g.window, channels // groups), (images, *outputs, filters)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


@pytest.mark.parametrize(
    ("images", "channels", "filters", "groups"),
    [(3, TILE + 2, 2 * TILE + 6, 2), (1, 2 * TILE + 2, TILE + 1, 1), (2, 3, TILE, 1), (3, 35, 7, 7)],
)
def test_more_than_a_tile_of_everything(xp, rng, images, channels, filters, groups):
    geometry = Geometry((7, 6), (3, 2), 2, (1, 0, 0, 1), "ceil")
    check(xp, *draw(rng, images, geometry, channels, filters, groups), **where(geometry, groups))


def test_random_shapes(xp, rng):
    for _ in range(15):
        (h, w), (r, s, stride) = rng.integers(4, 9, 2).tolist(), rng.integers(1, 5, 3).tolist()
        top, bottom, left, right = rng.integers(0, 4, 4).tolist()
        geometry = Geometry((h, w), (r, s), stride, (top, bottom, left, right), rng.choice(["floor", "ceil"]))
        groups = int(rng.integers(1, 4))
        channels, filters = (groups * int(i) for i in rng.integers(1, 9, 2))
        check(xp, *draw(rng, int(rng.integers(1, 4)), geometry, channels, filters, groups), **where(geometry, groups))


@pytest.mark.parametrize(("images", "channels", "filters"), [(0, 4, 6), (2, 0, 6), (2, 4, 0)])
def test_sums_of_nothing_are_zeros(xp, rng, images, channels, filters):
    geometry = Geometry((5, 5), (3, 3), padding=(1, 1, 1, 1))
    x, w, dy = (xp.asarray(each) for each in draw(rng, images, geometry, channels, filters, 1))
    y = conv2d.conv2d_forward(x, w, **where(geometry))
    dx, dw = conv2d.conv2d_backward(dy, x, w, **where(geometry))
    for result, like in [(y, dy), (dx, x), (dw, w)]:
        assert result.shape == like.shape
        assert not to_host(result).any()


def test_whole_numbers_are_exact(xp):
    """Which no tolerance can hide: every product once, and in its place."""
    shape, w_shape = (2, 9, 8, 5), (TILE + 1, 3, 2, 5)
    x, w = ((np.arange(np.prod(s)) % 13).reshape(s).astype(np.float32) for s in (shape, w_shape))
    kwargs = where(Geometry((9, 8), (3, 2), 2, (1, 0, 0, 1), "ceil"))
    y = definition.conv2d_forward(x, w, **kwargs)
    np.testing.assert_array_equal(to_host(conv2d.conv2d_forward(xp.asarray(x), xp.asarray(w), **kwargs)), y)
    dy = (np.arange(y.size) % 11).reshape(y.shape).astype(np.float32)
    dx, dw = conv2d.conv2d_backward(xp.asarray(dy), xp.asarray(x), xp.asarray(w), **kwargs)
    np.testing.assert_array_equal(to_host(dx), definition.conv2d_backward_input(dy, w, shape, **kwargs))
    np.testing.assert_array_equal(to_host(dw), definition.conv2d_backward_filters(dy, x, w_shape, **kwargs))


def test_other_arrays_are_refused(cupy):
    x, w = cupy.zeros((1, 5, 5, 4), np.float32), cupy.zeros((6, 3, 3, 4), np.float32)
    doubled = cupy.zeros((1, 5, 5, 4), np.float64)
    for call, message in [
        (lambda: conv2d.conv2d_forward(doubled, w), r"conv2d_forward: x is float64 \(1, 5, 5, 4\)"),
        (lambda: conv2d.conv2d_forward(x, w, groups=2), r"x is .*has to be float32 \(any, any, any, 8\)"),
        (lambda: conv2d.conv2d_forward(x, w[0]), "conv2d_forward: w is"),
        (lambda: conv2d.conv2d_backward_input(x, w, x.shape), r"dy is .*has to be float32 \(1, 3, 3, 6\)"),
        (lambda: conv2d.conv2d_backward_input(x, w, (1, 5, 5, 3)), "conv2d_backward_input: w is"),
        (lambda: conv2d.conv2d_backward_filters(x, x, w.shape), "conv2d_backward_filters: dy is"),
        (lambda: conv2d.conv2d_backward_filters(x, x[..., :3], w.shape), "conv2d_backward_filters: x is"),
    ]:
        with pytest.raises(TypeError, match=message):
            call()


def test_filters_that_do_not_fall_into_groups_are_refused(cupy):
    x, w = cupy.zeros((1, 5, 5, 8), np.float32), cupy.zeros((6, 3, 3, 2), np.float32)
    with pytest.raises(ValueError, match="do not fall into 4 groups"):
        conv2d.conv2d_forward(x, w, groups=4)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from npconvnet.kernels.shapes import place_windows
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct, from_nchw, to_nchw
from tests.kernels.geometry import TABLE, geometries, over_the_table

over_counting = pytest.mark.parametrize("count_padding", [True, False], ids=["padding counts", "image alone counts"])


def where(g, count_padding):
    """The arguments that both directions take at their end."""
    return {
        "window": g.window,
        "stride": g.stride,
        "padding": g.padding,
        "rounding": g.rounding,
        "count_padding": count_padding,
    }


def image(*rows):
    return np.array(rows, dtype=np.float64).reshape(1, len(rows), len(rows[0]), 1)


def rows(x):
    return x[0, :, :, 0].tolist()


def average_pool_by_definition(x, g, count_padding):
    """Window by window: the sum over the pixels of the image, by the number of pixels that count."""
    top, bottom, left, right = g.padding
    p_count, q_count = place_windows(g.size, g.window, g.stride, g.padding, g.rounding).outputs
    y = np.zeros((len(x), p_count, q_count, x.shape[3]))
    for n, p, q, c in np.ndindex(y.shape):
        total = count = 0
        for r, s in np.ndindex(g.window):
            i, j = p * g.stride - top + r, q * g.stride - left + s
            in_image = 0 <= i < g.size[0] and 0 <= j < g.size[1]
            in_padded_image = i < g.size[0] + bottom and j < g.size[1] + right
            total += x[n, i, j, c] if in_image else 0
            count += in_image or (count_padding and in_padded_image)
        y[n, p, q, c] = total / count
    return y


def test_by_hand():
    x = image([2, 4, 6], [8, 10, 12])
    y = kernels.average_pool2d_forward(x, (2, 2), stride=1)
    assert rows(y) == [[6, 8]]
    dx = kernels.average_pool2d_backward(image([4, 8]), x.shape, (2, 2), stride=1)
    assert rows(dx) == [[1, 3, 2], [1, 3, 2]]


def test_what_counts_by_hand():
    """Windows of columns −1…0, 1…2 and 3…4 over columns 0…3: column −1 is padding, column 4 hangs over."""
    x, around = image([8, 2, 4, 6]), (0, 0, 1, 0)
    with_padding = kernels.average_pool2d_forward(x, (1, 2), 2, around, "ceil", count_padding=True)
    assert rows(with_padding) == [[4, 3, 6]]
    without = kernels.average_pool2d_forward(x, (1, 2), 2, around, "ceil", count_padding=False)
    assert rows(without) == [[8, 3, 6]]
    dy = image([2, 4, 8])
    dx = kernels.average_pool2d_backward(dy, x.shape, (1, 2), 2, around, "ceil", count_padding=True)
    assert rows(dx) == [[1, 2, 2, 8]]
    dx = kernels.average_pool2d_backward(dy, x.shape, (1, 2), 2, around, "ceil", count_padding=False)
    assert rows(dx) == [[2, 2, 2, 8]]


@over_the_table
@over_counting
def test_against_the_definition(rng, geometry, count_padding):
    x = distinct(rng, (2, *geometry.size, 3))
    y = kernels.average_pool2d_forward(x, **where(geometry, count_padding))
    assert_close(y, average_pool_by_definition(x, geometry, count_padding))


@given(geometries(padding_smaller_than_window=True), st.booleans())
def test_on_any_shape(geometry, count_padding):
    rng = np.random.default_rng(0)
    x = distinct(rng, (2, *geometry.size, 2))
    y = kernels.average_pool2d_forward(x, **where(geometry, count_padding))
    assert_close(y, average_pool_by_definition(x, geometry, count_padding))
    dy = distinct(rng, y.shape)
    assert_adjoint(x, y, dy, kernels.average_pool2d_backward(dy, x.shape, **where(geometry, count_padding)))


@over_the_table
@over_counting
def test_backward_is_the_gradient_and_the_adjoint(rng, geometry, count_padding):
    x = distinct(rng, (2, *geometry.size, 3))
    y = kernels.average_pool2d_forward(x, **where(geometry, count_padding))
    dy = distinct(rng, y.shape)
    dx = kernels.average_pool2d_backward(dy, x.shape, **where(geometry, count_padding))
    assert_adjoint(x, y, dy, dx)
    assert_is_gradient(lambda x: kernels.average_pool2d_forward(x, **where(geometry, count_padding)), x, dx, dy)


@pytest.mark.parametrize("geometry", [each for each in TABLE.values() if each.is_symmetric])
@over_counting
def test_like_pytorch(torch, rng, geometry, count_padding, dtype):
    top, _, left, _ = geometry.padding
    x = distinct(rng, (2, *geometry.size, 3), dtype)
    x_torch = to_nchw(x, torch).requires_grad_()
    y_torch = torch.nn.functional.avg_pool2d(
        x_torch,
        geometry.window,
        geometry.stride,
        padding=(top, left),
        ceil_mode=geometry.rounding == "ceil",
        count_include_pad=count_padding,
    )
    y = kernels.average_pool2d_forward(x, **where(geometry, count_padding))
    assert_close(y, from_nchw(y_torch))
    dy = distinct(rng, y.shape, dtype)
    y_torch.backward(to_nchw(dy, torch))
    dx = kernels.average_pool2d_backward(dy, x.shape, **where(geometry, count_padding))
    assert_close(dx, from_nchw(x_torch.grad))


@over_the_table
def test_the_image_alone_averages_a_constant_to_itself(geometry):
    x = np.full((1, *geometry.size, 1), 7.0)
    y = kernels.average_pool2d_forward(x, **where(geometry, count_padding=False))
    assert_close(y, np.full_like(y, 7.0))


def test_an_average_is_a_convolution_with_equal_weights(rng):
    x = distinct(rng, (2, 7, 8, 1))
    w = np.full((1, 3, 2, 1), 1 / 6)
    y = kernels.average_pool2d_forward(x, (3, 2), stride=2, padding=(1, 0, 0, 1))
    assert_close(y, kernels.conv2d_forward(x, w, stride=2, padding=(1, 0, 0, 1)))


def test_a_window_that_could_hold_only_padding_is_refused():
    with pytest.raises(ValueError, match="smaller than its window"):
        kernels.average_pool2d_forward(np.zeros((1, 4, 4, 1)), (2, 2), stride=2, padding=(0, 0, 0, 2))


def test_global_by_hand():
    x = np.array([[[1.0, 10], [2, 20]], [[3, 30], [6, 60]]])[None]
    assert kernels.global_average_pool2d_forward(x).tolist() == [[3, 30]]
    dx = kernels.global_average_pool2d_backward(np.array([[4.0, 8.0]]), x.shape)
    assert dx.tolist() == [[[[1, 2], [1, 2]], [[1, 2], [1, 2]]]]


def test_global_is_one_window_over_the_whole_image(rng):
    x = distinct(rng, (2, 5, 4, 3))
    y = kernels.global_average_pool2d_forward(x)
    assert_close(y, kernels.average_pool2d_forward(x, (5, 4), stride=1)[:, 0, 0])


def test_global_backward_is_the_gradient_and_the_adjoint(rng):
    x, dy = distinct(rng, (2, 5, 4, 3)), distinct(rng, (2, 3))
    dx = kernels.global_average_pool2d_backward(dy, x.shape)
    assert_adjoint(x, kernels.global_average_pool2d_forward(x), dy, dx)
    assert_is_gradient(kernels.global_average_pool2d_forward, x, dx, dy)


def test_global_backward_keeps_each_share_once(rng):
    dx = kernels.global_average_pool2d_backward(rng.standard_normal((2, 3)), (2, 5, 4, 3))
    assert dx.strides[1:3] == (0, 0)
    assert not dx.flags.writeable  # with one pixel all the others would change


def test_global_like_pytorch(torch, rng, dtype):
    x, dy = distinct(rng, (2, 5, 4, 3), dtype), distinct(rng, (2, 3), dtype)
    x_torch = to_nchw(x, torch).requires_grad_()
    y_torch = torch.nn.functional.adaptive_avg_pool2d(x_torch, 1).flatten(1)
    y_torch.backward(torch.tensor(dy))
    assert_close(kernels.global_average_pool2d_forward(x), y_torch.detach())
    assert_close(kernels.global_average_pool2d_backward(dy, x.shape), from_nchw(x_torch.grad))

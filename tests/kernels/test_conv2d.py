import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from npconvnet.kernels.cpu import conv2d
from npconvnet.kernels.cpu.conv2d import col2im, im2col
from npconvnet.kernels.shapes import place_windows
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct, from_nchw, to_nchw
from tests.kernels.geometry import geometries, over_the_table

over_groups = pytest.mark.parametrize("groups", [1, 2])


def where(g, groups=1):
    """The arguments that all three convolutions take at their end."""
    return {"stride": g.stride, "padding": g.padding, "groups": groups, "rounding": g.rounding}


def inputs(rng, g, groups=1, dtype="float64"):
    """Two images of 4 channels, 6 filters that see them, and a dy."""
    x = distinct(rng, (2, *g.size, 4), dtype)
    w = distinct(rng, (6, *g.window, 4 // groups), dtype)
    outputs = place_windows(g.size, g.window, g.stride, g.padding, g.rounding).outputs
    return x, w, distinct(rng, (2, *outputs, 6), dtype)


def conv2d_by_definition(x, w, g, groups):
    """The formula, number by number; zeros around the image are pixels that are left out."""
    top, _, left, _ = g.padding
    p_count, q_count = place_windows(g.size, g.window, g.stride, g.padding, g.rounding).outputs
    filters, r_count, s_count, channels = w.shape
    y = np.zeros((len(x), p_count, q_count, filters))
    for n, p, q, k, r, s in np.ndindex(*y.shape, r_count, s_count):
        i, j = p * g.stride - top + r, q * g.stride - left + s
        first = k // (filters // groups) * channels
        if 0 <= i < g.size[0] and 0 <= j < g.size[1]:
            for c in range(channels):
                y[n, p, q, k] += x[n, i, j, first + c] * w[k, r, s, c]
    return y


def test_by_hand():
    x = np.array([[1.0, 2, 3], [4, 5, 6]]).reshape(1, 2, 3, 1)
    w = np.array([[1.0, 10], [100, 1000]]).reshape(1, 2, 2, 1)
    assert conv2d.conv2d_forward(x, w).ravel().tolist() == [5421, 6532]  # not flipped: a cross-correlation

    dy = np.array([1.0, 2]).reshape(1, 1, 2, 1)
    dx = conv2d.conv2d_backward_input(dy, w, x.shape)
    assert dx[0, :, :, 0].tolist() == [[1, 12, 20], [100, 1200, 2000]]
    dw = conv2d.conv2d_backward_filters(dy, x, w.shape)
    assert dw[0, :, :, 0].tolist() == [[5, 8], [14, 17]]


def test_padding_and_stride_by_hand():
    x = np.array([[1.0, 2, 3], [4, 5, 6]]).reshape(1, 2, 3, 1)
    w = np.array([[1.0, 10], [100, 1000]]).reshape(1, 2, 2, 1)
    down = conv2d.conv2d_forward(x, w, stride=2, padding=(1, 0, 0, 0))
    assert down[0, :, :, 0].tolist() == [[2100]]
    up = conv2d.conv2d_forward(x, w, stride=2, padding=(1, 0, 0, 0), rounding="ceil")
    assert up[0, :, :, 0].tolist() == [[2100, 300], [54, 6]]


@over_the_table
@over_groups
def test_against_the_definition(rng, geometry, groups):
    x, w, _ = inputs(rng, geometry, groups)
    assert_close(conv2d.conv2d_forward(x, w, **where(geometry, groups)), conv2d_by_definition(x, w, geometry, groups))


@given(geometries(), st.sampled_from([1, 2]))
def test_against_the_definition_on_any_shape(geometry, groups):
    x, w, dy = inputs(np.random.default_rng(0), geometry, groups)
    y = conv2d.conv2d_forward(x, w, **where(geometry, groups))
    assert_close(y, conv2d_by_definition(x, w, geometry, groups))
    assert_adjoint(x, y, dy, conv2d.conv2d_backward_input(dy, w, x.shape, **where(geometry, groups)))
    assert_adjoint(w, y, dy, conv2d.conv2d_backward_filters(dy, x, w.shape, **where(geometry, groups)))


@over_the_table
@over_groups
def test_backwards_are_adjoint_to_the_forward(rng, geometry, groups):
    x, w, dy = inputs(rng, geometry, groups)
    y = conv2d.conv2d_forward(x, w, **where(geometry, groups))
    assert_adjoint(x, y, dy, conv2d.conv2d_backward_input(dy, w, x.shape, **where(geometry, groups)))
    assert_adjoint(w, y, dy, conv2d.conv2d_backward_filters(dy, x, w.shape, **where(geometry, groups)))


@over_the_table
@over_groups
def test_backwards_are_gradients(rng, geometry, groups):
    x, w, dy = inputs(rng, geometry, groups)
    dx = conv2d.conv2d_backward_input(dy, w, x.shape, **where(geometry, groups))
    dw = conv2d.conv2d_backward_filters(dy, x, w.shape, **where(geometry, groups))
    assert_is_gradient(lambda x: conv2d.conv2d_forward(x, w, **where(geometry, groups)), x, dx, dy)
    assert_is_gradient(lambda w: conv2d.conv2d_forward(x, w, **where(geometry, groups)), w, dw, dy)


@over_the_table
@over_groups
def test_like_pytorch(torch, rng, geometry, groups, dtype):
    x, w, dy = inputs(rng, geometry, groups, dtype)
    windows = place_windows(geometry.size, geometry.window, geometry.stride, geometry.padding, geometry.rounding)
    top, bottom, left, right = windows.padding_and_overhang  # PyTorch rounds down only: zeros stand for rounding up
    x_torch, w_torch = to_nchw(x, torch).requires_grad_(), to_nchw(w, torch).requires_grad_()
    padded = torch.nn.functional.pad(x_torch, (left, right, top, bottom))
    y_torch = torch.nn.functional.conv2d(padded, w_torch, stride=geometry.stride, groups=groups)
    y_torch.backward(to_nchw(dy, torch))

    assert_close(conv2d.conv2d_forward(x, w, **where(geometry, groups)), from_nchw(y_torch))
    dx = conv2d.conv2d_backward_input(dy, w, x.shape, **where(geometry, groups))
    assert_close(dx, from_nchw(x_torch.grad))
    dw = conv2d.conv2d_backward_filters(dy, x, w.shape, **where(geometry, groups))
    assert_close(dw, from_nchw(w_torch.grad))


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_strided_convolution_is_a_subsampled_one(rng, stride):
    x, w = distinct(rng, (2, 9, 8, 4)), distinct(rng, (6, 3, 2, 4))
    every = conv2d.conv2d_forward(x, w, padding=(1, 0, 0, 1))
    assert_close(conv2d.conv2d_forward(x, w, stride=stride, padding=(1, 0, 0, 1)), every[:, ::stride, ::stride])


def test_input_gradient_is_the_convolution_of_dy_with_flipped_filters(rng):
    """Section 4 of the paper: the gradient of a convolution is what a DeconvNet does."""
    x, w = distinct(rng, (2, 7, 6, 4)), distinct(rng, (5, 3, 4, 4))
    top, bottom, left, right = 1, 0, 2, 3
    dy = distinct(rng, conv2d.conv2d_forward(x, w, padding=(top, bottom, left, right)).shape)
    flipped = w[:, ::-1, ::-1].transpose(3, 1, 2, 0)
    around = (2 - top, 2 - bottom, 3 - left, 3 - right)
    assert_close(
        conv2d.conv2d_backward_input(dy, w, x.shape, padding=(top, bottom, left, right)),
        conv2d.conv2d_forward(dy, flipped, padding=around),
    )


def test_a_1x1_convolution_is_a_linear_layer_at_every_pixel(rng):
    x, w = distinct(rng, (2, 3, 4, 5)), distinct(rng, (6, 1, 1, 5))
    at_every_pixel = kernels.linear_forward(x.reshape(-1, 5), w.reshape(6, 5)).reshape(2, 3, 4, 6)
    assert_close(conv2d.conv2d_forward(x, w), at_every_pixel)


def test_a_filter_as_large_as_the_image_is_a_linear_layer(rng):
    x, w = distinct(rng, (2, 3, 4, 5)), distinct(rng, (6, 3, 4, 5))
    y = kernels.linear_forward(x.reshape(2, -1), w.reshape(6, -1))
    assert_close(conv2d.conv2d_forward(x, w), y.reshape(2, 1, 1, 6))


def test_groups_are_a_block_diagonal_filter_bank(rng):
    x, w = distinct(rng, (2, 5, 5, 6)), distinct(rng, (9, 3, 3, 2))
    ungrouped = np.zeros((9, 3, 3, 6))
    for group in range(3):
        ungrouped[3 * group : 3 * group + 3, :, :, 2 * group : 2 * group + 2] = w[3 * group : 3 * group + 3]
    y = conv2d.conv2d_forward(x, ungrouped)
    assert_close(conv2d.conv2d_forward(x, w, groups=3), y)
    dy = distinct(rng, y.shape)
    assert_close(
        conv2d.conv2d_backward_input(dy, w, x.shape, groups=3), conv2d.conv2d_backward_input(dy, ungrouped, x.shape)
    )
    dw = conv2d.conv2d_backward_filters(dy, x, ungrouped.shape)
    blocks = [dw[3 * i : 3 * i + 3, :, :, 2 * i : 2 * i + 2] for i in range(3)]
    assert_close(conv2d.conv2d_backward_filters(dy, x, w.shape, groups=3), np.concatenate(blocks))


def test_an_image_of_one_lit_pixel_reads_out_the_filter(rng):
    w = distinct(rng, (4, 3, 3, 2))
    x = np.zeros((1, 3, 3, 2))
    x[0, 1, 1, 0] = 1
    y = conv2d.conv2d_forward(x, w, padding=(1, 1, 1, 1))
    assert_close(y[0], w[:, ::-1, ::-1, 0].transpose(1, 2, 0))


@over_the_table
def test_col2im_is_the_adjoint_of_im2col(rng, geometry):
    g = geometry
    windows = place_windows(g.size, g.window, g.stride, g.padding, g.rounding)
    x = distinct(rng, (2, *g.size, 3))
    columns = im2col(x, g.window, g.stride, windows)
    assert columns.shape == (2 * math.prod(windows.outputs), math.prod(g.window) * 3)
    y = distinct(rng, columns.shape)
    assert_adjoint(x, columns, y, col2im(y, x.shape, g.window, g.stride, windows))


def test_a_filter_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        conv2d.conv2d_forward(np.zeros((1, 2, 2, 1)), np.zeros((1, 3, 3, 1)))

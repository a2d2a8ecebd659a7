"""Convolution by the algorithm that suits its shape: the one place that picks it.

The functions are those of conv2d.py, under the same names. Where something is faster than the definition's im2col:

- a 1×1 convolution is the matrix product of a fully connected layer at every pixel, in pieces;
- images of few channels are taken one by one, in longer runs of numbers;
- other sums are done by Winograd's algorithm, after space to depth where there is a stride, in the tiles that cost
  least and if they cost less than the definition.

Winograd's sums are rounded otherwise, and what should be zero is only nearly so. It is kept from float64, which is for
checking, and from single images, which are for looking closely (and too few to pay for transforming the filters).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.cpu import conv2d, linear
from npconvnet.kernels.cpu.conv2d_of_few_channels import few_channels_backward_input, few_channels_forward
from npconvnet.kernels.cpu.product import product
from npconvnet.kernels.cpu.space_to_depth import (
    filter_cells,
    filter_cells_shape,
    filters_of_cells,
    image_cells,
    image_cells_shape,
    images_of_cells,
)
from npconvnet.kernels.cpu.winograd import (
    MOST_POINTS,
    winograd_backward,
    winograd_backward_filters,
    winograd_backward_input,
    winograd_forward,
)
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, place_windows

#: What it costs to move one number through memory, in multiplications: measured.
MOVE = 16
#: By how much the many small products of Winograd's algorithm are slower than a large one: measured.
SMALL_PRODUCTS = 1.5
#: So few are those of an image. They are faster image by image, if not by Winograd's algorithm: measured.
FEW_CHANNELS = 4
#: Images of a batch, among which the cost of transforming the filters is shared: about so many.
IMAGES = 8


def conv2d_forward(
    x: Array, w: Array, stride: int = 1, padding: Padding = NO_PADDING, groups: int = 1, rounding: Rounding = "floor"
) -> Array:
    """y (N, P, Q, K) of the images `x` (N, H, W, C) and the filters `w` (K, R, S, C / groups): fprop."""
    if _is_linear(w.shape, stride, padding, groups):
        return product(_pixels(x), _matrix(w).T).reshape(*x.shape[:3], len(w))
    tile = _tile(x, w, x.shape, w.shape, stride, padding, groups, rounding)
    windows = place_windows(_size(x.shape), _size(w.shape), stride, padding, rounding)
    if tile is None:
        if groups == 1 and w.shape[3] <= FEW_CHANNELS:
            return few_channels_forward(x, w, stride, windows)
        return conv2d.conv2d_forward(x, w, stride, padding, groups, rounding)
    if stride > 1:
        x, w, padding = image_cells(x, _size(w.shape), stride, windows), filter_cells(w, stride), NO_PADDING
    return winograd_forward(x, w, padding, (tile, tile))


def conv2d_backward_input(
    dy: Array,
    w: Array,
    x_shape: tuple[int, ...],
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> Array:
    """dx (N, H, W, C) of `dy` (N, P, Q, K) through the filters `w`: dgrad."""
    if _is_linear(w.shape, stride, padding, groups):
        return product(_pixels(dy), _matrix(w)).reshape(x_shape)
    tile = _tile(dy, w, x_shape, w.shape, stride, padding, groups, rounding)
    windows = place_windows(_size(x_shape), _size(w.shape), stride, padding, rounding)
    if tile is None:
        if groups == 1 and w.shape[3] <= FEW_CHANNELS:
            return few_channels_backward_input(dy, w, x_shape, stride, windows)
        return conv2d.conv2d_backward_input(dy, w, x_shape, stride, padding, groups, rounding)
    if stride == 1:
        return winograd_backward_input(dy, w, x_shape, padding, (tile, tile))
    shape = image_cells_shape(x_shape, _size(w.shape), stride, windows)
    cells = winograd_backward_input(dy, filter_cells(w, stride), shape, NO_PADDING, (tile, tile))
    return images_of_cells(cells, x_shape, stride, windows)


def conv2d_backward_filters(
    dy: Array,
    x: Array,
    w_shape: tuple[int, ...],
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> Array:
    """dw (K, R, S, C / groups) of `dy` (N, P, Q, K) and the images `x` that the filters saw: wgrad."""
    if _is_linear(w_shape, stride, padding, groups):
        return linear.linear_backward_weights(_pixels(dy), _pixels(x)).reshape(w_shape)
    tile = _tile(dy, x, x.shape, w_shape, stride, padding, groups, rounding)
    if tile is None:
        return conv2d.conv2d_backward_filters(dy, x, w_shape, stride, padding, groups, rounding)
    if stride == 1:
        return winograd_backward_filters(dy, x, w_shape, padding, (tile, tile))
    windows = place_windows(_size(x.shape), _size(w_shape), stride, padding, rounding)
    cells = image_cells(x, _size(w_shape), stride, windows)
    dw = winograd_backward_filters(dy, cells, filter_cells_shape(w_shape, stride), NO_PADDING, (tile, tile))
    return filters_of_cells(dw, _size(w_shape), stride)


def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> tuple[Array, Array]:
    """(dx, dw) of `dy` (N, P, Q, K), the images `x` (N, H, W, C) and the filters `w` (K, R, S, C / groups)."""
    where = (stride, padding, groups, rounding)
    tile = _tile(dy, x, x.shape, w.shape, *where)
    if tile is None or _is_linear(w.shape, stride, padding, groups):
        return conv2d_backward_input(dy, w, x.shape, *where), conv2d_backward_filters(dy, x, w.shape, *where)
    if stride == 1:
        return winograd_backward(dy, x, w, padding, (tile, tile))
    window, windows = _size(w.shape), place_windows(_size(x.shape), _size(w.shape), stride, padding, rounding)
    cells = image_cells(x, window, stride, windows), filter_cells(w, stride)
    dx, dw = winograd_backward(dy, *cells, NO_PADDING, (tile, tile))
    return images_of_cells(dx, x.shape, stride, windows), filters_of_cells(dw, window, stride)


def _is_linear(w_shape: tuple[int, ...], stride: int, padding: Padding, groups: int) -> bool:
    return _size(w_shape) == (1, 1) and stride == groups == 1 and padding == NO_PADDING


def _pixels(x: Array) -> Array:
    return x.reshape(-1, x.shape[3])  # (N·H·W, C)


def _matrix(w: Array) -> Array:
    return w.reshape(len(w), -1)  # (K, C)


def _tile(
    operand: Array,
    other: Array,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: int,
    padding: Padding,
    groups: int,
    rounding: Rounding,
) -> int | None:
    """The side of Winograd's tiles for a convolution with these two operands; None for the definition."""
    if not operand.dtype == other.dtype == np.float32 or groups > 1 or x_shape[0] < 2:
        return None
    windows = place_windows(_size(x_shape), _size(w_shape), stride, padding, rounding)
    return best_tile(windows.outputs, _size(w_shape), stride, w_shape[3], w_shape[0])


@cache
def best_tile(
    outputs: tuple[int, int], window: tuple[int, int], stride: int, channels: int, filters: int
) -> int | None:
    """The side m of the tiles (m×m outputs) that cost least in Winograd's algorithm; None if the definition costs less.

    Costs are multiplications for one image, and `MOVE` for each number that goes through memory.
    """
    r, s = -(-window[0] // stride), -(-window[1] // stride)
    depth = stride * stride * channels
    products = window[0] * window[1] * channels
    costs: dict[int | None, float] = {None: outputs[0] * outputs[1] * products * (filters + 2 * MOVE)}
    for m in range(2, MOST_POINTS - max(r, s) + 2):
        points = (m + r - 1) * (m + s - 1)
        tiles = -(-outputs[0] // m) * -(-outputs[1] // m)
        of_tile = depth * filters + points * depth + m * m * filters + MOVE * (depth + filters)
        of_filters = depth * filters * (r * s + MOVE)
        costs[m] = SMALL_PRODUCTS * points * (tiles * of_tile + of_filters / IMAGES)
    return min(costs, key=costs.__getitem__)


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[1], shape[2]

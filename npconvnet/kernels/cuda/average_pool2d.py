"""Launches average_pool2d.cu: what kernels/cpu/average_pool2d.py computes. A whole image is one window."""

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.elementwise import run_elementwise
from npconvnet.kernels.shapes import NO_PADDING, Padding, Pooling, Rounding

#: The fields of `AveragePooling` in average_pool2d.cu.
FIELDS = ("H", "W", "C", "P", "Q", "R", "S", "stride", "top", "bottom", "left", "right", "count_padding")
POOLING = np.dtype([(name, "i4") for name in FIELDS])


def average_pool2d_forward(
    x: Array,
    window: tuple[int, int],
    stride: int,
    padding: Padding = NO_PADDING,
    rounding: Rounding = "floor",
    count_padding: bool = True,
) -> Array:
    """y (N, P, Q, C) of `x` (N, H, W, C), both float32. Raises TypeError where `x` is anything else."""
    x = require("average_pool2d_forward", "x", x, np.float32, (ANY, ANY, ANY, ANY))
    xp, where = array_module(x), Pooling(window, stride, padding, rounding)
    outputs, packed = _place(x.shape, where, count_padding)
    y: Array = xp.empty((len(x), *outputs, x.shape[3]), np.float32)
    run_elementwise(xp, "average_pool2d.cu", "average_pool2d_forward", y.size, x, y, packed)
    return y


def average_pool2d_backward(
    dy: Array,
    x_shape: tuple[int, ...],
    window: tuple[int, int],
    stride: int,
    padding: Padding = NO_PADDING,
    rounding: Rounding = "floor",
    count_padding: bool = True,
) -> Array:
    """dx (N, H, W, C) of `dy` (N, P, Q, C), both float32. Raises TypeError where `dy` is anything else."""
    xp, where = array_module(dy), Pooling(window, stride, padding, rounding)
    outputs, packed = _place(x_shape, where, count_padding)
    dy = require("average_pool2d_backward", "dy", dy, np.float32, (x_shape[0], *outputs, x_shape[3]))
    dx: Array = xp.empty(x_shape, np.float32)
    run_elementwise(xp, "average_pool2d.cu", "average_pool2d_backward", dx.size, dy, dx, packed)
    return dx


def global_average_pool2d_forward(x: Array) -> Array:
    """y (N, C), the mean of `x` (N, H, W, C) over all its pixels; both float32, or TypeError is raised."""
    x = require("global_average_pool2d_forward", "x", x, np.float32, (ANY, ANY, ANY, ANY))
    n, h, w, c = x.shape
    return average_pool2d_forward(x, (h, w), stride=1).reshape(n, c)


def global_average_pool2d_backward(dy: Array, x_shape: tuple[int, ...]) -> Array:
    """dx (N, H, W, C) of `dy` (N, C): the same share for every pixel; both float32, or TypeError is raised."""
    n, h, w, c = x_shape
    dy = require("global_average_pool2d_backward", "dy", dy, np.float32, (n, c))
    return average_pool2d_backward(dy.reshape(n, 1, 1, c), x_shape, (h, w), stride=1)


def _place(
    x_shape: tuple[int, ...], where: Pooling, count_padding: bool
) -> tuple[tuple[int, int], npt.NDArray[np.void]]:
    """The outputs (P, Q), and all that the kernels have to know."""
    _, h, w, c = x_shape
    windows = where.place((h, w))
    top, bottom, left, right = where.padding
    packed = np.zeros(1, POOLING)
    packed[0] = (h, w, c, *windows.outputs, *where.window, where.stride, top, bottom, left, right, count_padding)
    return windows.outputs, packed

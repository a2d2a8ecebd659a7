"""Launches conv2d.cu: what kernels/cpu/conv2d.py computes, in float32.

All raise TypeError for arrays of other types and shapes, and ValueError where the filters do not fall into the groups.
"""

import math

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.tiled_product import run_product
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, place_windows

#: The fields of `Convolution` in conv2d.cu.
FIELDS = ("N", "H", "W", "C", "K", "R", "S", "P", "Q", "stride", "top", "left", "groups")
CONVOLUTION = np.dtype([(name, "i4") for name in FIELDS])


def conv2d_forward(
    x: Array, w: Array, stride: int = 1, padding: Padding = NO_PADDING, groups: int = 1, rounding: Rounding = "floor"
) -> Array:
    """y (N, P, Q, K) of the images `x` (N, H, W, C) and the filters `w` (K, R, S, C / groups): fprop."""
    w = require("conv2d_forward", "w", w, np.float32, (ANY, ANY, ANY, ANY))
    x = require("conv2d_forward", "x", x, np.float32, (ANY, ANY, ANY, w.shape[3] * groups))
    y_shape, packed = _place(x.shape, w.shape, stride, padding, groups, rounding)
    xp = array_module(x)
    y: Array = xp.empty(y_shape, np.float32)
    shape = math.prod(y_shape[:3]), len(w) // groups
    run_product(xp, "conv2d.cu", "conv2d_forward", shape, (x, w, y, packed), groups)
    return y


def conv2d_backward_input(
    dy: Array,
    w: Array,
    x_shape: tuple[int, ...],
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> Array:
    """dx (N, H, W, C) of `dy` (N, P, Q, K) through the filters `w` (K, R, S, C / groups): dgrad."""
    w = require("conv2d_backward_input", "w", w, np.float32, (ANY, ANY, ANY, x_shape[3] // groups))
    y_shape, packed = _place(x_shape, w.shape, stride, padding, groups, rounding)
    dy = require("conv2d_backward_input", "dy", dy, np.float32, y_shape)
    xp = array_module(dy)
    dx: Array = xp.empty(x_shape, np.float32)
    shape = math.prod(x_shape[:3]), w.shape[3]
    run_product(xp, "conv2d.cu", "conv2d_backward_input", shape, (dy, w, dx, packed), groups)
    return dx


def conv2d_backward_filters(
    dy: Array,
    x: Array,
    w_shape: tuple[int, ...],
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> Array:
    """dw (K, R, S, C / groups) of `dy` (N, P, Q, K) and the images `x` (N, H, W, C) that the filters saw: wgrad."""
    x = require("conv2d_backward_filters", "x", x, np.float32, (ANY, ANY, ANY, w_shape[3] * groups))
    y_shape, packed = _place(x.shape, w_shape, stride, padding, groups, rounding)
    dy = require("conv2d_backward_filters", "dy", dy, np.float32, y_shape)
    xp = array_module(dy)
    dw: Array = xp.empty(w_shape, np.float32)
    shape = w_shape[0] // groups, math.prod(w_shape[1:])
    run_product(xp, "conv2d.cu", "conv2d_backward_filters", shape, (dy, x, dw, packed), groups)
    return dw


def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> tuple[Array, Array]:
    """(dx, dw), both of the above."""
    where = (stride, padding, groups, rounding)
    return conv2d_backward_input(dy, w, x.shape, *where), conv2d_backward_filters(dy, x, w.shape, *where)


def _place(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: int,
    padding: Padding,
    groups: int,
    rounding: Rounding,
) -> tuple[tuple[int, ...], npt.NDArray[np.void]]:
    """The shape of y, and all that the kernels have to know."""
    n, height, width, channels = x_shape
    filters, r, s, channels_seen = w_shape
    if channels != groups * channels_seen or filters % groups:
        raise ValueError(f"filters {w_shape} do not fall into {groups} groups over images {x_shape}")
    p, q = place_windows((height, width), (r, s), stride, padding, rounding).outputs
    top, _, left, _ = padding
    packed = np.zeros(1, CONVOLUTION)
    packed[0] = (n, height, width, channels_seen, filters // groups, r, s, p, q, stride, top, left, groups)
    return (n, p, q, filters), packed

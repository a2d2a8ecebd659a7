"""Average pooling, over windows and over the whole image.

    y[n, p, q, c] = Σ_{r,s} x̃[n, p·stride + r, q·stride + s, c] / count[p, q]        x̃: x with zeros around it

`count` is the number of pixels in the window: of the image and its padding, or of the image alone. Pixels beyond the
padding, where rounding up lets the last window hang over, never count (the rule of Caffe and PyTorch).
"""

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.windows import offsets, pad_images, unpad_images
from npconvnet.kernels.shapes import (
    NO_PADDING,
    Padding,
    Rounding,
    Windows,
    place_windows,
    require_pixels_in_every_window,
)


def average_pool2d_forward(
    x: Array,
    window: tuple[int, int],
    stride: int,
    padding: Padding = NO_PADDING,
    rounding: Rounding = "floor",
    count_padding: bool = True,
) -> Array:
    """y (N, P, Q, C) of `x` (N, H, W, C)."""
    xp = array_module(x)
    windows = _place(x.shape, window, stride, padding, rounding)
    padded = pad_images(x, windows.padding_and_overhang)
    y: Array = xp.zeros((len(x), *windows.outputs, x.shape[3]), x.dtype)
    for _, _, index in offsets(window, windows.outputs, stride):
        y += padded[index]
    y /= xp.asarray(_counts(x.shape, window, stride, windows, count_padding), x.dtype)
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
    """dx (N, H, W, C) of `dy` (N, P, Q, C): every pixel gets its share of every window it lies in."""
    xp = array_module(dy)
    windows = _place(x_shape, window, stride, padding, rounding)
    share = dy / xp.asarray(_counts(x_shape, window, stride, windows, count_padding), dy.dtype)
    padded = pad_images(xp.zeros(x_shape, dy.dtype), windows.padding_and_overhang)
    for _, _, index in offsets(window, windows.outputs, stride):
        padded[index] += share
    return unpad_images(padded, windows.padding_and_overhang)


def global_average_pool2d_forward(x: Array) -> Array:
    """y (N, C), the mean of `x` (N, H, W, C) over all its pixels."""
    y: Array = x.mean(axis=(1, 2))
    return y


def global_average_pool2d_backward(dy: Array, x_shape: tuple[int, ...]) -> Array:
    """dx (N, H, W, C) of `dy` (N, C): the same share for every pixel, which is there once; read-only."""
    _, h, w, _ = x_shape
    dx: Array = array_module(dy).broadcast_to((dy / (h * w))[:, None, None, :], x_shape)
    return dx


def _place(
    x_shape: tuple[int, ...], window: tuple[int, int], stride: int, padding: Padding, rounding: Rounding
) -> Windows:
    require_pixels_in_every_window(window, padding)
    return place_windows((x_shape[1], x_shape[2]), window, stride, padding, rounding)


def _counts(
    x_shape: tuple[int, ...], window: tuple[int, int], stride: int, windows: Windows, count_padding: bool
) -> npt.NDArray[np.int64]:
    """How many pixels each window averages: (P, Q, 1)."""
    top, bottom, left, right = windows.padding
    rows = _counts_along(x_shape[1], window[0], stride, windows.outputs[0], top, bottom, count_padding)
    columns = _counts_along(x_shape[2], window[1], stride, windows.outputs[1], left, right, count_padding)
    counts: npt.NDArray[np.int64] = np.outer(rows, columns)[:, :, None]
    return counts


def _counts_along(
    size: int, window: int, stride: int, outputs: int, before: int, after: int, count_padding: bool
) -> npt.NDArray[np.int64]:
    start = np.arange(outputs) * stride - before
    first, last = (-before, size + after) if count_padding else (0, size)
    return np.minimum(start + window, last) - np.maximum(start, first)

"""Max pooling with switches.

    y[n, p, q, c] = max_{r,s} x̃[n, p·stride + r, q·stride + s, c]        x̃: x with −∞ around it

The switch is the offset r·S + s of the maximum, the first in scan order where several are equal. The backward sends dy
to where the switch points; overlapping windows add up. DeconvNet's un-pooling is this very backward.
"""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.select import keep_where
from npconvnet.kernels.cpu.windows import offsets, pad_images, unpad_images
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, place_windows, require_pixels_in_every_window


def max_pool2d(
    x: Array, window: tuple[int, int], stride: int, padding: Padding = NO_PADDING, rounding: Rounding = "floor"
) -> Array:
    """y (N, P, Q, C) of `x` (N, H, W, C), for which no backward follows; NaN counts as the maximum."""
    return max_pool2d_forward(x, window, stride, padding, rounding)[0]


def max_pool2d_forward(
    x: Array, window: tuple[int, int], stride: int, padding: Padding = NO_PADDING, rounding: Rounding = "floor"
) -> tuple[Array, Array]:
    """(y, switches), both (N, P, Q, C), of `x` (N, H, W, C); NaN counts as the maximum."""
    xp = array_module(x)
    require_pixels_in_every_window(window, padding)
    windows = place_windows((x.shape[1], x.shape[2]), window, stride, padding, rounding)
    padded = pad_images(x, windows.padding_and_overhang, -np.inf)
    seen = [padded[index] for _, _, index in offsets(window, windows.outputs, stride)]
    y = seen[0].copy()
    for view in seen[1:]:
        xp.maximum(y, view, out=y)
    # The switch is the number of offsets that come before the first one that holds the maximum (or NaN).
    switches = xp.zeros(y.shape, np.min_scalar_type(len(seen) - 1))
    still_before = xp.ones(y.shape, np.bool_)
    for view in seen[:-1]:
        still_before &= (view != y) & (view == view)
        switches += still_before
    return y, switches


def max_pool2d_backward(
    dy: Array,
    switches: Array,
    x_shape: tuple[int, ...],
    window: tuple[int, int],
    stride: int,
    padding: Padding = NO_PADDING,
    rounding: Rounding = "floor",
) -> Array:
    """dx (N, H, W, C) of `dy` (N, P, Q, C) and the `switches` of the forward."""
    windows = place_windows((x_shape[1], x_shape[2]), window, stride, padding, rounding)
    padded = pad_images(array_module(dy).zeros(x_shape, dy.dtype), windows.padding_and_overhang)
    for r, s, index in offsets(window, windows.outputs, stride):
        padded[index] += keep_where(switches == r * window[1] + s, dy)
    return unpad_images(padded, windows.padding_and_overhang)

"""Max pooling with switches.

    y[n, p, q, c] = max_{r,s} x̃[n, p·stride + r, q·stride + s, c]        x̃: x with −∞ around it

The switch is the offset r·S + s of the maximum, the first in scan order where several are equal. The backward sends dy
to where the switch points; overlapping windows add up. DeconvNet's un-pooling is this very backward.
"""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.windows import offsets, pad_images, unpad_images
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, place_windows, require_pixels_in_every_window


def max_pool2d_forward(
    x: Array, window: tuple[int, int], stride: int, padding: Padding = NO_PADDING, rounding: Rounding = "floor"
) -> tuple[Array, Array]:
    """(y, switches), both (N, P, Q, C), of `x` (N, H, W, C); NaN counts as the maximum."""
    xp = array_module(x)
    require_pixels_in_every_window(window, padding)
    windows = place_windows((x.shape[1], x.shape[2]), window, stride, padding, rounding)
    padded = pad_images(x, windows.padding_and_overhang, -np.inf)
    shape = (len(x), *windows.outputs, x.shape[3])
    y = xp.full(shape, -np.inf, x.dtype)
    switches = xp.zeros(shape, np.min_scalar_type(window[0] * window[1] - 1))
    for r, s, index in offsets(window, windows.outputs, stride):
        seen = padded[index]
        larger = (seen > y) | (seen != seen)
        xp.copyto(y, seen, where=larger)
        xp.copyto(switches, switches.dtype.type(r * window[1] + s), where=larger)
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
    xp = array_module(dy)
    windows = place_windows((x_shape[1], x_shape[2]), window, stride, padding, rounding)
    padded = pad_images(xp.zeros(x_shape, dy.dtype), windows.padding_and_overhang)
    for r, s, index in offsets(window, windows.outputs, stride):
        padded[index] += xp.where(switches == r * window[1] + s, dy, 0)
    return unpad_images(padded, windows.padding_and_overhang)

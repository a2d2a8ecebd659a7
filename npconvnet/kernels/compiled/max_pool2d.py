"""Max pooling with switches in one pass: what kernels/cpu/max_pool2d.py gives, bit for bit but for the sign of zeros.

Without switches NumPy is as fast (max_pool2d_separable.py).
"""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.compiled import compiled
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, place_windows, require_pixels_in_every_window


def max_pool2d_forward(
    x: Array, window: tuple[int, int], stride: int, padding: Padding = NO_PADDING, rounding: Rounding = "floor"
) -> tuple[Array, Array]:
    """(y, switches), both (N, P, Q, C), of `x` (N, H, W, C); NaN counts as the maximum."""
    require_pixels_in_every_window(window, padding)
    windows = place_windows((x.shape[1], x.shape[2]), window, stride, padding, rounding)
    y = np.empty((len(x), *windows.outputs, x.shape[3]), x.dtype)
    switches = np.empty(y.shape, np.min_scalar_type(window[0] * window[1] - 1))
    _pool(np.ascontiguousarray(x), window, stride, padding[0], padding[2], y, switches)
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
    """dx (N, H, W, C) of `dy` (N, P, Q, C) and the `switches` of the forward; raises ValueError for other shapes."""
    windows = place_windows((x_shape[1], x_shape[2]), window, stride, padding, rounding)
    expected = x_shape[0], *windows.outputs, x_shape[3]
    if not dy.shape == switches.shape == expected:
        raise ValueError(f"dy is {dy.shape} and the switches are {switches.shape}; the pooling gave {expected}")
    dx = np.empty(x_shape, dy.dtype)
    _unpool(np.ascontiguousarray(dy), np.ascontiguousarray(switches), window, stride, padding[0], padding[2], dx)
    return dx


@compiled
def _pool(x, window, stride, top, left, y, switches):
    _, height, width, channels = x.shape
    lowest, as_switch = x.dtype.type(-np.inf), switches.dtype.type
    for n in range(y.shape[0]):
        for p in range(y.shape[1]):
            above = p * stride - top
            i_first, i_end = max(0, above), min(height, above + window[0])
            for q in range(y.shape[2]):
                before = q * stride - left
                j_first, j_end = max(0, before), min(width, before + window[1])
                most, switch = y[n, p, q], switches[n, p, q]
                for c in range(channels):  # a loop, as slices are slow for so few numbers
                    most[c], switch[c] = lowest, 0
                for i in range(i_first, i_end):
                    for j in range(j_first, j_end):
                        pixel, offset = x[n, i, j], as_switch((i - above) * window[1] + j - before)
                        for c in range(channels):
                            # NaN is the maximum. No `and` and `or`, which would be branches.
                            is_more = (pixel[c] > most[c]) | ((pixel[c] != pixel[c]) & (most[c] == most[c]))
                            most[c] = pixel[c] if is_more else most[c]
                            switch[c] = offset if is_more else switch[c]


@compiled
def _unpool(dy, switches, window, stride, top, left, dx):
    _, p_count, q_count, channels = dy.shape
    zero, as_switch = dx.dtype.type(0), switches.dtype.type
    for n in range(dx.shape[0]):
        for i in range(dx.shape[1]):
            # The windows that hold row i. The last comes first: so the definition, by growing offset, adds them.
            p_first, p_last = max(0, (i + top - window[0]) // stride + 1), min(p_count - 1, (i + top) // stride)
            for j in range(dx.shape[2]):
                q_first, q_last = max(0, (j + left - window[1]) // stride + 1), min(q_count - 1, (j + left) // stride)
                pixel = dx[n, i, j]
                for c in range(channels):
                    pixel[c] = zero
                for p in range(p_last, p_first - 1, -1):
                    for q in range(q_last, q_first - 1, -1):
                        offset = as_switch((i + top - p * stride) * window[1] + j + left - q * stride)
                        share, switch = dy[n, p, q], switches[n, p, q]
                        for c in range(channels):
                            pixel[c] += share[c] if switch[c] == offset else zero

"""Max pooling, down the columns first and then along the rows: what max_pool2d.py gives, bit for bit, in fewer steps.

    v[n, p, j, c] = max_r x̃[n, p·stride + r, j, c]        y[n, p, q, c] = max_s v[n, p, q·stride + s, c]

That is R + S comparisons instead of R·S. The switch is made of two parts, too: the first row r that holds v, and among
the columns s that hold y the one whose r·S + s is least.

NumPy is slow where it handles few numbers at a time, such as the C numbers of one pixel. So the pixels are first put
side by side that a step reads, and what a step writes is put in place at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.cpu import max_pool2d as definition
from npconvnet.kernels.cpu.select import keep_where
from npconvnet.kernels.cpu.windows import in_cache, pad_images, unpad_images
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, place_windows, require_pixels_in_every_window

#: Stands where a column does not hold the maximum. Windows of so many pixels take the definition.
NOWHERE = 255


def max_pool2d(
    x: Array, window: tuple[int, int], stride: int, padding: Padding = NO_PADDING, rounding: Rounding = "floor"
) -> Array:
    """y (N, P, Q, C) of `x` (N, H, W, C), for which no backward follows; NaN counts as the maximum."""
    require_pixels_in_every_window(window, padding)
    windows = place_windows((x.shape[1], x.shape[2]), window, stride, padding, rounding)
    p, q = windows.outputs
    y = np.empty((len(x), p, q, x.shape[3]), x.dtype)
    for part in in_cache(x):
        padded = pad_images(x[part], windows.padding_and_overhang, -np.inf)
        v = _maximum([padded[:, r : r + stride * p : stride] for r in range(window[0])])
        _maximum([v[:, :, s : s + stride * q : stride] for s in range(window[1])], out=y[part])
    return y


def max_pool2d_forward(
    x: Array, window: tuple[int, int], stride: int, padding: Padding = NO_PADDING, rounding: Rounding = "floor"
) -> tuple[Array, Array]:
    """(y, switches), both (N, P, Q, C), of `x` (N, H, W, C); NaN counts as the maximum."""
    where = window, stride, padding, rounding
    if window[0] * window[1] > NOWHERE:
        return definition.max_pool2d_forward(x, *where)
    require_pixels_in_every_window(window, padding)
    windows = place_windows((x.shape[1], x.shape[2]), window, stride, padding, rounding)
    p, q = windows.outputs
    y = np.empty((len(x), p, q, x.shape[3]), x.dtype)
    switches = np.empty(y.shape, np.uint8)
    for part in in_cache(x):
        padded = pad_images(x[part], windows.padding_and_overhang, -np.inf)
        v, first = _first_maximum([padded[:, r : r + stride * p : stride] for r in range(window[0])])
        columns, rows = (
            [of_row[:, :, s : s + stride * q : stride].copy() for s in range(window[1])] for of_row in (v, first)
        )
        _maximum(columns, out=y[part])
        _least_switch(columns, rows, y[part], out=switches[part])
    # Nothing equals NaN.
    return definition.max_pool2d_forward(x, *where) if (switches == NOWHERE).any() else (y, switches)


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
    p, q = windows.outputs
    over = -(-window[0] // stride) - 1, -(-window[1] // stride) - 1  # how many windows further a window reaches
    padded = pad_images(np.zeros(x_shape, dy.dtype), windows.padding_and_overhang)
    for part in in_cache(dy):
        # The pixels at one place in their cells of stride × stride pixels are seen at the same few offsets.
        for i, j in np.ndindex(min(stride, window[0]), min(stride, window[1])):
            cells = np.zeros((len(dy[part]), p + over[0], q + over[1], dy.shape[3]), dy.dtype)
            for r, s in product(range(i, window[0], stride), range(j, window[1], stride)):
                kept = keep_where(switches[part] == r * window[1] + s, dy[part])
                cells[:, r // stride : r // stride + p, s // stride : s // stride + q] += kept
            places = padded[part, i::stride, j::stride][:, : cells.shape[1], : cells.shape[2]]
            places[...] = cells[:, : places.shape[1], : places.shape[2]]
    return unpad_images(padded, windows.padding_and_overhang)


def _maximum(views: Sequence[Array], out: Array | None = None) -> Array:
    y = np.maximum(views[0], views[1 % len(views)], out=out)
    for view in views[2:]:
        np.maximum(y, view, out=y)
    return y


def _first_maximum(views: Sequence[Array]) -> tuple[Array, Array]:
    """The maximum of the `views`, and the number, uint8, of the first that holds it."""
    y, first = views[0], np.zeros(views[0].shape, np.uint8)
    for number, view in enumerate(views[1:], start=1):
        later = (view > y).view(np.uint8)
        later *= np.uint8(number)
        np.maximum(first, later, out=first)
        y = np.maximum(y, view, out=y if number > 1 else None)
    return y, first


def _least_switch(columns: Sequence[Array], rows: Sequence[Array], y: Array, out: Array) -> None:
    """Into `out` the least r·S + s among the `columns` that hold `y`, where `rows` are their r."""
    out.fill(NOWHERE)
    for s, (column, row) in enumerate(zip(columns, rows, strict=True)):
        row *= np.uint8(len(columns))
        row += np.uint8(s)
        elsewhere = (column != y).view(np.uint8)
        row |= np.negative(elsewhere, out=elsewhere)  # NOWHERE, or 0
        np.minimum(out, row, out=out)

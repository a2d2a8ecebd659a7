"""Space to depth: a convolution with a stride, written as one without.

The padded images are cut into cells of stride×stride pixels, and each cell becomes one pixel that has all their
channels. Where the filter moved by `stride` pixels it now moves by one cell, and it covers ⌈R / stride⌉ of them:

    conv(x, w, stride) = conv(cells of x, cells of w, 1)

Filters that do not fill their cells are filled up with zeros, and so are the images. All overwrite their result; the
adjoint of each map stands beside it.
"""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.shapes import Windows


def image_cells_shape(
    x_shape: tuple[int, ...], window: tuple[int, int], stride: int, windows: Windows
) -> tuple[int, ...]:
    """The shape of `image_cells`: (N, P + ⌈R / stride⌉ − 1, Q + ⌈S / stride⌉ − 1, stride²·C)."""
    down, across = (outputs - (-extent // stride) - 1 for outputs, extent in zip(windows.outputs, window, strict=True))
    return x_shape[0], down, across, stride * stride * x_shape[3]


def image_cells(x: Array, window: tuple[int, int], stride: int, windows: Windows) -> Array:
    """The cells that the filters cover, of the images `x` (N, H, W, C)."""
    n, down, across, _ = image_cells_shape(x.shape, window, stride, windows)
    top, _, left, _ = windows.padding
    padded = np.zeros((n, down * stride, across * stride, x.shape[3]), x.dtype)
    covered = x[:, : max(0, padded.shape[1] - top), : max(0, padded.shape[2] - left)]
    padded[:, top : top + covered.shape[1], left : left + covered.shape[2]] = covered
    return _to_cells(padded, stride)


def images_of_cells(cells: Array, x_shape: tuple[int, ...], stride: int, windows: Windows) -> Array:
    """The adjoint of `image_cells`: (N, H, W, C), where zeros stand for the pixels that no filter covers."""
    top, _, left, _ = windows.padding
    covered = _from_cells(cells, stride)[:, top : top + x_shape[1], left : left + x_shape[2]]
    x = np.zeros(x_shape, cells.dtype)
    x[:, : covered.shape[1], : covered.shape[2]] = covered
    return x


def filter_cells_shape(w_shape: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """The shape of `filter_cells`: (K, ⌈R / stride⌉, ⌈S / stride⌉, stride²·C)."""
    k, r, s, c = w_shape
    return k, -(-r // stride), -(-s // stride), stride * stride * c


def filter_cells(w: Array, stride: int) -> Array:
    """The filters `w` (K, R, S, C), in cells."""
    return _to_cells(np.pad(w, ((0, 0), (0, -w.shape[1] % stride), (0, -w.shape[2] % stride), (0, 0))), stride)


def filters_of_cells(cells: Array, window: tuple[int, int], stride: int) -> Array:
    """The adjoint of `filter_cells`: (K, R, S, C)."""
    return np.ascontiguousarray(_from_cells(cells, stride)[:, : window[0], : window[1]])


def _to_cells(x: Array, stride: int) -> Array:
    n, h, w, c = x.shape
    cells = x.reshape(n, h // stride, stride, w // stride, stride, c).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(n, h // stride, w // stride, stride * stride * c)


def _from_cells(cells: Array, stride: int) -> Array:
    n, down, across, _ = cells.shape
    x = cells.reshape(n, down, across, stride, stride, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, down * stride, across * stride, -1)

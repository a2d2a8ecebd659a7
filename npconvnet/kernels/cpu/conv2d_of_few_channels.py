"""Convolution of images of few channels, as those that a network begins with, without its short runs of numbers.

The sums are those of conv2d.py, and one image at a time, so that its columns stay in the cache. What lies together in
memory there are the C numbers of a pixel; for three of them most of the time goes by between the runs. So

- the forward copies the S·C numbers that a window sees in one row of the image as if they were one;
- the backward has a plane for each channel and place in the window. Where stride×stride pixels are one cell (see
  space_to_depth.py), a place (r, s) is a pixel of the cell ⌊r / stride⌋ further down and ⌊s / stride⌋ further right.
  Planes are as wide as the image in cells, so that to add a shifted plane is to add one long run of numbers.

Both overwrite their result.
"""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.cpu.product import product
from npconvnet.kernels.cpu.windows import pad_images
from npconvnet.kernels.shapes import Windows


def few_channels_forward(x: Array, w: Array, stride: int, windows: Windows) -> Array:
    """y (N, P, Q, K) of the images `x` (N, H, W, C) and the filters `w` (K, R, S, C)."""
    n, (p, q), (k, r, s, c) = len(x), windows.outputs, w.shape
    padded = np.ascontiguousarray(pad_images(x, windows.padding_and_overhang))
    run = np.dtype((np.void, s * c * x.itemsize))
    of_image, of_row, of_pixel, _ = padded.strides
    seen = np.ndarray((n, p, q, r), run, padded, strides=(of_image, stride * of_row, stride * of_pixel, of_row))
    columns = np.empty((p, q, r), run)
    rows = columns.view(x.dtype).reshape(p * q, -1)  # (P·Q, R·S·C)
    filters = w.reshape(k, -1).T  # (R·S·C, K)
    y = np.empty((n, p * q, k), np.result_type(x, w))
    for x_image, y_image in zip(seen, y, strict=True):
        columns[...] = x_image
        product(rows, filters, y_image)
    return y.reshape(n, p, q, k)


def few_channels_backward_input(dy: Array, w: Array, x_shape: tuple[int, ...], stride: int, windows: Windows) -> Array:
    """dx (N, H, W, C), a view of (N, C, ...), of `dy` (N, P, Q, K) through the filters `w` (K, R, S, C)."""
    (n, height, width, _), (k, r, s, c), (p, q) = x_shape, w.shape, windows.outputs
    top, _, left, _ = windows.padding
    down, across = p + (r - 1) // stride, q + (s - 1) // stride  # the image in cells
    dtype = np.result_type(dy, w)
    columns = np.zeros((r, s, c, p, across), dtype)  # zeros stay behind the Q numbers of a row
    rows = columns.reshape(-1, p, across)[..., :q].transpose(1, 0, 2)  # (P, R·S·C, Q): a view
    filters = w.reshape(k, -1).T
    cells = np.empty((stride, stride, c, down * across), dtype)
    planes = np.zeros((n, c, max(down * stride, top + height), max(across * stride, left + width)), dtype)
    for dy_image, plane in zip(dy, planes, strict=True):
        np.matmul(filters, dy_image.transpose(0, 2, 1), out=rows)
        cells.fill(0)
        for i, j in np.ndindex(r, s):
            first = i // stride * across + j // stride
            end = first + (p - 1) * across + q
            cells[i % stride, j % stride, :, first:end] += columns[i, j].reshape(c, -1)[:, : end - first]
        for i, j in np.ndindex(stride, stride):
            pixels = plane[:, i : down * stride : stride, j : across * stride : stride]
            pixels[...] = cells[i, j].reshape(pixels.shape)
    return planes[..., top : top + height, left : left + width].transpose(0, 2, 3, 1)

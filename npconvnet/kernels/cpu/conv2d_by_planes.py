"""The input gradient of a convolution over images of few channels, as those that a network begins with.

The sums of conv2d.py, with one plane for each channel: col2im adds up runs of C numbers, and for three of them spends
most of its time between the runs; along a row of a plane the runs are as long as the image is wide. Overwrites its
result.
"""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.cpu.windows import offsets
from npconvnet.kernels.shapes import Windows


def planes_backward_input(dy: Array, w: Array, x_shape: tuple[int, ...], stride: int, windows: Windows) -> Array:
    """dx (N, H, W, C), a view of (C, N, ...), of `dy` (N, P, Q, K) through the filters `w` (K, R, S, C)."""
    n, height, width, channels = x_shape
    top, bottom, left, right = windows.padding_and_overhang
    columns = (dy @ w.reshape(len(w), -1)).reshape(*dy.shape[:3], *w.shape[1:])  # (N, P, Q, R, S, C)
    planes = np.zeros((channels, n, top + height + bottom, left + width + right), columns.dtype)
    for r, s, index in offsets((w.shape[1], w.shape[2]), windows.outputs, stride):
        for channel, plane in enumerate(planes):
            plane[index] += columns[:, :, :, r, s, channel]
    return planes[:, :, top : top + height, left : left + width].transpose(1, 2, 3, 0)

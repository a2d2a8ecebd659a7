"""An image as one vector, channel by channel: the order in which other frameworks number it.

y[n, (c·H + h)·W + w] = x[n, h, w, c]            dx[n, h, w, c] = dy[n, (c·H + h)·W + w]
"""

from npconvnet.backend import Array


def flatten_forward(x: Array) -> Array:
    """y (N, C·H·W) of `x` (N, H, W, C), in memory of its own."""
    n, h, w, c = x.shape
    return x.transpose(0, 3, 1, 2).copy().reshape(n, c * h * w)


def flatten_backward(dy: Array, x_shape: tuple[int, ...]) -> Array:
    """dx (N, H, W, C) of `dy` (N, C·H·W): a view of it."""
    n, h, w, c = x_shape
    return dy.reshape(n, c, h, w).transpose(0, 2, 3, 1)

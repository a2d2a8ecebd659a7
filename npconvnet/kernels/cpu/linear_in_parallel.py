"""The fully connected layer of linear.py, on all cores: each computes some of the outputs at a time.

The functions are those of linear.py, under the same names, to the bit on any number of cores. Unlike a convolution,
which can take some images at a time, this layer would read all its weights again for each of them.
"""

from collections.abc import Callable

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.cpu import linear
from npconvnet.parallel import in_parallel

#: Columns of the result that are computed at once.
COLUMNS = 512


def linear_forward(x: Array, w: Array) -> Array:
    """y (N, out) of `x` (N, in) and `w` (out, in)."""
    y = np.empty((len(x), len(w)), np.result_type(x, w))

    def some(outputs: slice) -> None:
        y[:, outputs] = linear.linear_forward(x, w[outputs])

    _in_parts(some, len(w))
    return y


def linear_backward_input(dy: Array, w: Array) -> Array:
    """dx (N, in) of `dy` (N, out)."""
    dx = np.empty((len(dy), w.shape[1]), np.result_type(dy, w))

    def some(inputs: slice) -> None:
        dx[:, inputs] = linear.linear_backward_input(dy, w[:, inputs])

    _in_parts(some, w.shape[1])
    return dx


def linear_backward_weights(dy: Array, x: Array, out: Array | None = None) -> Array:
    """dw (out, in) of `dy` (N, out) and the input `x` (N, in), in the memory of `out` if given."""
    dw = np.empty((dy.shape[1], x.shape[1]), np.result_type(dy, x)) if out is None else out

    def some(outputs: slice) -> None:
        linear.linear_backward_weights(dy[:, outputs], x, dw[outputs])

    _in_parts(some, len(dw))
    return dw


def _in_parts(compute: Callable[[slice], None], count: int) -> None:
    in_parallel(compute, [slice(start, start + COLUMNS) for start in range(0, count, COLUMNS)])

"""The gradient of ReLU in one pass: what kernels/cpu/relu.py gives, bit for bit."""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.compiled import compiled
from npconvnet.kernels.cpu import relu as definition
from npconvnet.kernels.cpu.relu import ReLURule


def relu_backward(dy: Array, y: Array, rule: ReLURule = "gradient") -> Array:
    """dx of `dy` under `rule`, where `y` is what the forward returned; all of one shape.

    `dy` may be some channels of a larger array. Raises ValueError for an unknown rule.
    """
    if rule != "gradient" or dy.shape != y.shape or dy.dtype != y.dtype or not y.size:
        return definition.relu_backward(dy, y, rule)
    y = np.ascontiguousarray(y)
    dx = np.empty_like(y)
    shape = -1, y.shape[-1]
    _keep_where_positive(*_as_it_lies(dy.reshape(shape)), y.reshape(shape), dx.reshape(shape))
    return dx


def _as_it_lies(rows: Array) -> tuple[Array, int]:
    """All numbers from the first to the last of `rows` (N, C), and how many there are from one row to the next.

    Loops over numbers that follow each other in memory are compiled to vector instructions, if that is known.
    """
    if rows.strides[1] != rows.itemsize or rows.strides[0] < rows.strides[1]:
        rows = np.ascontiguousarray(rows)
    apart = rows.strides[0] // rows.itemsize
    length = (len(rows) - 1) * apart + rows.shape[1]
    return np.lib.stride_tricks.as_strided(rows, (length,), (rows.itemsize,), writeable=False), apart


@compiled
def _keep_where_positive(dy, apart, y, dx):
    zero = dx.dtype.type(0)
    for n in range(y.shape[0]):
        share, pixel, kept = dy[n * apart : n * apart + y.shape[1]], y[n], dx[n]
        for c in range(y.shape[1]):
            kept[c] = share[c] if pixel[c] > 0 else zero

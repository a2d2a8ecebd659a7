"""Launches bias.cu: what kernels/cpu/bias.py computes."""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import require
from npconvnet.kernels.cuda.elementwise import run_elementwise

#: How many rows a thread adds up.
ROWS = 64


def bias_forward(x: Array, b: Array) -> Array:
    """`x` (..., K) plus `b` (K,), both float32, in the memory of `x`. Raises TypeError for any other arrays."""
    channels = x.shape[-1]
    y = require("bias_forward", "x", x, np.float32, x.shape)
    b = require("bias_forward", "b", b, np.float32, (channels,))
    run_elementwise(array_module(x), "bias.cu", "bias_forward", y.size, y, b, np.int32(channels))
    if y is not x:  # but a copy, x being not contiguous
        x[...] = y
    return x


def bias_backward(dy: Array) -> Array:
    """db (K,) of `dy` (..., K), both float32; dx is dy itself. Raises TypeError where `dy` is of another type."""
    sums = require("bias_backward", "dy", dy, np.float32, dy.shape).reshape(-1, dy.shape[-1])
    sums = _sum_rows(sums)
    while len(sums) > 1:
        sums = _sum_rows(sums)
    db: Array = sums[0]
    return db


def _sum_rows(x: Array) -> Array:
    """The sums (m, K) of ROWS rows each of `x` (n, K): at least one, of no rows zeros."""
    rows, channels = x.shape
    xp = array_module(x)
    sums: Array = xp.empty((max(1, -(-rows // ROWS)), channels), np.float32)
    run_elementwise(xp, "bias.cu", "sum_rows", sums.size, x, sums, np.int64(rows), np.int32(channels))
    return sums

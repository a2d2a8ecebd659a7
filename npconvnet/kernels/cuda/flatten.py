"""Launches flatten.cu: what kernels/cpu/flatten.py computes."""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.elementwise import run_elementwise


def flatten_forward(x: Array) -> Array:
    """y (N, C·H·W) of `x` (N, H, W, C), float32 or uint16. Raises TypeError for any other array."""
    x = require("flatten_forward", "x", x, (np.float32, np.uint16), (ANY, ANY, ANY, ANY))
    n, h, w, c = x.shape
    return _transposed(x, h * w, c).reshape(n, c * h * w)


def flatten_backward(dy: Array, x_shape: tuple[int, ...]) -> Array:
    """dx (N, H, W, C) of `dy` (N, C·H·W), float32 or uint16, in memory of its own. Raises TypeError for another."""
    n, h, w, c = x_shape
    dy = require("flatten_backward", "dy", dy, (np.float32, np.uint16), (n, c * h * w))
    return _transposed(dy, c, h * w).reshape(n, h, w, c)


def _transposed(x: Array, rows: int, columns: int) -> Array:
    """Of each of N matrices (rows, columns)."""
    xp = array_module(x)
    y: Array = xp.empty(x.shape, x.dtype)
    name = "transpose_words" if x.dtype == np.uint16 else "transpose_floats"
    run_elementwise(xp, "flatten.cu", name, y.size, x, y, np.int32(rows), np.int32(columns))
    return y

"""Launches bias_relu.cu: what kernels/cpu/bias_relu.py computes."""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import require
from npconvnet.kernels.cuda.elementwise import run_elementwise


def bias_relu_forward(x: Array, b: Array) -> Array:
    """max(`x` + `b`, 0) of `x` (..., K) and `b` (K,), float32, in the memory of `x`. TypeError for any other arrays."""
    channels = x.shape[-1]
    y = require("bias_relu_forward", "x", x, np.float32, x.shape)
    b = require("bias_relu_forward", "b", b, np.float32, (channels,))
    run_elementwise(array_module(x), "bias_relu.cu", "bias_relu_forward", y.size, y, b, np.int32(channels))
    if y is not x:  # but a copy, x being not contiguous
        x[...] = y
    return x

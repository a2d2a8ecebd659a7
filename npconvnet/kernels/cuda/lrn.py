"""Launches lrn.cu: what kernels/cpu/lrn.py computes, in float32, one thread for each result."""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.elementwise import run_elementwise

#: The fields of `LRN` in lrn.cuh.
LRN = np.dtype([("alpha_per_element", "f4"), ("beta", "f4"), ("k", "f4")])


def lrn_forward(x: Array, size: int, alpha_per_element: float, beta: float, k: float) -> tuple[Array, Array]:
    """(y, s), both float32 of the shape of `x`, float32 (..., C)."""
    x = require("lrn_forward", "x", x, np.float32, (ANY,) * x.ndim)
    xp = array_module(x)
    y, s = xp.empty(x.shape, np.float32), xp.empty(x.shape, np.float32)
    _run("lrn_forward", (x, y, s), (alpha_per_element, beta, k), size)
    return y, s


def lrn_backward(dy: Array, x: Array, s: Array, size: int, alpha_per_element: float, beta: float) -> Array:
    """dx, float32, of `dy`, with the input `x` and the scale `s` of the forward; all float32 (..., C)."""
    dy, x, s = (require("lrn_backward", *named, np.float32, dy.shape) for named in (("dy", dy), ("x", x), ("s", s)))
    dx: Array = array_module(x).empty(x.shape, np.float32)
    _run("lrn_backward", (dy, x, s, dx), (alpha_per_element, beta, 0), size)  # k is in s
    return dx


def _run(name: str, arrays: tuple[Array, ...], constants: tuple[float, float, float], size: int) -> None:
    """The kernel `name` on the `arrays`, all of one shape (..., C)."""
    first = arrays[0]
    numbers = np.array([constants], LRN), np.int32(size), np.int32(first.shape[-1])
    run_elementwise(array_module(first), "lrn.cu", name, first.size, *arrays, *numbers)

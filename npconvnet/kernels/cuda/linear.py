"""Launches linear.cu: what kernels/cpu/linear.py computes, in float32."""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.tiled_product import run_product


def linear_forward(x: Array, w: Array) -> Array:
    """y (N, out) of `x` (N, in) and `w` (out, in), all float32. Raises TypeError for any other arrays."""
    x = require("linear_forward", "x", x, np.float32, (ANY, ANY))
    w = require("linear_forward", "w", w, np.float32, (ANY, x.shape[1]))
    xp = array_module(x)
    y: Array = xp.empty((len(x), len(w)), np.float32)
    run_product(xp, "linear.cu", "linear_forward", y.shape, (x, w, y, *_sizes(x, w)))
    return y


def linear_backward_input(dy: Array, w: Array) -> Array:
    """dx (N, in) of `dy` (N, out), both float32. Raises TypeError for any other arrays."""
    dy = require("linear_backward_input", "dy", dy, np.float32, (ANY, ANY))
    w = require("linear_backward_input", "w", w, np.float32, (dy.shape[1], ANY))
    xp = array_module(dy)
    dx: Array = xp.empty((len(dy), w.shape[1]), np.float32)
    run_product(xp, "linear.cu", "linear_backward_input", dx.shape, (dy, w, dx, *_sizes(dx, w)))
    return dx


def linear_backward_weights(dy: Array, x: Array, out: Array | None = None) -> Array:
    """dw (out, in) of `dy` (N, out) and the input `x` (N, in), in the memory of `out` if given; all float32.

    Raises TypeError for any other arrays.
    """
    dy = require("linear_backward_weights", "dy", dy, np.float32, (ANY, ANY))
    x = require("linear_backward_weights", "x", x, np.float32, (len(dy), ANY))
    xp, shape = array_module(dy), (dy.shape[1], x.shape[1])
    if out is None:
        out = xp.empty(shape, np.float32)
    dw = require("linear_backward_weights", "out", out, np.float32, shape)
    run_product(xp, "linear.cu", "linear_backward_weights", shape, (dy, x, dw, *_sizes(x, dw)))
    if dw is not out:  # but a copy, out being not contiguous
        out[...] = dw
    return out


def _sizes(x: Array, w: Array) -> tuple[np.int32, ...]:
    """N, in and out, which every kernel takes."""
    return np.int32(len(x)), np.int32(w.shape[1]), np.int32(len(w))

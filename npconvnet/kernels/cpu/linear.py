"""Fully connected layer.

    y = x·wᵀ            dx = dy·w            dw = dyᵀ·x

All overwrite their result; dw, the largest, may take memory that has served before. The bias stands apart, in bias.py.
"""

from npconvnet.backend import Array, array_module


def linear_forward(x: Array, w: Array) -> Array:
    """y (N, out) of `x` (N, in) and `w` (out, in)."""
    return x @ w.T


def linear_backward_input(dy: Array, w: Array) -> Array:
    """dx (N, in) of `dy` (N, out)."""
    return dy @ w


def linear_backward_weights(dy: Array, x: Array, out: Array | None = None) -> Array:
    """dw (out, in) of `dy` (N, out) and the input `x` (N, in), in the memory of `out` if given."""
    dw: Array = array_module(dy).matmul(dy.T, x, out=out)
    return dw

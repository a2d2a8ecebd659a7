"""Launches relu.cu: what kernels/cpu/relu.py computes. The three rules stand in relu.cuh."""

from typing import Literal, get_args

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import require
from npconvnet.kernels.cuda.elementwise import run_elementwise

ReLURule = Literal["gradient", "deconvnet", "guided"]


def relu_forward(x: Array) -> Array:
    """max(x, 0), of any shape, float32; NaN stays NaN. Raises TypeError where `x` is of another type."""
    xp = array_module(x)
    y: Array = xp.empty(x.shape, np.float32)
    x = require("relu_forward", "x", x, np.float32, x.shape)
    run_elementwise(xp, "relu.cu", "relu_forward", y.size, x, y)
    return y


def relu_backward(dy: Array, y: Array, rule: ReLURule = "gradient") -> Array:
    """dx of `dy` under `rule`, where `y` is what the forward returned; all of one shape, float32.

    Raises ValueError for an unknown rule, TypeError for arrays of other types or shapes.
    """
    xp = array_module(dy)
    dx: Array = xp.empty(dy.shape, np.float32)
    dy = require("relu_backward", "dy", dy, np.float32, dy.shape)
    y = require("relu_backward", "y", y, np.float32, dx.shape)
    run_elementwise(xp, "relu.cu", "relu_backward", dx.size, dy, y, dx, rule_number(rule))
    return dx


def rule_number(rule: ReLURule) -> np.int32:
    """`rule` as the kernels know it, by its place in the enum of relu.cuh. Raises ValueError for an unknown rule."""
    rules = get_args(ReLURule)
    if rule not in rules:
        raise ValueError(f"no ReLU rule '{rule}'; the rules are gradient, deconvnet and guided")
    return np.int32(rules.index(rule))

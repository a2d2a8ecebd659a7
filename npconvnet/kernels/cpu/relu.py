"""ReLU and its three backward rules: the lines in which DeconvNet and guided backpropagation part from the gradient.

    y = max(x, 0)
    gradient:   dx = dy where x > 0               the true derivative: the sign of the input decides
    deconvnet:  dx = dy where dy > 0              Zeiler & Fergus 2013: the sign of the reconstruction decides
    guided:     dx = dy where x > 0 and dy > 0    Springenberg et al. 2014: both decide

Simonyan et al. 2013, section 4: everything else in a DeconvNet is the gradient. All overwrite their result. The
backward is handed y instead of x (x > 0 exactly where y > 0), so that x need not be kept.
"""

from typing import Literal

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.select import keep_where

ReLURule = Literal["gradient", "deconvnet", "guided"]


def relu_forward(x: Array) -> Array:
    """max(x, 0), of any shape; NaN stays NaN, so that a diverged network shows."""
    y: Array = array_module(x).maximum(x, 0)
    return y


def relu_backward(dy: Array, y: Array, rule: ReLURule = "gradient") -> Array:
    """dx of `dy` under `rule`, where `y` is what the forward returned; all of one shape.

    Raises ValueError for an unknown rule.
    """
    if rule == "gradient":
        return keep_where(y > 0, dy)
    if rule == "deconvnet":
        return keep_where(dy > 0, dy)
    if rule == "guided":
        return keep_where((y > 0) & (dy > 0), dy)
    raise ValueError(f"no ReLU rule '{rule}'; the rules are gradient, deconvnet and guided")

"""Launches sum_of_parts.cu: the second half of a matrix product whose sums were split."""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require, require_in_place
from npconvnet.kernels.cuda.elementwise import run_elementwise


def sum_of_parts(parts: Array, y: Array, bias: Array | None = None, relu: bool = False) -> None:
    """Fills `y` (..., K), float32 or words of bfloat16, with the sums of `parts`, float32 (parts, ..., K), in order.

    `bias` (K,), float32, is added if given; no element is below 0 if `relu`. Raises TypeError for arrays of other types
    and shapes.
    """
    xp = array_module(y)
    require_in_place("sum_of_parts", "y", y, (np.float32, np.uint16), (ANY,) * y.ndim)
    parts = require("sum_of_parts", "parts", parts, np.float32, (ANY, *y.shape))
    bias_or_none = (
        xp.empty(0, np.float32) if bias is None else require("sum_of_parts", "bias", bias, np.float32, y.shape[-1:])
    )
    name = "sum_to_words" if y.dtype == np.uint16 else "sum_to_floats"
    numbers = np.int32(len(parts)), np.int32(y.shape[-1]), np.bool_(bias is not None), np.bool_(relu)
    run_elementwise(xp, "sum_of_parts.cu", name, y.size, parts, bias_or_none, y, *numbers)

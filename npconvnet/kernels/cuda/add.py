"""Launches add.cu: what kernels/cpu/add.py computes, in one pass through memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import require
from npconvnet.kernels.cuda.elementwise import run_elementwise

#: How many arrays a launch takes.
MOST = 64
#: The struct of add.cu: the addresses of the arrays, and how many there are.
SUMMANDS = np.dtype([("x", "u8", MOST), ("arrays", "i8")])


def add_forward(xs: Sequence[Array]) -> Array:
    """The sum of the `xs`, all float32 or all uint16, which are bfloat16 words here, in memory of its own.

    Words are added in float32 and rounded once. Raises TypeError for any other arrays, and ValueError for more than 64.
    """
    if len(xs) > MOST:
        raise ValueError(f"add_forward takes up to {MOST} arrays, not {len(xs)}")
    first, xp = xs[0], array_module(xs[0])
    dtype = first.dtype if first.dtype == np.uint16 else np.float32
    taken: list[Any] = [require("add_forward", f"xs[{i}]", x, dtype, first.shape) for i, x in enumerate(xs)]
    y: Array = xp.empty(first.shape, first.dtype)
    summands = np.zeros(1, SUMMANDS)
    summands["arrays"] = len(taken)
    summands["x"][0, : len(taken)] = [x.data.ptr for x in taken]
    run_elementwise(xp, "add.cu", "add_words" if y.dtype == np.uint16 else "add_floats", y.size, summands, y)
    return y

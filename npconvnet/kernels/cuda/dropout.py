"""Launches dropout.cu: what kernels/cpu/dropout.py computes, and the same of the words of bfloat16."""

import math

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import require
from npconvnet.kernels.cuda.elementwise import run_elementwise
from npconvnet.randomness import Chances


def draw_kept(x: Array, chances: Chances, rate: float) -> Array:
    """A boolean array in the shape of `x` (N, ...), with the same bits as on the CPU.

    The items of `chances` and their key are copied to the GPU, unless they are arrays there already: those are read
    when the kernel runs, and so anew at each replay of a CUDA graph. Raises ValueError unless there are chances of N
    images.
    """
    if len(chances.items) != len(x):
        raise ValueError(f"there are {len(x)} images, and chances of {len(chances.items)}")
    xp = array_module(x)
    items = require("draw_kept", "chances.items", xp.asarray(chances.items), np.int64, (len(x),))
    key = require("draw_kept", "chances.key", xp.asarray(chances.key), np.uint32, (2,))
    kept: Array = xp.empty(x.shape, np.bool_)
    size = math.prod(x.shape[1:])
    numbers = np.uint32(chances.stream), np.uint64(round(rate * 2**32)), np.int64(size)
    run_elementwise(xp, "dropout.cu", "draw_kept", len(x) * -(-size // 4), items, key, kept, *numbers)
    return kept


def dropout(x: Array, kept: Array, rate: float) -> Array:
    """`x` where `kept`, scaled by 1 / (1 − rate), 0 elsewhere: float32; or words, scaled in float32 and rounded.

    Raises TypeError where `x` is of another type, or `kept` not boolean and of the shape of `x`.
    """
    x = require("dropout", "x", x, (np.float32, np.uint16), x.shape)
    kept = require("dropout", "kept", kept, np.bool_, x.shape)
    xp = array_module(x)
    y: Array = xp.empty(x.shape, x.dtype)
    name = "dropout" if x.dtype == np.float32 else "dropout_of_words"
    run_elementwise(xp, "dropout.cu", name, y.size, x, kept, y, np.float32(1 / (1 - rate)))
    return y

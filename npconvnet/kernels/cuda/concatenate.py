"""Launches concatenate.cu: what kernels/cpu/concatenate.py computes, a launch for each part."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.elementwise import run_elementwise

#: The fields of `Part` in concatenate.cu.
PART = np.dtype([(name, "i8") for name in ("columns", "from_pitch", "from_first", "to_pitch", "to_first")])


def concatenate_forward(xs: Sequence[Array]) -> Array:
    """y (..., C₁ + C₂ + …) of the `xs` (..., Cᵢ), all float32 or all uint16. Raises TypeError for any other arrays."""
    before = xs[0].shape[:-1]
    dtype = xs[0].dtype if xs[0].dtype == np.uint16 else np.float32
    taken = [require("concatenate_forward", f"xs[{i}]", x, dtype, (*before, ANY)) for i, x in enumerate(xs)]
    ends = list(accumulate(x.shape[-1] for x in taken))
    y: Array = array_module(taken[0]).empty((*before, ends[-1]), dtype)
    for x, end in zip(taken, ends, strict=True):
        _copy(x, 0, y, end - x.shape[-1], x.shape[-1])
    return y


def concatenate_backward(dy: Array, channels: Sequence[int]) -> tuple[Array, ...]:
    """The dxᵢ (..., Cᵢ) of `dy`, float32 or uint16, each in memory of its own. Raises TypeError for any other array."""
    xp, before = array_module(dy), dy.shape[:-1]
    dy = require("concatenate_backward", "dy", dy, (np.float32, np.uint16), (*before, sum(channels)))
    parts: list[Array] = [xp.empty((*before, c), dy.dtype) for c in channels]
    for dx, end in zip(parts, accumulate(channels), strict=True):
        _copy(dy, end - dx.shape[-1], dx, 0, dx.shape[-1])
    return tuple(parts)


def _copy(source: Any, source_first: int, target: Any, target_first: int, channels: int) -> None:
    """Copies `channels` from one array to the other, from where the part begins in either."""
    size = source.itemsize
    sizes = channels, source.shape[-1], source_first, target.shape[-1], target_first
    in_chunks = math.gcd(source.data.ptr, target.data.ptr, *(size * each for each in sizes)) % 16 == 0
    unit = 16 // size if in_chunks else 1
    part = np.array([tuple(each // unit for each in sizes)], PART)
    count = math.prod(source.shape[:-1]) * channels // unit
    name = "copy_words" if size == 2 else "copy_floats"
    arguments = source, target, part, np.bool_(in_chunks)
    run_elementwise(array_module(source), "concatenate.cu", name, count, *arguments)

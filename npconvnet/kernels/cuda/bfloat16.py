"""Launches bfloat16.cu: what kernels/cpu/bfloat16.py computes, in one pass through memory.

A number that is converted moves 6 bytes, either way; operation by operation, CuPy would move 60 and 14. Of sums, every
word is read once and every result written once, 2 bytes each.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.compile import kernel

#: Threads of a block, and how many results each of them computes.
THREADS, PER_THREAD = 256, 4


def to_bfloat16(x: Array) -> Array:
    """The words, uint16, of `x`, float32; a NaN stays one. Raises ValueError where `x` is of another type."""
    return _run("to_bfloat16", x, np.float32, x.shape, np.uint16)


def from_bfloat16(words: Array) -> Array:
    """The numbers, float32, of `words`, uint16; exact. Raises ValueError where `words` are of another type."""
    return _run("from_bfloat16", words, np.uint16, words.shape, np.float32)


def sum_of_words(parts: Array) -> Array:
    """The words (n,) of the sums of the columns of `parts` (g, n), uint16: in float32, row by row, rounded once.

    CuPy compiles with -ftz=true, by which additions take numbers below 2⁻¹²⁶ (subnormals) for 0 and give 0 for such
    sums. All others have the bits of the definition. The conversions compute with integers and keep subnormals.
    Raises ValueError where `parts` are of another type or have other dimensions.
    """
    rows, count = parts.shape
    return _run("sum_of_words", parts, np.uint16, (count,), np.uint16, np.int32(rows))


def _run(
    name: str, x: Array, given: npt.DTypeLike, shape: tuple[int, ...], wanted: npt.DTypeLike, *numbers: Any
) -> Array:
    """What the kernel `name` makes of `x`, which is copied first where it is not contiguous."""
    if x.dtype != given:
        raise ValueError(f"{name} takes {np.dtype(given)}, not {x.dtype}")
    xp = array_module(x)
    result: Array = xp.empty(shape, wanted)
    if result.size:  # CUDA refuses a launch of no blocks
        blocks = -(-result.size // (THREADS * PER_THREAD))
        arguments = xp.ascontiguousarray(x), result, *numbers, np.int64(result.size)
        kernel(xp, "bfloat16.cu", name)((blocks,), (THREADS,), arguments)
    return result

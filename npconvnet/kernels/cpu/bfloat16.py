"""Numbers of 16 bits with the range of float32: its sign, its exponent, and 7 bits of its fraction (bfloat16).

    words(x)  = the upper half of x's bits, rounded to nearest, ties to even          float32 → uint16
    x'(words) = words, followed by 16 zero bits                                       uint16 → float32

NumPy and CuPy know no such numbers: they are carried as words and computed with in float32.
"""

import numpy as np

from npconvnet.backend import Array, array_module

QUIET_NAN = np.uint16(0x7FC0)


def to_bfloat16(x: Array) -> Array:
    """The words, uint16, of `x`, float32; a NaN stays one."""
    bits = x.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)  # of two neighbours as near, rounds to the even one
    rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    words: Array = array_module(x).where(x == x, rounded.astype(np.uint16), QUIET_NAN)  # a NaN's bits may carry over
    return words


def from_bfloat16(words: Array) -> Array:
    """The numbers, float32, of `words`, uint16; exact."""
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def sum_of_words(parts: Array) -> Array:
    """The words (n,) of the sums of the columns of `parts` (g, n), uint16: in float32, row by row, rounded once."""
    total = from_bfloat16(parts[0])
    for part in parts[1:]:
        total += from_bfloat16(part)
    return to_bfloat16(total)

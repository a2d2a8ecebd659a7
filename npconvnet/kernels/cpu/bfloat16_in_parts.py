"""The rounding of bfloat16.py, a cacheful of numbers at a time, in memory that is used over and over."""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.cpu.bfloat16 import QUIET_NAN

#: So many numbers at a time.
_PART = 2**16


def to_bfloat16(x: Array) -> Array:
    """The words, uint16, of `x`, float32; a NaN stays one."""
    words = np.empty(x.shape, np.uint16)
    numbers, found = np.ascontiguousarray(x).reshape(-1), words.reshape(-1)
    rounded = np.empty(min(_PART, x.size), np.uint32)
    for start in range(0, x.size, _PART):
        part = numbers[start : start + _PART]
        bits, sums = part.view(np.uint32), rounded[: len(part)]
        np.right_shift(bits, 16, out=sums)
        sums &= 1
        sums += bits
        sums += 0x7FFF
        sums >>= 16
        found[start : start + _PART] = sums
        is_nan = np.isnan(part)
        if is_nan.any():
            found[start : start + _PART][is_nan] = QUIET_NAN
    return words

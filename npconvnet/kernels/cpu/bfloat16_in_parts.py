"""The rounding and the sums of bfloat16.py, a cacheful of numbers at a time, in memory that is used over and over."""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.cpu.bfloat16 import QUIET_NAN

#: So many numbers at a time.
_PART = 2**16


def to_bfloat16(x: Array) -> Array:
    """The words, uint16, of `x`, float32; a NaN stays one."""
    words = np.empty(x.shape, np.uint16)
    numbers, found = np.ascontiguousarray(x).reshape(-1), words.reshape(-1)
    memory = np.empty(min(_PART, x.size), np.uint32)
    for start in range(0, x.size, _PART):
        part = numbers[start : start + _PART]
        _round(part, found[start : start + _PART], memory[: len(part)])
    return words


def sum_of_words(parts: Array) -> Array:
    """The words (n,) of the sums of the columns of `parts` (g, n), uint16: in float32, row by row, rounded once."""
    _, count = parts.shape
    words = np.empty(count, np.uint16)
    totals, memory = np.empty(min(_PART, count), np.float32), np.empty(min(_PART, count), np.uint32)
    for start in range(0, count, _PART):
        found = words[start : start + _PART]
        total, bits = totals[: len(found)], memory[: len(found)]
        total.fill(-0.0)  # a number and −0 are that number; −0 and +0 would be +0
        for row in parts[:, start : start + _PART]:
            bits[:] = row
            bits <<= 16
            total += bits.view(np.float32)
        _round(total, found, bits)
    return words


def _round(x: Array, words: Array, memory: Array) -> None:
    """Overwrites `words` by those of `x`; `memory`, uint32, has room for as many."""
    bits = x.view(np.uint32)
    np.right_shift(bits, 16, out=memory)
    memory &= 1
    memory += bits
    memory += 0x7FFF
    memory >>= 16
    words[:] = memory
    is_nan = np.isnan(x)
    if is_nan.any():
        words[is_nan] = QUIET_NAN

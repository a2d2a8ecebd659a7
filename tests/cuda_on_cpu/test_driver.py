"""What the stand-in for the driver makes maps of, and what it refuses, as cuda.h has it."""

import ctypes
from typing import Any

import numpy as np
import pytest

from tests.cuda_on_cpu.driver import driver

INVALID, NOT_SUPPORTED = 1, 801
#: Of a right call. The sizes are channels, width, height, images.
TILED = {
    "map": 0, "type": 9, "rank": 3, "address": 0, "size": [24, 7, 5], "stride": [48, 336], "box": [64, 7, 2],
    "step": [1, 1, 1], "interleave": 0, "swizzle": 3, "promotion": 3, "fill": 0,
}  # fmt: skip
IM2COL = {
    "map": 0, "type": 9, "rank": 4, "address": 0, "size": [24, 7, 5, 2], "stride": [48, 336, 1680], "lower": [-1, -2],
    "upper": [-3, 4], "channels": 64, "pixels": 128, "step": [1, 1, 1, 1], "interleave": 0, "swizzle": 3,
    "promotion": 3, "fill": 0,
}  # fmt: skip
TYPES = {"size": ctypes.c_uint64, "stride": ctypes.c_uint64, "lower": ctypes.c_int, "upper": ctypes.c_int}


def result(function, right, **other):
    """Of the driver's function with these arguments; where there are addresses, those are of bytes of memory."""
    memory = np.zeros(512, np.uint8)
    begin = memory.ctypes.data + -memory.ctypes.data % 64
    arguments: list[Any] = []
    for name, value in (right | other).items():
        if name in ("map", "address"):
            arguments.append(ctypes.c_void_p(begin + value))
        elif isinstance(value, list):
            arguments.append((TYPES.get(name, ctypes.c_uint32) * len(value))(*value))
        else:
            arguments.append(value)
    return getattr(driver(), function)(*arguments)


def test_what_it_makes_maps_of():
    assert result("cuTensorMapEncodeTiled", TILED) == 0
    assert result("cuTensorMapEncodeTiled", TILED, rank=2, type=1, box=[64, 256]) == 0
    assert result("cuTensorMapEncodeIm2col", IM2COL) == 0
    assert result("cuTensorMapEncodeIm2col", IM2COL, lower=[-128, -128], upper=[127, 127], pixels=1024) == 0


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"map": 32}, INVALID),
        ({"type": 16}, INVALID),
        ({"rank": 0}, INVALID),
        ({"rank": 6}, INVALID),
        ({"address": 8}, INVALID),
        ({"size": [24, 0, 5]}, INVALID),
        ({"size": [24, 7, 2**32 + 1]}, INVALID),
        ({"stride": [40, 336]}, INVALID),
        ({"stride": [48, 2**40]}, INVALID),
        ({"box": [64, 0, 2]}, INVALID),
        ({"box": [64, 257, 2]}, INVALID),
        ({"box": [72, 7, 2]}, INVALID),
        ({"box": [60, 7, 2]}, INVALID),
        ({"step": [1, 9, 1]}, INVALID),
        ({"step": [1, 0, 1]}, INVALID),
        ({"swizzle": 7}, INVALID),
        ({"type": 7}, NOT_SUPPORTED),
        ({"swizzle": 0}, NOT_SUPPORTED),
        ({"interleave": 1}, NOT_SUPPORTED),
        ({"fill": 1}, NOT_SUPPORTED),
        ({"step": [1, 2, 1]}, NOT_SUPPORTED),
        ({"box": [32, 7, 2]}, NOT_SUPPORTED),
    ],
)
def test_what_it_refuses_of_boxes(other, expected):
    assert result("cuTensorMapEncodeTiled", TILED, **other) == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"rank": 2}, INVALID),
        ({"address": 8}, INVALID),
        ({"lower": [-129, 0]}, INVALID),
        ({"upper": [0, 128]}, INVALID),
        ({"lower": [0, 0], "upper": [-7, 0]}, INVALID),
        ({"lower": [2, 0], "upper": [0, -5]}, INVALID),
        ({"pixels": 0}, INVALID),
        ({"pixels": 1025}, INVALID),
        ({"channels": 257}, INVALID),
        ({"channels": 72}, INVALID),
        ({"channels": 32}, NOT_SUPPORTED),
        ({"step": [1, 2, 2, 1]}, NOT_SUPPORTED),
        ({"rank": 3}, NOT_SUPPORTED),
    ],
)
def test_what_it_refuses_of_columns(other, expected):
    assert result("cuTensorMapEncodeIm2col", IM2COL, **other) == expected

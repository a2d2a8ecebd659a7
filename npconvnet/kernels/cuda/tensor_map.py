"""Tensor maps: what the tensor memory accelerator (TMA) of sm_90 has to know of an array that it copies boxes of.

The driver makes them, by cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col (CUDA Driver API, Tensor Map Object
Management), which CuPy does not offer. A kernel takes one by value, as `const __grid_constant__ TensorMap` (ptx.cuh):
it holds the array's address, so the array has to live until the kernel has ended, and no longer.

Arrays are uint16, words of bfloat16. In shared memory the 16-byte pieces of each 128 bytes are swizzled, and whatever
of a box lies beside the array is zero.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array
from npconvnet.kernels.cuda.arguments import ANY, require_in_place

#: An array of one: the 128 bytes of a CUtensorMap, which the driver alone can read.
TensorMap = npt.NDArray[np.void]
BYTES, ALIGNMENT = 128, 64

#: Channels of a pixel that are copied at once: as many as 128 bytes hold.
CHANNELS = 64

#: Values of CUtensorMapDataType, -Interleave, -Swizzle, -L2promotion and -FloatOOBfill in cuda.h.
BFLOAT16, NO_INTERLEAVE, SWIZZLE_128B, L2_256B, ZEROS = 9, 0, 3, 3, 0


def tiled(x: Array, box: tuple[int, ...]) -> TensorMap:
    """Of boxes of the sizes `box`, in the order of the axes of `x`, two or three; the last of 64 words at most.

    Raises TypeError unless `x` is uint16, on the GPU and contiguous, and RuntimeError where the driver refuses it: the
    array has to begin at a multiple of 16 bytes, as each of its rows, and a box has at most 256 elements along an axis.
    """
    require_in_place("tensor_map.tiled", "x", x, np.uint16, [ANY] * len(box))
    return _encoded("cuTensorMapEncodeTiled", x, [_uint32(box)], f"boxes of {box}")


def im2col(x: Array, lower: tuple[int, int], upper: tuple[int, int], pixels: int) -> TensorMap:
    """Of columns of so many pixels of the images `x` (N, H, W, C), and of 64 channels of each.

    The pixels of a column follow one another in the boxes of all images, image after image and row by row. A box begins
    `lower` = (h, w) from an image's first pixel and ends `upper` from its last, before it where that is negative. For a
    convolution of stride 1 these are the pixels under the first tap: (-top, -left) and (bottom - R + 1, right - S + 1),
    of which there are (P, Q); a copy moves them on to another tap. Raises what `tiled` does: the corners have to lie
    between -128 and 127, and a column has at most 1024 pixels.
    """
    require_in_place("tensor_map.im2col", "x", x, np.uint16, [ANY] * 4)
    corners = [(ctypes.c_int * 2)(*corner[::-1]) for corner in (lower, upper)]
    box = [*corners, ctypes.c_uint32(CHANNELS), ctypes.c_uint32(pixels)]
    return _encoded("cuTensorMapEncodeIm2col", x, box, f"columns of {pixels} pixels between {lower} and {upper}")


@cache
def driver() -> ctypes.CDLL:
    """NVIDIA's driver. Raises RuntimeError where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError(f"tensor maps are made by NVIDIA's driver, which cannot be loaded: {error}") from None


def _encoded(function: str, x: Array, box: Sequence[object], words: str) -> TensorMap:
    """What the driver's `function` makes of `x` and the arguments `box`, in `words`. Its axes begin with the last."""
    encode = getattr(driver(), function, None)
    if encode is None:
        raise RuntimeError(f"NVIDIA's driver has no {function}: it is older than CUDA 12")
    memory = np.zeros(BYTES + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    tensor_map = memory[begin : begin + BYTES].view(np.dtype((np.void, BYTES)))
    data: Any = x.data
    shape, strides = (ctypes.c_uint64 * x.ndim)(*x.shape[::-1]), (ctypes.c_uint64 * (x.ndim - 1))()
    for axis in range(1, x.ndim):  # in bytes, and none of the last axis; x.strides may be anything where a size is 1
        strides[axis - 1] = x.itemsize * math.prod(x.shape[-axis:])
    array = ctypes.c_void_p(tensor_map.ctypes.data), BFLOAT16, x.ndim, ctypes.c_void_p(data.ptr), shape, strides
    error = encode(*array, *box, _uint32([1] * x.ndim), NO_INTERLEAVE, SWIZZLE_128B, L2_256B, ZEROS)
    if error:
        raise RuntimeError(f"{function}: error {error}, for {words} of uint16 {tuple(x.shape)} at {data.ptr:#x}")
    return tensor_map


def _uint32(sizes: Sequence[int]) -> ctypes.Array[ctypes.c_uint32]:
    """Along the axes of an array, as the driver takes them."""
    return (ctypes.c_uint32 * len(sizes))(*sizes[::-1])

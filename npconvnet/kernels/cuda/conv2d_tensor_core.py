"""Convolutions and linear layers on the tensor cores: launches conv2d_tensor_core.cu (sm_80 and later).

Or conv2d_wgmma.cu, on the GPUs that it is for, for the problems in BY_WGMMA.

Arrays are uint16, words of bfloat16, or float32, which the tensor cores round to TF32; sums are float32 in either case.
The functions are those of kernels/cpu/conv2d.py and kernels/cpu/linear.py, with bias, ReLU and max pooling at the end
of the forward ones. Channels are copied 16 bytes at a time: 8 words or 4 numbers. Where the channels of a group are no
multiple of that, arrays are first copied with zeros behind them.

How long that should take, and why, is reckoned in bench/README.md.
"""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda import conv2d_wgmma
from npconvnet.kernels.cuda.arguments import ANY, require, require_in_place
from npconvnet.kernels.cuda.compile import kernel
from npconvnet.kernels.cuda.convolution_tile import (
    DGRAD,
    FIELDS,
    FPROP,
    POOLED_FPROP,
    WGRAD,
    Launch,
    Matrices,
    Tile,
    division,
    fastest_tile,
    given,
    grid,
    packed,
)
from npconvnet.kernels.cuda.sum_of_parts import sum_of_parts
from npconvnet.kernels.shapes import NO_PADDING, Padding, Pooling, Rounding, place_windows

SOURCE = "conv2d_tensor_core.cu"
ELEMENTS = (np.dtype(np.uint16), np.dtype(np.float32))

LARGE, MEDIUM, NARROW, SMALL = (
    Tile(256, 128, 3, 1.0),
    Tile(128, 128, 3, 0.85),
    Tile(256, 64, 4, 0.7),
    Tile(64, 64, 4, 0.4),
)

#: Those that each problem chooses from.
TILES = {
    FPROP: (LARGE, MEDIUM, NARROW, SMALL),
    POOLED_FPROP: (LARGE, MEDIUM, NARROW),
    DGRAD: (LARGE, MEDIUM, NARROW, SMALL),
    WGRAD: (LARGE, MEDIUM, SMALL),
}


def _constants(problem: int, tile: Tile, element: np.dtype[Any]) -> dict[str, int]:
    """What the source leaves open."""
    return {
        "PROBLEM": problem,
        "ELEMENT_BYTES": element.itemsize,
        "TILE_ROWS": tile.rows,
        "TILE_COLUMNS": tile.columns,
        "STAGES": tile.stages,
    }


#: The constants of every variant that is ever launched.
VARIANTS = [_constants(problem, tile, element) for problem in TILES for element in ELEMENTS for tile in TILES[problem]]

#: Problems that conv2d_wgmma.py computes where it can. None, until they are measured to be faster.
BY_WGMMA: set[int] = set()


@contextmanager
def using_wgmma(problems: Collection[int] = conv2d_wgmma.PROBLEMS) -> Iterator[None]:
    """Meanwhile BY_WGMMA holds these `problems` and no others: to measure and to test both ways of multiplying."""
    before = set(BY_WGMMA)
    BY_WGMMA.clear()
    BY_WGMMA.update(problems)
    try:
        yield
    finally:
        BY_WGMMA.clear()
        BY_WGMMA.update(before)


# ---- convolutions ----------------------------------------------------------------------------------------------------


def conv2d_forward(
    x: Array,
    w: Array,
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
    *,
    bias: Array | None = None,
    relu: bool = False,
    dtype: npt.DTypeLike | None = None,
) -> Array:
    """y (N, P, Q, K) of the images `x` (N, H, W, C) and the filters `w` (K, R, S, C / groups).

    `bias` (K,), float32, is added if given; no element is below 0 if `relu`. y is of the type `dtype`, or else of that
    of x. Raises TypeError for arrays of other types and shapes.
    """
    x, w, fields = _forward("conv2d_forward", x, w, stride, padding, groups, rounding)
    if bias is not None:
        bias = require("conv2d_forward", "bias", bias, np.float32, (len(w),))
    N, P, Q, K = (fields[size] for size in "NPQK")
    matrices = Matrices(N * P * Q, K // groups, _stages(math.prod(w.shape[1:]), x.dtype), groups)
    y: Array = array_module(x).empty((N, P, Q, K), dtype or x.dtype)
    _multiply(FPROP, matrices, fields, x, w, y, bias, relu)
    return y


def conv2d_pool_forward(
    x: Array,
    w: Array,
    bias: Array,
    stride: int,
    padding: Padding,
    groups: int,
    rounding: Rounding,
    pool: Pooling,
) -> tuple[Array, Array]:
    """(y, switches) of convolution, bias, ReLU and max pooling; what is pooled is never written.

    y is of the type of `x`, the switches are uint8. Both are (N, ., ., K), as kernels/cpu/max_pool2d.py defines them:
    the maxima are found in float32. Raises TypeError for arrays of other types and shapes, and ValueError where a
    window of the pooling has more than 128 pixels.
    """
    if math.prod(pool.window) > min(tile.rows for tile in TILES[POOLED_FPROP]):
        raise ValueError(f"a window of {pool.window} pixels does not fit into every tile")
    x, w, fields = _forward("conv2d_pool_forward", x, w, stride, padding, groups, rounding)
    bias = require("conv2d_pool_forward", "bias", bias, np.float32, (len(w),))
    pooled = pool.place((fields["P"], fields["Q"])).outputs
    xp, shape = array_module(x), (len(x), *pooled, len(w))
    y: Array = xp.empty(shape, x.dtype)
    switches: Array = xp.empty(shape, np.uint8)

    rectangles = {tile: _rectangle(tile.rows, pooled, pool) for tile in TILES[POOLED_FPROP]}
    row_tiles = {tile: len(x) * math.prod(_tiles(pooled, rectangle)) for tile, rectangle in rectangles.items()}
    matrices = Matrices(0, len(w) // groups, _stages(math.prod(w.shape[1:]), x.dtype), groups)
    tile = fastest_tile(xp, row_tiles, matrices)
    top, _, left, _ = pool.padding
    sizes = *pooled, *pool.window, pool.stride, top, left, *rectangles[tile]
    fields |= dict(zip(FIELDS[-9:], sizes, strict=True))
    _launch(POOLED_FPROP, tile, row_tiles[tile], matrices, fields, x, w, bias=bias, relu=True, y=y, switches=switches)
    return y, switches


def conv2d_backward_input(
    dy: Array,
    w: Array,
    x_shape: tuple[int, ...],
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
) -> Array:
    """dx (N, H, W, C), of the type of `dy` (N, P, Q, K), through the filters `w` (K, R, S, C / groups).

    Raises TypeError for arrays of other types and shapes.
    """
    name = "conv2d_backward_input"
    w = require(name, "w", w, ELEMENTS, (ANY, ANY, ANY, x_shape[3] // groups))
    fields = _fields(x_shape, w.shape, stride, padding, groups, rounding)
    dy = require(name, "dy", dy, w.dtype, [fields[size] for size in "NPQK"])
    dy, w = _in_chunks(dy, 3, groups), _in_chunks(_in_chunks(w, 0, groups), 3)
    K, R, S, C = w.shape
    matrices = Matrices(math.prod(x_shape[:3]), C, R * S * _stages(K // groups, w.dtype), groups)
    dx: Array = array_module(dy).empty((*x_shape[:3], C * groups), w.dtype)
    _multiply(DGRAD, matrices, fields | {"C": C * groups, "K": K}, dy, w, dx)
    return _without_zeros(dx, 3, x_shape[3], groups)


def conv2d_backward_filters(
    dy: Array,
    x: Array,
    w_shape: tuple[int, ...],
    stride: int = 1,
    padding: Padding = NO_PADDING,
    groups: int = 1,
    rounding: Rounding = "floor",
    *,
    out: Array | None = None,
) -> Array:
    """dw (K, R, S, C / groups), float32, of `dy` (N, P, Q, K) and `x` (N, H, W, C); in the memory of `out` if given.

    Raises TypeError for arrays of other types and shapes, and an `out` that is not contiguous.
    """
    name = "conv2d_backward_filters"
    x = require(name, "x", x, ELEMENTS, (ANY, ANY, ANY, w_shape[3] * groups))
    fields = _fields(x.shape, w_shape, stride, padding, groups, rounding)
    dy = require(name, "dy", dy, x.dtype, [fields[size] for size in "NPQK"])
    if out is not None:
        require_in_place(name, "out", out, np.float32, w_shape)
    dy, x = _in_chunks(dy, 3, groups), _in_chunks(x, 3, groups)
    shape = (K, R, S, C) = dy.shape[3], *w_shape[1:3], x.shape[3] // groups
    matrices = Matrices(K // groups, R * S * C, _stages(math.prod(dy.shape[:3]), x.dtype), groups)
    dw: Array = array_module(x).empty(shape, np.float32) if out is None or out.shape != shape else out
    _multiply(WGRAD, matrices, fields | {"C": x.shape[3], "K": K}, dy, x, dw)
    dw = _without_zeros(_without_zeros(dw, 0, w_shape[0], groups), 3, w_shape[3])
    if out is None or out is dw:
        return dw
    out[...] = dw
    return out


# ---- linear layers: the convolution of one pixel with one pixel ------------------------------------------------------


def linear_forward(
    x: Array, w: Array, *, bias: Array | None = None, relu: bool = False, dtype: npt.DTypeLike | None = None
) -> Array:
    """y (N, out) of `x` (N, in) and `w` (out, in), with all else as in `conv2d_forward`."""
    w = require("linear_forward", "w", w, ELEMENTS, (ANY, ANY))
    x = require("linear_forward", "x", x, w.dtype, (ANY, w.shape[1]))
    return conv2d_forward(_pixels(x), _pixels(w), bias=bias, relu=relu, dtype=dtype).reshape(len(x), len(w))


def linear_backward_input(dy: Array, w: Array) -> Array:
    """dx (N, in), of the type of `dy` (N, out), through `w` (out, in)."""
    w = require("linear_backward_input", "w", w, ELEMENTS, (ANY, ANY))
    dy = require("linear_backward_input", "dy", dy, w.dtype, (ANY, len(w)))
    shape = len(dy), w.shape[1]
    return conv2d_backward_input(_pixels(dy), _pixels(w), (shape[0], 1, 1, shape[1])).reshape(shape)


def linear_backward_weights(dy: Array, x: Array, *, out: Array | None = None) -> Array:
    """dw (out, in), float32, of `dy` (N, out) and `x` (N, in); in the memory of `out` if given."""
    x = require("linear_backward_weights", "x", x, ELEMENTS, (ANY, ANY))
    dy = require("linear_backward_weights", "dy", dy, x.dtype, (len(x), ANY))
    shape = dy.shape[1], x.shape[1]
    dw: Array = array_module(x).empty(shape, np.float32) if out is None else out
    require_in_place("linear_backward_weights", "out", dw, np.float32, shape)
    conv2d_backward_filters(_pixels(dy), _pixels(x), (shape[0], 1, 1, shape[1]), out=_pixels(dw))
    return dw


def _pixels(matrix: Array) -> Array:
    """(N, C) as (N, 1, 1, C)."""
    return matrix.reshape(len(matrix), 1, 1, matrix.shape[1])


# ---- launching -------------------------------------------------------------------------------------------------------


def _stages(length: int, element: np.dtype[Any]) -> int:
    """Of a reduction over so many elements: 128 bytes each."""
    return -(-length * element.itemsize // 128)


def _forward(
    name: str,
    x: Array,
    w: Array,
    stride: int,
    padding: Padding,
    groups: int,
    rounding: Rounding,
) -> tuple[Array, Array, dict[str, int]]:
    """x and w as the kernel takes them, and the first fields of PROBLEM."""
    w = require(name, "w", w, ELEMENTS, (ANY, ANY, ANY, ANY))
    x = require(name, "x", x, w.dtype, (ANY, ANY, ANY, w.shape[3] * groups))
    fields = _fields(x.shape, w.shape, stride, padding, groups, rounding)
    x, w = _in_chunks(x, 3, groups), _in_chunks(w, 3)
    return x, w, fields | {"C": x.shape[3]}


def _fields(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: int,
    padding: Padding,
    groups: int,
    rounding: Rounding,
) -> dict[str, int]:
    """The first fields of PROBLEM."""
    if w_shape[0] % groups:
        raise ValueError(f"{w_shape[0]} filters do not fall into {groups} groups")
    windows = place_windows((x_shape[1], x_shape[2]), (w_shape[1], w_shape[2]), stride, padding, rounding)
    top, _, left, _ = padding
    sizes = *x_shape, *w_shape[:3], *windows.outputs, stride, top, left, groups
    return dict(zip(FIELDS, sizes, strict=False))


def _multiply(
    problem: int,
    matrices: Matrices,
    fields: dict[str, int],
    a: Array,
    b: Array,
    y: Array,
    bias: Array | None = None,
    relu: bool = False,
) -> None:
    """Fills `y` with the result of the problem. The one place that picks who multiplies."""
    if not y.size:
        return
    xp = array_module(a)
    if problem in BY_WGMMA and conv2d_wgmma.runs_on(xp) and conv2d_wgmma.suits(problem, fields, a.dtype):
        parts, launch = conv2d_wgmma.planned(problem, fields, a, b)
    else:
        parts, launch = _planned(problem, matrices, fields, a, b)
    if parts == 1 and problem == WGRAD:
        launch(partial=y)
    elif parts == 1 and y.dtype == a.dtype:
        launch(y=y, bias=bias, relu=relu)
    else:
        sums = xp.empty((parts, *y.shape), np.float32)
        launch(partial=sums)
        sum_of_parts(sums, y, bias, relu)


def _planned(problem: int, matrices: Matrices, fields: dict[str, int], a: Array, b: Array) -> tuple[int, Launch]:
    """Into how many parts the sums are split, and what launches the kernel."""
    parts, tile, row_tiles = division(array_module(a), TILES[problem], matrices)
    return parts, partial(_launch, problem, tile, row_tiles, matrices, fields, a, b, parts=parts)


def _launch(
    problem: int,
    tile: Tile,
    row_tiles: int,
    matrices: Matrices,
    fields: dict[str, int],
    a: Array,
    b: Array,
    *,
    bias: Array | None = None,
    relu: bool = False,
    y: Array | None = None,
    switches: Array | None = None,
    partial: Array | None = None,
    parts: int = 1,
) -> None:
    """Runs a block for every tile of the result, of every group, and of every part of the sum."""
    if not row_tiles:
        return
    xp = array_module(a)
    struct = packed(fields, tile, matrices, parts, bias=bias, relu=relu, partial=partial)
    arrays = a, b, given(xp, bias), given(xp, y, a.dtype), given(xp, switches, np.uint8), given(xp, partial)
    run = kernel(xp, SOURCE, "convolve", tile.shared_bytes, **_constants(problem, tile, a.dtype))
    run(grid(row_tiles, tile, matrices, parts), (_threads(tile),), (*arrays, struct))


def _threads(tile: Tile) -> int:
    """Of a block: THREADS in implicit_gemm.cuh."""
    return 64 * tile.rows // (32 if tile.rows < 128 else 64)


# ---- rectangles of outputs, for pooling ------------------------------------------------------------------------------


@cache
def _rectangle(rows: int, pooled: tuple[int, int], pool: Pooling) -> tuple[int, int]:
    """Pooled outputs, (high, wide), that see at most `rows` pixels, such that an image takes the fewest rectangles."""
    fitting = []
    for high in range(1, pooled[0] + 1):
        widest = rows // ((high - 1) * pool.stride + pool.window[0])
        if widest >= pool.window[1]:
            fitting.append((high, min(pooled[1], (widest - pool.window[1]) // pool.stride + 1)))
    return min(fitting, key=lambda rectangle: math.prod(_tiles(pooled, rectangle)))


def _tiles(size: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    """How many tiles cover the size, along both axes."""
    return -(-size[0] // tile[0]), -(-size[1] // tile[1])


# ---- channels in whole chunks ----------------------------------------------------------------------------------------


def _in_chunks(x: Array, axis: int, groups: int = 1) -> Array:
    """`x` with as many zeros behind the channels of each group, on `axis`, as make them whole chunks of 16 bytes.

    It begins at a multiple of 16 bytes too; copied where any of this is not so.
    """
    size, chunk = x.shape[axis] // groups, 16 // x.dtype.itemsize
    missing = -size % chunk
    if not missing:
        data: Any = x.data
        return x if data.ptr % 16 == 0 else x.copy()
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    padded: Array = array_module(x).zeros((*before, groups, size + missing, *behind), x.dtype)
    padded[(*(slice(None),) * (axis + 1), slice(size))] = x.reshape(*before, groups, size, *behind)
    return padded.reshape(*before, groups * (size + missing), *behind)


def _without_zeros(x: Array, axis: int, count: int, groups: int = 1) -> Array:
    """The inverse: `count` channels in all are left."""
    if x.shape[axis] == count:
        return x
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    grouped = x.reshape(*before, groups, x.shape[axis] // groups, *behind)
    kept = grouped[(*(slice(None),) * (axis + 1), slice(count // groups))]
    contiguous: Array = array_module(x).ascontiguousarray(kept)
    return contiguous.reshape(*before, count, *behind)

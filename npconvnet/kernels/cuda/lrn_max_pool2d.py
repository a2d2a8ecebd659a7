"""Launches lrn_max_pool2d.cu: what stands between a convolution's ReLU and the next convolution, each way in one pass.

    forward:   y = max_pool2d(lrn(x))                             backward:   dz = relu'(lrn'(max_pool2d'(dy)))

of words of bfloat16 (uint16) or of float32; computed in float32 and rounded once. z is what went into the ReLU that
gave x, and the sum of dz over the pixels is the gradient of the bias before it. There is little to compute: what counts
is the bytes that are moved. Of a batch of 256, in bfloat16, x has 95.6 MB (54×54×64 behind conv1 of the paper's net,
and as many in 27×27×256 behind conv2), the pooled y 23.9 or 22.2 MB, and the switches half of that.

    forward    reads x, writes y and switches            131 MB    (conv2: 129)
    backward   reads dy, switches and x, writes dz       227 MB    (conv2: 224)

One after the other, with a y and a scale s of the LRN of their own, the kernels would move 418 MB and 896 MB (conv2:
415 and 893). Neither y of the LRN nor its s is ever stored: the way back computes them from x, which the ReLU needs
anyway.

Un-pooling and the ReLU rule could as well be done where the convolution's dgrad and wgrad load dz, which then would not
be written. They are not: cp.async copies bytes, and cannot select among them; dgrad would select R·S times what is
selected once here, and wgrad once for each of its tiles; and dy has to be read for the bias's gradient anyway. A pass
of its own costs at most 59 of the step's floor of 2225 µs, for 256 images in bfloat16 (bench/floors.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require, require_in_place
from npconvnet.kernels.cuda.compile import kernel
from npconvnet.kernels.cuda.lrn import LRN
from npconvnet.kernels.cuda.max_pool2d import outputs_of, pooling_of
from npconvnet.kernels.cuda.relu import ReLURule, rule_number
from npconvnet.kernels.shapes import Pooling

SOURCE = "lrn_max_pool2d.cu"
#: Threads of a block, and rows of y that a thread of the forward computes.
THREADS, BAND = 256, 7
#: The most partial sums of the bias gradient. It is the same on every GPU, and with it the order of the additions.
PARTIAL_SUMS = 1024
NO_RELU = np.int32(-1)
#: Windows of one pixel: no pooling.
ONE_PIXEL = Pooling((1, 1), stride=1)


@dataclass(frozen=True, slots=True)
class LRNConstants:
    """What makes one local response normalisation differ from another; see kernels/cpu/lrn.py."""

    size: int
    alpha_per_element: float
    beta: float
    k: float


def lrn_max_pool2d_forward(x: Array, lrn: LRNConstants | None, pool: Pooling | None) -> tuple[Array, Array | None]:
    """(y, switches) of the ReLU's output `x` (N, H, W, C), uint16 or float32: normalised, and then pooled.

    y (N, P, Q, C) is of the type of `x`; the switches are uint8, as in kernels/cpu/max_pool2d.py. One of `lrn` and
    `pool` may be None and is left out then; there are no switches without a pool. Raises TypeError for other arrays,
    ValueError where no window fits into the image or one has more than 256 pixels.
    """
    if lrn is None and pool is None:
        raise ValueError("there is nothing to compute without lrn and pool")
    x = require("lrn_max_pool2d_forward", "x", x, (np.uint16, np.float32), (ANY,) * 4)
    xp, placed = array_module(x), pooling_of(x.shape, pool or ONE_PIXEL)
    y: Array = xp.empty(outputs_of(len(x), placed), x.dtype)
    switches: Array = xp.empty(y.shape if pool else 0, np.uint8)
    constants = _constants(lrn, pool, x, y, switches)
    if y.size:  # CUDA refuses a launch of no blocks
        images, p, q, channels = y.shape
        columns = q * channels // constants["RUN"]
        blocks = -(-columns // THREADS)  # of a band
        threads = 32 * -(-columns // (32 * blocks))
        arguments = x, y, switches, placed, _numbers(lrn)
        run = kernel(xp, SOURCE, "lrn_max_pool2d_forward", **constants)
        run((images * -(-p // BAND) * blocks,), (threads,), arguments)
    return y, switches if pool else None


def lrn_max_pool2d_backward(
    dy: Array,
    x: Array | None,
    switches: Array | None,
    lrn: LRNConstants | None,
    pool: Pooling | None,
    relu_rule: ReLURule | None = "gradient",
    *,
    bias_gradient: bool = True,
    out: Array | None = None,
) -> tuple[Array, Array | None]:
    """(dz, db) of `dy` (N, P, Q, C), with the `x` and the `switches` of the forward: the derivative before the ReLU.

    dz is of the shape of `x` and the type of `dy`. db (C,), in `out` if that is given, is its sum over all pixels,
    float32; None without `bias_gradient`. `lrn` and `pool` are those of the forward; where both are None, the arrays
    may be (N, C), too. With `relu_rule` None there is no ReLU; without `lrn` and `pool`, dz is `dy` itself then. `x` is
    needed for its values by `lrn` and the ReLU, and for its shape by `pool`; else it may be None. Under the rules that
    ask for the sign of the derivative, it is that of what arrives at the ReLU, through pool and LRN.

    Raises TypeError for other arrays, ValueError for an unknown rule.
    """
    name = "lrn_max_pool2d_backward"
    dy = require(name, "dy", dy, (np.uint16, np.float32), dy.shape)
    if x is None:
        if lrn or pool or relu_rule:
            raise TypeError(f"{name}: x is None, which it may be only without lrn, pool and ReLU")
        x = dy
    x = require(name, "x", x, dy.dtype, dy.shape if pool is None else (len(dy), ANY, ANY, dy.shape[-1]))
    return _backward(name, dy, x, switches, x.shape, lrn, pool, relu_rule, bias_gradient, out)


def relu_max_pool2d_backward(
    dy: Array,
    y: Array,
    switches: Array,
    x_shape: tuple[int, ...],
    pool: Pooling,
    relu_rule: ReLURule = "gradient",
    *,
    bias_gradient: bool = True,
    out: Array | None = None,
) -> tuple[Array, Array | None]:
    """(dz, db) as of `lrn_max_pool2d_backward`, where of the ReLU's output (N, H, W, C) only the pooled `y` was kept.

    The pixel that a switch points to has the value that the pool gave; all others get no derivative, so that their
    values do not matter. `dy`, `y` and `switches` are (N, P, Q, C).
    """
    name = "relu_max_pool2d_backward"
    dy = require(name, "dy", dy, (np.uint16, np.float32), (x_shape[0], ANY, ANY, x_shape[3]))
    y = require(name, "y", y, dy.dtype, dy.shape)
    return _backward(name, dy, y, switches, x_shape, None, pool, relu_rule, bias_gradient, out)


def _backward(
    name: str,
    dy: Array,
    x: Array,
    switches: Array | None,
    x_shape: tuple[int, ...],
    lrn: LRNConstants | None,
    pool: Pooling | None,
    relu_rule: ReLURule | None,
    bias_gradient: bool,
    out: Array | None,
) -> tuple[Array, Array | None]:
    """The kernel `name`, which leaves partial sums of the bias gradient, and the one that adds them up."""
    xp, channels = array_module(dy), x_shape[-1]
    if pool is None:  # every pixel is an image of its own
        images, placed = math.prod(x_shape[:-1]), pooling_of((1, 1, 1, channels), ONE_PIXEL)
        switches = xp.empty(0, np.uint8)
    else:
        images, placed = x_shape[0], pooling_of(x_shape, pool)
        dy = require(name, "dy", dy, dy.dtype, outputs_of(images, placed))
        switches = require(name, "switches", switches, np.uint8, dy.shape)
    if out is not None:
        require_in_place(name, "out", out, np.float32, (channels,))

    changes = bool(lrn or pool or relu_rule)
    dz: Array = xp.empty(x_shape, dy.dtype) if changes else dy
    constants = _constants(lrn, pool, dy, x, switches, dz)
    cells = images * _cells(placed, constants["STRIDE"])
    block, slabs = _block(channels // constants["RUN"], _halo(lrn, constants["RUN"]))
    blocks = min(PARTIAL_SUMS, -(-cells // block[1]))
    sums = xp.empty((blocks if bias_gradient else 0, channels), np.float32)
    if blocks and (changes or bias_gradient):  # CUDA refuses a launch of no blocks
        rule = rule_number(relu_rule) if relu_rule else NO_RELU
        numbers = placed, _numbers(lrn), np.int32(cells), rule, np.bool_(bias_gradient)
        kernel(xp, SOURCE, name, **constants)((blocks, slabs), block, (dy, x, switches, dz, sums, *numbers))
    return dz, _sum_of_rows(sums, out) if bias_gradient else None


def _sum_of_rows(x: Array, out: Array | None) -> Array:
    """The sums of the columns of `x` (rows, C), of which there may be none, in `out` if that is given."""
    xp, (rows, channels) = array_module(x), x.shape
    sums: Array = xp.empty(channels, np.float32) if out is None else out
    kernel(xp, SOURCE, "sum_of_rows")((-(-channels // 32),), (32, 32), (x, sums, np.int32(rows), np.int32(channels)))
    return sums


def _constants(lrn: LRNConstants | None, pool: Pooling | None, *arrays: Array) -> dict[str, int]:
    """The macros of lrn_max_pool2d.cu; all `arrays` have the same channels, or nothing in them."""
    # An array may begin anywhere in another one.
    eights = all(x.shape[-1] % 8 == 0 and _address(x) % min(16, 8 * x.itemsize) == 0 for x in arrays)
    return _macros(
        arrays[0].dtype == np.uint16, 8 if eights else 1, lrn.size if lrn else 0, lrn.beta if lrn else 0.0, pool
    )


def _macros(words: bool, run: int, lrn_size: int, beta: float, pool: Pooling | None) -> dict[str, int]:
    windows = pool or ONE_PIXEL
    rows, columns = windows.window
    if rows * columns > 256:
        raise ValueError(f"a window of {rows}×{columns} pixels has more of them than a switch of one byte can count")
    return {
        "BFLOAT16": int(words),
        "RUN": run,
        "LRN_SIZE": lrn_size,
        "BY_ROOTS": int(beta == 0.75),
        "POOLED": int(pool is not None),
        "WINDOW_ROWS": rows,
        "WINDOW_COLUMNS": columns,
        "STRIDE": windows.stride,
    }


def _address(x: Any) -> int:
    address: int = x.data.ptr
    return address


def _numbers(lrn: LRNConstants | None) -> npt.NDArray[np.void]:
    return np.array([(lrn.alpha_per_element, lrn.beta, lrn.k) if lrn else (0, 0, 0)], LRN)


def _cells(placed: npt.NDArray[np.void], stride: int) -> int:
    """How many cells of `stride` × `stride` pixels an image takes with the padding before it."""
    height, width = (int(placed[size][0] + placed[before][0]) for size, before in (("H", "top"), ("W", "left")))
    return -(-height // stride) * -(-width // stride)


def _halo(lrn: LRNConstants | None, run: int) -> int:
    """How many threads before and after its own a thread needs the runs of, each of `run` channels."""
    return -(-(lrn.size // 2) // run) if lrn else 0


def _block(runs: int, halo: int) -> tuple[tuple[int, int], int]:
    """Threads of a block along the runs of channels and along the cells, and how many blocks share out the runs."""
    if runs <= THREADS:
        return (runs, THREADS // runs), 1
    return (THREADS, 1), -(-runs // (THREADS - 2 * halo))


#: The macros for what the paper's network has, with LRN and without.
VARIANTS = [
    _macros(words, run, lrn_size, 0.75, pool)
    for words in (True, False)
    for run in (8, 1)
    for lrn_size in (5, 0)
    for pool in (Pooling((3, 3), stride=2), None)
]

"""Launches conv2d_wgmma.cu: convolutions of stride 1 and linear layers by TMA and wgmma, of sm_90a (H100).

Arrays are uint16, words of bfloat16; sums are float32. conv2d_tensor_core.py, which has the public functions, hands
over what is multiplied so, in whole chunks of channels.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda import tensor_map
from npconvnet.kernels.cuda.compile import kernel
from npconvnet.kernels.cuda.convolution_tile import (
    DGRAD,
    FPROP,
    WGRAD,
    Launch,
    Matrices,
    Tile,
    division,
    given,
    gpu_at_hand,
    grid,
    packed,
)
from npconvnet.kernels.cuda.tensor_map import TensorMap

SOURCE = "conv2d_wgmma.cu"
PROBLEMS = FPROP, DGRAD, WGRAD

#: What the source is compiled for: no other GPU has these instructions.
ARCHITECTURES = ("sm_90a",)
COMPUTE_CAPABILITY = "90"

#: Why these: see wgmma_product.cuh.
WIDE, TALL = Tile(128, 256, 4, 1.0), Tile(512, 64, 3, 0.8)
TILES = {FPROP: (WIDE, TALL), DGRAD: (WIDE, TALL), WGRAD: (WIDE,)}

#: Threads of a block, and rows of a panel: THREADS and others in wgmma_product.cuh.
THREADS, PANEL = 384, 64


def _constants(problem: int, tile: Tile) -> dict[str, int]:
    """What the source leaves open."""
    return {"PROBLEM": problem, "TILE_ROWS": tile.rows, "TILE_COLUMNS": tile.columns, "STAGES": tile.stages}


#: The constants of every variant that is ever launched.
VARIANTS = [_constants(problem, tile) for problem in PROBLEMS for tile in TILES[problem]]


def shared_bytes(tile: Tile) -> int:
    """Of a block: the operands, and behind them its barriers."""
    return tile.shared_bytes + 8 * (2 * tile.stages + 1)


def runs_on(xp: ModuleType) -> bool:
    """Whether the GPU at hand is one that it is for."""
    return gpu_at_hand(xp).compute_capability == COMPUTE_CAPABILITY


def suits(problem: int, fields: Mapping[str, int], element: np.dtype[Any]) -> bool:
    """Whether the kernel computes the problem of these fields on such elements."""
    plain = problem in PROBLEMS and element == np.uint16 and fields["stride"] == fields["groups"] == 1
    lower, upper = _corners(problem, fields)
    in_reach = min(*lower, *upper) >= -128 and max(*lower, *upper) <= 127  # of an im2col map, as the offsets of weights
    return plain and in_reach and max(fields["R"], fields["S"]) <= 128 and fields["N"] > 0


def planned(problem: int, fields: Mapping[str, int], a: Array, b: Array) -> tuple[int, Launch]:
    """Into how many parts the sums are split, and what launches the kernel.

    `a` and `b` are x and w, dy and w, or dy and x: FPROP, DGRAD or WGRAD, which `suits`.
    """
    xp, matrices = array_module(a), _matrices(problem, fields)
    parts, tile, row_tiles = division(xp, TILES[problem], matrices)
    maps = _maps(problem, fields, tile, a, b)

    def launch(
        *, y: Array | None = None, partial: Array | None = None, bias: Array | None = None, relu: bool = False
    ) -> None:
        struct = packed(fields, tile, matrices, parts, bias=bias, relu=relu, partial=partial)
        arguments = *maps, given(xp, bias), given(xp, y, np.uint16), given(xp, partial), struct
        constants = _constants(problem, tile)
        run = kernel(xp, SOURCE, "convolve", shared_bytes(tile), architecture=ARCHITECTURES[0], **constants)
        run(grid(row_tiles, tile, matrices, parts), (THREADS,), arguments)

    return parts, launch


def _matrices(problem: int, fields: Mapping[str, int]) -> Matrices:
    """In stages of 64 channels of one tap, or of 64 outputs; columns of WGRAD in panels of 64 channels of one tap."""
    N, H, W, C, K, R, S, P, Q = (fields[size] for size in "NHWCKRSPQ")
    if problem == WGRAD:
        return Matrices(K, R * S * PANEL * _panels(C), _panels(N * P * Q))
    if problem == DGRAD:
        return Matrices(N * H * W, C, R * S * _panels(K))
    return Matrices(N * P * Q, K, R * S * _panels(C))


def _panels(size: int) -> int:
    """How many panels hold so many channels or outputs."""
    return -(-size // PANEL)


def _maps(problem: int, fields: Mapping[str, int], tile: Tile, a: Array, b: Array) -> tuple[TensorMap, TensorMap]:
    """What the source says that it copies a and b by."""
    lower, upper = _corners(problem, fields)
    if problem == WGRAD:
        gradients = a.reshape(-1, fields["K"])
        return tensor_map.tiled(gradients, (PANEL, PANEL)), tensor_map.im2col(b, lower, upper, PANEL)
    filters = b.reshape(len(b), -1, b.shape[3])
    box = tile.columns if problem == FPROP else PANEL, 1, PANEL
    return tensor_map.im2col(a, lower, upper, tile.rows), tensor_map.tiled(filters, box)


def _corners(problem: int, fields: Mapping[str, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(lower, upper) of tensor_map.im2col, of the images that the windows slide over."""
    H, W, R, S, P, Q, top, left = (fields[name] for name in ("H", "W", "R", "S", "P", "Q", "top", "left"))
    if problem == DGRAD:
        lower = top - (R - 1), left - (S - 1)
        return lower, (lower[0] + H - P, lower[1] + W - Q)
    return (-top, -left), (P - H - top, Q - W - left)

"""Launches sgd.cu: what kernels/cpu/sgd.py computes, of one parameter, or of all parameters of a network at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import require, require_in_place
from npconvnet.kernels.cuda.compile import kernel
from npconvnet.kernels.cuda.elementwise import run_elementwise

#: Threads of a block.
THREADS = 256
#: As in sgd.cu: the most parameters of one launch, and how many numbers of one parameter a block of it updates.
MOST, PER_BLOCK = 64, 4096
#: The fields of `Tensor` in sgd.cu.
TENSOR = np.dtype(
    [
        ("w", "u8"),
        ("velocity", "u8"),
        ("dw", "u8"),
        ("words", "u8"),
        ("count", "i8"),
        ("first_block", "u4"),
        ("rate_factor", "f4"),
        ("weight_decay", "f4"),
    ],
    align=True,
)
TENSORS = np.dtype([("tensor", TENSOR, MOST)])
#: The arrays among them.
ARRAYS = {"w": np.float32, "velocity": np.float32, "dw": np.float32, "words": np.uint16}


@dataclass(frozen=True, slots=True, eq=False)
class ParameterUpdate:
    """A parameter `w` and what moves it: float32 arrays of one shape. `words`, uint16, become the new w in bfloat16.

    Its learning rate is `rate_factor` times that of the update.
    """

    w: Array
    velocity: Array
    dw: Array
    words: Array | None = None
    rate_factor: float = 1.0
    weight_decay: float = 0.0


def sgd_update(
    w: Array, velocity: Array, dw: Array, learning_rate: float, momentum: float, weight_decay: float
) -> None:
    """Moves `w` one step and `velocity` with it; `dw` is left as it is. float32, and all of one shape.

    Raises TypeError for other arrays, and where `w` or `velocity` is not contiguous.
    """
    require_in_place("sgd_update", "w", w, np.float32, w.shape)
    require_in_place("sgd_update", "velocity", velocity, np.float32, w.shape)
    dw = require("sgd_update", "dw", dw, np.float32, w.shape)
    numbers = np.float32(learning_rate), np.float32(momentum), np.float32(weight_decay)
    run_elementwise(array_module(w), "sgd.cu", "sgd_update", w.size, w, velocity, dw, *numbers)


def sgd_update_all(updates: Sequence[ParameterUpdate], learning_rate: Array, momentum: float) -> None:
    """Does `sgd_update` for every parameter, for up to MOST of them in one launch; and writes their words.

    `learning_rate`, float32 (1,) on the GPU, is read when the kernel runs, and so anew at each replay of a CUDA graph.
    A graph finds all other arrays by their addresses when it was captured, so whoever replays it has to keep them. For
    every weight 22 bytes are moved, or 20 where there are no words.
    Raises TypeError for other arrays, and where one is not contiguous.
    """
    xp = array_module(learning_rate)
    learning_rate = require("sgd_update_all", "learning_rate", learning_rate, np.float32, (1,))
    for start in range(0, len(updates), MOST):
        tensors, blocks = _tensors(updates[start : start + MOST])
        if blocks:  # CUDA refuses a launch of none
            arguments = tensors, learning_rate, np.float32(momentum)
            kernel(xp, "sgd.cu", "sgd_update_all")((blocks,), (THREADS,), arguments)


def _tensors(updates: Sequence[ParameterUpdate]) -> tuple[npt.NDArray[np.void], int]:
    """`Tensors` as sgd.cu has them, in an array of one, and how many blocks they take."""
    tensors, blocks = np.zeros(1, TENSORS), 0
    rows = tensors["tensor"][0]
    for row, update in zip(rows, updates, strict=False):
        for name, dtype in ARRAYS.items():
            x = getattr(update, name)
            if x is not None:
                require_in_place("sgd_update_all", name, x, dtype, update.w.shape)
                row[name] = x.data.ptr
        row["count"], row["first_block"] = update.w.size, blocks
        row["rate_factor"], row["weight_decay"] = update.rate_factor, update.weight_decay
        blocks += -(-update.w.size // PER_BLOCK)
    rows["first_block"][len(updates) :] = blocks
    return tensors, blocks

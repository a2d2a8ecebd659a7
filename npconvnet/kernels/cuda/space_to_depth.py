"""Launches space_to_depth.cu: the first convolution's input in cells of stride×stride pixels, as tensor cores want it.

Three channels are too few for a tensor core, and a stride keeps a filter from moving on to the neighbouring pixel. So
the images are cut into cells, and a cell becomes one pixel that has the channels of all of its own, as in
kernels/cpu/space_to_depth.py; here their number is filled up to a multiple of 8 with zeros, for runs of 16 bytes:

    conv(x, w, stride, padding, rounding) = conv(cells of x, cells of w)    without stride or padding

Cells are bfloat16, as uint16 words, or float32. All overwrite their result. `augment_cells` of augment.py makes the
cells of stored pictures in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require, require_in_place
from npconvnet.kernels.cuda.compile import kernel
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, Windows, place_windows

#: The fields of `Cells` in cells.cuh.
CELLS = np.dtype([(name, "i4") for name in "stride top left height width rows columns channels".split()])  # noqa: SIM905
#: Threads of a block: a multiple of the 32 of a warp, and of the 16 pixels of a cell of 4×4.
THREADS = 192


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of stride×stride pixels that a convolution covers of images of `size` (H, W) pixels and 3 channels.

    `window` (R, S), `stride`, `padding` and `rounding` are those of the convolution, as in kernels/shapes.py.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    stride: int = 1
    padding: Padding = NO_PADDING
    rounding: Rounding = "floor"

    @property
    def windows(self) -> Windows:
        """Where the convolution's windows lie. Raises ValueError where not even one fits."""
        return place_windows(self.size, self.window, self.stride, self.padding, self.rounding)

    def shape(self, count: int) -> tuple[int, int, int, int]:
        """(N, P + ⌈R / stride⌉ − 1, Q + ⌈S / stride⌉ − 1, stride²·3 rounded up to a multiple of 8)."""
        p, q = self.windows.outputs
        down, across = (-(-extent // self.stride) for extent in self.window)
        return count, p + down - 1, q + across - 1, -(-3 * self.stride**2 // 8) * 8

    @property
    def of_filters(self) -> Cells:
        """The cells of a filter, which is an image as large as one window."""
        return Cells(self.window, self.window, self.stride)

    @property
    def parameter(self) -> npt.NDArray[np.void]:
        """What the kernels are handed of it, (1,) of CELLS."""
        top, _, left, _ = self.padding
        return np.array([(self.stride, top, left, *self.size, *self.shape(1)[1:])], CELLS)

    @property
    def block(self) -> tuple[int, int]:
        """The threads that write a row of cells: along x for each pixel in a cell, and along y for each cell."""
        places = min(-(-self.shape(1)[3] // 3), THREADS)
        return places, THREADS // places

    def shared_bytes(self, dtype: npt.DTypeLike) -> int:
        """The shared memory in which they gather it."""
        _, _, across, channels = self.shape(1)
        return across * channels * np.dtype(dtype).itemsize


def image_cells(x: Array, cells: Cells, dtype: npt.DTypeLike) -> Array:
    """The cells (N, H′, W′, C′), `cells.shape(N)`, of the images `x`, float32 (N, H, W, 3).

    `dtype` is uint16, of bfloat16 words, or float32; TypeError for another, and for other images.
    """
    return _to_cells("image_cells", "x", x, cells, dtype)


def images_of_cells(dx_cells: Array, x_shape: tuple[int, ...], cells: Cells) -> Array:
    """The adjoint of `image_cells`, float32 (N, H, W, 3): zeros stand for the pixels that no filter covers.

    `dx_cells` is (N, H′, W′, C′), uint16 or float32. Raises TypeError for other cells or another shape.
    """
    return _from_cells("images_of_cells", "dx_cells", dx_cells, x_shape, cells)


def filter_cells(w: Array, cells: Cells, dtype: npt.DTypeLike) -> Array:
    """The cells (K, R′, S′, C′), `cells.of_filters.shape(K)`, of the filters `w`, float32 (K, R, S, 3).

    `dtype` is uint16, of bfloat16 words, or float32; TypeError for another, and for other filters.
    """
    return _to_cells("filter_cells", "w", w, cells.of_filters, dtype)


def filters_of_cells(dw_cells: Array, w_shape: tuple[int, ...], cells: Cells, out: Array | None = None) -> Array:
    """The adjoint of `filter_cells`, float32 (K, R, S, 3): the gradient of the filters, of that of their cells.

    `dw_cells` is float32 (K, R′, S′, C′); the result is written to `out`, if given. Raises TypeError for other arrays
    or another shape.
    """
    return _from_cells("filters_of_cells", "dw_cells", dw_cells, w_shape, cells.of_filters, out)


def element_name(dtype: npt.DTypeLike) -> str:
    """What the kernels that make cells of this type end with. Raises TypeError where there are none."""
    names = {np.dtype(np.uint16): "bfloat16", np.dtype(np.float32): "float32"}
    if np.dtype(dtype) not in names:
        raise TypeError(f"cells are uint16, words of bfloat16, or float32, not {np.dtype(dtype)}")
    return names[np.dtype(dtype)]


def _to_cells(name: str, argument: str, x: Array, cells: Cells, dtype: npt.DTypeLike) -> Array:
    element, xp = element_name(dtype), array_module(x)
    x = require(name, argument, x, np.float32, (ANY, *cells.size, 3))
    result: Array = xp.empty(cells.shape(len(x)), dtype)
    if result.size:  # CUDA refuses a launch of no blocks
        rows = result.shape[0] * result.shape[1]
        launch = kernel(xp, "space_to_depth.cu", f"to_cells_{element}", cells.shared_bytes(dtype))
        launch((rows,), cells.block, (x, result, cells.parameter))
    return result


def _from_cells(
    name: str, argument: str, x: Array, shape: tuple[int, ...], cells: Cells, out: Array | None = None
) -> Array:
    xp = array_module(x)
    if tuple(shape[1:]) != (*cells.size, 3):
        raise TypeError(f"{name}: the cells are those of {(len(x), *cells.size, 3)}, not of {tuple(shape)}")
    x = require(name, argument, x, (np.uint16, np.float32), cells.shape(shape[0]))
    result: Array = xp.empty(shape, np.float32) if out is None else out
    require_in_place(name, "out", result, np.float32, shape)
    if result.size:
        rows = result.shape[0] * result.shape[1]
        launch = kernel(xp, "space_to_depth.cu", f"from_cells_{element_name(x.dtype)}")
        launch((rows,), (THREADS,), (x, result, cells.parameter))
    return result

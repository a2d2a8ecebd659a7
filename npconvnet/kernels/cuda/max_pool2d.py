"""Launches max_pool2d.cu: what kernels/cpu/max_pool2d.py computes, in float32, one thread for each result."""

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.elementwise import run_elementwise
from npconvnet.kernels.shapes import NO_PADDING, Padding, Pooling, Rounding

SOURCE = "max_pool2d.cu"
#: The fields of `MaxPooling` in max_pool2d.cu.
POOLING = np.dtype([(name, "i4") for name in ("H", "W", "C", "P", "Q", "R", "S", "stride", "top", "left")])


def max_pool2d(
    x: Array, window: tuple[int, int], stride: int, padding: Padding = NO_PADDING, rounding: Rounding = "floor"
) -> Array:
    """y, float32 (N, P, Q, C), of `x`, float32 (N, H, W, C), for which no backward follows; NaN counts as the maximum.

    Raises ValueError where no window fits, or one could hold only padding.
    """
    x = require("max_pool2d", "x", x, np.float32, (ANY,) * 4)
    pool = pooling_of(x.shape, Pooling(window, stride, padding, rounding))
    y: Array = array_module(x).empty(outputs_of(len(x), pool), np.float32)
    _run("max_pool2d", (x, y), pool)
    return y


def max_pool2d_forward(
    x: Array, window: tuple[int, int], stride: int, padding: Padding = NO_PADDING, rounding: Rounding = "floor"
) -> tuple[Array, Array]:
    """(y, switches), both (N, P, Q, C), of `x`, float32 (N, H, W, C); NaN counts as the maximum.

    y is float32, and the switches are of the smallest unsigned type that can count the pixels of a window. Raises
    ValueError where no window fits, or one could hold only padding.
    """
    x = require("max_pool2d_forward", "x", x, np.float32, (ANY,) * 4)
    xp, pool = array_module(x), pooling_of(x.shape, Pooling(window, stride, padding, rounding))
    y: Array = xp.empty(outputs_of(len(x), pool), np.float32)
    switches: Array = xp.empty(y.shape, _switch_type(window))
    _run("max_pool2d_forward", (x, y, switches), pool, SWITCH_BYTES=switches.itemsize)
    return y, switches


def max_pool2d_backward(
    dy: Array,
    switches: Array,
    x_shape: tuple[int, ...],
    window: tuple[int, int],
    stride: int,
    padding: Padding = NO_PADDING,
    rounding: Rounding = "floor",
) -> Array:
    """dx, float32 (N, H, W, C), of `dy`, float32 (N, P, Q, C), and the `switches` of the forward."""
    pool = pooling_of(x_shape, Pooling(window, stride, padding, rounding))
    y_shape = outputs_of(x_shape[0], pool)
    dy = require("max_pool2d_backward", "dy", dy, np.float32, y_shape)
    switches = require("max_pool2d_backward", "switches", switches, _switch_type(window), y_shape)
    dx: Array = array_module(dy).empty(x_shape, np.float32)
    _run("max_pool2d_backward", (dy, switches, dx), pool, SWITCH_BYTES=switches.itemsize)
    return dx


def pooling_of(x_shape: tuple[int, ...], pooling: Pooling) -> npt.NDArray[np.void]:
    """What the kernels are told of where the windows lie over images of the shape (N, H, W, C)."""
    _, height, width, channels = x_shape
    outputs = pooling.place((height, width)).outputs
    top, _, left, _ = pooling.padding
    return np.array([(height, width, channels, *outputs, *pooling.window, pooling.stride, top, left)], POOLING)


def outputs_of(images: int, pool: npt.NDArray[np.void]) -> tuple[int, int, int, int]:
    """The shape of y for so many images."""
    return images, int(pool["P"][0]), int(pool["Q"][0]), int(pool["C"][0])


def _run(name: str, arrays: tuple[Array, ...], pool: npt.NDArray[np.void], **constants: int) -> None:
    """The kernel `name`, whose result is the last of the `arrays`."""
    result = arrays[-1]
    run_elementwise(array_module(result), SOURCE, name, result.size, *arrays, pool, **constants)


def _switch_type(window: tuple[int, int]) -> np.dtype[np.unsignedinteger]:
    return np.min_scalar_type(window[0] * window[1] - 1)

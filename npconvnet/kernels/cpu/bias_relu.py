"""A bias and the ReLU behind it in one go: what bias.py and relu.py give one after the other, bit for bit.

    y[..., k] = max(x[..., k] + b[k], 0)

The forward writes over `x`. The backward is that of the ReLU, since a bias passes dy on; what it returns is for the
layer that called, and gone with the next call in the same thread; its memory, as large as the largest layer of a piece
of a batch, stays with the thread.
"""

from typing import Any

from npconvnet.backend import Array, array_module, is_on_gpu
from npconvnet.kernels.cpu.relu import ReLURule, relu_backward
from npconvnet.kernels.cpu.scratch import Scratch
from npconvnet.kernels.cpu.windows import in_cache

#: NumPy takes about so many numbers at a time for 2 to 4 times as fast as those of one pixel, or one for them all. So
#: the biases, and the zeros that a ReLU compares with, are repeated.
LINE = 2**13

_scratch = Scratch()


def bias_relu_forward(x: Array, b: Array) -> Array:
    """max(`x` + `b`, 0) of `x` (..., K) and `b` (K,), in the memory of `x`."""
    xp, flat = array_module(x), x.reshape(-1)
    line = xp.tile(b, max(1, LINE // b.size))
    zeros = xp.zeros_like(line)
    whole = flat.size // line.size * line.size
    lines, rest = flat[:whole].reshape(-1, line.size), flat[whole:]
    for part in in_cache(lines):
        _add_and_cut(xp, lines[part], line, zeros)
    _add_and_cut(xp, rest, line[: rest.size], zeros[: rest.size])
    return x


def _add_and_cut(xp: Any, x: Array, b: Array, zeros: Array) -> None:
    x += b
    xp.maximum(x, zeros, out=x)


def bias_relu_backward(dy: Array, y: Array, rule: ReLURule = "gradient") -> Array:
    """dx of `dy` (..., K) under `rule`, where `y` is what the forward returned."""
    if is_on_gpu(dy):
        return relu_backward(dy, y, rule)
    dx = _scratch("dx", dy.shape, dy.dtype)
    pixels = [array.reshape(-1, dy.shape[-1]) for array in (dx, dy, y)]
    for part in in_cache(pixels[0]):
        of_dx, of_dy, of_y = (array[part] for array in pixels)
        of_dx[...] = relu_backward(of_dy, of_y, rule)
    return dx

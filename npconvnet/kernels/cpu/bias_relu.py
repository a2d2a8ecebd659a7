"""A bias and the ReLU behind it in one go: what bias.py and relu.py give one after the other, bit for bit.

    y[..., k] = max(x[..., k] + b[k], 0)

The forward writes over `x`. The backward is that of the ReLU, since a bias passes dy on.
"""

from typing import Any

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.windows import in_cache

#: NumPy takes about so many numbers at a time for 2 to 4 times as fast as those of one pixel, or one for them all. So
#: the biases, and the zeros that a ReLU compares with, are repeated.
LINE = 2**13


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

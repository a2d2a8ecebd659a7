"""A bias and the ReLU behind it in one pass: what kernels/cpu/bias_relu.py gives, bit for bit."""

from npconvnet.backend import Array
from npconvnet.kernels.compiled import compiled


def bias_relu_forward(x: Array, b: Array) -> Array:
    """max(`x` + `b`, 0) of `x` (..., K) and `b` (K,), in the memory of `x`."""
    _add_and_cut(x.reshape(-1, b.size), b)
    return x


@compiled
def _add_and_cut(x, b):
    zero = x.dtype.type(0)
    for n in range(x.shape[0]):
        pixel = x[n]
        for k in range(b.size):
            value = pixel[k] + b[k]
            pixel[k] = zero if value <= 0 else value  # NaN stays

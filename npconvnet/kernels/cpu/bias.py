"""Bias: one number added to every place of a channel.

    y[..., k] = x[..., k] + b[k]            dx = dy            db[k] = Σ dy[..., k]

The forward may write over `x`; the backward overwrites db.
"""

from npconvnet.backend import Array


def bias_forward(x: Array, b: Array) -> Array:
    """`x` (..., K) plus `b` (K,), in the memory of `x`."""
    x += b
    return x


def bias_backward(dy: Array) -> Array:
    """db (K,) of `dy` (..., K); dx is dy itself."""
    db: Array = dy.reshape(-1, dy.shape[-1]).sum(axis=0)
    return db

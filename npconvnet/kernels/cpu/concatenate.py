"""Concatenation of channels: several activations of one size stand behind each other.

y = [x₁, x₂, …]            [dx₁, dx₂, …] = dy
"""

from collections.abc import Sequence
from itertools import accumulate

from npconvnet.backend import Array, array_module


def concatenate_forward(xs: Sequence[Array]) -> Array:
    """y (..., C₁ + C₂ + …) of the `xs` (..., Cᵢ)."""
    y: Array = array_module(xs[0]).concatenate(xs, axis=-1)
    return y


def concatenate_backward(dy: Array, channels: Sequence[int]) -> tuple[Array, ...]:
    """The dxᵢ (..., Cᵢ) of `dy`: views of its parts."""
    ends = list(accumulate(channels))
    return tuple(dy[..., end - c : end] for c, end in zip(channels, ends, strict=True))

"""Sum of activations of one shape.

y = x₁ + x₂ + …            dx₁ = dx₂ = … = dy
"""

from collections.abc import Sequence

from npconvnet.backend import Array


def add_forward(xs: Sequence[Array]) -> Array:
    """The sum of the `xs`, in memory of its own."""
    y = xs[0].copy()
    for x in xs[1:]:
        y += x
    return y


def add_backward(dy: Array, count: int) -> tuple[Array, ...]:
    """`dy` for each of the `count` summands (the same array)."""
    return (dy,) * count

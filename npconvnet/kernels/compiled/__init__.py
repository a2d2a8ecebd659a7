"""The same operations on NumPy arrays as loops, which numba compiles where it is installed.

    pip install -e '.[compiled]'

NumPy goes through memory once for every step of an operation, and pooling has many small ones. A compiled loop takes
all of them while a pixel is in the registers. Only what was measured to pay is here: see bench/README.md. A function
has the stem and the name of the one in `kernels/cpu` that it stands in for, and gives what that gives.

The first call compiles, for a second or two; what came of it is kept on disk, in `__pycache__` or the user's cache.
"""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(loop: Callable[..., None]) -> Any:
    """A decorator: compiles `loop` when it first meets arrays of their types. Other threads go on while it runs."""
    try:
        return njit(nogil=True, cache=True)(loop)
    except RuntimeError:  # there is no folder to keep it in that could be written to
        return njit(nogil=True)(loop)

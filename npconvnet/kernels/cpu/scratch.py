"""Memory that a thread fills and forgets, block after block: the system charges for every fresh page."""

import math
import threading

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array


class _Scratch(threading.local):
    def __init__(self) -> None:
        self._memory: dict[str, Array] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """An array with anything in it; it is gone with the next call for this name in this thread."""
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._memory or self._memory[name].size < needed:
            self._memory[name] = np.empty(needed, np.uint8)
        return self._memory[name][:needed].view(dtype).reshape(shape)


scratch = _Scratch()

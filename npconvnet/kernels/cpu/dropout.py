"""Dropout (Hinton et al. 2012), in the form that leaves the network unscaled when it is tested.

    y = x / (1 − rate) where kept, 0 elsewhere            dx = dy / (1 − rate) where kept, 0 elsewhere

The forward and the backward are the same map, so there is one function; it overwrites its result.
"""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.cpu.select import keep_where


def draw_kept(rng: np.random.Generator, shape: tuple[int, ...], rate: float) -> Array:
    """A boolean array on the CPU, True with probability 1 − `rate`."""
    return rng.random(shape, dtype=np.float32) >= rate


def dropout(x: Array, kept: Array, rate: float) -> Array:
    """`x` where `kept`, scaled so that its expectation stays; for the forward (x) and for the backward (dy) alike."""
    return keep_where(kept, x * (1 / (1 - rate)))

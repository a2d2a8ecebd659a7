"""Dropout (Hinton et al. 2012), in the form that leaves the network unscaled when it is tested.

    y = x / (1 − rate) where kept, 0 elsewhere            dx = dy / (1 − rate) where kept, 0 elsewhere

The forward and the backward are the same map, so there is one function; it overwrites its result. What is kept of an
image depends on the image's own chances, and not on the batch that it is in.
"""

import math

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.select import keep_where
from npconvnet.randomness import Chances

#: So many blocks of four words are drawn at a time: what Philox has in hand then stays in the cache.
_AT_ONCE = 8192


def draw_kept(x: Array, chances: Chances, rate: float) -> Array:
    """A boolean array in the shape of `x` (N, ...): number i of an image is kept if word i of its chances lets it.

    It does unless the word is below `rate` · 2³², rounded. Raises ValueError unless there are chances of N images.
    """
    if len(chances.items) != len(x):
        raise ValueError(f"there are {len(x)} images, and chances of {len(chances.items)}")
    count = math.prod(x.shape[1:])
    dropped, blocks = round(rate * 2**32), -(-count // 4)  # of the 2³² words; for each image
    kept = np.empty((len(x) * blocks, 4), np.bool_)
    for start in range(0, len(kept), _AT_ONCE):
        part = kept[start : start + _AT_ONCE]
        rows, numbers = np.divmod(np.arange(start, start + len(part)), blocks)
        for word, column in zip(chances.words(rows, numbers), part.T, strict=True):
            np.greater_equal(word, dropped, out=column)
    on_device: Array = array_module(x).asarray(kept.reshape(len(x), 4 * blocks)[:, :count].reshape(x.shape))
    return on_device


def dropout(x: Array, kept: Array, rate: float) -> Array:
    """`x` where `kept`, scaled so that its expectation stays; for the forward (x) and for the backward (dy) alike."""
    return keep_where(kept, x * (1 / (1 - rate)))

"""Padding, and the pixels that all windows see at one offset: what convolution and pooling share.

Every sliding-window kernel here is a loop over the few offsets (r, s) inside the window; at each offset, one strided
slice of the padded image holds what all the windows see there. A backward adds into the same slices, always in scan
order, so that the same inputs give the same bits.
"""

from collections.abc import Iterator

import numpy as np

from npconvnet.backend import Array, array_module, is_on_gpu
from npconvnet.kernels.shapes import Padding

#: About what a core has for itself.
CACHE_BYTES = 2**20


def pad_images(x: Array, padding: Padding, value: float = 0.0) -> Array:
    """`x` (N, H, W, C) with `padding` pixels of `value` around each image; `x` itself where there is none to add."""
    top, bottom, left, right = padding
    if not any(padding):
        return x
    n, h, w, c = x.shape
    padded: Array = array_module(x).full((n, top + h + bottom, left + w + right, c), value, dtype=x.dtype)
    padded[:, top : top + h, left : left + w] = x
    return padded


def unpad_images(padded: Array, padding: Padding) -> Array:
    """The adjoint of `pad_images`: the images without their border (a view)."""
    top, bottom, left, right = padding
    _, h, w, _ = padded.shape
    return padded[:, top : h - bottom, left : w - right]


def offsets(
    window: tuple[int, int], outputs: tuple[int, int], stride: int
) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """Yields (r, s, index) in scan order: `padded[index]` (N, P, Q, C) is what the windows see at (r, s)."""
    p, q = outputs
    for r, s in np.ndindex(window):
        yield r, s, (slice(None), slice(r, r + stride * p, stride), slice(s, s + stride * q, stride))


def in_cache(x: Array) -> Iterator[slice]:
    """Rows of `x` (N, ...) a few at a time, so that a core's cache holds them; all at once on a GPU."""
    count = max(1, len(x) if is_on_gpu(x) else CACHE_BYTES // max(1, x[:1].nbytes))
    for start in range(0, len(x), count):
        yield slice(start, start + count)

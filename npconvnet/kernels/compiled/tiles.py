"""Tiles cut and put together pixel by pixel, with nothing padded: what kernels/cpu/tiles.py gives, bit for bit."""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.compiled import compiled

Pair = tuple[int, int]


def cut_tiles(x: Array, corner: Pair, step: Pair, tiles: Array) -> None:
    """Into `tiles` from the images `x` (N, H, W, C), which the tiles cover; zeros stand around an image."""
    _cut(np.ascontiguousarray(x), corner, step, tiles)


def place_tiles(tiles: Array, y: Array) -> None:
    """Into `y` (N, P, Q, K) from `tiles` that lie side by side, without what lies beyond."""
    _place(tiles, y)


def add_tiles(tiles: Array, corner: Pair, step: Pair, dx: Array) -> None:
    """Into `dx` (N, H, W, C), the adjoint of `cut_tiles`: what overlapping `tiles` say of a pixel is added up."""
    _add(tiles, corner, step, dx)


@compiled
def _cut(x, corner, step, tiles):
    n_h, n_w, images, down, across, channels = tiles.shape
    _, height, width, _ = x.shape
    zero = x.dtype.type(0)
    for i in range(n_h):
        for j in range(n_w):
            for n in range(images):
                for p in range(down):
                    row = p * step[0] + i - corner[0]
                    for q in range(across):
                        column = q * step[1] + j - corner[1]
                        pixel = tiles[i, j, n, p, q]
                        if 0 <= row < height and 0 <= column < width:
                            source = x[n, row, column]
                            for c in range(channels):
                                pixel[c] = source[c]
                        else:
                            for c in range(channels):
                                pixel[c] = zero


@compiled
def _place(tiles, y):
    n_h, n_w, _, _, _, channels = tiles.shape
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                source, pixel = tiles[i % n_h, j % n_w, n, i // n_h, j // n_w], y[n, i, j]
                for c in range(channels):
                    pixel[c] = source[c]


@compiled
def _add(tiles, corner, step, dx):
    n_h, n_w, _, down, across, channels = tiles.shape
    zero = dx.dtype.type(0)
    for n in range(dx.shape[0]):
        for i in range(dx.shape[1]):
            row = i + corner[0]
            # The last tile first: so the definition adds them.
            p_first, p_last = max(0, (row - n_h) // step[0] + 1), min(down - 1, row // step[0])
            for j in range(dx.shape[2]):
                column = j + corner[1]
                q_first, q_last = max(0, (column - n_w) // step[1] + 1), min(across - 1, column // step[1])
                pixel = dx[n, i, j]
                for c in range(channels):
                    pixel[c] = zero
                for p in range(p_last, p_first - 1, -1):
                    for q in range(q_last, q_first - 1, -1):
                        share = tiles[row - p * step[0], column - q * step[1], n, p, q]
                        for c in range(channels):
                            pixel[c] += share[c]

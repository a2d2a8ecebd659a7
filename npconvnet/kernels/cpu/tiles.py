"""Images cut into tiles, and put together again: what Winograd's algorithm moves between its products.

`tiles` (n_h, n_w, N, down, across, C) have their pixels first, so that one matrix product transforms all of them. Tile
(p, q) begins at pixel (p·step_h − corner_h, q·step_w − corner_w) of its image.
"""

import numpy as np

from npconvnet.backend import Array, sliding_windows
from npconvnet.kernels.cpu.scratch import scratch
from npconvnet.kernels.cpu.windows import pad_images
from npconvnet.kernels.twins import compiled_if_installed

Pair = tuple[int, int]


@compiled_if_installed
def cut_tiles(x: Array, corner: Pair, step: Pair, tiles: Array) -> None:
    """Into `tiles` from the images `x` (N, H, W, C), which the tiles cover; zeros stand around an image."""
    n_h, n_w, _, down, across, _ = tiles.shape
    ends = (down - 1) * step[0] + n_h - corner[0], (across - 1) * step[1] + n_w - corner[1]
    padded = pad_images(x, (corner[0], ends[0] - x.shape[1], corner[1], ends[1] - x.shape[2]))
    seen = sliding_windows(padded, (n_h, n_w), axes=(1, 2))[:, :: step[0], :: step[1]]
    tiles[...] = seen.transpose(4, 5, 0, 1, 2, 3)


@compiled_if_installed
def place_tiles(tiles: Array, y: Array) -> None:
    """Into `y` (N, P, Q, K) from `tiles` that lie side by side, without what lies beyond."""
    n_h, n_w = tiles.shape[:2]
    for i, j in np.ndindex(n_h, n_w):
        places = y[:, i::n_h, j::n_w]
        places[...] = tiles[i, j, :, : places.shape[1], : places.shape[2]]


@compiled_if_installed
def add_tiles(tiles: Array, corner: Pair, step: Pair, dx: Array) -> None:
    """Into `dx` (N, H, W, C), the adjoint of `cut_tiles`: what overlapping `tiles` say of a pixel is added up."""
    n_h, n_w, images, down, across, channels = tiles.shape
    # The padded images in cells of step×step pixels. A tile lies over its own cell and some below and behind it.
    over = -(-n_h // step[0]), -(-n_w // step[1])
    shape = images, down + over[0] - 1, step[0], across + over[1] - 1, step[1], channels
    padded = scratch("pixels", shape, dx.dtype)
    padded.fill(0)
    cells = padded.transpose(2, 4, 0, 1, 3, 5)
    for i, j in np.ndindex(over):
        part = tiles[i * step[0] : (i + 1) * step[0], j * step[1] : (j + 1) * step[1]]
        cells[: len(part), : part.shape[1], :, i : i + down, j : j + across] += part
    whole = padded.reshape(images, -1, shape[3] * step[1], channels)
    dx[...] = whole[:, corner[0] : corner[0] + dx.shape[1], corner[1] : corner[1] + dx.shape[2]]

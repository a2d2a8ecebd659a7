"""What the launchers of convolutions as matrix products share: the fields of convolution_tile.cuh, and who does what.

A block computes a tile of the result, or of one part of its sums.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array

#: Values of PROBLEM in convolution_tile.cuh.
FPROP, POOLED_FPROP, DGRAD, WGRAD = range(4)

#: The fields of `Problem` in convolution_tile.cuh.
FIELDS = """
    N H W C K R S P Q stride top left groups
    steps steps_of_part columns_of_tiles has_bias relu in_parts
    pooled_P pooled_Q window_P window_Q pool_stride pool_top pool_left tile_P tile_Q
""".split()  # noqa: SIM905
PROBLEM = np.dtype([(name, "i4") for name in FIELDS])


class Matrices(NamedTuple):
    """The sizes of a group's matrix product; the reduction is counted in stages."""

    rows: int
    columns: int
    steps: int
    groups: int = 1


@dataclass(frozen=True)
class Tile:
    """What a block computes: `rows` × `columns` sums; `stages` of 128 bytes a row and a column are on their way.

    `speed` is how fast a GPU full of such blocks is, beside one full of the largest: a small tile reads more for each
    product. An estimate, for choosing among them.
    """

    rows: int
    columns: int
    stages: int
    speed: float

    @property
    def shared_bytes(self) -> int:
        """What a block's operands take of the shared memory of its SM."""
        return self.stages * 128 * (self.rows + self.columns)


#: Fills `y=` behind `bias=` and `relu=`, or `partial=` (parts, …), which is without them, with parts of its sums.
Launch = Callable[..., None]


def packed(
    fields: Mapping[str, int],
    tile: Tile,
    matrices: Matrices,
    parts: int,
    *,
    bias: Array | None,
    relu: bool,
    partial: Array | None,
) -> npt.NDArray[np.void]:
    """The kernel's parameter: `fields`, the first of PROBLEM and those of a pooling, and what follows from the rest."""
    split = {"steps": matrices.steps, "steps_of_part": -(-matrices.steps // parts)}
    follows = {"has_bias": bias is not None, "relu": relu, "in_parts": partial is not None}
    problem = np.zeros(1, PROBLEM)
    for name, value in {**fields, **split, **follows, "columns_of_tiles": -(-matrices.columns // tile.columns)}.items():
        problem[name] = value
    return problem


def grid(row_tiles: int, tile: Tile, matrices: Matrices, parts: int) -> tuple[int, int, int]:
    """A block for every tile of the result, of every group, and of every part of the sum."""
    return row_tiles * -(-matrices.columns // tile.columns), matrices.groups, parts


def given(xp: Any, x: Array | None, dtype: npt.DTypeLike = np.float32) -> Array:
    """`x`, or an array of nothing for the kernel's parameter."""
    return xp.empty(0, dtype) if x is None else x


# ---- which tile, and how many parts ----------------------------------------------------------------------------------

#: SMs of an H100.
PROCESSORS = 132
#: What a block spends besides its stages, in stages: the first come late, and the sums are to be stored.
OVERHEAD = 4
#: Numbers of partial sums that are written and read in the time of one stage of a 128×128 tile.
PARTIAL_SUMS = 170_000
#: Parts of a sum, at most; and the stages that a part has at least.
MOST_PARTS, LEAST_STEPS = 64, 4


def _time(tile: Tile, row_tiles: int, matrices: Matrices, parts: int, processors: int) -> float:
    """Until the SM that has the most blocks is done with them; 1 is a stage of a 128×128 tile at full speed."""
    blocks = row_tiles * -(-matrices.columns // tile.columns) * matrices.groups * parts
    size = tile.rows * tile.columns / 128**2 / tile.speed
    return -(-blocks // processors) * size * (-(-matrices.steps // parts) + OVERHEAD)


def division(xp: Any, tiles: Sequence[Tile], matrices: Matrices) -> tuple[int, Tile, int]:
    """Into how many parts the sums are split; of which tile the blocks are, and how many lie below one another."""
    parts, row_tiles = parts_of_sums(tiles, matrices), _rows_of_tiles(tiles, matrices)
    tile = fastest_tile(xp, row_tiles, matrices, parts)
    return parts, tile, row_tiles[tile]


def _rows_of_tiles(tiles: Sequence[Tile], matrices: Matrices) -> dict[Tile, int]:
    """How many of each tile lie below one another."""
    return {tile: -(-matrices.rows // tile.rows) for tile in tiles}


@cache
def parts_of_sums(tiles: Sequence[Tile], matrices: Matrices) -> int:
    """Into how many parts the sums are split, so that all SMs of an H100 have work.

    It depends on the sizes alone, so that every GPU adds up in the same order.
    """
    rows, columns, steps, groups = matrices
    row_tiles = _rows_of_tiles(tiles, matrices)

    def time(parts: int) -> float:
        written = parts * rows * columns * groups if parts > 1 else 0
        product = min(_time(tile, row_tiles[tile], matrices, parts, PROCESSORS) for tile in tiles)
        return product + written / PARTIAL_SUMS

    best = min(range(1, max(1, min(MOST_PARTS, steps // LEAST_STEPS)) + 1), key=time)
    return -(-steps // -(-steps // best)) if steps else 1  # so that none is empty


def fastest_tile(xp: Any, row_tiles: Mapping[Tile, int], matrices: Matrices, parts: int = 1) -> Tile:
    """That of the keys, each with how many of it lie below one another, that should be done first on the GPU at hand.

    No bit of the result depends on it.
    """
    gpu = gpu_at_hand(xp)
    fitting = [tile for tile in row_tiles if tile.shared_bytes <= gpu.shared_bytes]
    return min(fitting, key=lambda tile: _time(tile, row_tiles[tile], matrices, parts, gpu.processors))


class GPU(NamedTuple):
    """Its SMs, and the bytes of shared memory that a block may have."""

    processors: int
    shared_bytes: int
    compute_capability: str


def gpu_at_hand(xp: Any) -> GPU:
    """The current one of `xp`."""
    return _gpu(xp, xp.cuda.Device().id)


@cache
def _gpu(xp: Any, number: int) -> GPU:
    device = xp.cuda.Device(number)
    attributes = device.attributes
    return GPU(attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"], device.compute_capability)

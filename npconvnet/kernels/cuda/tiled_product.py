"""Launches kernels that are one tiled_product.cuh."""

from types import ModuleType

from npconvnet.kernels.cuda.compile import kernel

#: Rows and columns of the result that a block computes, and its threads along both.
TILE, THREADS = 64, 16


def run_product(
    xp: ModuleType, source: str, name: str, shape: tuple[int, int], arguments: tuple[object, ...], groups: int = 1
) -> None:
    """Runs the kernel `name`, whose result has this `shape`, once for each of `groups` (blockIdx.z)."""
    rows, columns = (-(-size // TILE) for size in shape)
    if rows and columns:  # CUDA refuses a launch of no blocks
        kernel(xp, source, name)((rows, columns, groups), (THREADS, THREADS), arguments)

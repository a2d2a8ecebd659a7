"""Launches kernels that have one thread for each element of their result (elementwise.cuh)."""

from types import ModuleType

import numpy as np

from npconvnet.kernels.cuda.compile import kernel

#: Of a block: any multiple of the 32 threads of a warp would do.
THREADS = 256


def run_elementwise(xp: ModuleType, source: str, name: str, count: int, *arguments: object, **constants: int) -> None:
    """Runs the kernel `name`, whose last parameter is the `count` of elements, after its other `arguments`.

    `constants` are the macros that its source leaves open.
    """
    if count:  # CUDA refuses a launch of no blocks
        kernel(xp, source, name, **constants)((-(-count // THREADS),), (THREADS,), (*arguments, np.int64(count)))

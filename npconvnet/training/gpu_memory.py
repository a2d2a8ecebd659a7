"""What a training step takes of a GPU's memory: for the one line that says which batch would fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from npconvnet.backend import Precision, module_of
from npconvnet.errors import InputError
from npconvnet.network import Network

#: What the driver, the compiled kernels and the partial sums of the filters' gradients take, in bytes.
OVERHEAD = 2**30
#: Of the training of one parameter: itself, its velocity and its gradient.
PER_PARAMETER = 3


@contextmanager
def naming_what_fits(network: Network, precision: Precision, batch_size: int) -> Iterator[None]:
    """Where the memory of the network's GPU is too small for its training steps, raises InputError with what fits."""
    if network.device == "cpu":
        yield
        return
    cupy = module_of("gpu")
    # What nobody else has, the network's parameters included.
    memory = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().total_bytes()
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError:
        fits = images_that_fit(network, precision, memory)
        way_out = f"try --batch-size {min(fits, batch_size - 1)}" if fits and batch_size > 1 else "use a larger GPU"
        free = f"{memory / 2**30:.1f} GiB free"
        line = f"the GPU's memory ({free}) is too small for {batch_size} images at a time; {way_out}"
        raise InputError(line) from None


def images_that_fit(network: Network, precision: Precision, memory: int) -> int:
    """About how many images a training step of `network`, not fused, can hold in so many bytes of memory."""
    fixed = OVERHEAD + PER_PARAMETER * sum(parameter.nbytes for parameter in network.parameters.values())
    return max(0, int((memory - fixed) / bytes_per_image(network, precision)))


def bytes_per_image(network: Network, precision: Precision) -> int:
    """Every activation, which the backward sees again, the two derivatives it has in hand, and the picture itself."""
    sizes = [math.prod(shape) for shape in network.shapes.values()]
    resize = network.preprocessing.resize
    return (2 if precision == "bfloat16" else 4) * (sum(sizes) + 2 * max(sizes)) + 2 * 3 * resize * resize

"""What the kernel benchmarks share: the sizes of the paper's layers, random arrays, and the rates they come to.

    pytest bench/bench_*.py --benchmark-only [-k conv2d] [--benchmark-json=kernels.json]

One file times one operation, forward and backward, on float32 batches of 16. The JSON file holds for each, under
`extra_info`, what its median time amounts to: GFLOP/s for the matrix products (a multiplication and an addition are
two), and for all else GB/s, had every argument been read once and every result been written once. Sizes are those of
VGG CNN-F; what the paper's network lacks stands at a size it does have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from npconvnet.backend import Array

N = 16
RNG = np.random.default_rng(0)

#: (H, W, C) of the input, (K, R, S, C) of the filters, stride, padding
CONVOLUTIONS = {
    "conv1": ((224, 224, 3), (64, 11, 11, 3), 4, 0),
    "conv2": ((27, 27, 64), (256, 5, 5, 64), 1, 2),
    "conv3-5": ((13, 13, 256), (256, 3, 3, 256), 1, 1),
}
#: (out, in)
LINEARS = {"fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096)}
#: y of a convolution or linear layer with its bias and its ReLU
ACTIVATIONS = {
    "conv1": (54, 54, 64),
    "conv2": (27, 27, 256),
    "conv3-5": (13, 13, 256),
    "fc6-7": (4096,),
}
NORMALIZED = ["conv1", "conv2"]
POOLED = ["conv1", "conv2", "conv3-5"]
POOL: dict[str, Any] = {"window": (3, 3), "stride": 2, "rounding": "ceil"}
LRN: dict[str, Any] = {"size": 5, "alpha_per_element": 1e-4, "beta": 0.75}


def numbers(*shape: int) -> Array:
    """Normally distributed float32 numbers."""
    return RNG.standard_normal(shape, np.float32)


def measure(benchmark: BenchmarkFixture, kernel: Any, *args: Any, flop: float | None = None, **kwargs: Any) -> None:
    """Times `kernel` on these arguments, and notes its GFLOP/s where `flop` is given and its GB/s otherwise."""
    result = benchmark(kernel, *args, **kwargs)
    if benchmark.stats is None:  # --benchmark-disable: run once, to see that it runs
        return
    seconds = benchmark.stats.stats.median
    if flop is not None:
        benchmark.extra_info["GFLOP/s"] = round(flop / seconds / 1e9, 1)
    else:
        written = args[:2] if result is None else result  # only sgd_update returns nothing: it updates in place
        benchmark.extra_info["GB/s"] = round((byte_count(args) + byte_count(written)) / seconds / 1e9, 2)


def byte_count(value: Any) -> int:
    """The size of the arrays in `value`, which may be an array, or a list or tuple of such values."""
    if isinstance(value, (list, tuple)):
        return sum(byte_count(part) for part in value)
    return value.nbytes if isinstance(value, np.ndarray) else 0

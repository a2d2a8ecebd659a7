"""Times rounding to bfloat16 and back, and sums, of a layer's gradients, as ranks send them. See bench/layer_shapes.py.

The floor is 6 bytes a number, through memory; of sums of 8 parts, 2 bytes a word and 2 a sum.
"""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import CONVOLUTIONS, LINEARS, byte_count, measure, numbers
from npconvnet import kernels
from npconvnet.backend import Array, module_of, to_device, to_host, why_no_gpu
from npconvnet.kernels.cpu import bfloat16, bfloat16_in_parts

#: Ranks whose parts are added up.
RANKS = 8
LAYERS = {"conv2": CONVOLUTIONS["conv2"][1], "fc6": LINEARS["fc6"]}
#: Calls that a GPU is given at once: while it runs one, Python prepares the next.
CALLS = 20

over_layers = pytest.mark.parametrize("layer", LAYERS)
over_versions = pytest.mark.parametrize("version", [bfloat16, bfloat16_in_parts], ids=["definition", "in parts"])


def arguments(name: str, layer: str) -> Array:
    """What the kernel `name` takes; to be added up, the words in as many parts as there are ranks."""
    x = numbers(*LAYERS[layer])
    if name == "to_bfloat16":
        return x
    words = kernels.to_bfloat16(x)
    return words.reshape(RANKS, -1) if name == "sum_of_words" else words


@over_layers
@over_versions
def test_to_bfloat16(benchmark: BenchmarkFixture, version: Any, layer: str) -> None:
    """By the definition, and a cacheful at a time."""
    measure(benchmark, version.to_bfloat16, arguments("to_bfloat16", layer))


@over_layers
def test_from_bfloat16(benchmark: BenchmarkFixture, layer: str) -> None:
    """By the definition."""
    measure(benchmark, bfloat16.from_bfloat16, arguments("from_bfloat16", layer))


@over_layers
@over_versions
def test_sum_of_words(benchmark: BenchmarkFixture, version: Any, layer: str) -> None:
    """By the definition, and a cacheful at a time."""
    measure(benchmark, version.sum_of_words, arguments("sum_of_words", layer))


@pytest.mark.gpu
@over_layers
@pytest.mark.parametrize("version", [bfloat16, kernels], ids=["definition", "kernel"])
@pytest.mark.parametrize("name", ["to_bfloat16", "from_bfloat16", "sum_of_words"])
def test_on_a_gpu(benchmark: BenchmarkFixture, name: str, version: Any, layer: str) -> None:
    """By the definition, operation by operation, and in one kernel."""
    if reason := why_no_gpu():
        pytest.skip(reason)
    given, compute = to_device(arguments(name, layer), "gpu"), getattr(version, name)

    def run() -> Any:
        for _ in range(CALLS):
            result = compute(given)
        module_of("gpu").cuda.get_current_stream().synchronize()
        return result

    result = benchmark(run)
    if benchmark.stats is not None:  # as in `measure`
        moved = CALLS * byte_count([to_host(given), to_host(result)])
        benchmark.extra_info["GB/s"] = round(moved / benchmark.stats.stats.median / 1e9, 2)

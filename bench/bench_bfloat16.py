"""Times rounding to bfloat16 and back, of one layer's gradients, as GPUs send them. See bench/layer_shapes.py.

The floor is 6 bytes a number, through memory.
"""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import CONVOLUTIONS, LINEARS, byte_count, measure, numbers
from npconvnet import kernels
from npconvnet.backend import module_of, to_device, to_host, why_no_gpu
from npconvnet.kernels.cpu import bfloat16, bfloat16_in_parts

LAYERS = {"conv2": CONVOLUTIONS["conv2"][1], "fc6": LINEARS["fc6"]}
#: Calls that a GPU is given at once: while it runs one, Python prepares the next.
CALLS = 20

over_layers = pytest.mark.parametrize("layer", LAYERS)


@over_layers
@pytest.mark.parametrize("version", [bfloat16, bfloat16_in_parts], ids=["definition", "in parts"])
def test_to_bfloat16(benchmark: BenchmarkFixture, version: Any, layer: str) -> None:
    """By the definition, and a cacheful at a time."""
    measure(benchmark, version.to_bfloat16, numbers(*LAYERS[layer]))


@over_layers
def test_from_bfloat16(benchmark: BenchmarkFixture, layer: str) -> None:
    """By the definition."""
    measure(benchmark, bfloat16.from_bfloat16, kernels.to_bfloat16(numbers(*LAYERS[layer])))


@pytest.mark.gpu
@over_layers
@pytest.mark.parametrize("version", [bfloat16, kernels], ids=["definition", "kernel"])
@pytest.mark.parametrize("name", ["to_bfloat16", "from_bfloat16"])
def test_on_a_gpu(benchmark: BenchmarkFixture, name: str, version: Any, layer: str) -> None:
    """By the definition, operation by operation, and in one kernel."""
    if reason := why_no_gpu():
        pytest.skip(reason)
    x = numbers(*LAYERS[layer])
    given = to_device(x if name == "to_bfloat16" else kernels.to_bfloat16(x), "gpu")
    convert = getattr(version, name)

    def run() -> Any:
        for _ in range(CALLS):
            result = convert(given)
        module_of("gpu").cuda.get_current_stream().synchronize()
        return result

    result = benchmark(run)
    if benchmark.stats is not None:  # as in `measure`
        moved = CALLS * byte_count([to_host(given), to_host(result)])
        benchmark.extra_info["GB/s"] = round(moved / benchmark.stats.stats.median / 1e9, 2)

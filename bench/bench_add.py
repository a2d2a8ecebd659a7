"""Times addition. See bench/layer_shapes.py."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import N, measure, numbers
from npconvnet import kernels


def test_add_forward(benchmark: BenchmarkFixture) -> None:
    """Two activations as conv2 gives them."""
    measure(benchmark, kernels.add_forward, [numbers(N, 27, 27, 256), numbers(N, 27, 27, 256)])

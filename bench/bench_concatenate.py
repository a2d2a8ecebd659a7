"""Times concatenation. See bench/layer_shapes.py."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import N, measure, numbers
from npconvnet import kernels


def test_concatenate_forward(benchmark: BenchmarkFixture) -> None:
    """Two halves of conv2's channels."""
    measure(benchmark, kernels.concatenate_forward, [numbers(N, 27, 27, 128), numbers(N, 27, 27, 128)])

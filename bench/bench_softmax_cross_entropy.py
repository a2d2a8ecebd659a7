"""Times softmax cross-entropy. See bench/layer_shapes.py."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import RNG, N, measure, numbers
from npconvnet import kernels


def test_softmax_cross_entropy(benchmark: BenchmarkFixture) -> None:
    """1000 classes."""
    measure(benchmark, kernels.softmax_cross_entropy, numbers(N, 1000), RNG.integers(0, 1000, N), of=N)

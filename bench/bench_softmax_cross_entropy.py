"""Times softmax cross-entropy. See bench/layer_shapes.py."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import RNG, N, measure, numbers
from npconvnet import kernels


def test_softmax_cross_entropy_forward(benchmark: BenchmarkFixture) -> None:
    """1000 classes."""
    measure(benchmark, kernels.softmax_cross_entropy_forward, numbers(N, 1000), RNG.integers(0, 1000, N))


def test_softmax_cross_entropy_backward(benchmark: BenchmarkFixture) -> None:
    """1000 classes."""
    probabilities = kernels.softmax(numbers(N, 1000))
    measure(benchmark, kernels.softmax_cross_entropy_backward, probabilities, RNG.integers(0, 1000, N))

"""Times average pooling, over windows and over the whole image. See bench/layer_shapes.py."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import ACTIVATIONS, POOL, POOLED, N, measure, numbers
from npconvnet import kernels


@pytest.mark.parametrize("layer", POOLED)
def test_average_pool2d_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """In the place of max pooling."""
    measure(benchmark, kernels.average_pool2d_forward, numbers(N, *ACTIVATIONS[layer]), **POOL)


@pytest.mark.parametrize("layer", POOLED)
def test_average_pool2d_backward(benchmark: BenchmarkFixture, layer: str) -> None:
    """In the place of max pooling."""
    x = numbers(N, *ACTIVATIONS[layer])
    y = kernels.average_pool2d_forward(x, **POOL)
    measure(benchmark, kernels.average_pool2d_backward, numbers(*y.shape), x.shape, **POOL)


def test_global_average_pool2d_forward(benchmark: BenchmarkFixture) -> None:
    """After conv5."""
    measure(benchmark, kernels.global_average_pool2d_forward, numbers(N, 13, 13, 256))


def test_global_average_pool2d_backward(benchmark: BenchmarkFixture) -> None:
    """After conv5."""
    measure(benchmark, kernels.global_average_pool2d_backward, numbers(N, 256), (N, 13, 13, 256))

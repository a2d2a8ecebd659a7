"""Times max pooling. See bench/layer_shapes.py."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import ACTIVATIONS, POOL, POOLED, N, measure, numbers
from npconvnet import kernels


@pytest.mark.parametrize("layer", POOLED)
def test_max_pool2d_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """3×3 by 2, rounded up."""
    measure(benchmark, kernels.max_pool2d_forward, numbers(N, *ACTIVATIONS[layer]), **POOL)


@pytest.mark.parametrize("layer", POOLED)
def test_max_pool2d_backward(benchmark: BenchmarkFixture, layer: str) -> None:
    """Through the switches."""
    x = numbers(N, *ACTIVATIONS[layer])
    y, switches = kernels.max_pool2d_forward(x, **POOL)
    measure(benchmark, kernels.max_pool2d_backward, numbers(*y.shape), switches, x.shape, **POOL)

"""Times the fully connected layer. See bench/layer_shapes.py."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import LINEARS, N, measure, numbers
from npconvnet import kernels


@pytest.mark.parametrize("layer", LINEARS)
def test_linear_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """y = x·wᵀ."""
    outputs, inputs = LINEARS[layer]
    x, w = numbers(N, inputs), numbers(outputs, inputs)
    measure(benchmark, kernels.linear_forward, x, w, flop=2 * N * w.size)


@pytest.mark.parametrize("layer", LINEARS)
def test_linear_backward_input(benchmark: BenchmarkFixture, layer: str) -> None:
    """dx = dy·w."""
    outputs, inputs = LINEARS[layer]
    dy, w = numbers(N, outputs), numbers(outputs, inputs)
    measure(benchmark, kernels.linear_backward_input, dy, w, flop=2 * N * w.size)


@pytest.mark.parametrize("layer", LINEARS)
def test_linear_backward_weights(benchmark: BenchmarkFixture, layer: str) -> None:
    """dw = dyᵀ·x."""
    outputs, inputs = LINEARS[layer]
    dy, x = numbers(N, outputs), numbers(N, inputs)
    measure(benchmark, kernels.linear_backward_weights, dy, x, flop=2 * N * outputs * inputs)

"""Times ReLU, its backward under each rule. See bench/layer_shapes.py."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import ACTIVATIONS, N, measure, numbers
from npconvnet import kernels


@pytest.mark.parametrize("layer", ACTIVATIONS)
def test_relu_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """max(x, 0)."""
    measure(benchmark, kernels.relu_forward, numbers(N, *ACTIVATIONS[layer]))


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
@pytest.mark.parametrize("layer", ACTIVATIONS)
def test_relu_backward(benchmark: BenchmarkFixture, layer: str, rule: str) -> None:
    """Under each of the three rules."""
    shape = ACTIVATIONS[layer]
    measure(benchmark, kernels.relu_backward, numbers(N, *shape), numbers(N, *shape), rule=rule)

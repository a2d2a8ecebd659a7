"""Times the bias. See bench/layer_shapes.py."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import ACTIVATIONS, N, measure, numbers
from npconvnet import kernels


@pytest.mark.parametrize("layer", ACTIVATIONS)
def test_bias_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """In place, round after round on the same x."""
    shape = ACTIVATIONS[layer]
    measure(benchmark, kernels.bias_forward, numbers(N, *shape), numbers(shape[-1]))


@pytest.mark.parametrize("layer", ACTIVATIONS)
def test_bias_backward(benchmark: BenchmarkFixture, layer: str) -> None:
    """The sum over all places."""
    measure(benchmark, kernels.bias_backward, numbers(N, *ACTIVATIONS[layer]))

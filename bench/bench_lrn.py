"""Times local response normalisation. See bench/layer_shapes.py."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import ACTIVATIONS, LRN, NORMALIZED, N, measure, numbers
from npconvnet import kernels


@pytest.mark.parametrize("layer", NORMALIZED)
def test_lrn_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """Over 5 channels."""
    measure(benchmark, kernels.lrn_forward, numbers(N, *ACTIVATIONS[layer]), **LRN, k=2.0)


@pytest.mark.parametrize("layer", NORMALIZED)
def test_lrn_backward(benchmark: BenchmarkFixture, layer: str) -> None:
    """Its true gradient."""
    x = numbers(N, *ACTIVATIONS[layer])
    y, s = kernels.lrn_forward(x, **LRN, k=2.0)
    measure(benchmark, kernels.lrn_backward, numbers(*y.shape), x, s, **LRN)

"""Times the update. See bench/layer_shapes.py."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import CONVOLUTIONS, LINEARS, measure, numbers
from npconvnet import kernels


@pytest.mark.parametrize("layer", ["conv2", "fc6", "fc7"])
def test_sgd_update(benchmark: BenchmarkFixture, layer: str) -> None:
    """The weights of one layer, round after round by the same gradient."""
    shape = CONVOLUTIONS[layer][1] if layer in CONVOLUTIONS else LINEARS[layer]
    w, velocity, dw = numbers(*shape), numbers(*shape), numbers(*shape)
    measure(benchmark, kernels.sgd_update, w, velocity, dw, learning_rate=1e-6, momentum=0.9, weight_decay=5e-4)

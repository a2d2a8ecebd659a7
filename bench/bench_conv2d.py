"""Times the three convolutions: fprop, dgrad and wgrad. See bench/layer_shapes.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import CONVOLUTIONS, N, measure, numbers
from npconvnet import kernels
from npconvnet.kernels.shapes import place_windows


class Convolution:
    """The arrays and the arguments of one of the paper's convolutions."""

    def __init__(self, layer: str) -> None:
        size, filters, stride, padding = CONVOLUTIONS[layer]
        self.where: dict[str, Any] = {"stride": stride, "padding": (padding,) * 4}
        outputs = place_windows(size[:2], filters[1:3], **self.where).outputs
        self.x, self.w, self.dy = numbers(N, *size), numbers(*filters), numbers(N, *outputs, filters[0])
        self.flop = 2 * N * math.prod(outputs) * math.prod(filters)


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_conv2d_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """fprop."""
    c = Convolution(layer)
    measure(benchmark, kernels.conv2d_forward, c.x, c.w, **c.where, flop=c.flop)


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_conv2d_backward_input(benchmark: BenchmarkFixture, layer: str) -> None:
    """dgrad."""
    c = Convolution(layer)
    measure(benchmark, kernels.conv2d_backward_input, c.dy, c.w, c.x.shape, **c.where, flop=c.flop)


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_conv2d_backward_filters(benchmark: BenchmarkFixture, layer: str) -> None:
    """wgrad."""
    c = Convolution(layer)
    measure(benchmark, kernels.conv2d_backward_filters, c.dy, c.x, c.w.shape, **c.where, flop=c.flop)

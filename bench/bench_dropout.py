"""Times dropout. See bench/layer_shapes.py."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import RNG, N, measure, numbers
from npconvnet import kernels


def test_dropout(benchmark: BenchmarkFixture) -> None:
    """After fc6 and fc7; the backward is the same function."""
    x = numbers(N, 4096)
    measure(benchmark, kernels.dropout, x, kernels.draw_kept(RNG, x.shape, 0.5), rate=0.5)

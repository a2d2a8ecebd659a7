"""Times dropout. See bench/layer_shapes.py."""

from __future__ import annotations

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import N, measure, numbers
from npconvnet import kernels
from npconvnet.randomness import Chances, Purpose

CHANCES = Chances.of(np.arange(N), 0, Purpose.DROPOUT)


def test_dropout(benchmark: BenchmarkFixture) -> None:
    """After fc6 and fc7; the backward is the same function."""
    x = numbers(N, 4096)
    measure(benchmark, kernels.dropout, x, kernels.draw_kept(x, CHANCES, 0.5), rate=0.5)


def test_draw_kept(benchmark: BenchmarkFixture) -> None:
    """What is kept after fc6 or fc7."""
    measure(benchmark, kernels.draw_kept, numbers(N, 4096), CHANCES, rate=0.5)

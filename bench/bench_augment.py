"""Times augmentation. See bench/layer_shapes.py."""

from __future__ import annotations

import numpy as np
from pytest_benchmark.fixture import BenchmarkFixture

from bench.layer_shapes import RNG, N, measure
from npconvnet import kernels
from npconvnet.kernels import Views


def test_augment(benchmark: BenchmarkFixture) -> None:
    """224×224 crops of 256×256 pictures, every other one reflected, with a part erased."""
    pictures = RNG.integers(0, 256, (N, 256, 256, 3), np.uint8)
    views = Views.plain(RNG.integers(0, 33, N), RNG.integers(0, 33, N), np.arange(N) % 2 == 0)
    views.erased[:] = (50, 50, 100, 100)
    mean, std = np.full(3, 120, np.float32), np.full(3, 57, np.float32)
    measure(benchmark, kernels.augment, pictures, views, 224, mean, std)

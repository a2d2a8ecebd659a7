"""Times every kernel, forward and backward, on float32 batches of 16 at the sizes that the paper's network has.

    pytest bench/bench_kernels.py --benchmark-only [-k conv2d] [--benchmark-json=kernels.json]

The JSON file holds for each kernel, under `extra_info`, what its median time amounts to: GFLOP/s for the matrix
products (a multiplication and an addition are two), and for all else GB/s, had every argument been read once and every
result been written once. Sizes are those of VGG CNN-F; what the paper's network lacks stands at a size it does have.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from npconvnet import kernels
from npconvnet.backend import Array
from npconvnet.kernels import Views
from npconvnet.kernels.shapes import place_windows

N = 16
RNG = np.random.default_rng(0)

#: (H, W, C) of the input, (K, R, S, C) of the filters, stride, padding
CONVOLUTIONS = {
    "conv1": ((224, 224, 3), (64, 11, 11, 3), 4, 0),
    "conv2": ((27, 27, 64), (256, 5, 5, 64), 1, 2),
    "conv3-5": ((13, 13, 256), (256, 3, 3, 256), 1, 1),
}
#: (out, in)
LINEARS = {"fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (1000, 4096)}
#: y of a convolution or linear layer with its bias and its ReLU
ACTIVATIONS = {
    "conv1": (54, 54, 64),
    "conv2": (27, 27, 256),
    "conv3-5": (13, 13, 256),
    "fc6-7": (4096,),
}
NORMALIZED = ["conv1", "conv2"]
POOLED = ["conv1", "conv2", "conv3-5"]
POOL: dict[str, Any] = {"window": (3, 3), "stride": 2, "rounding": "ceil"}
LRN: dict[str, Any] = {"size": 5, "alpha_per_element": 1e-4, "beta": 0.75}


def numbers(*shape: int) -> Array:
    """Normally distributed float32 numbers."""
    return RNG.standard_normal(shape, np.float32)


def measure(benchmark: BenchmarkFixture, kernel: Any, *args: Any, flop: float | None = None, **kwargs: Any) -> None:
    """Times `kernel` on these arguments, and notes its GFLOP/s where `flop` is given and its GB/s otherwise."""
    result = benchmark(kernel, *args, **kwargs)
    if benchmark.stats is None:  # --benchmark-disable: run once, to see that it runs
        return
    seconds = benchmark.stats.stats.median
    if flop is not None:
        benchmark.extra_info["GFLOP/s"] = round(flop / seconds / 1e9, 1)
    else:
        written = args[:2] if result is None else result  # only sgd_update returns nothing: it updates in place
        benchmark.extra_info["GB/s"] = round((byte_count(args) + byte_count(written)) / seconds / 1e9, 2)


def byte_count(value: Any) -> int:
    """The size of the arrays in `value`, which may be an array, or a list or tuple of such values."""
    if isinstance(value, (list, tuple)):
        return sum(byte_count(part) for part in value)
    return value.nbytes if isinstance(value, np.ndarray) else 0


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


@pytest.mark.parametrize("layer", ACTIVATIONS)
def test_bias_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """In place, round after round on the same x."""
    shape = ACTIVATIONS[layer]
    measure(benchmark, kernels.bias_forward, numbers(N, *shape), numbers(shape[-1]))


@pytest.mark.parametrize("layer", ACTIVATIONS)
def test_bias_backward(benchmark: BenchmarkFixture, layer: str) -> None:
    """The sum over all places."""
    measure(benchmark, kernels.bias_backward, numbers(N, *ACTIVATIONS[layer]))


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


@pytest.mark.parametrize("layer", POOLED)
def test_average_pool2d_forward(benchmark: BenchmarkFixture, layer: str) -> None:
    """In the place of max pooling."""
    measure(benchmark, kernels.average_pool2d_forward, numbers(N, *ACTIVATIONS[layer]), **POOL)


@pytest.mark.parametrize("layer", POOLED)
def test_average_pool2d_backward(benchmark: BenchmarkFixture, layer: str) -> None:
    """In the place of max pooling."""
    x = numbers(N, *ACTIVATIONS[layer])
    y = kernels.average_pool2d_forward(x, **POOL)
    measure(benchmark, kernels.average_pool2d_backward, numbers(*y.shape), x.shape, **POOL)


def test_global_average_pool2d_forward(benchmark: BenchmarkFixture) -> None:
    """After conv5."""
    measure(benchmark, kernels.global_average_pool2d_forward, numbers(N, 13, 13, 256))


def test_global_average_pool2d_backward(benchmark: BenchmarkFixture) -> None:
    """After conv5."""
    measure(benchmark, kernels.global_average_pool2d_backward, numbers(N, 256), (N, 13, 13, 256))


def test_dropout(benchmark: BenchmarkFixture) -> None:
    """After fc6 and fc7; the backward is the same function."""
    x = numbers(N, 4096)
    measure(benchmark, kernels.dropout, x, kernels.draw_kept(RNG, x.shape, 0.5), rate=0.5)


def test_concatenate_forward(benchmark: BenchmarkFixture) -> None:
    """Two halves of conv2's channels."""
    measure(benchmark, kernels.concatenate_forward, [numbers(N, 27, 27, 128), numbers(N, 27, 27, 128)])


def test_add_forward(benchmark: BenchmarkFixture) -> None:
    """Two activations as conv2 gives them."""
    measure(benchmark, kernels.add_forward, [numbers(N, 27, 27, 256), numbers(N, 27, 27, 256)])


def test_softmax_cross_entropy_forward(benchmark: BenchmarkFixture) -> None:
    """1000 classes."""
    measure(benchmark, kernels.softmax_cross_entropy_forward, numbers(N, 1000), RNG.integers(0, 1000, N))


def test_softmax_cross_entropy_backward(benchmark: BenchmarkFixture) -> None:
    """1000 classes."""
    probabilities = kernels.softmax(numbers(N, 1000))
    measure(benchmark, kernels.softmax_cross_entropy_backward, probabilities, RNG.integers(0, 1000, N))


@pytest.mark.parametrize("layer", ["conv2", "fc6", "fc7"])
def test_sgd_update(benchmark: BenchmarkFixture, layer: str) -> None:
    """The weights of one layer, round after round by the same gradient."""
    shape = CONVOLUTIONS[layer][1] if layer in CONVOLUTIONS else LINEARS[layer]
    w, velocity, dw = numbers(*shape), numbers(*shape), numbers(*shape)
    measure(benchmark, kernels.sgd_update, w, velocity, dw, learning_rate=1e-6, momentum=0.9, weight_decay=5e-4)


def test_augment(benchmark: BenchmarkFixture) -> None:
    """224×224 crops of 256×256 pictures, every other one reflected, with a part erased."""
    pictures = RNG.integers(0, 256, (N, 256, 256, 3), np.uint8)
    views = Views.plain(RNG.integers(0, 33, N), RNG.integers(0, 33, N), np.arange(N) % 2 == 0)
    views.erased[:] = (50, 50, 100, 100)
    mean, std = np.full(3, 120, np.float32), np.full(3, 57, np.float32)
    measure(benchmark, kernels.augment, pictures, views, 224, mean, std)

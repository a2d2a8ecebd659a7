"""A captured step against the same step launch by launch: not one bit differs, however often it is replayed."""

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels import Views
from npconvnet.kernels.cuda.augment import augment_cells, pack_views
from npconvnet.layers import LRN, Conv2d, Dropout, Linear, MaxPool2d, ReLU
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.captured_step import CapturedStep
from npconvnet.training.optimizer import SGD
from npconvnet.training.step import loss_and_gradients

N, RESIZE, CROP, CLASSES = 3, 20, 17, 5


def small_network(precision):
    """The paper's sequence of layers, on pictures of 17 pixels; and the same, fused."""
    network = Network(
        "small",
        [
            ("conv1", Conv2d(3, 8, 5, stride=2)),
            ("relu1", ReLU()),
            ("norm1", LRN()),
            ("pool1", MaxPool2d(3, stride=2, rounding="ceil")),
            ("conv2", Conv2d(8, 16, 3, padding=1)),
            ("relu2", ReLU()),
            ("pool2", MaxPool2d(2, stride=1)),
            ("fc3", Linear(2 * 2 * 16, 24)),
            ("relu3", ReLU()),
            ("drop3", Dropout()),
            ("fc4", Linear(24, CLASSES)),
        ],
        Preprocessing(RESIZE, CROP, (120, 110, 100), (60, 60, 60)),
    )
    network.initialize(np.random.default_rng(0))
    network.to("gpu")
    return network, network.fused(precision)


def batches(count):
    """(squares, views, labels, chances, rate) of some steps, on the host."""
    rng = np.random.default_rng(1)
    for number in range(count):
        views = Views.plain(rng.integers(0, RESIZE - CROP, N), rng.integers(0, RESIZE - CROP, N), rng.random(N) < 0.5)
        views.colour[:] = rng.normal(0, 5, (N, 3))
        views.erased[0] = 2, 3, 9, 8
        chances = Chances.of(rng.integers(0, 1000, N), number, Purpose.DROPOUT, number)
        yield (
            rng.integers(0, 256, (N, RESIZE, RESIZE, 3), np.uint8),
            views,
            rng.integers(0, CLASSES, N),
            chances,
            0.1 / (1 + number),
        )


def launch_by_launch(cupy, fused, optimizer, squares, views, labels, chances, rate):
    mean, std = (cupy.asarray(np.array(x, np.float32)) for x in (fused.preprocessing.mean, fused.preprocessing.std))
    packed = cupy.asarray(pack_views(views, N, (RESIZE - CROP,) * 2).view(np.uint8))
    first = fused.nodes[0].layer
    x = augment_cells(cupy.asarray(squares), packed, CROP, mean, std, first.cells, first.dtype)
    loss, gradients = loss_and_gradients(fused, x, cupy.asarray(labels), chances)
    optimizer.update(gradients, rate, fused.copies)
    return float(loss)


def parameters(network):
    return {name: to_host(value) for name, value in network.parameters.items()}


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_it_has_the_bits_of_its_launches(cupy, precision):
    """Over steps of two buffers in turn, and then two others; views, labels, chances and rates all change."""
    losses, learnt = [], []
    network, fused = small_network(precision)
    optimizer = SGD(network, 0.9, 5e-4)
    losses.append([launch_by_launch(cupy, fused, optimizer, *batch) for batch in batches(8)])
    learnt.append(parameters(network))

    network, fused = small_network(precision)
    step = CapturedStep(fused, SGD(network, 0.9, 5e-4), N)
    buffers = [cupy.empty((N, RESIZE, RESIZE, 3), np.uint8) for _ in range(4)]
    found = []
    for number, (squares, *rest) in enumerate(batches(8)):
        buffer = buffers[number % 2 + number // 5 * 2]
        buffer.set(squares)
        found.append(step(buffer, *rest))
        assert len(step._captured) <= 2
        cupy.zeros((100, 100), np.float32)  # who else allocates gets none of its memory
    losses.append([float(loss) for loss in found])
    learnt.append(parameters(network))

    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 8
    for name, value in learnt[0].items():
        np.testing.assert_array_equal(learnt[1][name], value, err_msg=name)
    for name, words in fused.copies.items():
        expected = learnt[1][name].view(np.uint32) + 0x7FFF + (learnt[1][name].view(np.uint32) >> 16 & 1) >> 16
        np.testing.assert_array_equal(to_host(words), expected, err_msg=name)


def test_replays_allocate_nothing(cupy):
    network, fused = small_network("bfloat16")
    step = CapturedStep(fused, SGD(network, 0.9, 5e-4), N)
    squares = cupy.empty((N, RESIZE, RESIZE, 3), np.uint8)
    held = []
    for picture, *rest in batches(4):
        squares.set(picture)
        step(squares, *rest)
        held.append(step._pool.total_bytes())
    assert held[1] == held[3] > 0


def test_another_number_of_pictures_is_refused(cupy):
    network, fused = small_network("bfloat16")
    step = CapturedStep(fused, SGD(network, 0.9, 5e-4), N + 1)
    squares, *rest = next(batches(1))
    with pytest.raises(ValueError, match="takes 4 pictures, and not 3"):
        step(cupy.asarray(squares), *rest)


def test_a_network_that_does_not_begin_with_a_convolution_is_refused(cupy):
    network = Network("flat", [("fc1", Linear(4 * 4 * 3, 2))], Preprocessing(4, 4))
    network.to("gpu")
    with pytest.raises(ValueError, match="does not begin with a convolution"):
        CapturedStep(network.fused("tf32"), SGD(network, 0.9, 0), 1)

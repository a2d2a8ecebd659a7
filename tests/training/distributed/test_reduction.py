"""When gradients are sent, and in which company; what is sent is summed by a wire that only doubles."""

from typing import Any

import numpy as np
import pytest

from npconvnet.models import MODELS
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.distributed.ranks import ALONE
from npconvnet.training.distributed.reduction import BucketReduction, Reduction, buckets, reduction_over
from npconvnet.training.step import loss_and_gradients

#: Bytes; the linear layers of the tiny network are larger.
BUCKET = 2**14


class Doubling:
    """The wire of two ranks that always have the same. Nothing is there before it is waited for."""

    def __init__(self):
        self.begun, self.awaited = [], []

    def begin_sum(self, x):
        self.begun.append(x)

        def wait():
            self.awaited.append(x)
            np.multiply(x, 2, out=x)

        return wait


@pytest.fixture
def wire() -> Any:
    return Doubling()


@pytest.fixture
def network(rng):
    network = MODELS["tiny"](classes=4)
    network.initialize(rng)
    return network


def gradients_of(network, images, ready=None):
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((images, 64, 64, 3), np.float32), rng.integers(0, 4, images)
    chances = Chances.of(np.arange(images), 0, Purpose.DROPOUT)
    return loss_and_gradients(network, x, labels, chances, ready=ready)[1]


def test_large_ones_go_alone_and_small_ones_together():
    sizes = {"conv.weight": 3, "conv.bias": 1, "fc1.weight": 10, "fc1.bias": 2, "fc2.weight": 7, "fc2.bias": 1}
    expected = [["fc2.weight"], ["fc1.weight"], ["fc2.bias", "fc1.bias", "conv.bias", "conv.weight"]]
    assert buckets(sizes, 7) == expected
    assert buckets(sizes, 1) == [[name] for name in reversed(sizes)]
    assert buckets(sizes, 100) == [list(reversed(sizes))]
    assert buckets({"a": 4, "b": 3, "c": 2}, 5) == [["c", "b"], ["a"]]


@pytest.mark.parametrize("images", [1, 5])
def test_every_gradient_is_summed_step_after_step(network, wire, images):
    reduction = BucketReduction(network, wire, BUCKET)
    expected = gradients_of(network, images)
    for step in (1, 2):
        sums = reduction.finish(gradients_of(network, images, reduction.add))
        assert sums.keys() == expected.keys()
        for name, gradient in expected.items():
            np.testing.assert_array_equal(sums[name], 2 * gradient)
            assert sums[name].shape == gradient.shape
        assert len(wire.awaited) == len(wire.begun) == step * len(buckets(sizes_of(network), BUCKET))


def sizes_of(network):
    return {name: parameter.nbytes for name, parameter in network.parameters.items()}


def test_linear_layers_are_on_their_way_before_the_convolutions_are_done(network, wire):
    reduction = BucketReduction(network, wire, BUCKET)
    on_their_way = []

    def ready(gradients):
        if any(name.startswith("conv") for name in gradients):
            on_their_way.append(sum(x.nbytes for x in wire.begun))
        reduction.add(gradients)

    reduction.finish(gradients_of(network, 1, ready))
    large = sum(size for name, size in sizes_of(network).items() if name.startswith("fc") and size >= BUCKET)
    assert large > 0.5 * sum(sizes_of(network).values())
    assert min(on_their_way) >= large


@pytest.mark.parametrize("images", [0, 1, 5, 40])
def test_all_ranks_send_the_same_buckets_whatever_their_images(network, wire, images):
    """One without images sends zeros."""
    reduction = BucketReduction(network, wire, BUCKET)
    sums = reduction.finish(gradients_of(network, images, reduction.add) if images else {})
    expected = [sum(sizes_of(network)[name] for name in bucket) for bucket in buckets(sizes_of(network), BUCKET)]
    assert [x.nbytes for x in wire.begun] == expected
    assert all((gradient == 0).all() for gradient in sums.values()) == (images == 0)


def test_one_rank_alone_keeps_its_gradients(network):
    reduction = reduction_over(ALONE, network, "cpu", "float32")
    assert type(reduction) is Reduction
    gradients = gradients_of(network, 1, reduction.add)
    assert reduction.finish(gradients) is gradients

"""Whole training steps beside PyTorch's: the same pictures, the same views of them, no dropout; what comes of it.

Two trainings that round differently drift apart, however right they are, so their losses are compared where they begin
and, on average, where they end; PyTorch's own, on the same batches in another order, say how far they drift.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest

from npconvnet.backend import to_device, to_host, why_no_gpu
from npconvnet.data.augment import Augmentation, ColourStatistics
from npconvnet.data.toy_pictures import draw_picture
from npconvnet.layers import Dropout
from npconvnet.models import MODELS
from npconvnet.preprocessing import resize_and_centre_crop
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.captured_step import CapturedStep
from npconvnet.training.optimizer import SGD
from npconvnet.training.step import loss_and_gradients

pytest.importorskip("torch")

import torch

from bench.gpu import use_tf32
from bench.torch_peer import TorchPeer
from bench.train_step_on_gpu import torch_sgd
from bench.workload import MOMENTUM, WEIGHT_DECAY

PER_CLASS, BATCH_SIZE, STEPS, RATE = 32, 32, 200, 0.01
#: Of the losses over the first steps, relatively: what rounding alone may do.
AT_FIRST = {"float32": 1e-3, "tf32": 5e-3, "bfloat16": 3e-2}
#: Of the mean loss over the last ones, at least: of its value, and absolutely.
AT_LAST, LAST = 0.05, 20
#: Of the gradients of one step of the paper's network: the norm of the difference by the norm.
GRADIENTS = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 1e-1}

precisions = pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])


@pytest.fixture
def gpu():
    if reason := why_no_gpu():
        pytest.skip(reason)
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch finds no GPU")
    use_tf32(torch, on=False)


@cache
def pictures():
    """(squares, labels, colours) of the toy set's pictures, ten classes in turn."""
    preprocessing = MODELS["tiny"]().preprocessing
    labels = np.tile(np.arange(10), PER_CLASS)
    rng = np.random.default_rng(0)
    squares = np.stack([resize_and_centre_crop(draw_picture(label, rng)[0], preprocessing) for label in labels])
    return squares, labels, ColourStatistics.of(squares)


def tiny():
    network = MODELS["tiny"]()
    network.initialize(np.random.default_rng(0))
    network.preprocessing = pictures()[2].normalising(network.preprocessing)
    return without_dropout(network)


def without_dropout(network):
    for node in network.nodes:
        if isinstance(node.layer, Dropout):
            node.layer.rate = 0.0
    return network


def batches(network, steps, batch_size):
    """(squares, views, labels, numbers) of each step."""
    squares, labels, colours = pictures()
    rng, draw = np.random.default_rng(1), Augmentation().draw
    for step in range(steps):
        numbers = rng.choice(len(labels), batch_size, replace=False)
        views = draw(2, step, numbers, network.preprocessing, colours.components)
        yield squares[numbers], views, labels[numbers], numbers


def train(device, precision, steps=STEPS, batch_size=BATCH_SIZE):
    """The losses of npconvnet's steps, and the parameters at the end."""
    network = tiny().to(device)
    trained, optimizer = network.fused(precision), SGD(network, MOMENTUM, WEIGHT_DECAY)
    captured = None if precision == "float32" else CapturedStep(trained, optimizer, batch_size)
    held: Any = to_device(np.empty((batch_size, 73, 73, 3), np.uint8), device)
    losses = []
    for squares, views, labels, numbers in batches(network, steps, batch_size):
        chances = Chances.of(numbers, 3, Purpose.DROPOUT)
        if captured:
            held.set(squares)
            loss = captured(held, views, labels, chances, RATE)
        else:
            x = network.preprocessing.apply(to_device(squares, device), views)
            loss, gradients = loss_and_gradients(trained, x, to_device(labels, device), chances)
            optimizer.update(gradients, RATE)
        losses.append(float(loss))
    return np.array(losses), {name: to_host(value) for name, value in network.parameters.items()}


@cache
def train_torch(place, bfloat16=False, backwards=False, steps=STEPS, batch_size=BATCH_SIZE):
    """The losses of PyTorch's; `backwards` gives it the pictures of each batch in the opposite order."""
    network = tiny()
    peer = TorchPeer(network).to(place)
    optimizer = torch_sgd(torch, peer, RATE)
    losses = []
    for squares, views, labels, _ in batches(network, steps, batch_size):
        order = slice(None, None, -1 if backwards else 1)
        x, labels = network.preprocessing.apply(squares, views)[order].copy(), labels[order].copy()
        with torch.autocast(place, torch.bfloat16, enabled=bfloat16):
            scores = peer(torch.from_numpy(x).permute(0, 3, 1, 2).to(place))
        loss = torch.nn.functional.cross_entropy(scores.float(), torch.from_numpy(labels).to(place))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return np.array(losses)


def assert_same_course(losses, expected, noise, at_first):
    """The losses begin alike and end alike, as far as `noise`, another course of the same, lets one say so."""
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses[:5], expected[:5], rtol=at_first)
    ours, theirs, others = (course[-LAST:].mean() for course in (losses, expected, noise))
    assert theirs < 0.9 * expected[:LAST].mean()  # something has been learnt
    assert abs(ours - theirs) <= max(AT_LAST, AT_LAST * theirs, 3 * abs(others - theirs))


@pytest.mark.gpu
@precisions
def test_losses_over_200_steps_on_a_gpu(gpu, precision):
    noise = train_torch("cuda", backwards=True)
    assert_same_course(train("gpu", precision)[0], train_torch("cuda"), noise, AT_FIRST[precision])


@pytest.mark.gpu
def test_bfloat16_drifts_no_farther_than_pytorchs(gpu):
    noise = train_torch("cuda", backwards=True)
    assert_same_course(train("gpu", "bfloat16")[0], train_torch("cuda", bfloat16=True), noise, AT_FIRST["bfloat16"])


@pytest.mark.gpu
@precisions
def test_a_second_run_has_the_same_bits(gpu, precision):
    (losses, parameters), (again, parameters_again) = (train("gpu", precision, 20) for _ in range(2))
    np.testing.assert_array_equal(losses, again)
    for name, parameter in parameters.items():
        np.testing.assert_array_equal(parameter, parameters_again[name])


@pytest.mark.gpu
@precisions
@pytest.mark.parametrize("lrn", [True, False])
def test_gradients_of_the_papers_network(gpu, precision, lrn):
    network = without_dropout(MODELS["paper"](lrn=lrn))
    network.initialize(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    images, labels = rng.standard_normal((6, 224, 224, 3), np.float32), rng.integers(0, 1000, 6)
    peer = TorchPeer(network).to("cuda")
    expected = torch.nn.functional.cross_entropy(
        peer(torch.from_numpy(images).permute(0, 3, 1, 2).to("cuda")), torch.from_numpy(labels).to("cuda")
    )
    expected.backward()
    trained = network.to("gpu").fused(precision)
    loss, gradients = loss_and_gradients(trained, to_device(images, "gpu"), to_device(labels, "gpu"))
    assert float(loss) == pytest.approx(float(expected.detach()), rel=AT_FIRST[precision])
    for name, gradient in peer.gradients().items():
        error = np.linalg.norm(to_host(gradients[name]) - gradient) / np.linalg.norm(gradient)
        assert error <= GRADIENTS[precision], name


def test_losses_on_the_cpu():
    """What the tests above compare is the same training, then: only over fewer steps."""
    losses, _ = train("cpu", "float32", 30, 8)
    np.testing.assert_allclose(losses[:5], train_torch("cpu", steps=30, batch_size=8)[:5], rtol=AT_FIRST["float32"])
    expected = train_torch("cpu", steps=30, batch_size=8)
    assert abs(losses[-LAST:].mean() - expected[-LAST:].mean()) <= AT_LAST


def test_another_course_is_noticed():
    """Of a training with twice the rate, of one that learns nothing, and of one that breaks."""
    course = 2.3 * np.exp(-np.arange(STEPS) / 100)
    assert_same_course(course * 1.0001, course, course * 1.01, 1e-3)
    for wrong in (
        2.3 * np.exp(-np.arange(STEPS) / 50),
        np.full(STEPS, 2.3),
        np.where(np.arange(STEPS) < 9, course, np.nan),
    ):
        with pytest.raises(AssertionError):
            assert_same_course(wrong, course, course * 1.01, 1e-3)

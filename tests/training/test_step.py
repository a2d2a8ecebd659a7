"""A whole training step and an evaluation: on the stand-in for CuPy, as nothing may be NumPy's alone; and in parts."""

from typing import Any

import numpy as np
import pytest

from npconvnet.backend import is_on_gpu, to_device, to_host
from npconvnet.data.augment import Augmentation
from npconvnet.data.batch import Batch
from npconvnet.models import MODELS
from npconvnet.randomness import Chances, Purpose
from npconvnet.training.checkpoint import Position, load_checkpoint, save_checkpoint
from npconvnet.training.evaluation import evaluate
from npconvnet.training.optimizer import SGD
from npconvnet.training.step import loss_and_gradients
from tests.conftest import assert_close


def train_one_step(device, rng_seed=0):
    """(network, optimizer, loss) after one step with everything switched on, its parameters on `device`."""
    network = MODELS["tiny"](classes=4)
    network.initialize(np.random.default_rng(0))
    network.to(device)
    optimizer = SGD(network, 0.9, 5e-4)
    rng = np.random.default_rng(rng_seed)
    squares, labels = rng.integers(0, 256, (1, 73, 73, 3), np.uint8), np.array([2])
    views = Augmentation().draw(0, 0, np.array([0]), network.preprocessing, np.eye(3))
    x = network.preprocessing.apply(to_device(squares, device), views)
    chances = Chances.of(np.array([0]), 7, Purpose.DROPOUT)
    loss, gradients = loss_and_gradients(network, x, to_device(labels, device), chances)
    optimizer.update(gradients, 0.01)
    return network, optimizer, loss


def test_the_step_is_that_of_numpy(cupy):
    """But for rounding errors: the CUDA kernels add up in an order of their own."""
    network, _, loss = train_one_step("gpu")
    expected, _, expected_loss = train_one_step("cpu")
    assert network.device == "gpu"
    assert is_on_gpu(loss)  # nobody has waited for it
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    for name, parameter in network.parameters.items():
        assert is_on_gpu(parameter)
        assert_close(to_host(parameter), expected.parameters[name])


def test_evaluation_is_that_of_numpy(cupy):
    rng = np.random.default_rng(0)
    batch = Batch(rng.integers(0, 256, (1, 73, 73, 3), np.uint8), np.array([1]), np.array([0]))
    errors = [evaluate(train_one_step(device)[0], [batch], 10) for device in ("gpu", "cpu")]
    assert errors[0].to_json() == pytest.approx(errors[1].to_json(), rel=1e-5)


def test_checkpoints_go_from_one_device_to_the_other(cupy, tmp_path):
    network, optimizer, _ = train_one_step("gpu")
    save_checkpoint(tmp_path, network, optimizer, Position(0, step=1))
    other, other_optimizer, _ = train_one_step("cpu", rng_seed=1)
    assert load_checkpoint(tmp_path, other, other_optimizer)[0].step == 1
    for name, parameter in network.parameters.items():
        np.testing.assert_array_equal(to_host(parameter), other.parameters[name])
    load_checkpoint(tmp_path, network, optimizer)
    assert network.device == "gpu"
    assert all(is_on_gpu(velocity) for velocity in optimizer.velocities.values())


@pytest.mark.parametrize("parts", [[slice(0, 5)], [slice(0, 2), slice(2, 5)], [slice(0, 1), slice(1, 2), slice(2, 5)]])
def test_parts_of_a_batch_add_up_to_the_whole(rng, parts):
    """Each image's dropout is its own, and each part knows how many images there are in all."""
    network = MODELS["tiny"](classes=4)
    network.initialize(rng)
    network.astype(np.float64)
    x, labels, numbers = rng.standard_normal((5, 64, 64, 3)), np.array([0, 3, 1, 1, 2]), np.array([9, 4, 100, 7, 0])
    chances = Chances.of(numbers, 7, Purpose.DROPOUT, 3)
    expected_loss, expected = loss_and_gradients(network, x, labels, chances)
    found = [loss_and_gradients(network, x[part], labels[part], chances[part], of=5) for part in parts]
    assert sum(float(loss) for loss, _ in found) == pytest.approx(float(expected_loss), rel=1e-12)
    for name, gradient in expected.items():
        summed = sum(gradients[name] for _, gradients in found)
        np.testing.assert_allclose(summed, gradient, rtol=1e-9, atol=1e-12 * abs(gradient).max())


@pytest.mark.parametrize("images", [1, 5])
def test_gradients_are_ready_from_the_last_layer_on(rng, images):
    """Those of the linear layers before the convolutions are computed, and each of them once."""
    network = MODELS["tiny"](classes=4)
    network.initialize(rng)
    x, labels = rng.standard_normal((images, 64, 64, 3), np.float32), np.zeros(images, int)
    come: list[dict[str, Any]] = []
    _, gradients = loss_and_gradients(network, x, labels, ready=come.append)
    names = [name for each in come for name in each]
    assert sorted(names) == sorted(network.parameters)
    is_linear = [network.parameters[name].ndim < 3 and not name.startswith("conv") for name in names]
    assert is_linear == sorted(is_linear, reverse=True)
    for each in come:
        for name, gradient in each.items():
            assert gradient is gradients[name]

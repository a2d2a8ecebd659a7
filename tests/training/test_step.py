"""A whole training step and an evaluation on arrays of the stand-in for CuPy: nothing on the way is NumPy's alone."""

import numpy as np

from npconvnet.backend import is_on_gpu, to_device, to_host
from npconvnet.data.augment import Augmentation
from npconvnet.data.batch import Batch
from npconvnet.models import MODELS
from npconvnet.training.checkpoint import Position, load_checkpoint, save_checkpoint
from npconvnet.training.evaluation import evaluate
from npconvnet.training.optimizer import SGD
from npconvnet.training.step import loss_and_gradients


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
    loss, gradients = loss_and_gradients(network, x, to_device(labels, device), np.random.default_rng(7))
    optimizer.update(gradients, 0.01)
    return network, optimizer, loss


def test_the_step_is_that_of_numpy(cupy):
    network, _, loss = train_one_step("gpu")
    expected, _, expected_loss = train_one_step("cpu")
    assert network.device == "gpu"
    assert loss == expected_loss
    for name, parameter in network.parameters.items():
        assert is_on_gpu(parameter)
        np.testing.assert_array_equal(to_host(parameter), expected.parameters[name])


def test_evaluation_is_that_of_numpy(cupy):
    rng = np.random.default_rng(0)
    batch = Batch(rng.integers(0, 256, (1, 73, 73, 3), np.uint8), np.array([1]), np.array([0]))
    errors = [evaluate(train_one_step(device)[0], [batch], 10) for device in ("gpu", "cpu")]
    assert errors[0] == errors[1]


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

"""The learning rate of a run, and the update that uses it."""

import numpy as np
import pytest

from npconvnet.models import MODELS
from npconvnet.training.optimizer import SGD
from npconvnet.training.schedule import learning_rate


def test_four_steps_down_to_a_250th():
    rates = [learning_rate(1.0, step, 8) for step in range(8)]
    a, b = 250 ** (-1 / 3), 250 ** (-2 / 3)
    np.testing.assert_allclose(rates, [1, 1, a, a, b, b, 1 / 250, 1 / 250])


def test_first_and_last_step_of_any_run():
    for total in (1, 2, 5, 1000):
        assert learning_rate(0.01, 0, total) == 0.01
        assert learning_rate(0.01, total - 1, total) >= 0.01 / 250 * (1 - 1e-12)


def test_biases_move_twice_as_fast_and_do_not_decay():
    network = MODELS["tiny"](classes=2)
    optimizer = SGD(network, momentum=0.0, weight_decay=0.5)
    for parameter in network.parameters.values():
        parameter[...] = 1.0
    optimizer.update({name: np.full_like(p, 0.25) for name, p in network.parameters.items()}, learning_rate=0.1)
    assert network.parameters["conv1.weight"].ravel()[0] == pytest.approx(1 - 0.1 * (0.25 + 0.5))
    assert network.parameters["conv1.bias"][0] == pytest.approx(1 - 0.2 * 0.25)


def test_velocity_carries_on():
    network = MODELS["tiny"](classes=2)
    optimizer = SGD(network, momentum=0.5, weight_decay=0.0)
    gradients = {name: np.ones_like(p) for name, p in network.parameters.items()}
    optimizer.update(gradients, learning_rate=1.0)
    optimizer.update({name: np.zeros_like(g) for name, g in gradients.items()}, learning_rate=1.0)
    assert network.parameters["fc8.weight"][0, 0] == pytest.approx(-1 - 0.5)

"""The learning rate of a run, and the update that uses it."""

import numpy as np
import pytest

from npconvnet.models import MODELS
from npconvnet.training.optimizer import SGD
from npconvnet.training.schedule import learning_rate


def test_rises_then_falls_along_half_a_cosine():
    rates = [learning_rate(0.5, step, 1000) for step in range(1000)]
    peak = int(np.argmax(rates))
    assert 95 <= peak <= 105
    assert rates[peak] == pytest.approx(0.5, rel=0.02)
    assert rates[25] == pytest.approx(0.5 * 0.0255 / 0.1)
    assert rates[549] == pytest.approx(0.25, rel=0.01)
    assert (np.diff(rates[:peak]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()
    assert 0 < rates[-1] < 1e-5


@pytest.mark.parametrize("total", [1, 2, 5])
def test_short_runs_move_at_every_step(total):
    assert all(0 < learning_rate(0.01, step, total) <= 0.01 for step in range(total))


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

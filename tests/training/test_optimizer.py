"""One step of all parameters is one step of each: the parts it is cut into, and the threads, must not show."""

import numpy as np
import pytest

from npconvnet.kernels.cpu.sgd import sgd_update
from npconvnet.models import MODELS
from npconvnet.parallel import use_threads
from npconvnet.training.optimizer import SGD
from tests.conftest import distinct


@pytest.fixture(params=[1, 2, 3])
def count(request):
    use_threads(request.param)
    yield request.param
    use_threads(None)


@pytest.fixture
def network():
    network = MODELS["tiny"](classes=4)
    network.initialize(np.random.default_rng(0))
    return network


def gradients_for(network, rng):
    return {name: distinct(rng, p.shape, np.float32) for name, p in network.parameters.items()}


def copies(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def assert_identical(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


@pytest.mark.parametrize("at_a_time", [100, 2**18])
def test_it_is_sgd_update_of_every_parameter(network, rng, count, at_a_time, monkeypatch):
    """Over some steps at changing rates, so that the velocities count."""
    monkeypatch.setattr("npconvnet.training.optimizer.AT_A_TIME", at_a_time)
    optimizer = SGD(network, momentum=0.9, weight_decay=5e-4)
    parameters, velocities = copies(network.parameters), copies(optimizer.velocities)
    for rate in (0.5, 0.25, 0.1):
        gradients = gradients_for(network, rng)
        given = copies(gradients)
        optimizer.update(gradients, rate)
        for name, w in parameters.items():
            bias = name.endswith(".bias")
            sgd_update(w, velocities[name], given[name], 2 * rate if bias else rate, 0.9, 0 if bias else 5e-4)
        assert_identical(network.parameters, parameters)
        assert_identical(optimizer.velocities, velocities)
        assert_identical(gradients, given)  # which are left as they are


def test_the_networks_own_arrays_move(network, rng):
    layers_own = network.nodes[0].layer.parameters["weight"]
    before = layers_own.copy()
    SGD(network, 0.9, 5e-4).update(gradients_for(network, rng), 0.1)
    assert network.nodes[0].layer.parameters["weight"] is layers_own
    assert (layers_own != before).all()


def test_biases_move_twice_as_fast(network):
    before = copies(network.parameters)
    gradients = {name: np.ones_like(p) for name, p in network.parameters.items()}
    SGD(network, momentum=0, weight_decay=0).update(gradients, 0.125)
    for name, p in network.parameters.items():
        np.testing.assert_array_equal(p, before[name] - np.float32(0.25 if name.endswith(".bias") else 0.125))


def test_biases_do_not_decay(network):
    for p in network.parameters.values():
        p[...] = 8
    gradients = {name: np.zeros_like(p) for name, p in network.parameters.items()}
    SGD(network, momentum=0, weight_decay=0.25).update(gradients, 0.5)
    for name, p in network.parameters.items():
        np.testing.assert_array_equal(p, 8 if name.endswith(".bias") else 7)


def test_the_layout_of_the_gradients_does_not_matter(network, rng):
    """Some backwards give views."""
    other = MODELS["tiny"](classes=4)
    other.load(network.parameters)
    gradients = gradients_for(network, rng)
    SGD(network, 0.9, 5e-4).update(gradients, 0.1)
    SGD(other, 0.9, 5e-4).update({name: np.asfortranarray(g) for name, g in gradients.items()}, 0.1)
    assert_identical(other.parameters, network.parameters)

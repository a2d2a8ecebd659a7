import numpy as np
import pytest

from npconvnet import kernels
from tests.conftest import assert_close, distinct


def test_by_hand(dtype):
    w, velocity, dw = np.array([10, 20], dtype), np.array([1, -2], dtype), np.array([3, 4], dtype)
    kernels.sgd_update(w, velocity, dw, learning_rate=0.5, momentum=0.25, weight_decay=0.125)
    assert velocity.tolist() == [0.25 - 0.5 * (3 + 1.25), -0.5 - 0.5 * (4 + 2.5)]
    assert w.tolist() == [10 - 1.875, 20 - 3.75]
    assert dw.tolist() == [3, 4]


def test_without_decay_and_momentum_it_steps_down_the_gradient():
    w, velocity = np.array([1.0, 2.0]), np.array([5.0, 5.0])
    kernels.sgd_update(w, velocity, np.array([1.0, -1.0]), learning_rate=0.5, momentum=0, weight_decay=0)
    assert w.tolist() == [0.5, 2.5]


def test_decay_alone_shrinks_the_weights(rng):
    w = distinct(rng, (3, 4))
    shrunk, velocity = w.copy(), np.zeros_like(w)
    kernels.sgd_update(shrunk, velocity, np.zeros_like(w), learning_rate=0.1, momentum=0.9, weight_decay=0.5)
    assert_close(shrunk, 0.95 * w)


def test_it_finds_the_bottom_of_a_bowl(rng):
    w, velocity, bottom = distinct(rng, (5,)), np.zeros(5), distinct(rng, (5,))
    for _ in range(300):
        kernels.sgd_update(w, velocity, w - bottom, learning_rate=0.1, momentum=0.9, weight_decay=0)
    np.testing.assert_allclose(w, bottom, atol=1e-5)


@pytest.mark.parametrize("weight_decay", [0, 5e-4, 0.1])
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_like_pytorch_at_a_constant_rate(torch, rng, momentum, weight_decay, dtype):
    """PyTorch multiplies the velocity by the rate, we the gradient: alike as long as the rate stays."""
    w = distinct(rng, (4, 5), dtype)
    w_torch, velocity = torch.tensor(w, requires_grad=True), np.zeros_like(w)
    optimizer = torch.optim.SGD([w_torch], lr=0.05, momentum=momentum, weight_decay=weight_decay)
    for _ in range(10):
        dw = distinct(rng, w.shape, dtype)
        w_torch.grad = torch.tensor(dw)
        optimizer.step()
        kernels.sgd_update(w, velocity, dw, 0.05, momentum, weight_decay)
        assert_close(w, w_torch.detach())

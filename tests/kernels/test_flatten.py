import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct, from_nchw, to_nchw


def test_by_hand():
    x = np.array([[[[1.0, 10], [2, 20]], [[3, 30], [4, 40]]]])  # two channels of 2×2 pixels
    y = kernels.flatten_forward(x)
    assert y.tolist() == [[1, 2, 3, 4, 10, 20, 30, 40]]
    assert not np.shares_memory(y, x)
    assert kernels.flatten_backward(y, x.shape).tolist() == x.tolist()


@given(st.tuples(*[st.integers(1, 4)] * 4))
def test_backward_is_the_gradient_and_the_adjoint(shape):
    x = distinct(np.random.default_rng(0), shape)
    dy = distinct(np.random.default_rng(1), (len(x), x[0].size))
    dx = kernels.flatten_backward(dy, shape)
    assert_adjoint(x, kernels.flatten_forward(x), dy, dx)
    assert_is_gradient(kernels.flatten_forward, x, dx, dy)


def test_an_empty_batch_stays_one():
    y = kernels.flatten_forward(np.zeros((0, 2, 3, 4)))
    assert y.shape == (0, 24)
    assert kernels.flatten_backward(y, (0, 2, 3, 4)).shape == (0, 2, 3, 4)


def test_like_pytorch(torch, rng, dtype):
    x, dy = distinct(rng, (2, 3, 5, 4), dtype), distinct(rng, (2, 60), dtype)
    x_torch = to_nchw(x, torch).requires_grad_()
    y_torch = torch.flatten(x_torch, 1)
    y_torch.backward(torch.tensor(dy))
    assert_close(kernels.flatten_forward(x), y_torch.detach())
    assert_close(kernels.flatten_backward(dy, x.shape), from_nchw(x_torch.grad))

import numpy as np

from npconvnet import kernels
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct


def test_by_hand(dtype):
    x = np.array([[1, 2], [3, 4]], dtype)
    y = kernels.bias_forward(x, np.array([10, 20], dtype))
    assert y.tolist() == [[11, 22], [13, 24]]
    assert y is x  # it writes over its input, as its docstring says
    assert kernels.bias_backward(np.array([[1, 2], [3, 4]], dtype)).tolist() == [4, 6]


def test_backward_is_the_gradient_and_the_adjoint(rng):
    x, b = distinct(rng, (2, 3, 4, 5)), distinct(rng, (5,))
    dy = distinct(rng, x.shape)
    db = kernels.bias_backward(dy)
    assert_adjoint(b, kernels.bias_forward(np.zeros_like(x), b), dy, db)
    assert_is_gradient(lambda b: kernels.bias_forward(x.copy(), b), b, db, dy)


def test_like_pytorch(torch, rng, dtype):
    x, b, dy = distinct(rng, (2, 3, 4, 5), dtype), distinct(rng, (5,), dtype), distinct(rng, (2, 3, 4, 5), dtype)
    b_torch = torch.tensor(b, requires_grad=True)
    y_torch = torch.tensor(x) + b_torch
    y_torch.backward(torch.tensor(dy))
    assert_close(kernels.bias_forward(x, b), y_torch.detach())
    assert_close(kernels.bias_backward(dy), b_torch.grad)

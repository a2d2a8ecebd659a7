import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct


def test_by_hand():
    x, w = np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 10], [2, 20], [3, 30]])
    assert kernels.linear_forward(x, w).tolist() == [[21, 42, 63], [43, 86, 129]]
    dy = np.array([[1.0, 0, 2], [0, 1, 0]])
    assert kernels.linear_backward_input(dy, w).tolist() == [[7, 70], [2, 20]]
    assert kernels.linear_backward_weights(dy, x).tolist() == [[1, 2], [3, 4], [2, 4]]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_backwards_are_gradients_and_adjoints(n, inputs, outputs):
    rng = np.random.default_rng(0)
    x, w, dy = distinct(rng, (n, inputs)), distinct(rng, (outputs, inputs)), distinct(rng, (n, outputs))
    dx, dw = kernels.linear_backward_input(dy, w), kernels.linear_backward_weights(dy, x)
    y = kernels.linear_forward(x, w)
    assert_adjoint(x, y, dy, dx)
    assert_adjoint(w, y, dy, dw)
    assert_is_gradient(lambda x: kernels.linear_forward(x, w), x, dx, dy)
    assert_is_gradient(lambda w: kernels.linear_forward(x, w), w, dw, dy)


def test_like_pytorch(torch, rng, dtype):
    x, w, dy = distinct(rng, (4, 7), dtype), distinct(rng, (5, 7), dtype), distinct(rng, (4, 5), dtype)
    x_torch, w_torch = torch.tensor(x, requires_grad=True), torch.tensor(w, requires_grad=True)
    y_torch = torch.nn.functional.linear(x_torch, w_torch)
    y_torch.backward(torch.tensor(dy))
    assert_close(kernels.linear_forward(x, w), y_torch.detach())
    assert_close(kernels.linear_backward_input(dy, w), x_torch.grad)
    assert_close(kernels.linear_backward_weights(dy, x), w_torch.grad)

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct


def test_by_hand():
    a, b, c = np.array([1.0, 2.0]), np.array([10.0, 20.0]), np.array([100.0, 200.0])
    y = kernels.add_forward([a, b, c])
    assert y.tolist() == [111, 222]
    assert a.tolist() == [1, 2]  # memory of its own
    assert not np.shares_memory(kernels.add_forward([a]), a)
    assert [dx.tolist() for dx in kernels.add_backward(np.array([5.0, 6.0]), 3)] == [[5, 6]] * 3


@given(st.integers(1, 4))
def test_backward_is_the_gradient_and_the_adjoint(count):
    rng = np.random.default_rng(0)
    xs = [distinct(rng, (2, 3, 2, 3)) for _ in range(count)]
    dy = distinct(rng, xs[0].shape)
    dxs = kernels.add_backward(dy, count)
    assert_adjoint(np.stack(xs), kernels.add_forward(xs), dy, np.stack(dxs))
    assert_is_gradient(lambda x: kernels.add_forward([*xs[:-1], x]), xs[-1], dxs[-1], dy)


def test_like_pytorch(torch, rng, dtype):
    xs, dy = [distinct(rng, (2, 3, 2, 3), dtype) for _ in range(3)], distinct(rng, (2, 3, 2, 3), dtype)
    xs_torch = [torch.tensor(x, requires_grad=True) for x in xs]
    y_torch = torch.stack(xs_torch).sum(dim=0)
    y_torch.backward(torch.tensor(dy))
    assert_close(kernels.add_forward(xs), y_torch.detach())
    for dx, x_torch in zip(kernels.add_backward(dy, 3), xs_torch, strict=True):
        assert_close(dx, x_torch.grad)

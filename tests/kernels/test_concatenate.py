import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct


def test_by_hand():
    a, b = np.array([[[[1.0, 2], [3, 4]]]]), np.array([[[[5.0], [6]]]])
    y = kernels.concatenate_forward([a, b])
    assert y.tolist() == [[[[1, 2, 5], [3, 4, 6]]]]
    da, db = kernels.concatenate_backward(y, [2, 1])
    assert da.tolist() == a.tolist()
    assert db.tolist() == b.tolist()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_backward_is_the_gradient_and_the_adjoint(channels):
    rng = np.random.default_rng(0)
    xs = [distinct(rng, (2, 3, 2, c)) for c in channels]
    y = kernels.concatenate_forward(xs)
    dy = distinct(rng, y.shape)
    dxs = kernels.concatenate_backward(dy, channels)
    assert_adjoint(np.concatenate([x.ravel() for x in xs]), y, dy, np.concatenate([dx.ravel() for dx in dxs]))
    assert_is_gradient(lambda x: kernels.concatenate_forward([x, *xs[1:]]), xs[0], dxs[0], dy)


def test_like_pytorch(torch, rng, dtype):
    xs = [distinct(rng, (2, 3, 2, c), dtype) for c in (4, 1, 3)]
    dy = distinct(rng, (2, 3, 2, 8), dtype)
    xs_torch = [torch.tensor(x, requires_grad=True) for x in xs]
    y_torch = torch.cat(xs_torch, dim=-1)
    y_torch.backward(torch.tensor(dy))
    assert_close(kernels.concatenate_forward(xs), y_torch.detach())
    for dx, x_torch in zip(kernels.concatenate_backward(dy, [4, 1, 3]), xs_torch, strict=True):
        assert_close(dx, x_torch.grad)

import numpy as np
import pytest

from npconvnet import kernels
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct


def test_by_hand(dtype):
    x, kept = np.array([1, 2, 3, 4], dtype), np.array([True, False, False, True])
    assert kernels.dropout(x, kept, rate=0.5).tolist() == [2, 0, 0, 8]
    assert kernels.dropout(x, kept, rate=0.75).tolist() == [4, 0, 0, 16]


def test_what_is_dropped_leaves_no_trace():
    x, kept = np.array([np.inf, np.nan, np.inf]), np.array([False, False, True])
    assert kernels.dropout(x, kept, rate=0.5).tolist() == [0, 0, np.inf]


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_the_share_that_is_kept(rate):
    kept = kernels.draw_kept(np.random.default_rng(0), (100, 200), rate)
    assert kept.dtype == np.bool_
    assert kept.shape == (100, 200)
    assert kept.mean() == pytest.approx(1 - rate, abs=5 * np.sqrt(rate * (1 - rate) / kept.size))


def test_the_expectation_stays(rng):
    x = np.ones(20_000)
    assert kernels.dropout(x, kernels.draw_kept(rng, x.shape, 0.3), 0.3).mean() == pytest.approx(1, abs=0.03)


def test_the_seed_decides():
    draws = [kernels.draw_kept(np.random.default_rng(seed), (50,), 0.5).tolist() for seed in [1, 1, 2]]
    assert draws[0] == draws[1] != draws[2]


def test_the_forward_is_its_own_backward(rng):
    x, dy = distinct(rng, (4, 6)), distinct(rng, (4, 6))
    kept = kernels.draw_kept(rng, x.shape, 0.4)
    dx = kernels.dropout(dy, kept, 0.4)
    assert_adjoint(x, kernels.dropout(x, kept, 0.4), dy, dx)
    assert_is_gradient(lambda x: kernels.dropout(x, kept, 0.4), x, dx, dy)


def test_like_pytorch(torch, dtype):
    """PyTorch draws its own mask; it is read off its output."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, dy = distinct(rng, (20, 30), dtype), distinct(rng, (20, 30), dtype)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = torch.nn.functional.dropout(x_torch, 0.3)
    y_torch.backward(torch.tensor(dy))
    kept = y_torch.detach().numpy() != 0
    assert_close(kernels.dropout(x, kept, 0.3), y_torch.detach())
    assert_close(kernels.dropout(dy, kept, 0.3), x_torch.grad)

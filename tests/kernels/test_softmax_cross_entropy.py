import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from tests.conftest import assert_close, assert_is_gradient, distinct


def test_by_hand():
    scores, labels = np.log([[1.0, 3.0], [1.0, 4.0]]), np.array([1, 0])
    loss, probabilities = kernels.softmax_cross_entropy_forward(scores, labels)
    assert_close(probabilities, np.array([[1 / 4, 3 / 4], [1 / 5, 4 / 5]]))
    assert loss.shape == ()
    assert float(loss) == pytest.approx((np.log(4 / 3) + np.log(5)) / 2)
    d_scores = kernels.softmax_cross_entropy_backward(probabilities, labels)
    assert_close(d_scores, np.array([[1 / 8, -1 / 8], [-2 / 5, 2 / 5]]))
    assert_close(probabilities[1], np.array([1 / 5, 4 / 5]))  # the backward leaves them as they are


def test_equal_scores_lose_the_logarithm_of_the_number_of_classes(dtype):
    loss, _ = kernels.softmax_cross_entropy_forward(np.full((4, 1000), 123, dtype), np.arange(4))
    assert float(loss) == pytest.approx(np.log(1000), rel=1e-6)


def test_large_scores_do_not_overflow(dtype):
    scores = np.array([[1000, 0, -1000], [0, 3e4, 0]], dtype)
    loss, probabilities = kernels.softmax_cross_entropy_forward(scores, np.array([2, 1]))
    assert float(loss) == 1000  # (2000 + 0) / 2: finite, where log(probability) would be −∞
    assert probabilities.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert kernels.softmax(scores).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_a_diverged_score_shows():
    loss, _ = kernels.softmax_cross_entropy_forward(np.array([[np.nan, 1.0], [1.0, 2.0]]), np.array([1, 1]))
    assert np.isnan(loss)


@given(st.integers(1, 5), st.integers(1, 8), st.floats(-50, 50))
def test_properties(n, classes, shift):
    rng = np.random.default_rng(0)
    scores, labels = 5 * distinct(rng, (n, classes)), rng.integers(0, classes, n)
    loss, probabilities = kernels.softmax_cross_entropy_forward(scores, labels)
    assert_close(probabilities.sum(axis=1), np.ones(n))
    assert_close(probabilities, kernels.softmax(scores))
    assert float(loss) == pytest.approx(-np.log(probabilities[np.arange(n), labels]).mean(), abs=1e-12)
    # A number added to all the scores of a picture changes nothing, so the gradient sums to zero.
    assert_close(kernels.softmax(scores + shift), probabilities)
    d_scores = kernels.softmax_cross_entropy_backward(probabilities, labels)
    np.testing.assert_allclose(d_scores.sum(axis=1), 0, atol=1e-15)


def test_backward_is_the_gradient(rng):
    scores, labels = 5 * distinct(rng, (6, 9)), rng.integers(0, 9, 6)
    _, probabilities = kernels.softmax_cross_entropy_forward(scores, labels)
    d_scores = kernels.softmax_cross_entropy_backward(probabilities, labels)
    one = np.ones(())
    assert_is_gradient(lambda s: kernels.softmax_cross_entropy_forward(s, labels)[0], scores, d_scores, one)


def test_like_pytorch(torch, rng, dtype):
    scores, labels = (5 * distinct(rng, (6, 9))).astype(dtype), rng.integers(0, 9, 6)
    scores_torch = torch.tensor(scores, requires_grad=True)
    loss_torch = torch.nn.functional.cross_entropy(scores_torch, torch.tensor(labels))
    loss_torch.backward()
    loss, probabilities = kernels.softmax_cross_entropy_forward(scores, labels)
    assert_close(loss, loss_torch.detach())
    assert_close(probabilities, torch.softmax(scores_torch, dim=1).detach())
    assert_close(kernels.softmax_cross_entropy_backward(probabilities, labels), scores_torch.grad)

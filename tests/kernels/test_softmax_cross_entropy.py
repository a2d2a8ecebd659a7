import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from npconvnet.kernels.cpu.bfloat16 import to_bfloat16
from tests.conftest import assert_close, assert_is_gradient, distinct


def test_by_hand():
    scores, labels = np.log([[1.0, 3.0], [1.0, 4.0]]), np.array([1, 0])
    assert_close(kernels.softmax(scores), np.array([[1 / 4, 3 / 4], [1 / 5, 4 / 5]]))
    loss, d_scores = kernels.softmax_cross_entropy(scores, labels, of=2)
    assert loss.shape == ()
    assert float(loss) == pytest.approx((np.log(4 / 3) + np.log(5)) / 2)
    assert_close(d_scores, np.array([[1 / 8, -1 / 8], [-2 / 5, 2 / 5]]))


def test_equal_scores_lose_the_logarithm_of_the_number_of_classes(dtype):
    loss, _ = kernels.softmax_cross_entropy(np.full((4, 1000), 123, dtype), np.arange(4), of=4)
    assert float(loss) == pytest.approx(np.log(1000), rel=1e-6)


def test_large_scores_do_not_overflow(dtype):
    scores = np.array([[1000, 0, -1000], [0, 3e4, 0]], dtype)
    loss, d_scores = kernels.softmax_cross_entropy(scores, np.array([2, 1]), of=2)
    assert float(loss) == 1000  # (2000 + 0) / 2: finite, where log(probability) would be −∞
    assert d_scores.tolist() == [[0.5, 0, -0.5], [0, 0, 0]]
    assert kernels.softmax(scores).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_a_diverged_score_shows():
    loss, _ = kernels.softmax_cross_entropy(np.array([[np.nan, 1.0], [1.0, 2.0]]), np.array([1, 1]), of=2)
    assert np.isnan(loss)


@given(st.integers(1, 5), st.integers(1, 8), st.floats(-50, 50))
def test_properties(n, classes, shift):
    rng = np.random.default_rng(0)
    scores, labels = 5 * distinct(rng, (n, classes)), rng.integers(0, classes, n)
    probabilities = kernels.softmax(scores)
    assert_close(probabilities.sum(axis=1), np.ones(n))
    loss, d_scores = kernels.softmax_cross_entropy(scores, labels, n)
    assert float(loss) == pytest.approx(-np.log(probabilities[np.arange(n), labels]).mean(), abs=1e-12)
    # A number added to all the scores of a picture changes nothing, so the gradient sums to zero.
    assert_close(kernels.softmax(scores + shift), probabilities)
    np.testing.assert_allclose(d_scores.sum(axis=1), 0, atol=1e-15)


def test_it_is_the_gradient(rng):
    scores, labels = 5 * distinct(rng, (6, 9)), rng.integers(0, 9, 6)
    _, d_scores = kernels.softmax_cross_entropy(scores, labels, of=8)
    assert_is_gradient(lambda s: kernels.softmax_cross_entropy(s, labels, of=8)[0], scores, d_scores, np.ones(()))


def test_parts_of_a_batch_add_up_to_the_whole(rng):
    scores, labels = 5 * distinct(rng, (7, 9)), rng.integers(0, 9, 7)
    expected_loss, expected = kernels.softmax_cross_entropy(scores, labels, of=7)
    parts = [kernels.softmax_cross_entropy(scores[p], labels[p], of=7) for p in (slice(2), slice(2, 7), slice(0))]
    assert sum(float(loss) for loss, _ in parts) == pytest.approx(float(expected_loss))
    assert_close(np.concatenate([d_scores for _, d_scores in parts]), expected)


def test_the_gradient_as_words_of_bfloat16(rng):
    scores, labels = distinct(rng, (6, 9), np.float32), rng.integers(0, 9, 6)
    loss, words = kernels.softmax_cross_entropy(scores, labels, 6, np.uint16)
    expected_loss, expected = kernels.softmax_cross_entropy(scores, labels, 6)
    assert loss == expected_loss
    assert words.dtype == np.uint16
    np.testing.assert_array_equal(words, to_bfloat16(expected))


def test_like_pytorch(torch, rng, dtype):
    scores, labels = (5 * distinct(rng, (6, 9))).astype(dtype), rng.integers(0, 9, 6)
    scores_torch = torch.tensor(scores, requires_grad=True)
    loss_torch = torch.nn.functional.cross_entropy(scores_torch, torch.tensor(labels))
    loss_torch.backward()
    loss, d_scores = kernels.softmax_cross_entropy(scores, labels, of=6)
    assert_close(loss, loss_torch.detach())
    assert_close(d_scores, scores_torch.grad)
    assert_close(kernels.softmax(scores), torch.softmax(scores_torch, dim=1).detach())

"""The loss, its gradient and the probabilities by the CUDA kernels, against the definition in float64 and PyTorch."""

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import softmax_cross_entropy as definition
from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from npconvnet.kernels.cuda.softmax_cross_entropy import softmax, softmax_cross_entropy
from tests.kernels.cuda.agreement import assert_agrees

#: N and classes: fewer and more than the threads of a warp, and whether they come out even.
SHAPES = [(1, 1), (3, 5), (4, 31), (2, 32), (2, 33), (31, 3), (32, 2), (33, 4), (100, 10), (5, 1000)]

over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def draw(rng, shape):
    """(scores, labels)."""
    return 5 * rng.standard_normal(shape, np.float32), rng.integers(0, shape[1], shape[0])


@over_shapes
@pytest.mark.parametrize("share", [1, 3])
def test_loss_and_gradient(xp, rng, shape, share):
    """Of a whole batch, and of a third of one."""
    (scores, labels), of = draw(rng, shape), share * shape[0]
    loss, d_scores = softmax_cross_entropy(xp.asarray(scores), xp.asarray(labels), of)
    expected_loss, expected = definition.softmax_cross_entropy(scores.astype(np.float64), labels, of)
    assert_agrees(loss, expected_loss)
    assert_agrees(d_scores, expected)


@over_shapes
def test_probabilities(xp, rng, shape):
    scores, _ = draw(rng, shape)
    assert_agrees(softmax(xp.asarray(scores)), definition.softmax(scores.astype(np.float64)))


def test_the_gradient_in_words_is_that_in_float32_rounded(xp, rng):
    scores, labels = (xp.asarray(x) for x in draw(rng, (9, 70)))
    loss, words = softmax_cross_entropy(scores, labels, 12, np.uint16)
    expected_loss, expected = softmax_cross_entropy(scores, labels, 12)
    assert float(loss) == float(expected_loss)
    assert words.dtype == np.uint16
    np.testing.assert_array_equal(to_host(words), to_bfloat16(to_host(expected)))


@pytest.mark.parametrize("position", [0, 31, 32, 69])
def test_the_label_may_stand_anywhere(xp, position):
    scores, labels = np.zeros((2, 70), np.float32), np.array([position, 3])
    scores[0, position] = 2
    loss, d_scores = softmax_cross_entropy(xp.asarray(scores), xp.asarray(labels), 2)
    expected_loss, expected = definition.softmax_cross_entropy(scores.astype(np.float64), labels, 2)
    assert_agrees(loss, expected_loss)
    assert_agrees(d_scores, expected)


def test_large_scores_do_not_overflow(xp):
    scores = np.array([[1000, 0, -1000], [-3e4, -3e5, -3e5], [-3e38, 0, 0], [-np.inf, 0, 0]], np.float32)
    loss, d_scores = softmax_cross_entropy(xp.asarray(scores), xp.asarray(np.array([2, 0, 1, 2])), 4)
    assert float(loss) == pytest.approx((2000 + 0 + np.log(2) + np.log(2)) / 4, rel=1e-6)
    expected = np.array([[1, 0, -1], [0, 0, 0], [0, -0.5, 0.5], [0, 0.5, -0.5]]) / 4
    np.testing.assert_allclose(to_host(d_scores), expected, atol=1e-6)
    assert to_host(softmax(xp.asarray(scores))).tolist() == [[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]]


@pytest.mark.parametrize("place", [(0, 0), (3, 40), (3, 69)])
def test_a_diverged_score_shows(xp, rng, place):
    scores, labels = draw(rng, (4, 70))
    scores[place] = np.nan
    loss, d_scores = softmax_cross_entropy(xp.asarray(scores), xp.asarray(labels), 4)
    assert np.isnan(float(loss))
    is_nan = np.isnan(to_host(d_scores))
    assert is_nan[place[0]].all()
    assert is_nan.sum() == 70


@pytest.mark.parametrize("label", [-1, 5, 2**40])
def test_a_label_that_is_no_class_shows(xp, rng, label):
    scores, labels = draw(rng, (4, 5))
    labels[2] = label
    loss, d_scores = softmax_cross_entropy(xp.asarray(scores), xp.asarray(labels), 4)
    assert np.isnan(float(loss))
    assert np.isfinite(to_host(d_scores)).all()


def test_no_pictures(xp):
    scores, labels = xp.empty((0, 7), np.float32), xp.empty(0, np.int64)
    loss, d_scores = softmax_cross_entropy(scores, labels, 3)
    assert (float(loss), d_scores.shape, softmax(scores).shape) == (0, (0, 7), (0, 7))


def test_scores_that_are_not_contiguous(xp, rng):
    scores, labels = draw(rng, (40, 9))
    loss, d_scores = softmax_cross_entropy(xp.asarray(scores).T[:, ::-1], xp.asarray(labels)[:9] % 40, 9)
    expected_loss, expected = definition.softmax_cross_entropy(scores.T[:, ::-1].astype(np.float64), labels[:9], 9)
    assert_agrees(loss, expected_loss)
    assert_agrees(d_scores, expected)


def test_the_same_bits_every_time(xp, rng):
    scores, labels = (xp.asarray(x) for x in draw(rng, (65, 33)))
    runs = [softmax_cross_entropy(scores, labels, 65) for _ in range(3)]
    assert len({to_host(loss).tobytes() + to_host(d_scores).tobytes() for loss, d_scores in runs}) == 1


def test_like_pytorch(xp, torch, rng):
    scores, labels = draw(rng, (12, 50))
    scores_torch = torch.tensor(scores, requires_grad=True)
    loss_torch = torch.nn.functional.cross_entropy(scores_torch, torch.tensor(labels))
    loss_torch.backward()
    loss, d_scores = softmax_cross_entropy(xp.asarray(scores), xp.asarray(labels), 12)
    assert_agrees(loss, loss_torch.detach().numpy())
    assert_agrees(d_scores, scores_torch.grad.numpy())
    words = softmax_cross_entropy(xp.asarray(scores), xp.asarray(labels), 12, np.uint16)[1]
    assert_agrees(xp.asarray(from_bfloat16(to_host(words))), scores_torch.grad.numpy(), error=1e-2)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (((3, 5), "f8"), ((3,), "i8")),
        (((3, 5), "u2"), ((3,), "i8")),
        (((15,), "f4"), ((15,), "i8")),
        (((3, 5), "f4"), ((5,), "i8")),
        (((3, 5), "f4"), ((3, 1), "i8")),
        (((3, 5), "f4"), ((3,), "i4")),
    ],
)
def test_other_arrays_are_refused(xp, scores, labels):
    with pytest.raises(TypeError, match=r"softmax_cross_entropy: (scores|labels)"):
        softmax_cross_entropy(xp.zeros(*scores), xp.zeros(*labels), 3)

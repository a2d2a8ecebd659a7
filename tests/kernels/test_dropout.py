import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.randomness import Chances, Purpose, philox
from tests.conftest import assert_adjoint, assert_close, assert_is_gradient, distinct


def test_by_hand(dtype):
    x, kept = np.array([1, 2, 3, 4], dtype), np.array([True, False, False, True])
    assert kernels.dropout(x, kept, rate=0.5).tolist() == [2, 0, 0, 8]
    assert kernels.dropout(x, kept, rate=0.75).tolist() == [4, 0, 0, 16]


def test_what_is_dropped_leaves_no_trace():
    x, kept = np.array([np.inf, np.nan, np.inf]), np.array([False, False, True])
    assert kernels.dropout(x, kept, rate=0.5).tolist() == [0, 0, np.inf]


def chances(count, seed=0, epoch=0):
    return Chances.of(np.arange(count), seed, Purpose.DROPOUT, epoch)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_the_share_that_is_kept(rate):
    x = np.empty((100, 20, 10), np.float32)
    kept = kernels.draw_kept(x, chances(100), rate)
    assert kept.dtype == np.bool_
    assert kept.shape == x.shape
    assert kept.mean() == pytest.approx(1 - rate, abs=5 * np.sqrt(rate * (1 - rate) / kept.size))
    for axis in ((1, 2), 0):  # and of every image, and of every place in an image
        shares = kept.mean(axis=axis)
        count = kept.size / shares.size
        np.testing.assert_allclose(shares, 1 - rate, rtol=0, atol=5 * np.sqrt(rate * (1 - rate) / count))


def test_what_is_kept_is_independent():
    kept = kernels.draw_kept(np.empty((200, 1000)), chances(200), 0.5)
    other = kernels.draw_kept(np.empty((200, 1000)), chances(200).in_stream(1), 0.5)
    pairs = [(kept, other), (kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept[:, 4:], kept[:, :-4])]
    assert all((a == b).mean() == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(a.size)) for a, b in pairs)


@pytest.mark.parametrize("rate", [0.3, 2**-32, 1 - 2**-32])
def test_one_word_of_philox_decides_on_one_number(rate, monkeypatch):
    """Word by word, as it is defined; the parts that are drawn at a time end in the midst of an image."""
    monkeypatch.setattr("npconvnet.kernels.cpu.dropout._AT_ONCE", 3)
    items, key = [6, 2**33 + 1, 0], np.random.SeedSequence([1, Purpose.DROPOUT, 2]).generate_state(2)
    drawn = Chances.of(np.array(items), 1, Purpose.DROPOUT, 2).in_stream(9)

    def word(item, i):
        counter = [np.array([n], np.uint64) for n in (i // 4, 9, item % 2**32, item // 2**32)]
        return int(philox(counter, key)[i % 4][0])

    expected = [[word(item, i) >= rate * 2**32 for i in range(18)] for item in items]
    assert kernels.draw_kept(np.empty((3, 18)), drawn, rate).tolist() == expected


def test_the_rate_is_exact(monkeypatch):
    """Of the words around the limit, those below it are dropped."""
    limit = round(0.3 * 2**32)
    around = [np.array([word], np.uint64) for word in (limit - 1, limit, limit + 1, 0)]
    monkeypatch.setattr(Chances, "words", lambda self, rows, blocks: around)
    assert kernels.draw_kept(np.empty((1, 4)), chances(1), 0.3).tolist() == [[False, True, True, False]]


def test_what_is_kept_is_the_images_own():
    """Alone, among others, in any order; of images large and small."""
    for shape in ((50,), (3, 5, 7), (40_000,)):
        x = np.empty((4, *shape))
        kept = kernels.draw_kept(x, chances(4), 0.5)
        np.testing.assert_array_equal(kernels.draw_kept(x, chances(4), 0.5), kept)
        np.testing.assert_array_equal(kernels.draw_kept(x[1:3], chances(4)[1:3], 0.5), kept[1:3])
        backwards = Chances.of(np.arange(4)[::-1], 0, Purpose.DROPOUT, 0)
        np.testing.assert_array_equal(kernels.draw_kept(x, backwards, 0.5), kept[::-1])


def test_images_streams_epochs_and_seeds_differ():
    x = np.empty((3, 50))
    for_all = [chances(3), chances(3).in_stream(1), chances(3, epoch=1), chances(3, seed=1)]
    found = [tuple(row) for own in for_all for row in kernels.draw_kept(x, own, 0.5).tolist()]
    assert len(set(found)) == 12


def test_no_images_and_no_numbers():
    assert kernels.draw_kept(np.empty((0, 5)), chances(0), 0.5).shape == (0, 5)
    assert kernels.draw_kept(np.empty((5, 0)), chances(5), 0.5).shape == (5, 0)


@pytest.mark.parametrize("count", [1, 4])
def test_every_image_needs_its_chances(count):
    with pytest.raises(ValueError, match=f"there are 3 images, and chances of {count}"):
        kernels.draw_kept(np.empty((3, 5)), chances(count), 0.5)


def test_the_expectation_stays():
    x = np.ones((20, 1000))
    assert kernels.dropout(x, kernels.draw_kept(x, chances(20), 0.3), 0.3).mean() == pytest.approx(1, abs=0.03)


def test_the_forward_is_its_own_backward(rng):
    x, dy = distinct(rng, (4, 6)), distinct(rng, (4, 6))
    kept = kernels.draw_kept(x, chances(4), 0.4)
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

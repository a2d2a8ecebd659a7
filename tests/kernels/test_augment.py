import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet import kernels
from npconvnet.kernels import Views
from npconvnet.kernels.cpu import augment_in_parallel
from npconvnet.kernels.cpu.augment import augment as definition
from npconvnet.parallel import use_threads

NOTHING_OFF, BY_ONE = np.zeros(3, np.float32), np.ones(3, np.float32)
MEAN, STD = np.array([124, 117, 104], np.float32), np.array([59, 57, 58], np.float32)


def draw(rng, shape, mean_is_image):
    """The arguments of `augment`; `shape` is (N, H, W, crop)."""
    count, height, width, crop = shape

    def below(limit):
        return rng.integers(0, limit, count, endpoint=True)

    views = Views.plain(below(height - crop), below(width - crop), below(1))
    views.colour[:] = rng.normal(0, 20, (count, 3))
    views.erased[:] = np.sort(rng.integers(0, crop, (count, 2, 2), endpoint=True), axis=1).reshape(count, 4)
    mean = rng.uniform(0, 255, (crop, crop, 3)).astype(np.float32) if mean_is_image else MEAN
    return rng.integers(0, 256, (count, height, width, 3), np.uint8), views, crop, mean, STD


def picture(*rows):
    """(1, H, W, 3) of grey values."""
    return np.repeat(np.array(rows, np.uint8)[None, :, :, None], 3, axis=3)


def red(x):
    return x[0, :, :, 0].tolist()


PICTURE = picture([11, 12, 13, 14], [21, 22, 23, 24], [31, 32, 33, 34])


@pytest.mark.parametrize(
    ("top", "left", "reflect", "expected"),
    [
        (0, 0, False, [[11, 12], [21, 22]]),
        (1, 2, False, [[23, 24], [33, 34]]),
        (1, 2, True, [[24, 23], [34, 33]]),
    ],
)
def test_crop_and_reflection_by_hand(top, left, reflect, expected):
    x = kernels.augment(PICTURE, Views.plain([top], [left], [reflect]), 2, NOTHING_OFF, BY_ONE)
    assert red(x) == expected
    assert x.dtype == np.float32
    assert x.shape == (1, 2, 2, 3)


def test_colour_mean_and_std_by_hand():
    views = Views.plain([0], [0], [False])
    views.colour[0] = [1, 2, 3]
    mean, std = np.array([10, 11, 12], np.float32), np.array([2, 4, 8], np.float32)
    x = kernels.augment(np.full((1, 1, 1, 3), 20, np.uint8), views, 1, mean, std)
    assert x.ravel().tolist() == [(20 + 1 - 10) / 2, (20 + 2 - 11) / 4, (20 + 3 - 12) / 8]


def test_a_mean_image_is_not_reflected_by_hand():
    mean = np.repeat(np.array([[[1], [2]], [[3], [4]]], np.float32), 3, axis=2)
    x = kernels.augment(PICTURE, Views.plain([1], [2], [True]), 2, mean, BY_ONE)
    assert red(x) == [[24 - 1, 23 - 2], [34 - 3, 33 - 4]]


def test_erasing_by_hand():
    views = Views.plain([1], [1], [True])
    views.erased[0] = [0, 1, 1, 3]
    x = kernels.augment(PICTURE, views, 2, np.full(3, 1, np.float32), BY_ONE)
    assert red(x) == [[22, 0], [32, 31]]  # after the reflection, and to the mean colour, which is 0
    assert (x[0, 0, 1] == 0).all()


def test_every_picture_has_its_own_view():
    pictures = np.concatenate([PICTURE, PICTURE + 100])
    views = Views.plain([0, 1], [2, 0], [True, False])
    views.colour[1] = 0.5
    views.erased[0] = [1, 0, 2, 2]
    x = kernels.augment(pictures, views, 2, NOTHING_OFF, BY_ONE)
    assert x[:, :, :, 1].tolist() == [[[14, 13], [0, 0]], [[121.5, 122.5], [131.5, 132.5]]]


def test_the_pictures_are_left_as_they_are():
    pictures = PICTURE.copy()
    kernels.augment(pictures, Views.plain([0], [0], [True]), 3, BY_ONE, BY_ONE)
    np.testing.assert_array_equal(pictures, PICTURE)


@given(st.data())
def test_reflection_and_crop_are_slices(data):
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    crop = data.draw(st.integers(1, min(height, width)))
    top, left = data.draw(st.integers(0, height - crop)), data.draw(st.integers(0, width - crop))
    pictures = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    x = kernels.augment(pictures, Views.plain([top], [left], [False]), crop, NOTHING_OFF, BY_ONE)
    np.testing.assert_array_equal(x, pictures[:, top : top + crop, left : left + crop])
    reflected = kernels.augment(pictures, Views.plain([top], [left], [True]), crop, NOTHING_OFF, BY_ONE)
    np.testing.assert_array_equal(reflected, x[:, :, ::-1])


def test_a_crop_of_the_mean_colour_is_zero():
    mean = np.array([120, 110, 100], np.float32)
    pictures = np.broadcast_to(mean.astype(np.uint8), (2, 5, 5, 3))
    x = kernels.augment(pictures, Views.plain([0, 1], [1, 0], [False, True]), 4, mean, np.full(3, 57, np.float32))
    assert not x.any()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mean_is_image", [False, True])
@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (1, 1, 1, 1), (7, 9, 12, 8), (5, 40, 40, 40)], ids=str)
def test_in_parallel_as_by_the_definition(rng, monkeypatch, own_threads, threads, mean_is_image, shape):
    """To the bit, with two crops of 8×8 at once, or else one."""
    monkeypatch.setattr(augment_in_parallel, "NUMBERS", 2 * 8 * 8 * 3)
    use_threads(threads)
    arguments = draw(rng, shape, mean_is_image)
    x = kernels.augment(*arguments)
    np.testing.assert_array_equal(x, definition(*arguments))
    assert x.dtype == np.float32


@pytest.mark.parametrize("pictures", [2, 4])
def test_as_many_views_as_pictures(rng, pictures):
    _, *others = draw(rng, (3, 5, 5, 4), False)
    with pytest.raises(ValueError):
        kernels.augment(np.zeros((pictures, 5, 5, 3), np.uint8), *others)

"""Sub-images and the way back to their places."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization.sub_images import cut


def smooth(height, width):
    """A picture without detail, so that resizing changes little: brightness rises from corner to corner."""
    y, x = np.mgrid[:height, :width]
    return np.repeat((200 * (y / height + x / width) / 2).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (256, 256), (64, 80), (1000, 900)])
def test_what_is_seen_comes_back_to_its_place(size):
    picture = smooth(*size)
    views = cut(picture, Preprocessing(resize=256, crop=227), 10)
    back = views.put_back(views.inputs[..., 0])
    assert back.shape == size
    assert back.dtype == np.float32
    assert np.abs(back - picture[..., 0]).max() <= 4


def test_every_pixel_has_the_mean_of_the_views_that_show_it():
    views = cut(np.zeros((8, 12, 3), np.uint8), Preprocessing(resize=8, crop=6), 10)
    back = views.put_back(np.broadcast_to(np.arange(10, dtype=np.float32)[:, None, None], (10, 6, 6)))
    assert back[0, 0] == (0 + 5) / 2  # the corner: one crop and its reflection
    assert back[0, -1] == (1 + 6) / 2
    assert back[-1, 0] == (2 + 7) / 2
    assert back[4, 5] == np.mean([0, 2, 4, 5, 7, 9])  # what the crops on the left and in the centre share


def test_reflected_views_are_turned_back():
    views = cut(np.zeros((6, 6, 3), np.uint8), Preprocessing(resize=6, crop=6), 10)
    maps = np.zeros((10, 6, 6), np.float32)
    maps[:5, 2, 1], maps[5:, 2, 4] = 1, 1
    back = views.put_back(maps)
    assert back[2, 1] == 1
    assert back.sum() == 1


def test_one_view_is_the_centre_crop_and_nothing_around_it():
    views = cut(np.zeros((8, 8, 3), np.uint8), Preprocessing(resize=8, crop=4), 1)
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 1
    np.testing.assert_array_equal(views.put_back(np.ones((1, 4, 4), np.float32)), expected)


def test_one_view_is_what_the_network_sees_of_a_picture():
    picture = np.random.default_rng(0).integers(0, 256, (120, 190, 3), np.uint8)
    network_like = Preprocessing(resize=73, crop=64)
    square = np.array(Image.fromarray(picture).resize((73, 73), Image.Resampling.BILINEAR, box=(35, 0, 155, 120)))
    difference = cut(picture, network_like, 1).inputs - network_like.views(square[None])
    assert np.abs(difference).max() <= 1  # Pillow rounds


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1), (2, 90_000)])
def test_pictures_of_any_shape(size):
    views = cut(np.full((*size, 3), 7, np.uint8), Preprocessing(resize=73, crop=64), 10)
    back = views.put_back(np.ones((10, 64, 64), np.float32))
    assert back.shape == size
    assert 0.9 < back[size[0] // 2, size[1] // 2] <= 1  # a pixel may reach over the edge of the centre crop


def test_the_ends_of_a_panorama_are_zero():
    views = cut(np.zeros((64, 640, 3), np.uint8), Preprocessing(resize=64, crop=64), 10)
    back = views.put_back(np.ones((10, 64, 64), np.float32))
    assert back[:, 320 - 96 : 320 + 96].min() == pytest.approx(1)  # three crops side by side
    assert back[:, : 320 - 98].max() == back[:, 320 + 98 :].max() == 0


@pytest.mark.parametrize("size", [(360, 640), (300, 600), (700, 300)])
def test_long_pictures_have_no_gaps(size):
    views = cut(np.zeros((*size, 3), np.uint8), Preprocessing(resize=256, crop=224), 10)
    back = views.put_back(np.ones((10, 224, 224), np.float32))
    (y, x), (height, width) = (size[0] // 2, size[1] // 2), size
    assert back[:, x].min() == pytest.approx(1)
    assert back[y].max() == pytest.approx(1)
    assert back[height // 8 : -height // 8, width // 8 : -width // 8].min() == pytest.approx(1)


def test_maps_of_a_squeezed_picture_are_stretched_back():
    """A slope down and across goes back over all of the picture, each way by its own scale."""
    preprocessing = Preprocessing(resize=32, crop=32, keep_aspect=False)
    views = cut(np.zeros((64, 128, 3), np.uint8), preprocessing, 1)
    along = np.linspace(0, 1, 32, dtype=np.float32)
    found = views.put_back((along[:, None] + 10 * along)[None])
    assert found.shape == (64, 128)
    np.testing.assert_allclose(found[[0, -1]][:, [0, -1]], [[0, 10], [1, 11]], atol=0.2)
    assert (np.diff(found[2:-2, 4:-4], axis=0) > 0).all()
    assert (np.diff(found[2:-2, 4:-4], axis=1) > 0).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (300, 2), (50, 60)])
def test_a_crop_that_is_a_small_part_of_the_picture(size):
    preprocessing = Preprocessing(resize=80, crop=8)
    found = cut(np.zeros((*size, 3), np.uint8), preprocessing, 10)
    assert found.inputs.shape == (10, 8, 8, 3)
    assert min(found.resized_size) >= 80

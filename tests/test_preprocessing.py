"""Preprocessing: centre crop and ten views, and what travels with the weights."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from npconvnet.data.image import load_square
from npconvnet.models import MODELS
from npconvnet.preprocessing import Preprocessing, resize_and_centre_crop, resize_whole, view_positions
from tests.data.test_image import difference, photograph


def numbered(size):
    """A picture whose red is its row and whose green is its column."""
    picture = np.zeros((size, size, 3), np.uint8)
    picture[:, :, 0], picture[:, :, 1] = np.arange(size)[:, None], np.arange(size)
    return picture


def test_centre_crop_and_normalisation():
    preprocessing = Preprocessing(resize=8, crop=4, mean=(1, 2, 3), std=(2, 4, 5))
    x = preprocessing.views(numbered(8)[None])
    assert x.shape == (1, 4, 4, 3)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[0, 0, 0], [(2 - 1) / 2, (2 - 2) / 4, -3 / 5], rtol=1e-6)


def test_ten_views_are_corners_and_centre_then_reflected():
    x = Preprocessing(resize=8, crop=4).views(numbered(8)[None], 10)
    corners = [(int(view[0, 0, 0]), int(view[0, 0, 1])) for view in x[:5]]
    assert corners == [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    np.testing.assert_array_equal(x[5:], x[:5, :, ::-1])


def test_views_of_one_picture_stand_together():
    pictures = np.stack([numbered(8), 255 - numbered(8)])
    together = Preprocessing(resize=8, crop=4).views(pictures, 10)
    apart = [Preprocessing(resize=8, crop=4).views(picture[None], 10) for picture in pictures]
    np.testing.assert_array_equal(together, np.concatenate(apart))


def test_one_view_is_the_fifth_of_ten():
    one, ten = view_positions((5, 8), 1), view_positions((5, 8), 10)
    assert (one.top[0], one.left[0]) == (ten.top[4], ten.left[4])


def test_json_round_trip():
    preprocessing = Preprocessing(256, 227, (123.68, 116.779, 103.939), (58.4, 57.1, 1 / 3))
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing


def test_files_from_before_a_choice_existed_mean_what_was_done_then():
    old = {"resize": 73, "crop": 64, "mean": [1, 2, 3], "std": [4, 5, 6], "channels": "RGB"}
    assert Preprocessing.from_json(old) == Preprocessing(73, 64, (1, 2, 3), (4, 5, 6), "bilinear", keep_aspect=True)


@pytest.fixture
def with_mean_image(rng):
    return Preprocessing(8, 4, rng.uniform(0, 255, (4, 4, 3)).astype(np.float32), interpolation="bicubic")


def test_a_mean_image_is_taken_off_after_crop_and_reflection(with_mean_image):
    """Krizhevsky's network and MatConvNet's cnn_imagenet_get_batch: crop, flip, subtract."""
    x = with_mean_image.views(numbered(8)[None], 10)
    for view, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]):
        crop = numbered(8)[top : top + 4, left : left + 4].astype(np.float32)
        np.testing.assert_allclose(x[view], crop - with_mean_image.mean, rtol=1e-6)
        np.testing.assert_allclose(x[view + 5], crop[:, ::-1] - with_mean_image.mean, rtol=1e-6)
    np.testing.assert_array_equal(with_mean_image.picture(x)[4], numbered(8)[2:6, 2:6])


def test_the_mean_colour_of_a_mean_image(with_mean_image):
    assert with_mean_image.mean_colour == pytest.approx(with_mean_image.mean.mean(axis=(0, 1)))
    assert Preprocessing(8, 4, (1, 2, 3)).mean_colour == (1, 2, 3)
    assert Preprocessing(8, 4, (1, 2, 3)).mean_image is None


def test_a_mean_image_goes_beside_the_json(with_mean_image):
    as_json = json.loads(json.dumps(with_mean_image.to_json()))
    assert Preprocessing.from_json(as_json, with_mean_image.mean_image) == with_mean_image
    with pytest.raises(ValueError, match="mean image is missing"):
        Preprocessing.from_json(as_json)
    with pytest.raises(ValueError, match="as large as the crop"):
        Preprocessing.from_json(as_json, np.zeros((8, 8, 3), np.float32))


def test_what_is_equal(with_mean_image):
    assert with_mean_image == replace(with_mean_image, mean=with_mean_image.mean.copy())
    assert with_mean_image != replace(with_mean_image, mean=with_mean_image.mean + 1)
    assert with_mean_image != replace(with_mean_image, mean=(0, 0, 0))
    assert with_mean_image != replace(with_mean_image, interpolation="bilinear")
    assert with_mean_image != replace(with_mean_image, keep_aspect=False)
    assert with_mean_image != "bicubic"


def test_unknown_interpolation():
    with pytest.raises(ValueError, match="no interpolation is called 'nearest'; there are bilinear, bicubic"):
        Preprocessing.from_json(Preprocessing(8, 8).to_json() | {"interpolation": "nearest"})


@pytest.mark.parametrize(
    ("interpolation", "filter"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
def test_every_way_into_the_network_resizes_as_it_was_trained(interpolation, filter):
    """The centre square, the whole picture, and a file as `evaluate` loads it; Pillow does the same in one call."""
    picture = np.asarray(photograph(96, 96))
    expected = np.asarray(Image.fromarray(picture).resize((64, 64), filter))
    preprocessing = Preprocessing(64, 64, interpolation=interpolation)
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    for found in (
        resize_and_centre_crop(picture, preprocessing),
        resize_whole(picture, preprocessing, 999).picture,
        load_square(png.getvalue(), "x", preprocessing),
    ):
        np.testing.assert_array_equal(found, expected)


def test_without_the_aspect_the_whole_picture_is_squeezed():
    picture = np.asarray(photograph(60, 90))
    preprocessing = Preprocessing(32, 24, keep_aspect=False)
    expected = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_and_centre_crop(picture, preprocessing), expected)
    resized = resize_whole(picture, preprocessing, 999)
    np.testing.assert_array_equal(resized.picture, expected)
    assert resized.box == (0, 0, 90, 60)


@pytest.mark.parametrize(("resize", "crop"), [(223, 224), (10, 0)])
def test_impossible_crops(resize, crop):
    with pytest.raises(ValueError, match="can't be taken"):
        Preprocessing(resize, crop)


@pytest.mark.parametrize("shape", [(300, 200, 3), (20, 50, 3), (1, 1, 3), (73, 73, 3)])
def test_network_takes_pictures_of_any_size(shape):
    network = MODELS["tiny"]()
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    x = network.preprocess([picture, picture], 10)
    assert x.shape == (20, 64, 64, 3)
    np.testing.assert_array_equal(x[:10], x[10:])
    square = resize_and_centre_crop(picture, network.preprocessing)
    np.testing.assert_array_equal(x[:10], network.preprocessing.views(square[None], 10))


def resize_then_crop(picture, size):
    """The same done in two steps, the crop being cut at a whole pixel."""
    scale = size / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


@pytest.mark.parametrize(("height", "width"), [(400, 600), (600, 400), (64, 96), (256, 256), (128, 128)])
def test_resize_and_centre_crop_is_a_resize_followed_by_a_crop(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    square = resize_and_centre_crop(noise, Preprocessing(128, 128))
    assert square.shape == (128, 128, 3)
    assert square.dtype == np.uint8
    assert difference(square, resize_then_crop(Image.fromarray(noise), 128)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (333, 500), (500, 281)])
def test_a_crop_between_pixels_is_close_to_one_at_a_whole_pixel(height, width):
    picture = photograph(height, width)
    square = resize_and_centre_crop(np.asarray(picture), Preprocessing(64, 64))
    steepest = max(difference(square[1:], square[:-1]).max(), difference(square[:, 1:], square[:, :-1]).max())
    assert difference(square, resize_then_crop(picture, 64)).max() <= steepest  # it is shifted by less than a pixel


def test_an_image_of_the_size_is_unchanged():
    picture = np.asarray(photograph(48, 48))
    assert np.array_equal(resize_and_centre_crop(picture, Preprocessing(48, 48)), picture)


@pytest.mark.parametrize("shape", [(1, 50_000, 3), (50_000, 1, 3), (1, 1, 3), (2, 3, 3)])
def test_extreme_aspect_ratios(shape):
    assert np.array_equal(
        resize_and_centre_crop(np.full(shape, 77, np.uint8), Preprocessing(64, 64)), np.full((64, 64, 3), 77)
    )


@pytest.mark.parametrize("size", [(400, 600), (451, 300), (64, 96), (37, 121), (1, 5), (256, 256)])
def test_the_centre_of_the_whole_picture_is_the_centre_square(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    resized = resize_whole(noise, Preprocessing(64, 64), 999)
    rows, columns, _ = resized.picture.shape
    assert min(rows, columns) == 64
    centre = resized.picture[(rows - 64) // 2 :, (columns - 64) // 2 :][:64, :64]
    assert np.abs(centre.astype(int) - resize_and_centre_crop(noise, Preprocessing(64, 64))).max() <= 1  # Pillow rounds


@pytest.mark.parametrize("size", [(400, 600), (451, 300), (64, 96), (37, 121), (1, 5), (256, 256)])
def test_the_whole_picture_keeps_its_proportions_and_loses_less_than_two_pixels(size):
    resized = resize_whole(np.zeros((*size, 3), np.uint8), Preprocessing(64, 64), 999)
    left, top, right, bottom = resized.box
    rows, columns, _ = resized.picture.shape
    assert (bottom - top) / rows == pytest.approx((right - left) / columns)
    assert left == pytest.approx(size[1] - right)
    assert top == pytest.approx(size[0] - bottom)
    pixel = min(size) / 64
    assert 0 <= size[1] - (right - left) < 2 * pixel + 1e-9
    assert 0 <= size[0] - (bottom - top) < 2 * pixel + 1e-9


def test_ten_views_of_a_landscape_reach_its_corners():
    landscape = np.zeros((1, 8, 12, 3), np.uint8)
    landscape[0, :, :, 1] = np.arange(12)
    x = Preprocessing(resize=8, crop=6).views(landscape, 10)
    assert [int(view[0, 0, 1]) for view in x[:5]] == [0, 6, 0, 6, 3]


def test_a_panorama_loses_its_ends():
    resized = resize_whole(np.zeros((10, 5000, 3), np.uint8), Preprocessing(64, 64), 195)
    assert resized.picture.shape == (64, 194, 3)  # as many pixels from either end
    left, top, right, bottom = resized.box
    assert (top, bottom) == (0, 10)
    assert left == pytest.approx(5000 - right)
    assert right - left == pytest.approx(194 * 10 / 64)


def test_the_picture_that_was_preprocessed_comes_back(rng):
    network = MODELS["tiny"]()
    network.preprocessing = Preprocessing(64, 64, (120.0, 110.0, 100.0), (60.0, 50.0, 40.0))
    picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(network.preprocessing.picture(network.preprocess([picture])[0]), picture)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (0.0, 0.0, np.nan)},
        {"mean": (0.0, 0.0, -np.inf)},
        {"mean": np.full((8, 8, 3), np.nan, np.float32)},
        {"std": (1.0, 0.0, 1.0)},
        {"std": (1.0, -1.0, 1.0)},
        {"std": (1.0, np.nan, 1.0)},
        {"std": (1.0, 1e300, 1.0)},
        {"resize": 1 << 20},
    ],
)
def test_numbers_that_make_no_picture_are_refused(wrong):
    with pytest.raises(ValueError, match=r"mean and std|a crop of"):
        Preprocessing(**{"resize": 9, "crop": 8, **wrong})

"""From photo and map to box: where a blob points, at any size, and what is answered where nothing can be told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npconvnet.localization.bounding_box import bounding_box, iou, whole_image_box
from npconvnet.localization.graph_cut import CutOptions
from npconvnet.localization.localize import WORKING_SIZE, center_weights, localize


def ellipse_and_map(size, seed):
    """A noisy ellipse, a map that is speckled and strongest in its middle, and the ellipse's box."""
    (height, width), rng = size, np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / np.array([[[height]], [[width]]])
    distance = ((y - 0.55) / 0.25) ** 2 + ((x - 0.4) / 0.2) ** 2
    colors = np.where(distance[..., None] < 1, [200, 120, 40], [60, 90, 150]) + rng.normal(0, 20, (height, width, 3))
    return colors.clip(0, 255).astype(np.uint8), rng.exponential(np.exp(-distance)), bounding_box(distance < 1)


@pytest.mark.parametrize("size", [(60, 80), (375, 500), (500, 333), (700, 1100)])
def test_finds_the_ellipse(size):
    image, saliency, truth = ellipse_and_map(size, 0)
    found = localize(image, saliency)
    assert iou(found.box, truth) > 0.9
    assert found.note is None
    assert found.mask.shape == found.foreground_seeds.shape == found.background_seeds.shape == size
    assert found.box == bounding_box(found.mask)
    assert not (found.foreground_seeds & found.background_seeds).any()
    assert found.background_seeds.mean() == pytest.approx(0.3, abs=0.01)
    assert found.foreground_seeds.mean() == pytest.approx(0.05, abs=0.01)


def test_a_second_ellipse_is_not_part_of_the_answer():
    image, saliency, truth = ellipse_and_map((100, 120), 0)
    image[2:12, 100:115] = [200, 120, 40]
    found = localize(image, saliency)
    assert iou(found.box, truth) > 0.9


def test_same_seed_same_bits_and_the_input_stays():
    image, saliency, _ = ellipse_and_map((90, 120), 1)
    before = image.copy(), saliency.copy()
    a, b = localize(image, saliency, seed=3), localize(image, saliency, seed=3)
    assert a.box == b.box and np.array_equal(a.mask, b.mask)
    assert np.array_equal(image, before[0]) and np.array_equal(saliency, before[1])


def test_the_scale_of_the_map_does_not_matter():
    image, saliency, _ = ellipse_and_map((90, 120), 2)
    assert np.array_equal(localize(image, saliency).mask, localize(image, saliency * 1024).mask)


def test_center_weights_are_the_formula():
    weights = center_weights((3, 4), 0.5)
    y, x = np.array([-2 / 3, 0, 2 / 3]), np.array([-0.75, -0.25, 0.25, 0.75])
    assert weights == pytest.approx(np.exp(-2 * y[:, None] ** 2) * np.exp(-2 * x**2))
    assert (center_weights((3, 4), np.inf) == 1).all()


def test_of_equally_salient_objects_the_prior_prefers_the_one_in_the_middle():
    image, saliency = np.zeros((60, 80, 3), np.uint8), np.full((60, 80), 0.01)
    image[22:40, 30:50], image[:26, :26] = [200, 60, 0], [0, 60, 200]
    saliency[22:40, 30:50] = saliency[:26, :26] = 1
    assert localize(image, saliency, CutOptions(center_prior=np.inf)).box == (0, 0, 25, 25)
    assert localize(image, saliency, CutOptions(center_prior=0.5)).box == (30, 22, 49, 39)


def photo(height=20, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "saliency", "note"),
    [
        (photo(), np.zeros((20, 30)), "the same everywhere"),
        (photo(), np.full((20, 30), 0.1), "the same everywhere"),
        (photo(), np.full((20, 30), np.nan), "not finite"),
        (photo(), np.where(np.arange(600).reshape(20, 30) == 7, np.inf, 1.0), "not finite"),
        (np.full((20, 30, 3), 77, np.uint8), np.random.default_rng(0).random((20, 30)), "single colour"),
        (photo(1, 1), np.ones((1, 1)), "the same everywhere"),
        # A chessboard, of which the working size leaves nothing.
        (photo(2 * WORKING_SIZE, 4), np.indices((2 * WORKING_SIZE, 4)).sum(axis=0) % 2.0, "the same everywhere"),
    ],
)
def test_where_nothing_can_be_told_the_box_is_the_whole_image(image, saliency, note):
    found = localize(image, saliency)
    assert found.box == whole_image_box(*saliency.shape)
    assert note in str(found.note)
    assert found.mask.all() and not found.foreground_seeds.any() and not found.background_seeds.any()


@pytest.mark.parametrize("size", [(1, 2), (1, 40), (40, 1), (2, 2), (1, 3 * WORKING_SIZE)])
def test_thin_images_have_an_answer(size):
    rng = np.random.default_rng(0)
    found = localize(rng.integers(0, 256, (*size, 3)).astype(np.uint8), rng.random(size))
    assert found.note is None and found.mask.shape == size and found.box == bounding_box(found.mask)


def test_a_photo_of_two_colours():
    image = np.zeros((30, 40, 3), np.uint8)
    image[10:20, 5:25] = 255
    y, x = np.mgrid[:30, :40]
    assert localize(image, np.exp(-((y - 14) ** 2 + (x - 15) ** 2) / 50)).box == (5, 10, 24, 19)


def test_exact_zeros_of_a_sparse_map_are_background():
    """More than 95% of the map is 0: what is not 0 is foreground, and no colour can add to it."""
    image, saliency = np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40))
    image[10:20, 5:25] = 255
    saliency[13:16, 10:14] = 1
    assert localize(image, saliency, CutOptions(smoothing=0)).box == (10, 13, 13, 15)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_any_small_photo_and_map_have_a_box_inside(height, width, colors, levels, seed):
    rng = np.random.default_rng(seed)
    image = (rng.integers(0, colors, (height, width, 3)) * 100).astype(np.uint8)
    saliency = rng.integers(0, levels + 1, (height, width)).astype(np.float32)
    found = localize(image, saliency, CutOptions(iterations=2), seed)
    x0, y0, x1, y1 = found.box
    assert 0 <= x0 <= x1 < width and 0 <= y0 <= y1 < height
    assert (found.note is None) == (np.ptp(saliency) > 0 and bool((image != image[0, 0]).any()))


@pytest.mark.parametrize(
    ("image", "saliency"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5))),
        (np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5))),
        (np.zeros((4, 5, 3), np.float32), np.zeros((4, 5))),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4))),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 1))),
        (np.zeros((0, 5, 3), np.uint8), np.zeros((0, 5))),
    ],
)
def test_wrong_shapes_are_refused(image, saliency):
    with pytest.raises(ValueError):
        localize(image, saliency)

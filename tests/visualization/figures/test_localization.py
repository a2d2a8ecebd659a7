"""Figures of found objects: every kind of photo can be drawn, and what is drawn is in its place."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.localization.localize import Localization
from npconvnet.visualization.figures.localization import Case, draw_objects, draw_sheet


def found_in(size):
    """The upper left quarter, from a seed in its corner."""
    mask = np.zeros(size, bool)
    mask[: max(1, size[0] // 2), : max(1, size[1] // 2)] = True
    seed = np.zeros(size, bool)
    seed[0, 0] = True
    return Localization((0, 0, max(1, size[1] // 2) - 1, max(1, size[0] // 2) - 1), mask, seed, ~mask)


@pytest.mark.parametrize("size", [(300, 450), (450, 300), (1, 300), (1, 1), (2500, 3000)])
def test_photos_of_any_shape(size, tmp_path):
    photo = np.full((*size, 3), 128, np.uint8)
    found = found_in(size)
    draw_objects(tmp_path / "one.png", photo, [("a", found), ("b", found)], "title")
    cases = [Case.of(photo, "name", found.box, mask=found.mask)] * 6
    draw_sheet(tmp_path / "sheet.png", [("", cases)])
    for name in ("one.png", "sheet.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
            assert 800 < image.width < 2000
            assert image.height < 3000


def test_a_whole_mask_and_true_boxes(tmp_path):
    photo = np.full((40, 60, 3), 200, np.uint8)
    everywhere = np.ones((40, 60), bool)
    draw_sheet(tmp_path / "a.png", [("best", [Case.of(photo, "a", (0, 0, 59, 39), mask=everywhere)])])
    truth = [(5, 5, 30, 30)]
    draw_sheet(tmp_path / "b.png", [("best", [Case.of(photo, "a", (0, 0, 59, 39), truth)]), ("worst", [])])
    with Image.open(tmp_path / "a.png") as plain, Image.open(tmp_path / "b.png") as with_truth:
        assert np.asarray(plain).shape == np.asarray(with_truth).shape
        assert not np.array_equal(np.asarray(plain), np.asarray(with_truth))

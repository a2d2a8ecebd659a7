"""The saliency figure: nothing is stretched, and every kind of photo can be drawn."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.visualization.figures.saliency import draw_saliency


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (1, 300), (300, 1), (3000, 2000)])
def test_photos_of_any_shape(size, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    draw_saliency(tmp_path / "figure.png", photo, np.ones(size, np.float32), "title", "subtitle")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG"
        assert 1000 < image.width < 2000
        assert 200 < image.height < 1200


def test_a_photo_keeps_its_proportions(tmp_path):
    photo = np.zeros((200, 400, 3), np.uint8)
    photo[:, :, 1] = 255
    draw_saliency(tmp_path / "figure.png", photo, np.zeros((200, 400), np.float32), "", "")
    with Image.open(tmp_path / "figure.png") as image:
        green = (np.asarray(image.convert("RGB")) == (0, 255, 0)).all(axis=-1)
    rows, columns = (np.ptp(np.flatnonzero(green.any(axis=axis))) + 1 for axis in (1, 0))
    assert columns / rows == pytest.approx(2, abs=0.02)


def test_a_map_of_zeros_is_dark(tmp_path):
    draw_saliency(tmp_path / "figure.png", np.full((50, 50, 3), 255, np.uint8), np.zeros((50, 50), np.float32), "", "")
    with Image.open(tmp_path / "figure.png") as image:
        assert (np.asarray(image.convert("L")) == 0).mean() > 0.2

"""The contact sheet of class models: every panel where it belongs, in its own colours, and the record in the file."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.models import MODELS
from npconvnet.preprocessing import Preprocessing
from npconvnet.visualization.class_model import ClassModel, Recipe
from npconvnet.visualization.figures.class_models import draw_class_models, draw_snapshots


@pytest.fixture
def network():
    made = MODELS["tiny"]()
    made.preprocessing = Preprocessing(73, 64, (100, 100, 100), (50, 50, 50))
    return made


def flat(target, grey):
    """A class model that is flat: `grey` once the mean is added."""
    image = np.full((64, 64, 3), (grey - 100) / 50, np.float32)
    return ClassModel(target, image, 12.3, 0.9, 1.0, 0, {1: image, 2: image})


def side_of(picture, grey):
    """Height and width, in pixels, of what is exactly `grey`."""
    pixels = (np.asarray(picture.convert("RGB")) == grey).all(axis=-1)
    rows, columns = np.flatnonzero(pixels.sum(axis=1) > 100), np.flatnonzero(pixels.sum(axis=0) > 100)
    return np.ptp(rows) + 1, np.ptp(columns) + 1


@pytest.mark.parametrize("count", [1, 2, 7])
def test_panels_are_square_and_in_the_colours_of_the_picture(count, network, tmp_path):
    greys = [60 + 20 * number for number in range(count)]
    models = [flat(number, grey) for number, grey in enumerate(greys)]
    draw_class_models(tmp_path / "a.png", network, models, Recipe(), {"npconvnet": "μ, λ"})
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.info["npconvnet"] == "μ, λ"
        for grey in greys:
            height, width = side_of(picture, grey)
            assert height == pytest.approx(width, abs=2)
            assert height > 300


def test_snapshots_stand_in_a_row(network, tmp_path):
    draw_snapshots(tmp_path / "a.png", network, [flat(3, 60), flat(4, 180)], Recipe(jitter=3), {})
    with Image.open(tmp_path / "a.png") as picture:
        for grey in (60, 180):
            height, width = side_of(picture, grey)
            assert width > 2 * height

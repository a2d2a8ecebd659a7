"""The figure of `compare` for units that see all, a part, or nothing of the picture."""

import math

import numpy as np
import pytest
from PIL import Image

from npconvnet.visualization.compare import Comparison, Row
from npconvnet.visualization.deconvnet import RULES, Unit
from npconvnet.visualization.figures.comparison import _field, draw_comparison

PHOTO = np.full((40, 40, 3), 200, np.uint8)


def comparison(reached, rng):
    signed = np.zeros((40, 40, 3))
    signed[reached] = rng.standard_normal(signed[reached].shape)
    rows = [
        Row("relu1", (0.5, 0.2, -0.3), 0.4, {"gradient": 0.5, "deconvnet": 0.1, "guided": 0.0}),
        Row("input", (math.nan,) * 3, math.nan, dict.fromkeys(RULES, math.nan)),
    ]
    reconstructions = {rule: signed * 10.0**number for number, rule in enumerate(RULES)}
    return Comparison(Unit("conv2", 0, (1, 2)), 3.0, tuple(rows), reconstructions)


@pytest.mark.parametrize("reached", [np.s_[:, :], np.s_[30:40, 5:9], np.s_[0:0]], ids=["all", "part", "nothing"])
def test_draws(reached, tmp_path, rng):
    draw_comparison(tmp_path / "a.png", PHOTO, comparison(reached, rng), "a unit")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000


def test_the_field_is_the_least_square_inside_the_picture():
    reached = np.zeros((40, 40))
    assert _field(reached) == (0, 0, 40)
    reached[30, 38] = reached[35, 39] = 1
    assert _field(reached) == (30, 34, 6)

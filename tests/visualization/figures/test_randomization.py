"""The figure of the sanity check, for networks of few and of many layers, and with gaps."""

import math

import numpy as np
import pytest
from PIL import Image

from npconvnet.visualization.deconvnet import RULES
from npconvnet.visualization.figures.randomization import draw_sanity_check
from npconvnet.visualization.randomization import SanityCheck


@pytest.mark.parametrize("layers", [1, 3, 30])
def test_draws(layers, tmp_path, rng):
    correlations = rng.uniform(-1, 1, (2, layers + 1))
    correlations[:, -1] = math.nan
    maps = rng.random((layers + 2, 20, 20), np.float32)
    maps[-1] = 0
    stages = ("another class", *(f"conv{number}" for number in range(layers)))
    check = SanityCheck(stages, dict.fromkeys(RULES, correlations), dict.fromkeys(RULES, maps))
    draw_sanity_check(tmp_path / "a.png", np.zeros((20, 20, 3), np.uint8), check, "a photo")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000

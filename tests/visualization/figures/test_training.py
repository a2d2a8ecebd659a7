"""Figures are PNG files of a sensible size; how they look is for people to judge."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.errors import InputError
from npconvnet.visualization.figures.training import draw_filters, draw_training_curves

RECORDS = [
    {"event": "step", "step": 10, "epoch": 1, "loss": 2.3, "learning_rate": 0.1},
    {"event": "step", "step": 20, "epoch": 1, "loss": 1.9, "learning_rate": 0.1},
    {"event": "epoch", "step": 20, "epoch": 1, "training_loss": 2.1, "validation_loss": 2.0,
     "top1_error": 0.5, "top5_error": 0.1},
]  # fmt: skip


def test_training_curves(tmp_path):
    draw_training_curves(tmp_path / "curves.png", RECORDS)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height > 300


def test_filters_are_on_one_scale_around_mid_grey(tmp_path):
    filters = np.zeros((5, 3, 3, 3))
    filters[0], filters[1] = 2.0, -2.0
    draw_filters(tmp_path / "filters.png", filters, "five filters")
    with Image.open(tmp_path / "filters.png") as image:
        colours = set(np.asarray(image.convert("L")).ravel().tolist())
    assert {0, 255} <= colours
    assert colours & {127, 128}


def test_all_zero_filters_can_be_drawn(tmp_path):
    draw_filters(tmp_path / "filters.png", np.zeros((1, 3, 3, 3)), "one filter")
    assert (tmp_path / "filters.png").exists()


def test_path_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        draw_filters(tmp_path / "none" / "filters.png", np.zeros((1, 3, 3, 3)), "")

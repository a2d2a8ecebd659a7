"""The figure of top patches: what stands where, unstretched, and on one scale."""

import numpy as np
import pytest
from PIL import Image

from npconvnet.errors import InputError
from npconvnet.visualization.figures.top_patches import draw_top_patches
from npconvnet.visualization.receptive_field import Rectangle
from npconvnet.visualization.top_patches import TopPatch

RED, BLUE = (250, 10, 20), (5, 40, 230)


def top_patch(colour, strength, size=8):
    """A reconstruction of `strength` is magenta, or green where negative: no word of the figure has these colours."""
    picture, reconstruction = np.full((size, size, 3), colour, np.uint8), np.full((size, size, 3), strength)
    reconstruction[..., 1] *= -1
    return TopPatch(0, "", 0, 0, strength, Rectangle(0, 0, size, size), picture, reconstruction)


def drawn(tmp_path, maps):
    draw_top_patches(tmp_path / "figure.png", maps, "title", "subtitle")
    return np.asarray(Image.open(tmp_path / "figure.png").convert("RGB"))


def where(figure, colour):
    """(top, left, height, width) of the rectangle of one colour, after checking that it is one."""
    pixels = np.argwhere((figure == colour).all(axis=-1))
    (top, left), (height, width) = pixels.min(axis=0), np.ptp(pixels, axis=0) + 1
    assert len(pixels) == height * width
    return top, left, height, width


@pytest.mark.parametrize("size", [1, 8, 300])
def test_reconstruction_stands_beside_its_picture(tmp_path, size):
    figure = drawn(tmp_path, {"map": [top_patch(RED, 2.0, size), top_patch(BLUE, -2.0, size)]})
    red, blue, magenta, green = (where(figure, colour) for colour in (RED, BLUE, (255, 0, 255), (0, 255, 0)))
    assert red[0] == blue[0] == magenta[0] == green[0]
    assert magenta[1] < green[1] < figure.shape[1] / 2 < red[1] < blue[1]
    for *_, height, width in (red, blue, magenta, green):
        assert abs(height - width) <= 1
        assert height > 100


def test_reconstructions_of_a_map_share_a_scale(tmp_path):
    figure = drawn(tmp_path, {"one": [top_patch(RED, 4.0), top_patch(RED, 1.0)], "two": [top_patch(RED, 1.0)]})
    one, two = np.array_split(figure, 2, axis=1)
    weak = np.array((0.625, 0.375, 0.625)) * 255  # a quarter of the way from mid-grey to the end of the scale
    assert (np.abs(one - weak) < 1).all(axis=-1).sum() > 10_000
    where(two, (255, 0, 255))  # in a map of its own, the same is the end of the scale


def test_as_large_as_its_maps(tmp_path):
    one, four, seven = (
        drawn(tmp_path, {str(name): [top_patch(RED, 1.0)] * 9 for name in range(count)}).shape for count in (1, 4, 7)
    )
    assert four[1] == seven[1] == pytest.approx(3 * one[1], abs=3)
    assert one[0] < four[0] < seven[0]
    assert seven[0] - four[0] == pytest.approx(four[0] - one[0], abs=2)


def test_map_without_patches(tmp_path):
    figure = drawn(tmp_path, {"silent": []})
    assert 0 < (figure < 128).all(axis=-1).sum() < 5000  # words, and nothing else


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="none"):
        draw_top_patches(tmp_path / "none" / "figure.png", {"map": [top_patch(RED, 1.0)]}, "", "")

"""sRGB to L*a*b*."""

import numpy as np
import pytest

from npconvnet.localization.color_space import rgb_to_lab


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((1, 1, 1), (100, 0, 0)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.01, 0.01, 0.01), (0.70, 0, 0)),  # the straight parts of both curves
    ],
)
def test_known_colors(rgb, lab):
    """The values of sRGB's primaries under D65 that colour calculators print."""
    np.testing.assert_allclose(rgb_to_lab(np.array(rgb, float)), lab, atol=0.02)


def test_agrees_with_opencv():
    cv2 = pytest.importorskip("cv2")
    colors = np.random.default_rng(0).random((40, 50, 3)).astype(np.float32)
    np.testing.assert_allclose(rgb_to_lab(colors.astype(float)), cv2.cvtColor(colors, cv2.COLOR_RGB2LAB), atol=0.5)

"""Components, boxes and their overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet.localization.bounding_box import (
    bounding_box,
    central_box,
    iou,
    ious,
    largest_component,
    threshold_box,
    whole_image_box,
)


def mask(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def test_largest_component():
    found = largest_component(mask("##..", "...#", "..##"))
    assert np.array_equal(found, mask("....", "...#", "..##"))


def test_diagonal_neighbours_are_connected():
    found = largest_component(mask("#...", ".#..", "...#"))
    assert np.array_equal(found, mask("#...", ".#..", "...."))


def test_of_equal_components_the_first_in_scan_order():
    """Its first pixel in rows from the top decides, not its leftmost one."""
    found = largest_component(mask("...#", "...#", "#...", "#..."))
    assert np.array_equal(found, mask("...#", "...#", "....", "...."))


@pytest.mark.parametrize("value", [False, True])
def test_component_of_nothing_and_of_everything(value):
    everything = np.full((3, 4), value)
    assert np.array_equal(largest_component(everything), everything)


def test_bounding_box_holds_both_ends():
    assert bounding_box(mask("....", ".#..", "..#.")) == (1, 1, 2, 2)
    assert bounding_box(mask("....", "...#")) == (3, 1, 3, 1)
    assert bounding_box(np.ones((5, 7), bool)) == whole_image_box(5, 7) == (0, 0, 6, 4)


def test_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty mask"):
        bounding_box(np.zeros((3, 3), bool))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 9, 9), (0, 0, 9, 9), 1),
        ((0, 0, 0, 0), (0, 0, 0, 0), 1),  # one pixel
        ((0, 0, 1, 0), (1, 0, 2, 0), 1 / 3),  # boxes that end and begin at the same pixel share it
        ((0, 0, 4, 0), (5, 0, 9, 0), 0),  # those side by side do not
        ((0, 0, 9, 9), (0, 0, 9, 4), 50 / 100),
        ((0, 0, 9, 9), (2, 3, 4, 5), 9 / 100),
        ((0, 0, 9, 9), (20, 20, 30, 30), 0),  # apart in both directions: two negatives do not make an area
        ((5, 5, 2, 2), (5, 5, 2, 2), 0),  # ends before it begins
    ],
)
def test_iou_counts_both_ends(a, b, expected):
    assert iou(a, b) == iou(b, a) == pytest.approx(expected, abs=1e-15)


corners = st.integers(0, 12)


@given(st.lists(st.tuples(corners, corners, corners, corners), min_size=2, max_size=4))
def test_iou_is_that_of_the_pixels(boxes):
    boxes = [(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)) for x0, y0, x1, y1 in boxes]
    painted = np.zeros((len(boxes), 13, 13), bool)
    for n, (x0, y0, x1, y1) in enumerate(boxes):
        painted[n, y0 : y1 + 1, x0 : x1 + 1] = True
        assert bounding_box(painted[n]) == boxes[n]
    expected = [[(a & b).sum() / (a | b).sum() for b in painted] for a in painted]
    np.testing.assert_allclose(ious(boxes, boxes), expected, rtol=1e-15)


def test_central_box():
    assert central_box(100, 200, 0.8) == (20, 10, 179, 89)
    assert central_box(5, 7, 1) == whole_image_box(5, 7)
    assert central_box(1, 9, 0.1) == (4, 0, 4, 0)


def test_threshold_box():
    saliency = np.zeros((6, 8))
    saliency[1:3, 2:5] = 4
    saliency[4, 7] = 10
    assert threshold_box(saliency, 0.4) == (2, 1, 4, 2)  # at the threshold is above it
    assert threshold_box(saliency, 0.5) == (7, 4, 7, 4)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_threshold_box_of_an_empty_map_is_everything(value):
    assert threshold_box(np.full((4, 5), float(value))) == (0, 0, 4, 3)

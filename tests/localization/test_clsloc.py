"""Each rule of the scores by a hand-written case; MaxBoxAcc also against its authors' program, written with OpenCV."""

import numpy as np
import pytest

from npconvnet.localization.bounding_box import ious
from npconvnet.localization.clsloc import (
    LEVELS,
    MAP_SIZE,
    ClsLoc,
    best_iou,
    errors,
    is_found,
    max_box_accuracy,
    max_box_hits,
    points_at,
    score_guesses,
)

CAT, DOG, FOX = 3, 5, 8
TRUTH = (10, 10, 19, 19)  # 10 × 10 pixels
AWAY = (50, 50, 60, 60)


def localized(*guesses, boxes=(TRUTH,)):
    score = score_guesses(guesses, AWAY, CAT, boxes)
    return score.localization_top1, score.localization_top5


def classified(*labels):
    score = score_guesses([(label, AWAY) for label in labels], AWAY, CAT, [TRUTH])
    return score.classification_top1, score.classification_top5


# -- CLS-LOC ---------------------------------------------------------------------------------------------------------


def test_label_and_box_are_right():
    assert localized((CAT, TRUTH)) == (True, True)


def test_right_box_under_a_wrong_label_is_wrong():
    assert localized((DOG, TRUTH), (CAT, AWAY)) == (False, False)


def test_right_label_with_a_wrong_box_is_wrong():
    assert localized((CAT, AWAY)) == (False, False)


def test_any_of_five_guesses_will_do():
    assert localized((DOG, TRUTH), (FOX, AWAY), (FOX, AWAY), (FOX, AWAY), (CAT, TRUTH)) == (False, True)


def test_a_sixth_guess_is_not_looked_at():
    assert localized(*[(DOG, TRUTH)] * 5, (CAT, TRUTH)) == (False, False)
    assert classified(DOG, DOG, DOG, DOG, DOG, CAT) == (False, False)


def test_a_class_may_be_guessed_twice():
    assert localized((CAT, AWAY), (CAT, TRUTH)) == (False, True)


def test_fewer_guesses_or_none():
    assert localized() == (False, False)
    assert classified() == (False, False)


def test_classification_does_not_ask_for_the_box():
    assert classified(CAT, DOG) == (True, True)
    assert classified(DOG, CAT) == (False, True)


def test_known_class_does_not_ask_for_the_label():
    score = score_guesses([(DOG, AWAY)], TRUTH, CAT, [TRUTH])
    assert score.localization_known_class
    assert not score.localization_top5
    assert not score_guesses([(CAT, TRUTH)], AWAY, CAT, [TRUTH]).localization_known_class


def test_any_box_of_the_class_will_do():
    assert localized((CAT, TRUTH), boxes=(AWAY, TRUTH)) == (True, True)
    assert best_iou((10, 10, 19, 14), [AWAY, TRUTH]) == 0.5


def test_one_half_is_enough_and_less_is_not():
    """5 of 10 rows: 50 of 100 pixels; then 50 of 101, and 4 of 10 rows."""
    assert is_found((10, 10, 19, 14), [TRUTH])
    assert not is_found((10, 10, 19, 13), [TRUTH])
    assert not is_found((0, 0, 0, 49), [(0, 0, 0, 100)])
    assert is_found((0, 0, 0, 49), [(0, 0, 0, 99)])


def test_both_ends_are_counted():
    """Without the +1 these would overlap by 1 · 1 of 2 · 1 (a half), and not at all."""
    assert not is_found((0, 0, 1, 1), [(0, 0, 2, 1), (0, 0, 4, 3)][1:])
    assert best_iou((0, 0, 1, 1), [(0, 0, 2, 1)]) == pytest.approx(4 / 6)
    assert best_iou((0, 0, 0, 0), [(0, 0, 0, 1)]) == 0.5
    assert is_found((0, 0, 0, 0), [(0, 0, 0, 1)])


def test_boxes_that_reach_past_the_image_count_as_annotated():
    assert best_iou((0, 0, 9, 9), [(0, 0, 9, 19)]) == 0.5


def test_errors_are_the_parts_that_were_wrong():
    scores = [ClsLoc(True, True, False, False, True), ClsLoc(False, True, False, True, True)]
    scores += [ClsLoc(False, False, False, False, True)] * 2
    assert errors(scores) == {
        "classification_top1": 0.75,
        "classification_top5": 0.5,
        "localization_top1": 1,
        "localization_top5": 0.75,
        "localization_known_class": 0,
    }


def test_nothing_to_score():
    with pytest.raises(ValueError, match="no image"):
        errors([])
    with pytest.raises(ValueError, match="no image"):
        max_box_accuracy(np.zeros((4, 255), int), 0)
    for question in (
        lambda: score_guesses([], AWAY, CAT, []),
        lambda: max_box_hits(np.zeros((4, 4)), []),
        lambda: points_at(np.zeros((4, 4)), []),
    ):
        with pytest.raises(ValueError, match="without a box"):
            question()


# -- MaxBoxAcc -------------------------------------------------------------------------------------------------------


def steps():
    """A map of MAP_SIZE whose squares at the top left are 255 (20 × 20), 100 (40 × 40) and 10 (80 × 80) high."""
    saliency = np.zeros((MAP_SIZE, MAP_SIZE))
    for side, height in ((80, 10), (40, 100), (20, 255)):
        saliency[:side, :side] = height
    return saliency


def test_each_threshold_has_its_own_box():
    hits = max_box_hits(steps(), [(0, 0, 40, 40)])
    assert hits.shape == (4, len(LEVELS)) == (4, 255)
    assert np.flatnonzero(hits[0]).tolist() == list(range(10, 100))  # above 10 and not above 100
    assert np.array_equal(hits[2], hits[0])
    assert np.array_equal(hits[3], hits[0])
    small = max_box_hits(steps(), [(0, 0, 20, 32)])  # 21 · 21 of 21 · 33 above 100, 21 · 33 of 41 · 41 below
    assert np.flatnonzero(small[1]).tolist() == list(range(10, 255))
    assert np.flatnonzero(small[2]).tolist() == list(range(100, 255))
    assert not small[3].any()


def test_v1_takes_the_largest_contour_and_v2_the_best():
    saliency = np.zeros((MAP_SIZE, MAP_SIZE))
    saliency[10:30, 10:30] = 1
    saliency[100:150, 100:150] = 1
    hits = max_box_hits(saliency, [(10, 10, 30, 30)])
    assert not hits[0].any()
    assert hits[1:].all()


def test_the_largest_contour_is_by_what_it_surrounds():
    """A ring of 4 · 59 pixels surrounds more than a square of 30 · 30."""
    saliency = np.zeros((MAP_SIZE, MAP_SIZE))
    saliency[10:70, 10:70] = 1
    saliency[11:69, 11:69] = 0
    saliency[100:130, 100:130] = 1
    assert max_box_hits(saliency, [(10, 10, 70, 70)])[0].all()


def test_map_and_boxes_are_brought_to_one_size():
    saliency = np.zeros((MAP_SIZE * 2, MAP_SIZE * 3))
    saliency[100:200, 150:300] = 5
    hits = max_box_hits(saliency, [(150, 100, 299, 199)])
    assert hits[3, 50:200].all()


@pytest.mark.parametrize("saliency", [np.ones((30, 40)), np.full((30, 40), np.nan)])
def test_an_empty_map_is_a_pixel_in_the_corner(saliency):
    assert not max_box_hits(saliency, [(0, 0, 39, 29)]).any()
    assert max_box_hits(saliency, [(0, 0, 0, 0)]).all()


def test_accuracy_takes_one_threshold_for_all_images_and_one_for_each_iou():
    hits = np.zeros((4, 255), int)
    hits[0, 3], hits[0, 9] = 2, 3
    hits[1, 7], hits[2, 8], hits[3, 9] = 4, 2, 0
    assert max_box_accuracy(hits, 4) == pytest.approx((0.75, (1 + 0.5 + 0) / 3))


@pytest.mark.parametrize("grain", [0, 1, 6, 20])
def test_agrees_with_the_authors_contours(grain):
    """Choe et al.'s compute_bboxes_from_scoremaps, at every level, on maps with specks, holes and nested contours."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(grain)
    saliency = rng.random((MAP_SIZE, MAP_SIZE))
    if grain:
        saliency = cv2.GaussianBlur(saliency, (0, 0), grain)
    saliency = (saliency - saliency.min()) / np.ptp(saliency)
    truth = [(30, 40, 120, 150), (100, 20, 110, 30)]

    def overlaps(contours):
        boxes = np.array([cv2.boundingRect(contour) for contour in contours])
        boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:], MAP_SIZE - 1)
        return ious(boxes, truth).max()

    hits = max_box_hits(saliency, truth)
    levels = (saliency * 255).astype(np.uint8)
    for level in LEVELS[::5]:
        _, mask = cv2.threshold(levels, int(level), 255, cv2.THRESH_BINARY)
        contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        areas = [cv2.contourArea(contour) for contour in contours]
        largest = overlaps([contours[int(np.argmax(areas))]])
        best = overlaps(contours)
        if areas.count(max(areas)) == 1:  # of equal areas theirs takes one in the order of the contours
            assert hits[0, level] == (largest >= 0.5)
        assert hits[1:, level].tolist() == [best >= least for least in (0.3, 0.5, 0.7)]


# -- the pointing game -----------------------------------------------------------------------------------------------


def pointing_map(x, y):
    saliency = np.zeros((100, 120))
    saliency[y, x] = 1
    return saliency


@pytest.mark.parametrize(
    ("x", "y", "tolerance", "hit"),
    [
        (10, 10, 0, True),
        (19, 19, 0, True),
        (20, 19, 0, False),
        (9, 10, 0, False),
        (34, 15, 15, True),
        (35, 15, 15, False),
        (28, 31, 15, True),  # 9 and 12 pixels away: 15
        (29, 31, 15, False),
    ],
)
def test_pointing(x, y, tolerance, hit):
    assert points_at(pointing_map(x, y), [TRUTH], tolerance) is hit
    assert points_at(pointing_map(x, y), [(90, 90, 95, 95), TRUTH], tolerance) is hit


def test_of_several_maxima_the_first_points():
    saliency = pointing_map(60, 5)
    saliency[15, 15] = 1
    assert not points_at(saliency, [TRUTH])
    assert points_at(saliency.T, [TRUTH])  # now the other one is in an earlier row


def test_a_map_that_is_not_finite_points_nowhere():
    assert not points_at(np.full((100, 120), np.nan), [TRUTH])

"""How well objects were found: the challenge's CLS-LOC errors, MaxBoxAcc, and the pointing game.

CLS-LOC    wrong unless one of five (label, box) guesses has the right label and an IoU ≥ 0.5 with a box of that class
           (Russakovsky et al. 2015, section 4.2)
MaxBoxAcc  right where the box of the map above a threshold has an IoU ≥ 0.5, at the threshold that is best for the
           whole data set (Choe et al. 2020, section 4.1)
pointing   right where the map's maximum lies in a box (Zhang et al. 2016, section 4.1)

All need a box of the true class, and images without one can't be scored: `boxes` is never empty, or ValueError is
raised. Boxes are (x0, y0, x1, y1) with both ends inside, in pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from npconvnet.localization.bounding_box import Box, Mask, ious

Map = npt.NDArray[np.floating]
#: Which component each pixel belongs to, from 1; 0 for none.
Labels = npt.NDArray[np.signedinteger]
#: The class that an image is said to show, and where.
LabelledBox = tuple[int, Box]

#: A box is right from this overlap on, in the challenge and in MaxBoxAcc.
CORRECT_IOU = 0.5
#: Guesses of the challenge's top-5 error; further ones are not looked at.
GUESSES = 5


# -- CLS-LOC ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClsLoc:
    """Whether one image was told right: its class among the first 1 and 5 guesses, and its class together with a box.

    `localization_known_class` asks for the box alone, made for the true class.
    """

    classification_top1: bool
    classification_top5: bool
    localization_top1: bool
    localization_top5: bool
    localization_known_class: bool


def score_guesses(guesses: Sequence[LabelledBox], known_class_box: Box, label: int, boxes: Sequence[Box]) -> ClsLoc:
    """Score one image whose class is `label`, with its `boxes` of that class, by its guesses, the best first.

    `known_class_box` is the answer to where the true class is, whether it was guessed or not.
    """
    right_class = [guess == label for guess, _ in guesses[:GUESSES]]
    right = [guess == label and is_found(box, boxes) for guess, box in guesses[:GUESSES]]
    return ClsLoc(any(right_class[:1]), any(right_class), any(right[:1]), any(right), is_found(known_class_box, boxes))


def is_found(box: Box, boxes: Sequence[Box], least_iou: float = CORRECT_IOU) -> bool:
    """Whether `box` overlaps any of `boxes` by `least_iou` or more."""
    return best_iou(box, boxes) >= least_iou


def best_iou(box: Box, boxes: Sequence[Box]) -> float:
    """The largest IoU of `box` with any of `boxes`."""
    _require(boxes)
    return float(ious([box], boxes).max())


def errors(scores: Sequence[ClsLoc]) -> dict[str, float]:
    """For each question of ClsLoc by name, the part of the images that got it wrong, from 0 to 1."""
    if not scores:
        raise ValueError("no image was scored")
    return {
        question: 1 - sum(getattr(score, question) for score in scores) / len(scores)
        for question in ClsLoc.__dataclass_fields__
    }


# -- MaxBoxAcc -------------------------------------------------------------------------------------------------------

#: As in the authors' program (github.com/clovaai/wsolevaluation, evaluation.py, inference.py and main.py): map and
#: boxes are brought to 224 × 224, the map to whole numbers from 0 to 255, and its thresholds, a thousandth of the
#: maximum apart, come down to those between two numbers.
MAP_SIZE = 224
LEVELS = np.arange(255)
V1_IOU = 0.5
V2_IOUS = (0.3, 0.5, 0.7)


def max_box_hits(saliency: Map, boxes: Sequence[Box]) -> npt.NDArray[np.bool_]:
    """What one image adds to MaxBoxAcc: (4, 255), whether it is right at each threshold of the map (H, W).

    Row 0 is of MaxBoxAcc, where the contour of largest area makes the box; rows 1 to 3 are of MaxBoxAccV2, at the
    three IoUs, where the best of all contours counts, those of holes among them. It follows the authors' program, but
    for the filter that resizes the map (theirs is cubic, here it is linear).

    A map that is the same everywhere or not finite is zero everywhere, and its box is the pixel (0, 0), as there.
    """
    _require(boxes)
    height, width = saliency.shape
    levels = _eight_bits(saliency)
    truth = np.array([_resized(box, height, width) for box in boxes])
    # The masks shrink as the level rises, so that as many pixels are the same pixels.
    counts = np.array([np.count_nonzero(levels > level) for level in LEVELS])
    _, first, which = np.unique(counts, return_index=True, return_inverse=True)
    largest, best = np.array([_overlaps(levels > LEVELS[index], truth) for index in first])[which].T
    return np.stack([largest >= V1_IOU, *(best >= least for least in V2_IOUS)])


def max_box_accuracy(hits: npt.NDArray[np.integer] | npt.NDArray[np.bool_], images: int) -> tuple[float, float]:
    """MaxBoxAcc and MaxBoxAccV2, from 0 to 1, of `hits` (4, 255), the sum of `max_box_hits` over so many images.

    Each IoU has its own best threshold; V2 is the mean over its three.
    """
    if images < 1:
        raise ValueError("no image was scored")
    accuracies = hits.max(axis=1) / images
    return float(accuracies[0]), float(accuracies[1:].mean())


def _eight_bits(saliency: Map) -> npt.NDArray[np.uint8]:
    """The map at MAP_SIZE, from 0 to 255."""
    if not np.isfinite(saliency).all() or saliency.min() == saliency.max():
        return np.zeros((MAP_SIZE, MAP_SIZE), np.uint8)
    zoom = [MAP_SIZE / side for side in saliency.shape]
    resized = ndimage.zoom(saliency.astype(np.float64), zoom, order=1, mode="nearest", grid_mode=True)
    resized -= resized.min()
    levels: npt.NDArray[np.uint8] = (resized / resized.max() * 255).astype(np.uint8)
    return levels


def _resized(box: Box, height: int, width: int) -> list[int]:
    """A box of a picture of this size in one of MAP_SIZE, rounded down as the authors' program does."""
    scales = (MAP_SIZE / width, MAP_SIZE / height) * 2
    return [int(corner * scale) for corner, scale in zip(box, scales, strict=True)]


def _overlaps(mask: Mask, truth: npt.NDArray[np.intp]) -> tuple[float, float]:
    """The best IoU with any of the true boxes (B, 4): of the box of the largest contour, and of any contour's box."""
    if not mask.any():
        nothing = float(ious([(0, 0, 0, 0)], truth).max())
        return nothing, nothing
    components, _ = ndimage.label(mask, np.ones((3, 3)))
    regions = ndimage.label(np.pad(~mask, 1, constant_values=True))[0][1:-1, 1:-1]
    holes = np.where(regions > 1, regions, 0)  # the padding made 1 what lies around every contour
    # A contour runs along pixels of the mask, so that the one of a hole is a pixel larger on every side.
    contours = np.concatenate([_boxes(components), _boxes(holes) + np.array([-1, -1, 1, 1])])
    contours[:, 2:] = np.minimum(contours[:, 2:] + 1, MAP_SIZE - 1)  # the authors' boxes end a pixel late
    overlaps = ious(contours, truth).max(axis=1)
    return float(overlaps[_largest_contour(components, holes)]), float(overlaps.max())


def _largest_contour(components: Labels, holes: Labels) -> int:
    """Which of the components, from 0, has the outer contour around the largest area.

    A contour joins the centres of pixels. Inside of it, four pixels in a square surround an area of 1 and three a
    triangle of ½; what lies in its holes belongs to it.
    """
    filled, _ = ndimage.label((components > 0) | (holes > 0), np.ones((3, 3)))
    squares = np.stack([filled[:-1, :-1], filled[:-1, 1:], filled[1:, :-1], filled[1:, 1:]])
    pixels = np.count_nonzero(squares, axis=0)
    areas = np.bincount(squares.max(axis=0).ravel(), np.maximum(pixels - 2, 0).ravel() / 2)
    first_pixel = (filled == areas[1:].argmax() + 1).argmax()  # it is not in a hole
    return int(components.ravel()[first_pixel]) - 1


def _boxes(labels: Labels) -> npt.NDArray[np.intp]:
    """The box (x0, y0, x1, y1) of each label that occurs, (L, 4), in the order of the labels."""
    found = [(x.start, y.start, x.stop - 1, y.stop - 1) for y, x in filter(None, ndimage.find_objects(labels))]
    return np.array(found, np.intp).reshape(-1, 4)


# -- the pointing game -----------------------------------------------------------------------------------------------

#: How far from a box, in pixels of the original image, the maximum may lie; the authors' own.
TOLERANCE = 15


def points_at(saliency: Map, boxes: Sequence[Box], tolerance: float = TOLERANCE) -> bool:
    """Whether the maximum of a map (H, W) lies in any of `boxes`, or within `tolerance` pixels of one.

    Of several maxima the first in scan order counts. A map that is not finite points nowhere.
    """
    _require(boxes)
    if not np.isfinite(saliency).all():
        return False
    y, x = divmod(int(saliency.argmax()), saliency.shape[1])
    away = [np.hypot(max(x0 - x, 0, x - x1), max(y0 - y, 0, y - y1)) for x0, y0, x1, y1 in boxes]
    return bool(min(away) <= tolerance)


def _require(boxes: Sequence[Box]) -> None:
    if not boxes:
        raise ValueError("an image without a box of its class can't be scored")

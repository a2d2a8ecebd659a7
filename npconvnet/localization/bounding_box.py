"""Boxes in pixels: of the largest component of a mask, of nothing but the picture's size, and how far two agree.

A box is (x0, y0, x1, y1), and both ends are inside it, as in ILSVRC's annotations: it is x1 − x0 + 1 pixels wide. x is
the column and y the row, from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]

#: Of the sides, so that the central box has half of the photo's area: of all fractions, this one finds the widest range
#: of objects in the middle, from a quarter of the photo to nearly all of it, with an IoU of 0.5.
CENTRAL_FRACTION = 0.7
#: Of the map's maximum. Zhou et al. (2016) take 0.2 for smooth activations; a map of gradients is speckled, and few of
#: its pixels come near the maximum.
THRESHOLD_FRACTION = 0.1


def largest_component(mask: Mask) -> Mask:
    """The largest connected part of a mask (H, W), diagonal neighbours being connected; empty where the mask is.

    Of equally large ones it is the one that comes first when the rows are read from the top.
    """
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # what is not in the mask
    largest: Mask = (labels == sizes.argmax()) & mask
    return largest


def bounding_box(mask: Mask) -> Box:
    """The smallest box around all pixels of a mask (H, W). Raises ValueError where it has none."""
    if not mask.any():
        raise ValueError("an empty mask has no bounding box")
    (y0, y1), (x0, x1) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    return x0, y0, x1, y1


def ious(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Intersection over union (A, B) of each of the boxes `a` (A, 4) with each of `b` (B, 4), in whole pixels.

    1 for equal boxes, 0 for disjoint ones. A box that ends before it begins has no pixel and overlaps nothing.
    """
    a, b = np.asarray(a, np.int64)[:, None], np.asarray(b, np.int64)[None]
    intersection = _area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    overlap: npt.NDArray[np.float64] = intersection / np.maximum(union, 1)
    return overlap


def iou(a: Sequence[int], b: Sequence[int]) -> float:
    """Intersection over union of two boxes; see `ious`."""
    return float(ious([a], [b])[0, 0])


def _area(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pixels (...) from the corners `low` to the corners `high` (..., 2), both inside."""
    area: npt.NDArray[np.int64] = (high - low + 1).clip(0).prod(axis=-1)
    return area


# -- answers that need no cut, to compare with -----------------------------------------------------------------------


def whole_image_box(height: int, width: int) -> Box:
    """The box of every pixel."""
    return 0, 0, width - 1, height - 1


def central_box(height: int, width: int, fraction: float = CENTRAL_FRACTION) -> Box:
    """The box in the middle whose sides are this fraction of the photo's, and one pixel at least."""
    (x0, x1), (y0, y1) = (_middle(side, fraction) for side in (width, height))
    return x0, y0, x1, y1


def threshold_box(saliency: npt.NDArray[np.floating], fraction: float = THRESHOLD_FRACTION) -> Box:
    """The box of the largest component of a map (H, W) at or above this fraction of its maximum.

    The whole image where the map is not finite or not positive anywhere.
    """
    peak = saliency.max()
    if not (np.isfinite(saliency).all() and peak > 0):
        return whole_image_box(*saliency.shape)
    return bounding_box(largest_component(saliency >= fraction * peak))


def _middle(side: int, fraction: float) -> tuple[int, int]:
    length = min(side, max(1, round(fraction * side)))
    begin = (side - length) // 2
    return begin, begin + length - 1

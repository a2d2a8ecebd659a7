"""Cropped and reflected sub-images of a picture, and the way back of what is found in them to its place.

The paper averages the saliency maps of ten sub-images (section 3) and leaves open how the ten are registered. Here the
four corners and the centre of the whole picture are cropped, at the size that the network sees, so that no part of a
landscape or portrait is left out; each map is put back where its sub-image came from, and every pixel has the mean over
the sub-images that show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import distance_transform_edt

from npconvnet.preprocessing import Picture, Preprocessing, ViewCount, resize_whole, view_positions


@dataclass(frozen=True, slots=True)
class SubImages:
    """`inputs` float32 (views, crop, crop, 3), ready for a network, of one picture, uint8 (H, W, 3)."""

    inputs: npt.NDArray[np.float32]
    picture_size: tuple[int, int]
    resized_size: tuple[int, int]
    #: The part of the picture that was resized: (left, top, right, bottom) in its pixels.
    box: tuple[float, float, float, float]

    def put_back(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One map (H, W) in the picture's own pixels, from a map (views, crop, crop) for each sub-image.

        Zero around a single centre crop, and at the ends of a panorama. In pictures longer than two crops the ten leave
        strips above and below the middle (or on its sides); these take the value of the nearest pixel that one shows.
        """
        views, crop, _ = maps.shape
        rows, columns = self.resized_size
        total, seen = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
        places = view_positions((rows - crop, columns - crop), 10 if views == 10 else 1)
        for found, top, left, reflect in zip(maps, places.top, places.left, places.reflect, strict=True):
            total[top : top + crop, left : left + crop] += found[:, ::-1] if reflect else found
            seen[top : top + crop, left : left + crop] += 1
        total /= np.maximum(seen, 1)
        if views == 10 and not seen.all():
            total = total[tuple(distance_transform_edt(seen == 0, return_distances=False, return_indices=True))]
        return self._to_picture_pixels(total)

    def _to_picture_pixels(self, resized: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        (height, width), (left, top, right, bottom) = self.picture_size, self.box
        down, across = resized.shape[0] / (bottom - top), resized.shape[1] / (right - left)
        # The box may lack up to a pixel of `resized` at the picture's borders: they take what stands next to them.
        framed = np.pad(resized, 1, mode="edge")
        x0, y0 = max(0, ceil(left - 1 / across)), max(0, ceil(top - 1 / down))
        x1, y1 = min(width, floor(right + 1 / across)), min(height, floor(bottom + 1 / down))
        x, y = across * (x0 - left) + 1, down * (y0 - top) + 1
        source = (x, y, x + across * (x1 - x0), y + down * (y1 - y0))
        filled = Image.fromarray(framed).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=source)
        whole = np.zeros(self.picture_size, np.float32)
        whole[y0:y1, x0:x1] = np.array(filled)
        return whole


def cut(picture: Picture, preprocessing: Preprocessing, views: ViewCount) -> SubImages:
    """The centre crop of `picture`, uint8 (H, W, 3), or its ten sub-images: corners and centre, then reflected."""
    # Ten views are three crops wide at most, but for a centre that is larger itself.
    resized = resize_whole(picture, preprocessing, longest=max(3 * preprocessing.crop, preprocessing.resize))
    return SubImages(
        inputs=preprocessing.views(resized.picture[None], views),
        picture_size=(picture.shape[0], picture.shape[1]),
        resized_size=(resized.picture.shape[0], resized.picture.shape[1]),
        box=resized.box,
    )

"""The views of augment.py, some pictures at a time on each core, one picture after the other in its cache.

The results are those of augment.py to the bit. NumPy computes along the last axis, where the definition has 3 channels:
here that is a whole row of pixels, or a column of one channel where a row is reflected.
"""

import numpy as np

from npconvnet.backend import Array
from npconvnet.kernels.views import Views
from npconvnet.parallel import in_parallel

#: Numbers that are computed at once: three crops of 224×224.
NUMBERS = 2**19


def augment(images: Array, views: Views, crop: int, mean: Array, std: Array) -> Array:
    """float32 (N, crop, crop, 3) of the pictures `images`, uint8 (N, H, W, 3).

    `mean` (3,) or (crop, crop, 3) and `std` (3,) on the scale 0–255.
    """
    if len(views.top) != len(images):
        raise ValueError(f"{len(views.top)} views of {len(images)} pictures")
    x = np.empty((len(images), crop, crop, 3), np.float32)
    std = np.tile(std, crop)

    def one(n: int) -> None:
        top, left, erased = views.top[n], views.left[n], views.erased[n]
        seen = images[n, top : top + crop, left : left + crop]
        if views.reflect[n]:
            for channel in range(3):
                x[n, :, :, channel] = seen[:, ::-1, channel]
        else:
            x[n] = seen
        offset = views.colour[n] - mean
        rows = x[n].reshape(crop, crop * 3)
        rows += np.tile(offset, crop) if offset.ndim == 1 else offset.reshape(rows.shape)
        rows /= std
        x[n, erased[0] : erased[2], erased[1] : erased[3]] = 0

    def some(first: int) -> None:
        for n in range(first, min(first + at_once, len(images))):
            one(n)

    at_once = max(1, NUMBERS // (crop * crop * 3))
    in_parallel(some, range(0, len(images), at_once))
    return x

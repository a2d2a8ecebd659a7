"""From stored pictures to network input: crop, reflect, add colour, normalise, erase.

    x[n] = (reflect(crop(image[n])) + colour[n] − mean) / std,  then 0 inside the erased rectangle

A mean image is as large as the crop and is not reflected. Zero is the mean colour, so an erased part is one that
carries no evidence. Overwrites its result. The random choices are made elsewhere (data/augment.py); the same function
without chance makes the centre crop and the ten views.
"""

import numpy as np

from npconvnet.backend import Array, array_module
from npconvnet.kernels.views import Views


def augment(images: Array, views: Views, crop: int, mean: Array, std: Array) -> Array:
    """float32 (N, crop, crop, 3) of the pictures `images`, uint8 (N, H, W, 3).

    `mean` (3,) or (crop, crop, 3) and `std` (3,) on the scale 0–255.
    """
    xp = array_module(images)
    x: Array = xp.empty((len(images), crop, crop, 3), np.float32)
    colour = xp.asarray(views.colour)
    for n, (top, left, reflect) in enumerate(zip(views.top, views.left, views.reflect, strict=True)):
        seen = images[n, top : top + crop, left : left + crop]
        x[n] = seen[:, ::-1] if reflect else seen
        x[n] += colour[n] - mean
    x /= std
    for n, (top, left, bottom, right) in enumerate(views.erased):
        x[n, top:bottom, left:right] = 0
    return x

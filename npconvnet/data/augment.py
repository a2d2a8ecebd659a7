"""The random choices of training: where to crop, whether to reflect, which colour to add, what to erase.

Krizhevsky et al. 2012, section 4.1: random crops, reflections, colour noise along the principal components of RGB.
Simonyan et al. 2013, section 1: "zeroing-out random parts of an image"; how many and how large is our choice.
The pixels are changed by kernels/cpu/augment.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from npconvnet.kernels import Views
from npconvnet.preprocessing import Picture, Preprocessing

#: Standard deviation of the colour noise, in standard deviations of the training pixels along each component
#: (cuda-convnet2's color_noise).
COLOUR_NOISE = 0.1
#: Every second image loses one rectangle whose sides are drawn from these shares of the crop.
ERASE_PROBABILITY = 0.5
ERASE_SIDES = (0.1, 0.4)


@dataclass(frozen=True, slots=True)
class ColourStatistics:
    """Of the pixels of the training set, RGB 0–255: `mean` (3,) and `covariance` (3, 3)."""

    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]

    @classmethod
    def of(cls, squares: Iterable[Picture]) -> ColourStatistics:
        """Measured on one or more pictures (H, W, 3), one at a time."""
        count, total, products = 0, np.zeros(3), np.zeros((3, 3))
        for square in squares:
            pixels = square.reshape(-1, 3).astype(np.float64)
            count += len(pixels)
            total += pixels.sum(axis=0)
            products += pixels.T @ pixels
        mean = total / count
        return cls(mean, products / count - np.outer(mean, mean))

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """The standard deviation (3,) of each channel; 1 where a channel never changes."""
        std: npt.NDArray[np.float64] = np.sqrt(np.diag(self.covariance))
        return np.where(std > 0, std, 1.0)

    def normalising(self, preprocessing: Preprocessing) -> Preprocessing:
        """`preprocessing` with this mean and standard deviation, so that the network sees zero-centred input."""
        (r, g, b), (std_r, std_g, std_b) = self.mean.tolist(), self.std.tolist()
        return replace(preprocessing, mean=(r, g, b), std=(std_r, std_g, std_b))

    @property
    def components(self) -> npt.NDArray[np.float64]:
        """The principal components as columns (3, 3), each as long as the standard deviation along it."""
        variances, directions = np.linalg.eigh(self.covariance)
        components: npt.NDArray[np.float64] = directions * np.sqrt(np.maximum(variances, 0))
        return components


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is varied while training; each can be switched off."""

    crop: bool = True
    reflect: bool = True
    colour: bool = True
    erase: bool = True

    def draw(
        self,
        generators: Sequence[np.random.Generator],
        preprocessing: Preprocessing,
        components: npt.NDArray[np.float64],
    ) -> Views:
        """One view for each image, from its own generator; `components` as in ColourStatistics.

        Every choice is drawn whether or not it is used, so that switching one off leaves the others as they were.
        """
        count, margin = len(generators), preprocessing.resize - preprocessing.crop
        views = Views.plain([margin // 2] * count, [margin // 2] * count, [False] * count)
        for n, rng in enumerate(generators):
            top, left = rng.integers(0, margin, size=2, endpoint=True)
            reflect = rng.random() < 0.5
            colour = components @ rng.normal(0, COLOUR_NOISE, 3)
            erased = _rectangle(rng, preprocessing.crop)
            if self.crop:
                views.top[n], views.left[n] = top, left
            views.reflect[n] = self.reflect and reflect
            if self.colour:
                views.colour[n] = colour
            if self.erase:
                views.erased[n] = erased
        return views


def _rectangle(rng: np.random.Generator, crop: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), of no area for the images that keep everything."""
    if rng.random() >= ERASE_PROBABILITY:
        return 0, 0, 0, 0
    height, width = np.round(rng.uniform(*ERASE_SIDES, size=2) * crop).astype(int)
    top, left = rng.integers(0, crop - height, endpoint=True), rng.integers(0, crop - width, endpoint=True)
    return int(top), int(left), int(top + height), int(left + width)

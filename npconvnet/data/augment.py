"""The random choices of training: where to crop, whether to reflect, which colour to add, what to erase.

Krizhevsky et al. 2012, section 4.1: random crops, reflections, colour noise along the principal components of RGB.
Simonyan et al. 2013, section 1: "zeroing-out random parts of an image"; how many and how large is our choice.
The pixels are changed by kernels/cpu/augment.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from npconvnet.kernels import Views
from npconvnet.preprocessing import Picture, Preprocessing
from npconvnet.randomness import Purpose, uniforms

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
        seed: int,
        epoch: int,
        images: npt.NDArray[np.int64],
        preprocessing: Preprocessing,
        components: npt.NDArray[np.float64],
    ) -> Views:
        """One view for each of `images` (N,), by its own chances in that epoch; `components` as in ColourStatistics.

        Every choice is drawn whether or not it is used, so that switching one off leaves the others as they were.
        """
        chances = uniforms(_CHANCES, images, seed, Purpose.AUGMENT, epoch).T
        margin = preprocessing.resize - preprocessing.crop
        if self.crop:
            top, left = _whole(chances[0], margin), _whole(chances[1], margin)
        else:
            top = left = np.full(len(images), margin // 2)
        views = Views.plain(top, left, self.reflect & (chances[2] < 0.5))
        if self.colour:
            views.colour[:] = COLOUR_NOISE * _normal(chances[3:7])[:, :3] @ components.T
        if self.erase:
            views.erased[:] = _rectangles(chances[7:12], preprocessing.crop)
        return views


#: So many for each image: two for the crop, one for the reflection, four for the colour, five for the rectangle.
_CHANCES = 12


def _whole(chances: npt.NDArray[np.float64], largest: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Whole numbers from 0 to `largest`, each as likely as the others."""
    whole: npt.NDArray[np.int64] = (chances * (np.asarray(largest) + 1)).astype(np.int64)
    return whole


def _normal(chances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, 4) numbers of the standard normal distribution from `chances` (4, N): Box and Muller 1958."""
    radius, angle = np.sqrt(-2 * np.log(chances[:2])), 2 * np.pi * chances[2:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)]).T


def _rectangles(chances: npt.NDArray[np.float64], crop: int) -> npt.NDArray[np.int64]:
    """(N, 4) of top, left, bottom, right; of no area for the images that keep everything."""
    least, most = ERASE_SIDES
    sides = np.rint((least + (most - least) * chances[1:3]) * crop).astype(np.int64)
    begins = _whole(chances[3:5], crop - sides)
    return np.where(chances[0] < ERASE_PROBABILITY, np.concatenate([begins, begins + sides]), 0).T

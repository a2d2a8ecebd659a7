"""What the mean image and the colours of the training set are computed from: sums over all of its pixels.

Sums of whole numbers are exact, so they are the same in whatever order, and by how many, the pictures are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt

from npconvnet.data.augment import ColourStatistics
from npconvnet.preprocessing import Picture

#: R·R, R·G, R·B, G·G, G·B, B·B.
_PAIRS = list(combinations_with_replacement(range(3), 2))


@dataclass(slots=True, eq=False)
class PixelSums:
    """Over `images` pictures: the `total` of each pixel (size, size, 3), and the `products` of their colours (6,).

    `total` holds whole numbers, too: float64 is exact up to 2⁵³.
    """

    images: int
    total: npt.NDArray[np.float64]
    products: npt.NDArray[np.int64]

    @classmethod
    def zero(cls, size: int) -> PixelSums:
        """Of no pictures yet."""
        return cls(0, np.zeros((size, size, 3)), np.zeros(len(_PAIRS), np.int64))

    def add(self, square: Picture) -> None:
        """Adds one picture."""
        pixels = square.astype(np.float64)
        self.images += 1
        self.total += pixels
        rgb = pixels.reshape(-1, 3).T
        self.products += [int(rgb[a] @ rgb[b]) for a, b in _PAIRS]

    def add_all(self, others: PixelSums) -> None:
        """Adds the pictures that `others` are the sums of."""
        self.images += others.images
        self.total += others.total
        self.products += others.products

    def mean_image(self) -> npt.NDArray[np.float32]:
        """RGB 0–255, float32 (size, size, 3)."""
        return (self.total / self.images).astype(np.float32)

    def colours(self) -> ColourStatistics:
        """Of all pixels of all pictures."""
        size, _, _ = self.total.shape
        count = self.images * size**2
        mean, products = self.total.sum(axis=(0, 1)) / count, np.empty((3, 3))
        for (a, b), product in zip(_PAIRS, self.products, strict=True):
            products[a, b] = products[b, a] = product / count
        return ColourStatistics(mean, products - np.outer(mean, mean))

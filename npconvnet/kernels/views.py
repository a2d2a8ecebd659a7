"""Which view of each picture of a batch is shown to the network: what `augment` takes on either device."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Views:
    """One view for each picture of a batch of N: where to crop and how to change what is seen.

    `top`, `left` (N,) in pixels of the picture; `reflect` (N,) left-right; `colour` (N, 3) added to the RGB values
    0–255; `erased` (N, 4) a rectangle (top, left, bottom, right) in pixels of the crop, of no area to erase nothing.
    """

    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    reflect: npt.NDArray[np.bool_]
    colour: npt.NDArray[np.float32]
    erased: npt.NDArray[np.int64]

    @classmethod
    def plain(cls, top: npt.ArrayLike, left: npt.ArrayLike, reflect: npt.ArrayLike) -> "Views":
        """Crops and reflections only."""
        top = np.asarray(top, np.int64)
        count = len(top)
        return cls(
            top,
            np.asarray(left, np.int64),
            np.asarray(reflect, np.bool_),
            colour=np.zeros((count, 3), np.float32),
            erased=np.zeros((count, 4), np.int64),
        )

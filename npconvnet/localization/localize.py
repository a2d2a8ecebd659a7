"""Where an object is, from a photo and the saliency map of its class: seeds, colour models, GraphCut, box.

Simonyan et al. 2013, section 3.2. Nothing here knows of a network: arrays in, arrays out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from npconvnet.localization.bounding_box import Box, Mask, bounding_box, largest_component, whole_image_box
from npconvnet.localization.graph_cut import CutOptions, seeds, segment
from npconvnet.parallel import one_blas_thread

#: Pixels of the longer side at which the cut is made; larger photos are averaged down to it. A network sees some 250
#: pixels of a side, so that the map knows no finer detail; full size finds no better boxes, and takes far longer.
WORKING_SIZE = 256


@dataclass(frozen=True, slots=True)
class Localization:
    """The answer, in the photo's own pixels: `box` as (x0, y0, x1, y1), both ends inside; the masks (H, W).

    `mask` is the object, one connected component. Where nothing could be told apart, `box` and `mask` are the whole
    image, there are no seeds, and `note` says why; otherwise `note` is None.
    """

    box: Box
    mask: Mask
    foreground_seeds: Mask
    background_seeds: Mask
    note: str | None = None


@one_blas_thread()
def localize(
    image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.floating], options: CutOptions | None = None, seed: int = 0
) -> Localization:
    """The object that a saliency map (H, W) points at in an RGB image (H, W, 3), uint8; the same seed, the same bits
    on any number of cores.

    The whole image, with a note, where the map is the same everywhere or not finite, and where the photo has a single
    colour. Raises ValueError for other shapes, and for images without pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"an image is uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if saliency.shape != image.shape[:2]:
        raise ValueError(f"the saliency map is {saliency.shape}, but the image {image.shape[:2]}")
    options = options or CutOptions()
    grid = _Grid.of(*saliency.shape)
    small = grid.mean(saliency[..., None].astype(np.float64))[..., 0]
    smooth: npt.NDArray[np.float64] = ndimage.gaussian_filter(small, options.smoothing * min(small.shape))
    centered = smooth * center_weights(small.shape, options.center_prior)
    note = _why_not(image, saliency, smooth, centered)
    if note is not None:
        everywhere = np.ones(saliency.shape, bool)
        return Localization(whole_image_box(*saliency.shape), everywhere, ~everywhere, ~everywhere, note)

    foreground_seeds, background_seeds = seeds(centered, options)
    rng = np.random.default_rng(seed)
    foreground = segment(grid.mean(image / 255), foreground_seeds, background_seeds, options, rng)
    mask = grid.enlarge(largest_component(foreground))
    return Localization(bounding_box(mask), mask, grid.enlarge(foreground_seeds), grid.enlarge(background_seeds))


def center_weights(shape: tuple[int, ...], spread: float) -> npt.NDArray[np.float64]:
    """A Gaussian around the middle of a map (H, W), whose standard deviation is `spread` half sides in each direction.

    1 in the middle; 1 everywhere where `spread` is infinite.
    """
    y, x = (((np.arange(side) + 0.5) / (side / 2) - 1) / spread for side in shape)
    weights: npt.NDArray[np.float64] = np.exp(-(y[:, None] ** 2 + x**2) / 2)
    return weights


def _why_not(
    image: npt.NDArray[np.uint8],
    saliency: npt.NDArray[np.floating],
    smooth: npt.NDArray[np.float64],
    centered: npt.NDArray[np.float64],
) -> str | None:
    """Why there is nothing to cut, if so. Any step can make an uneven map flat, and its rounding a flat one uneven."""
    if not np.isfinite(smooth).all():
        return "the saliency map is not finite everywhere"
    if any(each.min() == each.max() for each in (saliency, smooth, centered)):
        return "the saliency map is the same everywhere"
    if (image == image[0, 0]).all():
        return "the photo has a single colour"
    return None


@dataclass(frozen=True, slots=True)
class _Grid:
    """The sizes of nearly equal blocks of a photo's rows and columns: each block is a pixel of the cut."""

    rows: npt.NDArray[np.intp]
    columns: npt.NDArray[np.intp]

    @classmethod
    def of(cls, height: int, width: int) -> _Grid:
        """The sizes of the blocks of a photo; both sides shrink by the same factor."""
        factor = max(1.0, max(height, width) / WORKING_SIZE)
        counts = (max(1, round(side / factor)) for side in (height, width))
        return cls(*(np.diff(np.arange(n + 1) * side // n) for side, n in zip((height, width), counts, strict=True)))

    def mean(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The mean over each block of `values` (H, W, C)."""
        for axis, sizes in enumerate((self.rows, self.columns)):
            starts = np.cumsum(sizes) - sizes
            values = np.add.reduceat(values, starts, axis=axis) / np.expand_dims(sizes, (1 - axis, 2))
        return values

    def enlarge(self, mask: Mask) -> Mask:
        """A mask of blocks as one of the photo's pixels (H, W)."""
        return mask.repeat(self.rows, axis=0).repeat(self.columns, axis=1)

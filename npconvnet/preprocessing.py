"""From a photograph to network input. It travels with the weights, so that nobody can pair the wrong ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from npconvnet import kernels
from npconvnet.backend import Array, array_module, to_host
from npconvnet.kernels import Views

#: A picture: RGB, 0–255, (H, W, 3).
Picture = npt.NDArray[np.uint8]
ViewCount = Literal[1, 10]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize the shorter side to `resize`, take the centre `resize` × `resize`, crop, then (RGB − mean) / std.

    `resize` and `crop` in pixels; `mean` and `std` for R, G, B on the scale 0–255.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ValueError(f"a crop of {self.crop} pixels can't be taken from {self.resize} pixels")

    def apply(self, squares: Array, views: Views) -> Array:
        """float32 (N, crop, crop, 3): one view each of the pictures `squares`, uint8 (N, resize, resize, 3)."""
        xp = array_module(squares)
        mean, std = xp.asarray(self.mean, np.float32), xp.asarray(self.std, np.float32)
        return kernels.augment(squares, views, self.crop, mean, std)

    def views(self, pictures: Array, count: ViewCount = 1) -> Array:
        """float32 (N·count, crop, crop, 3) of `pictures`, uint8 (N, H, W, 3), whose shorter side is `resize`.

        The centre crop, or the ten views of Krizhevsky et al. (2012): the four corners and the centre, then the same
        reflected. The views of one picture stand together.
        """
        number, height, width, _ = pictures.shape
        views = view_positions((height - self.crop, width - self.crop), count)
        xp = array_module(pictures)
        tiled = Views.plain(np.tile(views.top, number), np.tile(views.left, number), np.tile(views.reflect, number))
        return self.apply(xp.repeat(pictures, count, axis=0), tiled)

    def picture(self, x: Array) -> Picture:
        """The inverse of `apply`: uint8 (…, 3) of `x` (…, 3), rounded, and clipped to 0–255; on the CPU."""
        rgb = to_host(x) * np.array(self.std) + np.array(self.mean)
        picture: Picture = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
        return picture

    def to_json(self) -> dict[str, Any]:
        """A dictionary for a file's metadata; `from_json` reads it."""
        return {**asdict(self), "channels": "RGB"}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Preprocessing:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        mean, std = (tuple(float(v) for v in fields[key]) for key in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std hold three numbers, for R, G and B")
        return cls(int(fields["resize"]), int(fields["crop"]), mean, std)


def view_positions(margins: tuple[int, int], count: ViewCount) -> Views:
    """Where the views of one picture lie, for a picture that is `margins` pixels higher and wider than the crop."""
    bottom, right = margins
    middle, centre = bottom // 2, right // 2
    if count == 1:
        return Views.plain([middle], [centre], [False])
    top, left = [0, 0, bottom, bottom, middle], [0, right, 0, right, centre]
    return Views.plain(top * 2, left * 2, [False] * 5 + [True] * 5)


def resize_and_centre_crop(picture: Picture, size: int) -> Picture:
    """The centre (size, size, 3) of `picture` after its shorter side is resized to `size`; see `centre_square`."""
    return centre_square(Image.fromarray(picture), size)


def centre_square(image: Image.Image, size: int) -> Picture:
    """The centre square of an RGB image, resized to (size, size, 3): only the part that is kept is ever computed.

    The filter is Pillow's antialiased bilinear; smaller images are enlarged.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return _resize(image, (size, size), (left, top, left + side, top + side))


@dataclass(frozen=True, slots=True)
class Resized:
    """A whole `picture`, uint8 (H, W, 3), at the size that a network sees.

    `box` (left, top, right, bottom) is the part of the original that it shows, in pixels of the original.
    """

    picture: Picture
    box: tuple[float, float, float, float]


def resize_whole(picture: Picture, size: int, longest: int) -> Resized:
    """`picture` with its shorter side resized to `size`; its centre square is that of `resize_and_centre_crop`.

    For that, the longer side loses less than two pixels, as many on the left as on the right, or above as below; and
    a panorama loses its ends, so that it is no longer than `longest`.
    """
    height, width, _ = picture.shape
    side = min(height, width)
    rows, columns = (
        size + 2 * min((length - side) * size // (2 * side), (longest - size) // 2) for length in (height, width)
    )
    shown_height, shown_width = rows * side / size, columns * side / size
    left, top = (width - shown_width) / 2, (height - shown_height) / 2
    box = (left, top, left + shown_width, top + shown_height)
    return Resized(_resize(Image.fromarray(picture), (columns, rows), box), box)


def _resize(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Picture:
    return np.array(image.resize(size, Image.Resampling.BILINEAR, box=box))

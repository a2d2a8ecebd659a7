"""From a photograph to network input. It travels with the weights, so that nobody can pair the wrong ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from npconvnet import kernels
from npconvnet.backend import Array, array_module, to_host
from npconvnet.kernels import Views

#: A picture: RGB, 0–255, (H, W, 3).
Picture = npt.NDArray[np.uint8]
ViewCount = Literal[1, 10]
Interpolation = Literal["bilinear", "bicubic"]
Colour: TypeAlias = tuple[float, float, float]

#: No picture is resized to more, down or across, whatever a file asks for.
MOST_PIXELS = 2**13
#: No mean or standard deviation of colours is larger.
LARGEST = 1e9

#: Pillow's filters, which average over the pixels that a smaller picture has no room for.
_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
#: Stands for a mean image where only text can be written.
_IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize the shorter side to `resize`, take the centre `resize` × `resize`, crop, then (RGB − mean) / std.

    `resize` and `crop` in pixels; `mean` and `std` for R, G, B on the scale 0–255. `mean` may also be an image, float32
    (crop, crop, 3), which is taken from the crop as it is seen, that is after a reflection. Without `keep_aspect` both
    sides are resized to `resize`, whatever the picture's proportions. Raises ValueError where these do not fit.
    """

    resize: int
    crop: int
    mean: Colour | npt.NDArray[np.float32] = (0.0, 0.0, 0.0)
    std: Colour = (1.0, 1.0, 1.0)
    interpolation: Interpolation = "bilinear"
    keep_aspect: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize <= MOST_PIXELS:
            raise ValueError(f"a crop of {self.crop} pixels can't be taken from {self.resize} pixels")
        if np.shape(self.mean) not in {(3,), (self.crop, self.crop, 3)} or np.shape(self.std) != (3,):
            raise ValueError("mean and std hold three numbers, for R, G and B; a mean image is as large as the crop")
        std = np.array(self.std)
        if not (np.abs(self.mean).max() < LARGEST and (std > 0).all() and (std < LARGEST).all()):
            raise ValueError("mean and std are numbers, and std positive ones")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"no interpolation is called '{self.interpolation}'; there are {', '.join(_FILTERS)}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocessing):
            return NotImplemented
        own, others = asdict(self), asdict(other)
        return all(np.array_equal(own[name], others[name]) for name in own)

    @property
    def mean_image(self) -> npt.NDArray[np.float32] | None:
        """The mean where it is an image, otherwise None."""
        return self.mean if isinstance(self.mean, np.ndarray) else None

    @property
    def mean_colour(self) -> Colour:
        """The mean, averaged over the pixels where it is an image."""
        return _colour(np.reshape(self.mean, (-1, 3)).mean(axis=0, dtype=np.float64))

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
        """The inverse of `apply`: uint8 (…, 3) of `x` (…, 3), rounded, and clipped to 0–255; on the CPU.

        Where the mean is an image, `x` is (…, crop, crop, 3).
        """
        rgb = to_host(x) * np.array(self.std) + np.array(self.mean)
        picture: Picture = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
        return picture

    def to_json(self) -> dict[str, Any]:
        """A dictionary for a file's metadata; `from_json` reads it. A mean image has to be kept beside it."""
        mean = self.mean if self.mean_image is None else _IMAGE
        return {**asdict(self), "mean": mean, "channels": "RGB"}

    @classmethod
    def from_json(cls, fields: dict[str, Any], mean_image: npt.NDArray[Any] | None = None) -> Preprocessing:
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError for anything else."""
        mean: Colour | npt.NDArray[np.float32]
        if fields["mean"] != _IMAGE:
            mean = _colour(fields["mean"])
        elif mean_image is None:
            raise ValueError("the mean image is missing")
        else:
            mean = mean_image.astype(np.float32)
        return cls(
            resize=int(fields["resize"]),
            crop=int(fields["crop"]),
            mean=mean,
            std=_colour(fields["std"]),
            # Files from before these were chosen lack them.
            interpolation=fields.get("interpolation", "bilinear"),
            keep_aspect=bool(fields.get("keep_aspect", True)),
        )


def _colour(numbers: Iterable[Any]) -> Colour:
    r, g, b = (float(number) for number in numbers)
    return r, g, b


def view_positions(margins: tuple[int, int], count: ViewCount) -> Views:
    """Where the views of one picture lie, for a picture that is `margins` pixels higher and wider than the crop."""
    bottom, right = margins
    middle, centre = bottom // 2, right // 2
    if count == 1:
        return Views.plain([middle], [centre], [False])
    top, left = [0, 0, bottom, bottom, middle], [0, right, 0, right, centre]
    return Views.plain(top * 2, left * 2, [False] * 5 + [True] * 5)


def resize_and_centre_crop(picture: Picture, preprocessing: Preprocessing) -> Picture:
    """The centre (resize, resize, 3) of `picture` after it is resized; see `centre_square`."""
    return centre_square(Image.fromarray(picture), preprocessing)


def centre_square(image: Image.Image, preprocessing: Preprocessing) -> Picture:
    """The centre square of an RGB image, resized to (resize, resize, 3): only what is kept is ever computed.

    All of the image, if the aspect is not kept. The filter is Pillow's antialiased one; smaller images are enlarged.
    """
    width, height = image.size
    side = min(width, height)
    left, top = ((width - side) / 2, (height - side) / 2) if preprocessing.keep_aspect else (0, 0)
    return _resize(image, (preprocessing.resize,) * 2, (left, top, width - left, height - top), preprocessing)


@dataclass(frozen=True, slots=True)
class Resized:
    """A whole `picture`, uint8 (H, W, 3), at the size that a network sees.

    `box` (left, top, right, bottom) is the part of the original that it shows, in pixels of the original.
    """

    picture: Picture
    box: tuple[float, float, float, float]


def resize_whole(picture: Picture, preprocessing: Preprocessing, longest: int) -> Resized:
    """`picture` with its shorter side resized to `resize`; its centre square is that of `resize_and_centre_crop`.

    For that, the longer side loses less than two pixels, as many on the left as on the right, or above as below; and
    a panorama loses its ends, so that it is no longer than `longest`. If the aspect is not kept, nothing is lost.
    """
    height, width, _ = picture.shape
    size = preprocessing.resize
    if not preprocessing.keep_aspect:
        return Resized(resize_and_centre_crop(picture, preprocessing), (0, 0, width, height))
    side = min(height, width)
    rows, columns = (
        size + 2 * min((length - side) * size // (2 * side), (longest - size) // 2) for length in (height, width)
    )
    shown_height, shown_width = rows * side / size, columns * side / size
    left, top = (width - shown_width) / 2, (height - shown_height) / 2
    box = (left, top, left + shown_width, top + shown_height)
    return Resized(_resize(Image.fromarray(picture), (columns, rows), box, preprocessing), box)


def _resize(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    preprocessing: Preprocessing,
) -> Picture:
    return np.array(image.resize(size, _FILTERS[preprocessing.interpolation], box=box))

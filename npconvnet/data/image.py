"""Image files to RGB arrays: decode any file, and cut out the centre square on the way.

The bytes decide what a file is, never its name (ImageNet's n02105855_2933.JPEG is a PNG). Pictures are (H, W, 3) uint8
RGB. Nothing here writes global state, and all of it may be called from many threads at once.

Pillow opens every file and decides whether it is an image. Where the package simplejpeg is installed (an extra), it
decodes ordinary JPEGs that keep their size in Pillow's place, faster and to the same bits: both use libjpeg-turbo.
"""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from npconvnet.errors import InputError
from npconvnet.preprocessing import Picture, Preprocessing, centre_square

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


def decoder_name() -> str:
    """The library that decodes and resizes here, and its version: another may differ in the last bit.

    simplejpeg is not named, as what it decodes is the same (tests/data/test_jpeg.py).
    """
    turbo = features.version_feature("libjpeg_turbo")
    library = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version_codec('jpg')}"
    return f"Pillow {PIL.__version__} ({library})"


def read_image(path: Path | str) -> Picture:
    """Read an image file as (H, W, 3) uint8 RGB; see `decode_image`.

    Raises InputError, naming the file, if it cannot be opened or is not a whole image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Picture:
    """Decode the bytes of an image file to (H, W, 3) uint8 RGB, in the orientation in which the pixels are stored.

    CMYK, grey, palette, 16-bit and floating-point images become RGB, alpha is dropped, and an animation gives its
    first frame. EXIF is not read: a corrupt one is harmless, and its orientation never turns the picture.

    Raises InputError, naming `name`, if the bytes are not a whole image or hold more pixels than Pillow's limit
    against decompression bombs (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    picture, _ = _decode(data, name)
    return picture


def load_square(data: bytes, name: str, preprocessing: Preprocessing) -> Picture:
    """`decode_image` and `preprocessing.centre_square` in one, decoding a large JPEG at a reduced scale.

    Returns (resize, resize, 3) uint8 RGB: of a picture of that size the pixels as they are. Raises InputError as
    `decode_image` does.
    """
    square, _ = load_square_and_size(data, name, preprocessing)
    return square


def load_square_and_size(data: bytes, name: str, preprocessing: Preprocessing) -> tuple[Picture, tuple[int, int]]:
    """What `load_square` gives, and the width and height in pixels of the picture that it is the square of."""
    return _decode(data, name, preprocessing)


def _decode(data: bytes, name: str, preprocessing: Preprocessing | None = None) -> tuple[Picture, tuple[int, int]]:
    """The whole image, or its centre square if there is `preprocessing`; and the image's width and height."""
    try:
        data = _without_metadata(data)
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image)
            size = image.size
            if preprocessing is None or size == (preprocessing.resize, preprocessing.resize):
                return _pixels(data, image), size
            # The JPEG decoder halves an image two to three times faster than the filter does, but with a plain box
            # filter. Leaving the last factor of two or more to the filter keeps the result within a few grey levels
            # of the slow way. (simplejpeg would gain nothing here: the filter needs the pixels in Pillow's own memory.)
            image.draft(image.mode, (2 * preprocessing.resize, 2 * preprocessing.resize))
            return centre_square(_to_rgb(image), preprocessing), size
    except Exception as error:  # on damaged bytes Pillow's readers raise nearly anything, not only OSError
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
        raise InputError(f"{name}: cannot be read as an image ({reason if data else 'the file is empty'})") from error


def _pixels(data: bytes, image: Image.Image) -> Picture:
    """The pixels of `image`, of which Pillow has read no more than the header from `data`."""
    if simplejpeg is not None and image.format == "JPEG" and image.mode in ("L", "RGB"):
        width, height = image.size
        picture = np.empty((height, width, 3), np.uint8)  # of the size that was checked, whatever simplejpeg reads
        with suppress(ValueError, RuntimeError):  # of what simplejpeg refuses or warns of, Pillow has the last word
            if simplejpeg.decode_jpeg(data, "RGB", buffer=picture).shape == picture.shape:
                return picture
    return np.array(_to_rgb(image))


def _without_metadata(data: bytes) -> bytes:
    """A JPEG without its application segments; bytes of any other format unchanged.

    Pillow reads EXIF when it opens a JPEG and prints a warning if it is corrupt, and Python's warning filters cannot
    be changed for one thread alone. Of these segments only JFIF (APP0) and Adobe (APP14) say anything about pixels.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return data
    kept, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and 0xC0 <= (marker := data[at + 1]) < 0xFF and marker != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker not in range(0xE1, 0xF0) or marker == 0xEE:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _check_size(image: Image.Image) -> None:
    """Refuse an image without pixels, and one that Pillow only warns of as a decompression bomb."""
    width, height = image.size
    if width * height == 0 or width * height > (Image.MAX_IMAGE_PIXELS or width * height):
        raise ValueError(f"{width} x {height} pixels")


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in mode RGB. Pillow's own conversion clips values above 255 where it should scale them."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = _eight_bits(np.asarray(image, np.float32))
    image.info.pop("transparency", None)  # alpha is dropped; some palettes' cannot be carried over and would warn
    return image.convert("RGB")


def _eight_bits(values: NDArray[np.float32]) -> Image.Image:
    """Grey from (H, W) numbers whose file does not say which is white: the smallest of the usual that covers them."""
    values = np.nan_to_num(values, posinf=0, neginf=0)
    peak = float(values.max())
    white = next((level for level in (1, 255, 65535) if peak <= level), peak)
    return Image.fromarray((values.clip(0) * (255 / white)).astype(np.uint8))

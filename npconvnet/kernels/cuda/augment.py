"""Launches augment.cu: what kernels/cpu/augment.py computes, in one pass through memory."""

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.compile import kernel
from npconvnet.kernels.views import Views

#: The fields of `View` in augment.cu.
VIEW = np.dtype(
    [("top", "i4"), ("left", "i4"), ("reflect", "i4"), ("colour", "f4", 3), ("erased", "i4", 4)],
)
#: Threads of a block: a multiple of the 3 channels and of the 32 threads of a warp. Seven rounds make a row of 224.
THREADS = 96


def augment(images: Array, views: Views, crop: int, mean: Array, std: Array) -> Array:
    """float32 (N, crop, crop, 3) of the pictures `images`, uint8 (N, H, W, 3).

    `mean` (3,) or (crop, crop, 3) and `std` (3,) on the scale 0–255. Raises ValueError where a crop reaches beyond its
    picture, which the kernel would not notice.
    """
    xp = array_module(images)
    count, height, width, channels = images.shape
    if images.dtype != np.uint8 or channels != 3:
        raise ValueError(f"pictures are uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
    if mean.shape not in [(3,), (crop, crop, 3)] or std.shape != (3,):
        raise ValueError(f"mean {mean.shape} and std {std.shape} do not fit to crops of {crop}×{crop}")
    packed = _packed(views, count, (height - crop, width - crop))
    x: Array = xp.empty((count, crop, crop, 3), np.float32)
    if x.size:
        kernel(xp, "augment.cu", "augment")(
            (count * crop,),
            (THREADS,),
            (
                xp.ascontiguousarray(images),
                xp.asarray(packed.view(np.uint8)),  # in one copy
                xp.ascontiguousarray(mean, np.float32),
                xp.ascontiguousarray(std, np.float32),
                x,
                np.int32(height),
                np.int32(width),
                np.int32(crop),
                np.bool_(mean.ndim == 3),
            ),
        )
    return x


def _packed(views: Views, count: int, margins: tuple[int, int]) -> npt.NDArray[np.void]:
    """`views` as the kernel reads them, (N,) of VIEW; `margins` is what the pictures are larger than the crop."""
    if len(views.top) != count:
        raise ValueError(f"{len(views.top)} views of {count} pictures")
    for position, margin in zip((views.top, views.left), margins, strict=True):
        if np.any((position < 0) | (position > margin)):
            raise ValueError("a crop reaches beyond its picture")
    packed = np.empty(count, VIEW)
    for name in VIEW.names or ():
        packed[name] = getattr(views, name)
    return packed

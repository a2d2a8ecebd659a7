"""Launches augment.cu: what kernels/cpu/augment.py computes, in one pass through memory, and the cells of it in one.

For a batch of 256 crops of 224×224 and the paper's first convolution in bfloat16, `augment_cells` reads 38.5 MB of
pictures and writes 77.1 MB of cells. `augment`, and image_cells of its result, read 38.5 MB, write and read 154.1 MB,
and write 77.1 MB.
"""

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, array_module
from npconvnet.kernels.cuda.arguments import ANY, require
from npconvnet.kernels.cuda.compile import kernel
from npconvnet.kernels.cuda.space_to_depth import Cells, element_name
from npconvnet.kernels.views import Views

#: The fields of `View` in augment.cu.
VIEW = np.dtype(
    [("top", "i4"), ("left", "i4"), ("reflect", "i4"), ("colour", "f4", 3), ("erased", "i4", 4)],
)
#: Threads of a block of `augment`, a multiple of the 32 of a warp. Two rounds make a row of 224.
THREADS = 128


def augment(images: Array, views: Views, crop: int, mean: Array, std: Array) -> Array:
    """float32 (N, crop, crop, 3) of the pictures `images`, uint8 (N, H, W, 3).

    `mean` (3,) or (crop, crop, 3) and `std` (3,), float32 on the scale 0–255. Raises TypeError for arrays of another
    type or shape, and ValueError where a crop reaches beyond its picture, which the kernel would not notice.
    """
    xp = array_module(images)
    images, mean, std = _require("augment", images, mean, std, crop)
    count, height, width, _ = images.shape
    packed = pack_views(views, count, (height - crop, width - crop))
    x: Array = xp.empty((count, crop, crop, 3), np.float32)
    if x.size:  # CUDA refuses a launch of no blocks
        on_device = xp.asarray(packed.view(np.uint8))  # in one copy
        sizes = np.int32(height), np.int32(width), np.int32(crop), np.bool_(mean.ndim == 3)
        kernel(xp, "augment.cu", "augment")((count * crop,), (THREADS,), (images, on_device, mean, std, x, *sizes))
    return x


def augment_cells(
    images: Array,
    views: Array,
    crop: int,
    mean: Array,
    std: Array,
    cells: Cells,
    dtype: npt.DTypeLike,
) -> Array:
    """The cells of `augment`, uint16 (bfloat16 words) or float32 as `dtype` says, (N, H′, W′, C′) as `cells` says.

    `views` are the bytes of `pack_views` on the device, uint8 (N·VIEW.itemsize,): a CUDA graph that has captured this
    reads at each replay what lies there then. Raises TypeError for arrays of another type or shape, and ValueError
    where `cells` are not those of crops.
    """
    xp, element = array_module(images), element_name(dtype)
    if cells.size != (crop, crop):
        raise ValueError(f"cells of {cells.size} pixels do not fit to crops of {crop}×{crop}")
    images, mean, std = _require("augment_cells", images, mean, std, crop)
    count, height, width, _ = images.shape
    views = require("augment_cells", "views", views, np.uint8, (count * VIEW.itemsize,))
    result: Array = xp.empty(cells.shape(count), dtype)
    if result.size:
        numbers = np.int32(height), np.int32(width), np.bool_(mean.ndim == 3), cells.parameter
        arguments = images, views, mean, std, result, *numbers
        launch = kernel(xp, "augment.cu", f"augment_cells_{element}", cells.shared_bytes(dtype))
        launch((count * result.shape[1],), cells.block, arguments)
    return result


def pack_views(views: Views, count: int, margins: tuple[int, int]) -> npt.NDArray[np.void]:
    """`views` as the kernels read them, (N,) of VIEW; `margins` is what the pictures are larger than the crop, (H, W).

    Raises ValueError where they are not `count`, or a crop reaches beyond its picture.
    """
    if len(views.top) != count:
        raise ValueError(f"{len(views.top)} views of {count} pictures")
    for position, margin in zip((views.top, views.left), margins, strict=True):
        if np.any((position < 0) | (position > margin)):
            raise ValueError("a crop reaches beyond its picture")
    packed = np.empty(count, VIEW)
    for name in VIEW.names or ():
        packed[name] = getattr(views, name)
    return packed


def _require(name: str, images: Array, mean: Array, std: Array, crop: int) -> tuple[Array, Array, Array]:
    return (
        require(name, "images", images, np.uint8, (ANY, ANY, ANY, 3)),
        require(name, "mean", mean, np.float32, (3,) if mean.ndim == 1 else (crop, crop, 3)),
        require(name, "std", std, np.float32, (3,)),
    )

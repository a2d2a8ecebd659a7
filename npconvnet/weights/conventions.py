"""What other frameworks do otherwise, and how it is put right at the door: axes, channel order, preprocessing.

Here filters are OHWI (K, R, S, C), a fully connected layer reads an image row by row (H, W, C), and colours are RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from npconvnet.preprocessing import Preprocessing

Tensor = npt.NDArray[Any]

#: Mean colours (R, G, B), 0–255: torchvision's, that of Caffe's ilsvrc_2012_mean.npy, and the VGG group's.
TORCHVISION_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
TORCHVISION_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
VGG_MEAN = (123.68, 116.779, 103.939)


def torchvision_preprocessing(crop: int = 224) -> Preprocessing:
    """That of every classification network of torchvision, and of timm's copies of them."""
    return Preprocessing(_resize(crop), crop, TORCHVISION_MEAN, TORCHVISION_STD)


def caffe_preprocessing(crop: int = 227) -> Preprocessing:
    """Minus the mean colour of ImageNet, the networks of the Berkeley group; the channels are put right in conv1.

    They were trained on pictures of 256×256, whatever the proportions (Caffe, examples/imagenet/readme.md).
    """
    return Preprocessing(_resize(crop), crop, CAFFE_MEAN, keep_aspect=False)


def vgg_preprocessing(crop: int = 224) -> Preprocessing:
    """Minus the mean colour of ImageNet, the networks of the VGG group; the channels are put right in conv1."""
    return Preprocessing(_resize(crop), crop, VGG_MEAN)


#: How the networks of a group are fed, by what it trained them with. All but torchvision's read BGR there.
Convention = Literal["torchvision", "caffe", "vgg"]
CONVENTIONS: dict[Convention, Callable[[int], Preprocessing]] = {
    "torchvision": torchvision_preprocessing,
    "caffe": caffe_preprocessing,
    "vgg": vgg_preprocessing,
}


def in_words(preprocessing: Preprocessing) -> str:
    """What a network is fed, for a person who checks whether that is right."""
    size, crop = preprocessing.resize, preprocessing.crop
    resized = f"shorter side to {size} pixels" if preprocessing.keep_aspect else f"both sides to {size} pixels"
    image = "" if preprocessing.mean_image is None else "an image with the mean colour "
    mean, std = _three(preprocessing.mean_colour), _three(preprocessing.std)
    scale = "" if std == _three((1, 1, 1)) else f", divided by {std}"
    return f"{resized} ({preprocessing.interpolation}), centre {crop}×{crop}, RGB 0–255 minus {image}{mean}{scale}"


def oihw_to_ohwi(filters: Tensor) -> Tensor:
    """(K, C, R, S), of Caffe, PyTorch and ONNX, to (K, R, S, C)."""
    return np.ascontiguousarray(filters.transpose(0, 2, 3, 1))


def ohwi_to_oihw(filters: Tensor) -> Tensor:
    """The inverse of `oihw_to_ohwi`."""
    return np.ascontiguousarray(filters.transpose(0, 3, 1, 2))


def chw_to_hwc(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weights (out, C·H·W) of a layer that reads an image channel by channel, for an image `shape` (H, W, C)."""
    h, w, c = shape
    return np.ascontiguousarray(weight.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(len(weight), -1))


def hwc_to_chw(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `chw_to_hwc`."""
    h, w, c = shape
    return np.ascontiguousarray(weight.reshape(-1, h, w, c).transpose(0, 3, 1, 2).reshape(len(weight), -1))


def swap_red_and_blue(filters: Tensor) -> Tensor:
    """Filters (K, R, S, 3) that were trained on BGR, for RGB."""
    return np.ascontiguousarray(filters[..., ::-1])


def _resize(crop: int) -> int:
    # 256 pixels for crops of 224 and of 227, as all of them do.
    return max(crop, 256) if crop <= 256 else round(crop * 256 / 224)


def _three(values: tuple[float, ...]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})"

"""SqueezeNet (Iandola et al. 2016): fire modules, which squeeze to few channels and expand by 1×1 and by 3×3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from npconvnet.kernels.shapes import Rounding
from npconvnet.layers import Concatenate, Conv2d, Dropout, GlobalAveragePool2d, MaxPool2d, ReLU
from npconvnet.network import Network, Row
from npconvnet.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Version:
    """What the versions do not share: conv1, the modules behind which a pool stands, its rounding, and the image."""

    filters: int
    window: int
    pool_after: tuple[int, ...]
    rounding: Rounding
    crop: int


#: SqueezeNet 1.1 as it ships with this package, and torchvision's two.
VERSIONS = {
    "squeezenet": Version(filters=64, window=3, pool_after=(3, 5), rounding="floor", crop=227),
    "squeezenet1_0": Version(filters=96, window=7, pool_after=(4, 8), rounding="ceil", crop=224),
    "squeezenet1_1": Version(filters=64, window=3, pool_after=(3, 5), rounding="ceil", crop=224),
}
#: (squeeze, expand) of fire2 to fire9
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


def squeezenet(model: str, classes: int = 1000, widths: Sequence[int] | None = None) -> Network:
    """The network `model` of `VERSIONS` on RGB. The class scores are the averages of conv10's maps.

    `widths` are the filters of conv1, then those that squeeze and those of each kind that expand, in fire2 to fire9.
    Raises KeyError for another `model`, ValueError for another number of widths.
    """
    version = VERSIONS[model]
    widths = list(widths or (version.filters, *(filters for fire in _FIRES for filters in fire)))
    channels, *fires = widths
    rows: list[Row] = [
        ("conv1", Conv2d(3, channels, version.window, stride=2)),
        ("relu1", ReLU()),
        ("pool1", MaxPool2d(3, stride=2, rounding=version.rounding)),
    ]
    for number, squeeze, expand in zip(range(2, 10), fires[::2], fires[1::2], strict=True):
        rows += _fire(f"fire{number}", channels, squeeze, expand)
        channels = 2 * expand
        if number in version.pool_after:
            rows.append((f"pool{number}", MaxPool2d(3, stride=2, rounding=version.rounding)))
    rows += [
        ("drop9", Dropout()),
        ("conv10", Conv2d(channels, classes, 1)),
        ("relu10", ReLU()),
        ("pool10", GlobalAveragePool2d()),
    ]
    options = {"classes": classes, "widths": widths}
    return Network(model, rows, Preprocessing(resize=256, crop=version.crop), options)


def _fire(name: str, channels: int, squeeze: int, expand: int) -> list[Row]:
    squeezed = (f"{name}.squeeze_relu",)
    return [
        (f"{name}.squeeze1x1", Conv2d(channels, squeeze, 1)),
        (f"{name}.squeeze_relu", ReLU()),
        (f"{name}.expand1x1", Conv2d(squeeze, expand, 1), squeezed),
        (f"{name}.expand1x1_relu", ReLU()),
        (f"{name}.expand3x3", Conv2d(squeeze, expand, 3, padding=1), squeezed),
        (f"{name}.expand3x3_relu", ReLU()),
        (name, Concatenate(), (f"{name}.expand1x1_relu", f"{name}.expand3x3_relu")),
    ]

"""VGG-11, 13, 16 and 19 (Simonyan & Zisserman 2014, configurations A, B, D, E): 3×3 convolutions in five blocks."""

from collections.abc import Sequence

from npconvnet.layers import Conv2d, Dropout, Linear, MaxPool2d, ReLU
from npconvnet.network import Network, Row
from npconvnet.preprocessing import Preprocessing

#: How many convolutions each block has; behind it a pool halves the image.
CONVOLUTIONS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_WIDTHS = (64, 128, 256, 512, 512)


def vgg(model: str, classes: int = 1000, widths: Sequence[int] = _WIDTHS, hidden: int = 4096) -> Network:
    """The network `model` on 224×224 RGB: `widths` filters in the five blocks, fc6 and fc7 of `hidden` features.

    Raises KeyError for another `model`, ValueError for another number of widths.
    """
    rows: list[Row] = []
    channels = 3
    for block, (filters, convolutions) in enumerate(zip(widths, CONVOLUTIONS[model], strict=True), start=1):
        for number in range(1, convolutions + 1):
            rows += [
                (f"conv{block}_{number}", Conv2d(channels, filters, 3, padding=1)),
                (f"relu{block}_{number}", ReLU()),
            ]
            channels = filters
        rows.append((f"pool{block}", MaxPool2d(2, stride=2)))
    rows += [
        ("fc6", Linear(7 * 7 * channels, hidden)),
        ("relu6", ReLU()),
        ("drop6", Dropout()),
        ("fc7", Linear(hidden, hidden)),
        ("relu7", ReLU()),
        ("drop7", Dropout()),
        ("fc8", Linear(hidden, classes)),
    ]
    options = {"classes": classes, "widths": list(widths), "hidden": hidden}
    return Network(model, rows, Preprocessing(resize=256, crop=224), options)

"""VGG-16 (Simonyan & Zisserman 2014, configuration D): five blocks of 3×3 convolutions, each halved by a pool."""

from npconvnet.layers import Conv2d, Dropout, Linear, MaxPool2d, ReLU
from npconvnet.network import Network, Row
from npconvnet.preprocessing import Preprocessing

#: (filters, convolutions) of each block
_BLOCKS = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]


def vgg16(classes: int = 1000) -> Network:
    """The network on 224×224 RGB."""
    rows: list[Row] = []
    channels = 3
    for block, (filters, convolutions) in enumerate(_BLOCKS, start=1):
        for number in range(1, convolutions + 1):
            rows += [
                (f"conv{block}_{number}", Conv2d(channels, filters, 3, padding=1)),
                (f"relu{block}_{number}", ReLU()),
            ]
            channels = filters
        rows.append((f"pool{block}", MaxPool2d(2, stride=2)))
    rows += [
        ("fc6", Linear(7 * 7 * 512, 4096)),
        ("relu6", ReLU()),
        ("drop6", Dropout()),
        ("fc7", Linear(4096, 4096)),
        ("relu7", ReLU()),
        ("drop7", Dropout()),
        ("fc8", Linear(4096, classes)),
    ]
    return Network("vgg16", rows, Preprocessing(resize=256, crop=224), options={"classes": classes})

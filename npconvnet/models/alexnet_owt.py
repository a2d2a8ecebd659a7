"""AlexNet in one column and without LRN (Krizhevsky 2014, "One weird trick"), as torchvision has it."""

from collections.abc import Sequence

from npconvnet.layers import Conv2d, Dropout, Linear, MaxPool2d, ReLU
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing

_WIDTHS = (64, 192, 384, 256, 256)


def alexnet_owt(classes: int = 1000, widths: Sequence[int] = _WIDTHS, hidden: int = 4096) -> Network:
    """The network on 224×224 RGB: `widths` filters in conv1 to conv5, fc6 and fc7 of `hidden` features.

    Raises ValueError for another number of widths.
    """
    k1, k2, k3, k4, k5 = widths
    return Network(
        "alexnet_owt",
        [
            ("conv1", Conv2d(3, k1, 11, stride=4, padding=2)),
            ("relu1", ReLU()),
            ("pool1", MaxPool2d(3, stride=2)),
            ("conv2", Conv2d(k1, k2, 5, padding=2)),
            ("relu2", ReLU()),
            ("pool2", MaxPool2d(3, stride=2)),
            ("conv3", Conv2d(k2, k3, 3, padding=1)),
            ("relu3", ReLU()),
            ("conv4", Conv2d(k3, k4, 3, padding=1)),
            ("relu4", ReLU()),
            ("conv5", Conv2d(k4, k5, 3, padding=1)),
            ("relu5", ReLU()),
            ("pool5", MaxPool2d(3, stride=2)),
            ("drop6", Dropout()),
            ("fc6", Linear(6 * 6 * k5, hidden)),
            ("relu6", ReLU()),
            ("drop7", Dropout()),
            ("fc7", Linear(hidden, hidden)),
            ("relu7", ReLU()),
            ("fc8", Linear(hidden, classes)),
        ],
        Preprocessing(resize=256, crop=224),
        options={"classes": classes, "widths": list(widths), "hidden": hidden},
    )

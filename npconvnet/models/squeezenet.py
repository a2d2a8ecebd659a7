"""SqueezeNet 1.1 (Iandola et al. 2016): fire modules, which squeeze to few channels and expand by 1×1 and by 3×3."""

from npconvnet.layers import Concatenate, Conv2d, Dropout, GlobalAveragePool2d, MaxPool2d, ReLU
from npconvnet.network import Network, Row
from npconvnet.preprocessing import Preprocessing


def squeezenet(classes: int = 1000) -> Network:
    """The network on 227×227 RGB. The class scores are the averages of conv10's maps."""
    return Network(
        "squeezenet",
        [
            ("conv1", Conv2d(3, 64, 3, stride=2)),
            ("relu1", ReLU()),
            ("pool1", MaxPool2d(3, stride=2)),
            *_fire("fire2", channels=64, squeeze=16, expand=64),
            *_fire("fire3", channels=128, squeeze=16, expand=64),
            ("pool3", MaxPool2d(3, stride=2)),
            *_fire("fire4", channels=128, squeeze=32, expand=128),
            *_fire("fire5", channels=256, squeeze=32, expand=128),
            ("pool5", MaxPool2d(3, stride=2)),
            *_fire("fire6", channels=256, squeeze=48, expand=192),
            *_fire("fire7", channels=384, squeeze=48, expand=192),
            *_fire("fire8", channels=384, squeeze=64, expand=256),
            *_fire("fire9", channels=512, squeeze=64, expand=256),
            ("drop9", Dropout()),
            ("conv10", Conv2d(512, classes, 1)),
            ("relu10", ReLU()),
            ("pool10", GlobalAveragePool2d()),
        ],
        Preprocessing(resize=256, crop=227),
        options={"classes": classes},
    )


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

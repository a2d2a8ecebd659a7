"""The paper's sequence of layers, scaled down for pictures of 64 pixels: what trains on a CPU in minutes."""

from npconvnet.layers import LRN, Conv2d, Dropout, Linear, MaxPool2d, ReLU
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing


def tiny(classes: int = 10) -> Network:
    """The network on 64×64 RGB, cropped from 73×73 as the paper's 224×224 is from 256×256.

    Its layers are narrow, so dropout is scaled down with them.
    """
    return Network(
        "tiny",
        [
            ("conv1", Conv2d(3, 32, 5, stride=2)),
            ("relu1", ReLU()),
            ("norm1", LRN()),
            ("pool1", MaxPool2d(3, stride=2, rounding="ceil")),
            ("conv2", Conv2d(32, 64, 5, padding=2)),
            ("relu2", ReLU()),
            ("norm2", LRN()),
            ("pool2", MaxPool2d(3, stride=2, rounding="ceil")),
            ("conv3", Conv2d(64, 64, 3, padding=1)),
            ("relu3", ReLU()),
            ("conv4", Conv2d(64, 64, 3, padding=1)),
            ("relu4", ReLU()),
            ("conv5", Conv2d(64, 64, 3, padding=1)),
            ("relu5", ReLU()),
            ("pool5", MaxPool2d(3, stride=2, rounding="ceil")),
            ("fc6", Linear(3 * 3 * 64, 256)),
            ("relu6", ReLU()),
            ("drop6", Dropout(0.25)),
            ("fc7", Linear(256, 256)),
            ("relu7", ReLU()),
            ("drop7", Dropout(0.25)),
            ("fc8", Linear(256, classes)),
        ],
        Preprocessing(resize=73, crop=64),
        options={"classes": classes},
    )

"""AlexNet (Krizhevsky et al. 2012) as Caffe has it: conv2, conv4 and conv5 in two groups, LRN before the pools."""

from npconvnet.layers import LRN, Conv2d, Dropout, Linear, MaxPool2d, ReLU
from npconvnet.network import Network
from npconvnet.preprocessing import Preprocessing


def alexnet(classes: int = 1000) -> Network:
    """The network on 227×227 RGB (bvlc_alexnet; pools rounded up, which changes none of its sizes)."""
    return Network(
        "alexnet",
        [
            ("conv1", Conv2d(3, 96, 11, stride=4)),
            ("relu1", ReLU()),
            ("norm1", _lrn()),
            ("pool1", MaxPool2d(3, stride=2, rounding="ceil")),
            ("conv2", Conv2d(96, 256, 5, padding=2, groups=2)),
            ("relu2", ReLU()),
            ("norm2", _lrn()),
            ("pool2", MaxPool2d(3, stride=2, rounding="ceil")),
            ("conv3", Conv2d(256, 384, 3, padding=1)),
            ("relu3", ReLU()),
            ("conv4", Conv2d(384, 384, 3, padding=1, groups=2)),
            ("relu4", ReLU()),
            ("conv5", Conv2d(384, 256, 3, padding=1, groups=2)),
            ("relu5", ReLU()),
            ("pool5", MaxPool2d(3, stride=2, rounding="ceil")),
            ("fc6", Linear(6 * 6 * 256, 4096)),
            ("relu6", ReLU()),
            ("drop6", Dropout()),
            ("fc7", Linear(4096, 4096)),
            ("relu7", ReLU()),
            ("drop7", Dropout()),
            ("fc8", Linear(4096, classes)),
        ],
        Preprocessing(resize=256, crop=227),
        options={"classes": classes},
    )


def _lrn() -> LRN:
    # Caffe states alpha = 1e-4, which it divides by the window of 5 channels.
    return LRN(size=5, alpha_per_element=1e-4 / 5, beta=0.75, k=1.0)

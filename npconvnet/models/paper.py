"""The paper's ConvNet: conv64 – conv256 – conv256 – conv256 – conv256 – full4096 – full4096 – full1000.

Simonyan, Vedaldi, Zisserman 2013, section 1. Layer widths are the paper's; windows, strides and padding, which it does
not give, are those of VGG CNN-F, which has the same widths (Chatfield et al. 2014).
"""

from npconvnet.kernels.shapes import ROUNDING, Convention
from npconvnet.layers import LRN, Conv2d, Dropout, Linear, MaxPool2d, ReLU
from npconvnet.network import Network, Row
from npconvnet.preprocessing import Preprocessing


def paper(classes: int = 1000, lrn: bool = True, rounding: Convention = "caffe") -> Network:
    """The network on 224×224 RGB. `lrn=False` leaves out both normalisations; `rounding` as in kernels/shapes.py.

    cuda-convnet, which trained the paper's network, rounds conv1 up to 55×55, Caffe and MatConvNet down to 54×54;
    both come to 27×27 after the first pool, and to the same parameters.
    """
    conv, pool = ROUNDING[rounding]
    rows: list[Row] = [
        ("conv1", Conv2d(3, 64, 11, stride=4, rounding=conv)),
        ("relu1", ReLU()),
        ("norm1", LRN()),
        ("pool1", MaxPool2d(3, stride=2, rounding=pool)),
        ("conv2", Conv2d(64, 256, 5, padding=2, rounding=conv)),
        ("relu2", ReLU()),
        ("norm2", LRN()),
        ("pool2", MaxPool2d(3, stride=2, rounding=pool)),
        ("conv3", Conv2d(256, 256, 3, padding=1, rounding=conv)),
        ("relu3", ReLU()),
        ("conv4", Conv2d(256, 256, 3, padding=1, rounding=conv)),
        ("relu4", ReLU()),
        ("conv5", Conv2d(256, 256, 3, padding=1, rounding=conv)),
        ("relu5", ReLU()),
        ("pool5", MaxPool2d(3, stride=2, rounding=pool)),
        ("fc6", Linear(6 * 6 * 256, 4096)),
        ("relu6", ReLU()),
        ("drop6", Dropout()),
        ("fc7", Linear(4096, 4096)),
        ("relu7", ReLU()),
        ("drop7", Dropout()),
        ("fc8", Linear(4096, classes)),
    ]
    return Network(
        "paper",
        [row for row in rows if lrn or not isinstance(row[1], LRN)],
        Preprocessing(resize=256, crop=224),
        options={"classes": classes, "lrn": lrn, "rounding": rounding},
    )

"""Networks of MatConvNet as its import-caffe.py and its trainer write them, with the layers of the published ones."""

import numpy as np
import scipy.io

# -- layers ----------------------------------------------------------------------------------------------------------


def conv(name, *size, stride=1, pad=0):
    return {"type": "conv", "name": name, "size": size, "pad": [pad] * 4, "stride": [stride] * 2}


def conv_and_relu(number, *size, **where):
    return [conv(f"conv{number}", *size, **where), {"type": "relu", "name": f"relu{number}"}]


def vgg_norm(number):
    return {"type": "lrn", "name": f"norm{number}", "param": [5, 2, 1e-4, 0.75]}


def caffe_norm(number):
    return {"type": "normalize", "name": f"norm{number}", "param": [5, 1, 2e-5, 0.75]}


def pool(number, window, stride, more=0):
    """Caffe rounds poolings up, so import-caffe.py pads them, by `more` pixels at the bottom and on the right."""
    place = {"pool": [window] * 2, "stride": [stride] * 2, "pad": [0, more, 0, more]}
    return {"type": "pool", "name": f"pool{number}", "method": "max", **place}


def conv_3_to_5(groups=1):
    return [
        *conv_and_relu("3", 3, 3, 12, 12, pad=1),
        *conv_and_relu("4", 3, 3, 12 // groups, 12, pad=1),
        *conv_and_relu("5", 3, 3, 12 // groups, 10, pad=1),
    ]


def fully_connected(side, dropout=False):
    rows = []
    for number, *size in ((6, side, side, 10, 20), (7, 1, 1, 20, 16)):
        rows += [conv(f"fc{number}", *size), {"type": "relu", "name": f"relu{number}"}]
        if dropout:
            rows.append({"type": "dropout", "name": f"drop{number}", "rate": 0.5})
    return [*rows, conv("fc8", 1, 1, 16, 10), {"type": "softmax", "name": "prob"}]


# -- the published networks, with few channels -----------------------------------------------------------------------

VGG_F = [
    *conv_and_relu("1", 11, 11, 3, 8, stride=4),
    vgg_norm("1"),
    pool("1", 3, 2, more=1),
    *conv_and_relu("2", 5, 5, 8, 12, pad=2),
    vgg_norm("2"),
    pool("2", 3, 2, more=1),
    *conv_3_to_5(),
    pool("5", 3, 2, more=1),
    *fully_connected(6),
]

VGG_M = [
    *conv_and_relu("1", 7, 7, 3, 8, stride=2),
    vgg_norm("1"),
    pool("1", 3, 2),
    *conv_and_relu("2", 5, 5, 8, 12, stride=2, pad=1),
    vgg_norm("2"),
    pool("2", 3, 2, more=1),
    *conv_3_to_5(),
    pool("5", 3, 2),
    *fully_connected(6),
]

VGG_S = [
    *conv_and_relu("1", 7, 7, 3, 8, stride=2),
    vgg_norm("1"),
    pool("1", 3, 3, more=2),
    *conv_and_relu("2", 5, 5, 8, 12),
    pool("2", 2, 2, more=1),
    *conv_3_to_5(),
    pool("5", 3, 3, more=1),
    *fully_connected(6),
]

VERYDEEP_16 = [
    *conv_and_relu("1_1", 3, 3, 3, 2, pad=1),
    *conv_and_relu("1_2", 3, 3, 2, 4, pad=1),
    pool("1", 2, 2),
    *conv_and_relu("2_1", 3, 3, 4, 4, pad=1),
    *conv_and_relu("2_2", 3, 3, 4, 6, pad=1),
    pool("2", 2, 2),
    *conv_and_relu("3_1", 3, 3, 6, 8, pad=1),
    *conv_and_relu("3_2", 3, 3, 8, 8, pad=1),
    *conv_and_relu("3_3", 3, 3, 8, 8, pad=1),
    pool("3", 2, 2),
    *conv_and_relu("4_1", 3, 3, 8, 10, pad=1),
    *conv_and_relu("4_2", 3, 3, 10, 10, pad=1),
    *conv_and_relu("4_3", 3, 3, 10, 10, pad=1),
    pool("4", 2, 2),
    *conv_and_relu("5_1", 3, 3, 10, 10, pad=1),
    *conv_and_relu("5_2", 3, 3, 10, 10, pad=1),
    *conv_and_relu("5_3", 3, 3, 10, 10, pad=1),
    pool("5", 2, 2),
    *fully_connected(7),
]

#: Two groups in conv2, conv4 and conv5, and the dropout that some files hold.
CAFFE_ALEX = [
    *conv_and_relu("1", 11, 11, 3, 8, stride=4),
    caffe_norm("1"),
    pool("1", 3, 2),
    *conv_and_relu("2", 5, 5, 4, 12, pad=2),
    caffe_norm("2"),
    pool("2", 3, 2),
    *conv_3_to_5(groups=2),
    pool("5", 3, 2),
    *fully_connected(6, dropout=True),
]

#: It pools before it normalises.
CAFFE_REF = [
    *conv_and_relu("1", 11, 11, 3, 8, stride=4),
    pool("1", 3, 2),
    caffe_norm("1"),
    *conv_and_relu("2", 5, 5, 4, 12, pad=2),
    pool("2", 3, 2),
    caffe_norm("2"),
    *conv_3_to_5(groups=2),
    pool("5", 3, 2),
    *fully_connected(6),
]

#: Small, with everything that can go wrong in a file.
SMALL = [
    {"type": "conv", "name": "conv1", "size": (3, 3, 3, 4), "pad": [0, 1, 0, 1], "stride": [2, 2]},
    {"type": "relu", "name": "relu1"},
    {"type": "lrn", "name": "norm1", "param": [3, 2, 1e-2, 0.75]},
    {"type": "pool", "name": "pool1", "method": "avg", "pool": [3, 2], "stride": [2, 2], "pad": [1, 1, 0, 1]},
    {"type": "conv", "name": "conv2", "size": (3, 1, 2, 4), "pad": [1, 1, 0, 0], "stride": [1, 1]},
    {"type": "conv", "name": "fc3", "size": (4, 4, 4, 3), "pad": [0, 0, 0, 0], "stride": [1, 1]},
    {"type": "softmax", "name": "prob"},
]


# -- files ----------------------------------------------------------------------------------------------------------


def with_parameters(rows, rng):
    """`rows` with filters (H, W, C, N) and biases (1, N) for each `size`, large enough for scores to differ."""
    layers = []
    for row in rows:
        layer = dict(row)
        if size := layer.pop("size", None):
            layer["W"] = (rng.standard_normal(size) * (2 / np.prod(size[:3])) ** 0.5).astype(np.float32)
            layer["b"] = rng.standard_normal((1, size[3])).astype(np.float32)
        layers.append(layer)
    return layers


def normalization(crop, mean, *, border=(32, 32), **fields):
    """What published files say of their preprocessing."""
    return {
        "imageSize": [crop, crop, 3],
        "averageImage": mean,
        "interpolation": "bilinear",
        "keepAspect": True,
        "border": border,
        "cropSize": [crop / (crop + side) for side in border],
    } | fields


def new(layers, norm, classes):
    """The fields of a network as vl_simplenn_tidy writes them."""
    layers = [_renamed(layer, lambda w, b: {"weights": cell([w, b])}) for layer in layers]
    return {"layers": cell(layers), "meta": {"normalization": norm, "classes": classes, "inputs": []}}


def old(layers, norm, classes):
    """The same before `weights` and `meta`; the order of the fields is another, which must not matter."""
    layers = [_renamed(layer, lambda w, b: {"biases": b, "filters": w}) for layer in layers]
    layers = [dict(reversed(layer.items())) for layer in layers]
    norm = {key: value for key, value in norm.items() if key != "cropSize"}
    return {"classes": classes, "normalization": norm, "layers": cell(layers)}


def class_names(count):
    """Not in the order of their ids, which a file may choose."""
    return {
        "name": cell([f"n{9 - index:08d}" for index in range(count)]),
        "description": cell([f"thing {index}, no. {index}" for index in range(count)]),
    }


def cell(items):
    array = np.empty((1, len(items)), object)
    for index, item in enumerate(items):
        array[0, index] = item
    return array


def save(path, variables, *, compressed=False):
    scipy.io.savemat(path, variables, do_compression=compressed)
    return path


def _renamed(layer, parameters):
    rest = {key: np.array(value, float) if isinstance(value, list) else value for key, value in layer.items()}
    return rest | parameters(rest.pop("W"), rest.pop("b")) if "W" in rest else rest

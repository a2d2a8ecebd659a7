"""Networks of MatConvNet as its import-caffe.py and its trainer write them, with the layers of the published ones."""

import numpy as np
import scipy.io

#: imagenet-vgg-f.mat. Caffe rounds poolings up, so import-caffe.py pads them at the bottom and on the right.
VGG_F = [
    {"type": "conv", "name": "conv1", "size": (11, 11, 3, 8), "pad": [0, 0, 0, 0], "stride": [4, 4]},
    {"type": "relu", "name": "relu1"},
    {"type": "lrn", "name": "norm1", "param": [5, 2, 1e-4, 0.75]},
    {"type": "pool", "name": "pool1", "method": "max", "pool": [3, 3], "stride": [2, 2], "pad": [0, 1, 0, 1]},
    {"type": "conv", "name": "conv2", "size": (5, 5, 8, 12), "pad": [2, 2, 2, 2], "stride": [1, 1]},
    {"type": "relu", "name": "relu2"},
    {"type": "lrn", "name": "norm2", "param": [5, 2, 1e-4, 0.75]},
    {"type": "pool", "name": "pool2", "method": "max", "pool": [3, 3], "stride": [2, 2], "pad": [0, 1, 0, 1]},
    {"type": "conv", "name": "conv3", "size": (3, 3, 12, 12), "pad": [1, 1, 1, 1], "stride": [1, 1]},
    {"type": "relu", "name": "relu3"},
    {"type": "conv", "name": "conv4", "size": (3, 3, 12, 12), "pad": [1, 1, 1, 1], "stride": [1, 1]},
    {"type": "relu", "name": "relu4"},
    {"type": "conv", "name": "conv5", "size": (3, 3, 12, 12), "pad": [1, 1, 1, 1], "stride": [1, 1]},
    {"type": "relu", "name": "relu5"},
    {"type": "pool", "name": "pool5", "method": "max", "pool": [3, 3], "stride": [2, 2], "pad": [0, 1, 0, 1]},
    {"type": "conv", "name": "fc6", "size": (6, 6, 12, 20), "pad": [0, 0, 0, 0], "stride": [1, 1]},
    {"type": "relu", "name": "relu6"},
    {"type": "conv", "name": "fc7", "size": (1, 1, 20, 16), "pad": [0, 0, 0, 0], "stride": [1, 1]},
    {"type": "relu", "name": "relu7"},
    {"type": "conv", "name": "fc8", "size": (1, 1, 16, 10), "pad": [0, 0, 0, 0], "stride": [1, 1]},
    {"type": "softmax", "name": "prob"},
]

#: imagenet-caffe-alex.mat: two groups in conv2, conv4 and conv5, and the dropout that older files hold.
CAFFE_ALEX = [
    {"type": "conv", "name": "conv1", "size": (11, 11, 3, 8), "pad": [0, 0, 0, 0], "stride": [4, 4]},
    {"type": "relu", "name": "relu1"},
    {"type": "normalize", "name": "norm1", "param": [5, 1, 2e-5, 0.75]},
    {"type": "pool", "name": "pool1", "method": "max", "pool": [3, 3], "stride": [2, 2], "pad": [0, 0, 0, 0]},
    {"type": "conv", "name": "conv2", "size": (5, 5, 4, 12), "pad": [2, 2, 2, 2], "stride": [1, 1]},
    {"type": "relu", "name": "relu2"},
    {"type": "normalize", "name": "norm2", "param": [5, 1, 2e-5, 0.75]},
    {"type": "pool", "name": "pool2", "method": "max", "pool": [3, 3], "stride": [2, 2], "pad": [0, 0, 0, 0]},
    {"type": "conv", "name": "conv3", "size": (3, 3, 12, 12), "pad": [1, 1, 1, 1], "stride": [1, 1]},
    {"type": "relu", "name": "relu3"},
    {"type": "conv", "name": "conv4", "size": (3, 3, 6, 12), "pad": [1, 1, 1, 1], "stride": [1, 1]},
    {"type": "relu", "name": "relu4"},
    {"type": "conv", "name": "conv5", "size": (3, 3, 6, 10), "pad": [1, 1, 1, 1], "stride": [1, 1]},
    {"type": "relu", "name": "relu5"},
    {"type": "pool", "name": "pool5", "method": "max", "pool": [3, 3], "stride": [2, 2], "pad": [0, 0, 0, 0]},
    {"type": "conv", "name": "fc6", "size": (6, 6, 10, 20), "pad": [0, 0, 0, 0], "stride": [1, 1]},
    {"type": "relu", "name": "relu6"},
    {"type": "dropout", "name": "drop6", "rate": 0.5},
    {"type": "conv", "name": "fc7", "size": (1, 1, 20, 16), "pad": [0, 0, 0, 0], "stride": [1, 1]},
    {"type": "relu", "name": "relu7"},
    {"type": "dropout", "name": "drop7", "rate": 0.5},
    {"type": "conv", "name": "fc8", "size": (1, 1, 16, 10), "pad": [0, 0, 0, 0], "stride": [1, 1]},
    {"type": "softmax", "name": "prob"},
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

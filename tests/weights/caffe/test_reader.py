"""Networks of Caffe give the scores that Caffe's own arithmetic gives, of the same photo, from files of both formats.

The networks have the layers of the real ones and few channels. The other side computes as Caffe's layers do (BGR,
channels first), in PyTorch, from the same description and with sizes and divisors written out by Caffe's rules.
"""

import math
import struct
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from npconvnet.errors import InputError
from npconvnet.weights.caffe import read_caffe
from npconvnet.weights.caffe.messages import CLASSES
from npconvnet.weights.opening import load_network, recognise
from tests.conftest import TOLERANCE, Numbers

#: Blue, green, red: the means of the Berkeley and of the VGG group, as they publish them.
BERKELEY_MEAN = (104.00698793, 116.66876762, 122.67891434)
VGG_MEAN = (103.939, 116.779, 123.68)

#: The names of layers in the old format, and of the settings of each.
OLD_TYPES = {
    "Convolution": "CONVOLUTION",
    "ReLU": "RELU",
    "Pooling": "POOLING",
    "LRN": "LRN",
    "InnerProduct": "INNER_PRODUCT",
    "Dropout": "DROPOUT",
    "Concat": "CONCAT",
    "Eltwise": "ELTWISE",
    "Flatten": "FLATTEN",
    "Split": "SPLIT",
    "Softmax": "SOFTMAX",
    "SoftmaxWithLoss": "SOFTMAX_LOSS",
    "Accuracy": "ACCURACY",
    "Data": "DATA",
    "TanH": "TANH",
}
SETTINGS = {
    "Convolution": "convolution_param",
    "ReLU": "relu_param",
    "Pooling": "pooling_param",
    "LRN": "lrn_param",
    "InnerProduct": "inner_product_param",
    "Dropout": "dropout_param",
    "Concat": "concat_param",
    "Eltwise": "eltwise_param",
    "Flatten": "flatten_param",
    "Input": "input_param",
    "Data": "transform_param",
}


@dataclass
class Layer:
    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    blobs: list[Numbers] = field(default_factory=list)
    include: str = ""
    exclude: str = ""


# -- the networks ----------------------------------------------------------------------------------------------------


def chain(*rows, start="data"):
    """Layers (name, type, settings), each reading the one above; ReLU and dropout write over what they read."""
    layers, below = [], start
    for name, type, *settings in rows:
        top = below if type in ("ReLU", "Dropout") else name
        layers.append(Layer(name, type, (below,), (top,), *settings))
        below = top
    return layers


def conv(name, num_output, kernel_size, **settings):
    return name, "Convolution", {"num_output": num_output, "kernel_size": [kernel_size], **settings}


def pool(name, kernel_size, stride, **settings):
    return name, "Pooling", {"kernel_size": kernel_size, "stride": stride, **settings}


def norm(name, **settings):
    return name, "LRN", {"local_size": 5, "alpha": 1e-2, "beta": 0.75, **settings}


def relu(name):
    return name, "ReLU"


def fully_connected(classes=10):
    hidden = [
        row
        for n in "67"
        for row in ((f"fc{n}", "InnerProduct", {"num_output": 24}), relu(f"relu{n}"), (f"drop{n}", "Dropout"))
    ]
    return [*hidden, ("fc8", "InnerProduct", {"num_output": classes}), ("prob", "Softmax")]


def convolutions_3_to_5(groups):
    return [
        conv("conv3", 12, 3, pad=[1]),
        relu("relu3"),
        conv("conv4", 12, 3, pad=[1], group=groups),
        relu("relu4"),
        conv("conv5", 8, 3, pad=[1], group=groups),
        relu("relu5"),
    ]


def alexnet():
    return chain(
        *(conv("conv1", 6, 11, stride=[4]), relu("relu1"), norm("norm1"), pool("pool1", 3, 2)),
        *(conv("conv2", 8, 5, pad=[2], group=2), relu("relu2"), norm("norm2"), pool("pool2", 3, 2)),
        *(*convolutions_3_to_5(groups=2), pool("pool5", 3, 2), *fully_connected()),
    )


def caffenet():
    return chain(
        *(conv("conv1", 6, 11, stride=[4]), relu("relu1"), pool("pool1", 3, 2), norm("norm1")),
        *(conv("conv2", 8, 5, pad=[2], group=2), relu("relu2"), pool("pool2", 3, 2), norm("norm2")),
        *(*convolutions_3_to_5(groups=2), pool("pool5", 3, 2), *fully_connected()),
    )


def cnn_f():
    return chain(
        *(conv("conv1", 6, 11, stride=[4]), relu("relu1"), norm("norm1", k=2.0), pool("pool1", 3, 2)),
        *(conv("conv2", 8, 5, pad=[2]), relu("relu2"), norm("norm2", k=2.0), pool("pool2", 3, 2)),
        *(*convolutions_3_to_5(groups=1), pool("pool5", 3, 2), *fully_connected()),
    )


def cnn_s():
    return chain(
        *(conv("conv1", 6, 7, stride=[2]), relu("relu1"), norm("norm1", k=2.0), pool("pool1", 3, 3)),
        *(conv("conv2", 8, 5), relu("relu2"), pool("pool2", 2, 2)),
        *(*convolutions_3_to_5(groups=1), pool("pool5", 3, 3), *fully_connected()),
    )


def vgg_16():
    rows = []
    for block, (count, width) in enumerate([(2, 3), (2, 4), (3, 4), (3, 6), (3, 6)], 1):
        for n in range(1, count + 1):
            rows += [conv(f"conv{block}_{n}", width, 3, pad=[1]), relu(f"relu{block}_{n}")]
        rows.append(pool(f"pool{block}", 2, 2))
    return chain(*rows, *fully_connected())


def fire(name, below):
    squeezed = f"{name}/squeeze1x1"
    left, right = f"{name}/expand1x1", f"{name}/expand3x3"
    return [
        *chain(conv(squeezed, 3, 1), relu(f"{name}/relu_squeeze1x1"), start=below),
        *chain(conv(left, 4, 1), relu(f"{name}/relu_expand1x1"), start=squeezed),
        *chain(conv(right, 4, 3, pad=[1]), relu(f"{name}/relu_expand3x3"), start=squeezed),
        Layer(f"{name}/concat", "Concat", (left, right), (f"{name}/concat",)),
    ]


def squeezenet():
    return [
        *chain(conv("conv1", 6, 3, stride=[2]), relu("relu_conv1"), pool("pool1", 3, 2)),
        *fire("fire2", "pool1"),
        *fire("fire3", "fire2/concat"),
        *chain(
            *(("drop9", "Dropout", {"dropout_ratio": 0.3}), conv("conv10", 10, 1), relu("relu_conv10")),
            *(("pool10", "Pooling", {"pool": "AVE", "global_pooling": True}), ("prob", "Softmax")),
            start="fire3/concat",
        ),
    ]


# -- the other side: Caffe's arithmetic ------------------------------------------------------------------------------


def caffe_input(photo, crop, mean, scale=1.0):
    """(1, 3, crop, crop), BGR: the centre of the photo, both sides of which are 256, or the shorter one (VGG's)."""
    height, width, _ = photo.shape
    side = min(height, width)
    centre = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    box = centre if mean is VGG_MEAN else (0, 0, width, height)
    square = np.array(Image.fromarray(photo).resize((256, 256), Image.Resampling.BILINEAR, box), np.float64)
    margin = (256 - crop) // 2
    bgr = square[margin : margin + crop, margin : margin + crop, ::-1]
    return ((bgr - mean) * scale).transpose(2, 0, 1)[None]


def sizes(settings, name, for_both, default):
    """[rows, columns] of what may be stated for both at once."""
    if f"{name}_h" in settings or f"{name}_w" in settings:
        return [settings.get(f"{name}_h", 0), settings.get(f"{name}_w", 0)]
    stated = settings.get(for_both, default)
    return [stated] * 2 if isinstance(stated, int) else list(stated) * 2


class CaffeArithmetic:
    """What each layer computes, in float64; draws the weights of layers that have none yet."""

    def __init__(self, torch, rng):
        self.torch, self.rng = torch, rng

    def scores(self, layers, x, scores):
        """The activation `scores` when the image is `x`, as it is when it is read for the last time."""
        blobs = {"data": self.torch.from_numpy(x)}
        for layer in layers:
            if layer.type not in ("Softmax", "Data", "Input"):
                y = getattr(self, layer.type.lower())(layer, *(blobs[name] for name in layer.bottoms))
                blobs |= dict.fromkeys(layer.tops, y)
        return blobs[scores].numpy().reshape(len(x), -1)

    def drawn(self, layer, shape, with_bias=True):
        if not layer.blobs:
            std = (2 / math.prod(shape[1:])) ** 0.5
            layer.blobs.append(self.rng.normal(0, std, shape).astype(np.float32))
            if with_bias:
                layer.blobs.append(self.rng.normal(0, 0.5, shape[0]).astype(np.float32))
        weight, *bias = (self.torch.from_numpy(blob.astype(np.float64)) for blob in layer.blobs)
        return weight, bias[0] if bias else None

    def convolution(self, layer, x):
        s = layer.settings
        kernel, pad = sizes(s, "kernel", "kernel_size", None), sizes(s, "pad", "pad", [0])
        (stride,), groups = s.get("stride", [1]), s.get("group", 1)
        shape = (s["num_output"], x.shape[1] // groups, *kernel)
        weight, bias = self.drawn(layer, shape, s.get("bias_term", True))
        return self.torch.nn.functional.conv2d(x, weight, bias, stride, pad, groups=groups)

    def innerproduct(self, layer, x):
        x = x.flatten(1)
        weight, bias = self.drawn(layer, (layer.settings["num_output"], x.shape[1]))
        return x @ weight.T + bias

    def pooling(self, layer, x):
        """pooling_layer.cpp, Reshape and Forward_cpu: first over rows, then over columns."""
        s = layer.settings
        kernel = x.shape[2:] if s.get("global_pooling") else sizes(s, "kernel", "kernel_size", None)
        stride, pad = s.get("stride", 1), s.get("pad", 0)
        for axis, k in zip((2, 3), kernel, strict=True):
            size, parts = x.shape[axis], []
            count = math.ceil((size + 2 * pad - k) / stride) + 1
            if pad and (count - 1) * stride >= size + pad:
                count -= 1
            for start in range(-pad, count * stride - pad, stride):
                end = min(start + k, size + pad)
                seen = x.narrow(axis, max(start, 0), min(end, size) - max(start, 0))
                parts.append(seen.sum(axis) / (end - start) if s.get("pool") == "AVE" else seen.amax(axis))
            x = self.torch.stack(parts, axis)
        return x

    def lrn(self, layer, x):
        """lrn_layer.cpp: alpha is divided by the window."""
        s = layer.settings
        half = s["local_size"] // 2
        squares = self.torch.nn.functional.pad(x * x, (0, 0, 0, 0, half, half))
        sums = sum(squares[:, i : i + x.shape[1]] for i in range(s["local_size"]))
        return x * (s.get("k", 1.0) + s["alpha"] / s["local_size"] * sums) ** -s["beta"]

    def relu(self, layer, x):
        return x.clamp(min=0)

    def dropout(self, layer, x):
        return x

    split = dropout

    def flatten(self, layer, x):
        return x.flatten(1)

    def concat(self, layer, *xs):
        return self.torch.cat(xs, dim=1)

    def eltwise(self, layer, *xs):
        return sum(xs)


# -- files -----------------------------------------------------------------------------------------------------------


def message(layers, name="", old=False, with_blobs=True, double=False, **fields):
    """The NetParameter of `layers`, in the new format or the old, whose blobs have four dimensions."""
    net = CLASSES["NetParameter"](name=name, **fields)
    for layer in layers:
        made = net.layers.add() if old else net.layer.add()
        made.name, made.type = layer.name, OLD_TYPES[layer.type] if old else layer.type
        made.bottom.extend(layer.bottoms)
        made.top.extend(layer.tops)
        if layer.settings:
            getattr(made, SETTINGS[layer.type]).MergeFrom(settings_message(layer))
        if layer.include:
            made.include.add(phase=layer.include)
        if layer.exclude:
            made.exclude.add(phase=layer.exclude)
        for blob in layer.blobs if with_blobs else ():
            shape = (1,) * (4 - blob.ndim) + blob.shape if old else blob.shape
            sizes = dict(zip(("num", "channels", "height", "width"), shape, strict=True)) if old else {}
            put = made.blobs.add(**sizes)
            if not old:
                put.shape.dim.extend(shape)
            (put.double_data if double else put.data).extend(blob.ravel().tolist())
    return net


def settings_message(layer):
    text = SETTINGS[layer.type]
    kind = CLASSES["LayerParameter"].DESCRIPTOR.fields_by_name[text].message_type.name
    return CLASSES[kind](**layer.settings)


def write_model(path, layers, **options):
    path.write_bytes(message(layers, **options).SerializeToString())
    return path


def write_prototxt(path, layers, **options):
    path.write_text(text_format.MessageToString(message(layers, with_blobs=False, **options)))
    return path


def deploy(layers, crop):
    """With an Input layer, as in the newer prototxts."""
    shape = CLASSES["BlobShape"](dim=[10, 3, crop, crop])
    return [Layer("data", "Input", (), ("data",), {"shape": [shape]}), *layers]


def trained(layers, scores, **transform):
    """The network as training saves it: data and labels, the splits that Caffe puts in, and loss and accuracy."""
    split = Layer("label_data_1_split", "Split", ("label",), ("label_0", "label_1"))
    split_scores = Layer(f"{scores}_split", "Split", (scores,), (f"{scores}_0", f"{scores}_1"))
    return [
        Layer("data", "Data", (), ("data", "label"), transform, include="TRAIN"),
        split,
        *(layer for layer in layers if layer.type != "Softmax"),
        split_scores,
        Layer("accuracy", "Accuracy", (f"{scores}_0", "label_0"), ("accuracy",)),
        Layer("loss", "SoftmaxWithLoss", (f"{scores}_1", "label_1"), ("loss",)),
    ]


@pytest.fixture
def photo():
    with resources.as_file(resources.files("npconvnet") / "assets" / "chelsea.jpg") as path:
        return np.array(Image.open(path).convert("RGB"))


@pytest.fixture
def caffe(torch):
    return CaffeArithmetic(torch, np.random.default_rng(0))


def assert_same_scores(network, photo, expected):
    scores = network.scores(network.preprocess([photo]))
    assert scores.shape == expected.shape
    assert np.ptp(expected) > 1e-2 * np.abs(expected).max()
    assert np.abs(scores - expected).max() <= TOLERANCE["float32"] * np.abs(expected).max()


# -- truth -----------------------------------------------------------------------------------------------------------

#: Name of the network, its layers, the scores, the side of its input, the mean.
NETWORKS = {
    "AlexNet": (alexnet, "fc8", 227, BERKELEY_MEAN),
    "CaffeNet": (caffenet, "fc8", 227, BERKELEY_MEAN),
    "": (squeezenet, "pool10", 227, BERKELEY_MEAN),
    "VGG_CNN_F": (cnn_f, "fc8", 224, VGG_MEAN),
    "VGG_CNN_S": (cnn_s, "fc8", 224, VGG_MEAN),
    "VGG_ILSVRC_16_layers": (vgg_16, "fc8", 224, VGG_MEAN),
}


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("name", NETWORKS)
def test_same_scores_as_caffe_from_the_trained_network_alone(name, old, caffe, photo, tmp_path):
    make, scores, crop, mean = NETWORKS[name]
    layers = make()
    expected = caffe.scores(layers, caffe_input(photo, crop, mean), scores)
    path = write_model(tmp_path / "a", trained(layers, scores), name=name, old=old)
    network = read_caffe(path)
    assert network.preprocessing.crop == crop
    assert_same_scores(network, photo, expected)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("name", NETWORKS)
def test_same_scores_as_caffe_with_a_prototxt(name, old, caffe, photo, tmp_path):
    make, scores, crop, mean = NETWORKS[name]
    layers = make()
    expected = caffe.scores(layers, caffe_input(photo, crop, mean), scores)
    path = write_model(tmp_path / "a.caffemodel", trained(layers, scores), old=not old)
    if old:
        sizes = {"input": ["data"], "input_dim": [10, 3, crop, crop]}
        prototxt = write_prototxt(tmp_path / "a.prototxt", layers, name=name, old=True, **sizes)
    else:
        prototxt = write_prototxt(tmp_path / "a.prototxt", deploy(layers, crop), name=name)
    assert_same_scores(read_caffe(path, prototxt), photo, expected)


def test_layers_that_few_networks_have(caffe, photo, tmp_path):
    # An average pooling whose windows reach into the padding and beyond it, a sum, a flattened image.
    layers = [
        *chain(conv("conv1", 4, 5, stride=[3]), relu("relu1"), pool("pool1", 4, 3, pool="AVE", pad=1)),
        *chain(conv("left", 5, 3, pad=[1], bias_term=False), start="pool1"),
        *chain(conv("right", 5, 1), start="pool1"),
        Layer("sum", "Eltwise", ("left", "right"), ("sum",), {"operation": "SUM", "coeff": [1.0, 1.0]}),
        *chain(
            *(pool("pool2", 3, 3, pool="AVE"), ("flat", "Flatten"), relu("relu2")),
            *(("fc", "InnerProduct", {"num_output": 10}), ("prob", "Softmax")),
            start="sum",
        ),
    ]
    x = caffe_input(photo, 67, BERKELEY_MEAN)
    expected = caffe.scores(layers, x, "fc")
    assert (caffe.pooling(layers[2], caffe.convolution(layers[0], caffe.torch.from_numpy(x)))).shape[-1] == 8
    network = read_caffe(write_model(tmp_path / "a", deploy(layers, 67)))
    assert_same_scores(network, photo, expected)


def test_oblong_windows_and_flattened_images_behind_each_other(caffe, photo, tmp_path):
    layers = [
        *chain(
            ("conv1", "Convolution", {"num_output": 4, "kernel_h": 3, "kernel_w": 5, "pad_h": 1, "stride": [4]}),
            ("pool1", "Pooling", {"kernel_h": 2, "kernel_w": 3, "stride": 2}),
            ("flat", "Flatten"),
        ),
        *chain(conv("conv2", 3, 3, stride=[4]), ("flat2", "Flatten"), start="conv1"),
        Layer("both", "Concat", ("flat", "flat2"), ("both",)),
        *chain(("fc", "InnerProduct", {"num_output": 10}), start="both"),
    ]
    expected = caffe.scores(layers, caffe_input(photo, 43, BERKELEY_MEAN), "fc")
    assert_same_scores(read_caffe(write_model(tmp_path / "a", deploy(layers, 43))), photo, expected)


def test_convolutions_over_all_of_the_image_become_fully_connected(caffe, photo, tmp_path):
    layers = chain(
        *(conv("conv1", 4, 5, stride=[3]), pool("pool1", 3, 3), relu("relu1")),
        *(conv("fc6", 12, 6), relu("relu6"), conv("fc7", 11, 1), relu("relu7"), conv("fc8", 10, 1)),
    )
    expected = caffe.scores(layers, caffe_input(photo, 56, BERKELEY_MEAN), "fc8")
    network = read_caffe(write_model(tmp_path / "a", deploy(layers, 56)))
    assert network.shapes["fc6"] == (12,)
    assert_same_scores(network, photo, expected)


def test_an_average_over_all_of_the_image_is_global(caffe, photo, tmp_path):
    layers = chain(conv("conv1", 10, 5, stride=[5]), pool("pool", 9, 2, pool="AVE"))
    expected = caffe.scores(layers, caffe_input(photo, 45, BERKELEY_MEAN), "pool")
    assert_same_scores(read_caffe(write_model(tmp_path / "a", deploy(layers, 45))), photo, expected)


def test_every_filter_that_sees_colours_is_turned(caffe, photo, tmp_path):
    # Behind a pooling, on two branches, in an inner product, and of the mean colour of all of the image.
    layers = [
        *chain(pool("small", 3, 3), conv("left", 4, 4, stride=[2]), ("sees", "InnerProduct", {"num_output": 6})),
        *chain(conv("right", 4, 7, stride=[5]), ("looks", "InnerProduct", {"num_output": 6})),
        *chain(("reads", "InnerProduct", {"num_output": 6}), start="small"),
        *chain(pool("mean", 42, 1, pool="AVE"), ("guesses", "InnerProduct", {"num_output": 6})),
        Layer("sum", "Eltwise", ("sees", "looks", "reads", "guesses"), ("sum",)),
    ]
    expected = caffe.scores(layers, caffe_input(photo, 42, BERKELEY_MEAN), "sum")
    assert_same_scores(read_caffe(write_model(tmp_path / "a", deploy(layers, 42))), photo, expected)


def test_a_layer_that_is_called_as_the_image_is_here(caffe, photo, tmp_path):
    layers = chain(conv("input", 4, 5, stride=[3]), relu("input_2"), ("fc", "InnerProduct", {"num_output": 10}))
    expected = caffe.scores(layers, caffe_input(photo, 32, BERKELEY_MEAN), "fc")
    network = read_caffe(write_model(tmp_path / "a", deploy(layers, 32)))
    assert list(network.shapes) == ["input", "input_2", "input_2_2", "fc"]
    assert_same_scores(network, photo, expected)


def test_a_layer_that_writes_over_what_it_reads_does_so_from_then_on(caffe, photo, tmp_path):
    # "before" reads conv1 as it was, "after" reads what the ReLU made of it.
    layers = [
        *chain(conv("conv1", 4, 5, stride=[3])),
        *chain(conv("before", 4, 1), start="conv1"),
        Layer("relu1", "ReLU", ("conv1",), ("conv1",)),
        *chain(conv("after", 4, 1), start="conv1"),
        Layer("both", "Concat", ("before", "after"), ("both",)),
        *chain(("fc", "InnerProduct", {"num_output": 10}), start="both"),
    ]
    expected = caffe.scores(layers, caffe_input(photo, 32, BERKELEY_MEAN), "fc")
    assert_same_scores(read_caffe(write_model(tmp_path / "a", deploy(layers, 32))), photo, expected)


# -- preprocessing ---------------------------------------------------------------------------------------------------


def small():
    """A network that takes a moment."""
    return chain(
        *(conv("conv1", 4, 5, stride=[3]), relu("relu1"), pool("pool1", 3, 2)),
        *(("fc", "InnerProduct", {"num_output": 10}), ("prob", "Softmax")),
    )


@pytest.mark.parametrize(
    ("transform", "mean", "scale"),
    [
        ({"mean_value": [104.0, 117.0, 123.0]}, (104, 117, 123), 1),
        ({"mean_value": [90.0]}, (90, 90, 90), 1),
        ({"mean_value": [10.0, 60.0, 200.0], "scale": 0.017}, (10, 60, 200), 0.017),
        ({"scale": 0.5}, BERKELEY_MEAN, 0.5),
    ],
)
@pytest.mark.parametrize("with_prototxt", [False, True])
def test_mean_and_scale_are_those_of_the_data_layer(transform, mean, scale, with_prototxt, caffe, photo, tmp_path):
    layers = small()
    expected = caffe.scores(layers, caffe_input(photo, 47, mean, scale), "fc")
    path = write_model(tmp_path / "a", trained(layers, "fc", crop_size=47, **transform))
    prototxt = write_prototxt(tmp_path / "b", deploy(layers, 47)) if with_prototxt else None
    assert_same_scores(read_caffe(path, prototxt), photo, expected)


def test_size_stated_at_the_top_of_the_file(caffe, photo, tmp_path):
    layers = small()
    expected = caffe.scores(layers, caffe_input(photo, 47, BERKELEY_MEAN), "fc")
    shape = CLASSES["BlobShape"](dim=[1, 3, 47, 47])
    path = write_model(tmp_path / "a", layers, input=["data"], input_shape=[shape])
    assert_same_scores(read_caffe(path), photo, expected)


def test_size_that_only_the_trained_network_states(caffe, photo, tmp_path):
    layers = small()
    expected = caffe.scores(layers, caffe_input(photo, 47, BERKELEY_MEAN), "fc")
    path = write_model(tmp_path / "a", trained(layers, "fc", crop_size=47))
    prototxt = write_prototxt(tmp_path / "b", layers, input=["data"])
    assert_same_scores(read_caffe(path, prototxt), photo, expected)


def test_description_of_training_and_testing_in_one(caffe, photo, tmp_path):
    # In train_val.prototxt, data stand twice, and some layers belong to one of the two only.
    layers = small()
    expected = caffe.scores(layers, caffe_input(photo, 47, BERKELEY_MEAN), "fc")
    path = write_model(tmp_path / "a", trained(layers, "fc"))
    both = trained(layers, "fc", crop_size=47)
    both.insert(1, Layer("data", "Data", (), ("data", "label"), {"crop_size": 47}, include="TEST"))
    both.insert(5, Layer("twice", "Eltwise", ("conv1", "conv1"), ("conv1",), include="TRAIN"))
    both.insert(5, Layer("thrice", "Eltwise", ("conv1", "conv1", "conv1"), ("conv1",), exclude="TEST"))
    both.insert(5, Layer("same", "ReLU", ("conv1",), ("conv1",), include="TEST"))
    assert_same_scores(read_caffe(path, write_prototxt(tmp_path / "b", both)), photo, expected)


@pytest.mark.parametrize("place", [3, 4], ids=["before", "after"])
def test_heads_that_only_help_training_are_left_out(place, caffe, photo, tmp_path):
    layers = small()
    head = chain(
        conv("helps", 2, 1), ("guesses", "InnerProduct", {"num_output": 5}), ("loss1", "Softmax"), start="pool1"
    )
    layers[place:place] = head
    expected = caffe.scores(layers, caffe_input(photo, 47, BERKELEY_MEAN), "fc")
    network = read_caffe(write_model(tmp_path / "a", deploy(layers, 47)))
    assert list(network.shapes) == ["input", "conv1", "relu1", "pool1", "fc"]
    assert_same_scores(network, photo, expected)


def test_recognised_by_contents_and_named_after_imagenet_only_with_its_classes(caffe, tmp_path):
    for old in (False, True):
        for name in ("", "a name"):
            layers = small()
            caffe.scores(layers, np.zeros((1, 3, 47, 47)), "fc")
            path = write_model(tmp_path / "a", trained(layers, "fc", crop_size=47), name=name, old=old)
            assert recognise(path) == "caffe"
            assert load_network(path).synsets[3].wnid == "class3"


# -- blobs -----------------------------------------------------------------------------------------------------------


def test_transposed_inner_products_and_doubles(caffe, photo, tmp_path):
    layers = small()
    expected = caffe.scores(layers, caffe_input(photo, 47, BERKELEY_MEAN), "fc")
    layers[3].settings["transpose"] = True
    layers[3].blobs[0] = np.ascontiguousarray(layers[3].blobs[0].T)
    assert_same_scores(read_caffe(write_model(tmp_path / "a", deploy(layers, 47), double=True)), photo, expected)


def varint(number):
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def whole(number, value):
    return varint(number << 3) + varint(value)


def part(number, contents):
    contents = contents.encode() if isinstance(contents, str) else contents
    return varint(number << 3 | 2) + varint(len(contents)) + contents


def single(number, value):
    return varint(number << 3 | 5) + struct.pack("<f", value)


def packed_blob(shape, numbers):
    dims = part(7, part(1, b"".join(map(varint, shape))))
    return dims + part(5, struct.pack(f"<{len(numbers)}f", *numbers))


def old_blob(shape, numbers):
    sizes = b"".join(whole(field, size) for field, size in enumerate((*(1,) * (4 - len(shape)), *shape), 1))
    return sizes + b"".join(single(5, number) for number in numbers)


def double_blob(shape, numbers):
    dims = b"".join(whole(1, size) for size in shape)
    return part(8, struct.pack(f"<{len(numbers)}d", *numbers)) + part(7, dims)


#: What a later version might add.
UNKNOWN = part(999, "unknown") + whole(998, 1)


def new_layer(number, layer, settings, blob=packed_blob):
    names = part(1, layer.name) + part(2, layer.type)
    names += b"".join(part(3, name) for name in layer.bottoms) + b"".join(part(4, name) for name in layer.tops)
    blobs = b"".join(part(7, blob(values.shape, values.ravel().tolist())) for values in layer.blobs)
    return part(100, names + blobs + part(number, settings) + UNKNOWN)


def old_layer(number, type, layer, settings):
    names = b"".join(part(2, name) for name in layer.bottoms) + b"".join(part(3, name) for name in layer.tops)
    blobs = b"".join(part(6, old_blob(values.shape, values.ravel().tolist())) for values in layer.blobs)
    return part(2, names + part(4, layer.name) + whole(5, type) + blobs + part(number, settings) + UNKNOWN)


def test_bytes_written_by_hand(caffe, photo, tmp_path):
    """Fields under the numbers that they have in caffe.proto, in both formats."""
    oblong = {"num_output": 4, "group": 2, "kernel_h": 3, "kernel_w": 2, "stride": [2], "pad_w": 1}
    # The layer, its settings in bytes, the numbers of the settings in the new and in the old format, its old type.
    rows = [
        (
            *chain(conv("conv1", 4, 5, stride=[3], pad=[1], bias_term=False)),
            *(whole(1, 4) + whole(2, 0) + whole(3, 1) + whole(4, 5) + whole(6, 3), 106, 10, 4),
        ),
        (Layer("relu1", "ReLU", ("conv1",), ("conv1",)), single(1, 0.0), 123, 30, 18),
        (
            *chain(("norm1", "LRN", {"local_size": 3, "alpha": 0.02, "beta": 0.5, "k": 2.0}), start="conv1"),
            *(whole(1, 3) + single(2, 0.02) + single(3, 0.5) + whole(4, 0) + single(5, 2.0), 118, 18, 15),
        ),
        (
            *chain(pool("pool1", 3, 2, pool="AVE", pad=1), start="norm1"),
            *(whole(1, 1) + whole(2, 3) + whole(3, 2) + whole(4, 1), 121, 19, 17),
        ),
        (Layer("drop1", "Dropout", ("pool1",), ("pool1",)), single(1, 0.25), 108, 12, 6),
        (Layer("both", "Concat", ("pool1", "pool1"), ("both",)), whole(1, 1) + whole(2, 1), 104, 9, 3),
        (Layer("sum", "Eltwise", ("both", "both"), ("sum",)), whole(1, 1) + single(2, 1.0) * 2, 110, 24, 25),
        (
            *chain(("conv2", "Convolution", oblong), start="sum"),
            b"".join(map(whole, (1, 5, 9, 10, 11, 12, 13, 14), (4, 2, 0, 1, 3, 2, 2, 2))),
            *(106, 10, 4),
        ),
        (
            *chain(("pool2", "Pooling", {"kernel_h": 2, "kernel_w": 3, "stride": 2, "pad": 1}), start="conv2"),
            b"".join(map(whole, (1, 5, 6, 7, 8, 9, 10, 13), (0, 2, 3, 2, 2, 1, 1, 0))),
            *(121, 19, 17),
        ),
        (*chain(("fc", "InnerProduct", {"num_output": 10}), start="pool2"), whole(1, 10) + whole(2, 1), 117, 17, 14),
        (*chain(("prob", "Softmax"), start="fc"), whole(2, 1), 125, 39, 20),
    ]
    expected = caffe.scores([layer for layer, *_ in rows], caffe_input(photo, 38, (1, 2, 3), 0.25), "fc")
    transform = single(1, 0.25) + whole(2, 1) + whole(3, 38) + single(5, 1.0) + single(5, 2.0) + single(5, 3.0)
    new_data = part(1, "data") + part(2, "Data") + part(4, "data") + part(4, "label") + part(8, whole(1, 0))
    new = part(100, new_data + part(100, transform))
    new += b"".join(new_layer(number, layer, settings) for layer, settings, number, _, _ in rows)
    old_data = part(4, "data") + whole(5, 5) + part(3, "data") + part(3, "label") + part(32, whole(1, 0))
    old = part(2, old_data + part(36, transform))
    old += b"".join(old_layer(number, type, layer, settings) for layer, settings, _, number, type in rows)
    # Two layers that are for training only: one is included there, one is excluded from testing.
    for rule in (part(8, whole(1, 0)), part(9, whole(1, 1))):
        new += part(100, part(1, "tanh") + part(2, "TanH") + part(3, "fc") + part(4, "fc") + rule)
    for rule in (part(32, whole(1, 0)), part(33, whole(1, 1))):
        old += part(2, part(4, "tanh") + whole(5, 23) + part(2, "fc") + part(3, "fc") + rule)
    for contents in (new, old):
        path = tmp_path / "a"
        path.write_bytes(part(1, "a network") + UNKNOWN + contents)
        network = read_caffe(path)
        assert {name: arguments for name, _, arguments, _ in network.options["rows"]}["drop1"] == {"rate": 0.25}
        assert_same_scores(network, photo, expected)


@pytest.mark.parametrize(
    "stated",
    [
        part(3, "data") + whole(4, 10) + whole(4, 3) + whole(4, 38) + whole(4, 38),
        part(3, "data") + part(8, part(1, bytes([10, 3, 38, 38]))),
        part(
            100, part(1, "a") + part(2, "Input") + part(4, "data") + part(143, part(1, part(1, bytes([1, 3, 38, 38]))))
        ),
    ],
    ids=["input_dim", "input_shape", "Input"],
)
def test_bytes_of_less_common_fields(stated, caffe, photo, tmp_path):
    layers = [
        *chain(conv("conv1", 4, 5, stride=[7]), ("flat", "Flatten"), ("fc1", "InnerProduct", {"num_output": 10})),
        *chain(
            conv("conv2", 10, 3), ("whole", "Pooling", {"pool": "AVE", "global_pooling": True}), ("flat2", "Flatten")
        ),
        Layer("sum", "Eltwise", ("fc1", "flat2"), ("sum",)),
    ]
    expected = caffe.scores(layers, caffe_input(photo, 38, BERKELEY_MEAN), "sum")
    layers[2].blobs[0] = np.ascontiguousarray(layers[2].blobs[0].T)
    settings = [
        *((106, whole(1, 4) + whole(4, 5) + whole(6, 7)), (135, whole(1, 1)), (117, whole(1, 10) + whole(6, 1))),
        *((106, whole(1, 10) + whole(4, 3)), (121, whole(1, 1) + whole(12, 1)), (135, b""), (110, b"")),
    ]
    rows = zip(layers, settings, strict=True)
    path = tmp_path / "a"
    path.write_bytes(stated + b"".join(new_layer(number, layer, own, double_blob) for layer, (number, own) in rows))
    assert_same_scores(read_caffe(path), photo, expected)


# -- what is refused -------------------------------------------------------------------------------------------------


def changed(layer, **settings):
    """A layer of `small`, with other settings."""

    def change(layers):
        layers[layer].settings |= settings

    return change


def inserted(*new):
    def change(layers):
        layers[3:3] = new

    return change


def removed_blobs(layers):
    layers[0].blobs.clear()


def removed_bias(layers):
    del layers[3].blobs[1]


def wrong_shape(layers):
    layers[3].blobs[0] = layers[3].blobs[0][:, 1:]


def colour_by_colour(layers):
    layers[0].settings |= {"group": 3, "num_output": 3}
    layers[0].blobs = [np.ones((3, 1, 5, 5), np.float32), np.ones(3, np.float32)]


def renamed(layers):
    layers[1].name = "conv1"


def behind_pool1(name, type, **settings):
    """A layer that writes over what pool1 makes."""
    return inserted(Layer(name, type, ("pool1",), ("pool1",), settings))


REFUSED = {
    "dilation": (changed(0, dilation=[2]), "'conv1' (Convolution): npconvnet has convolutions over rows"),
    "other axis": (changed(0, axis=2), "'conv1' (Convolution): npconvnet has convolutions over rows"),
    "oblong stride": (changed(0, stride=[3, 2]), "'conv1' (Convolution): its stride is 3 × 2"),
    "three sizes": (changed(0, kernel_size=[5, 5, 5]), "'conv1' (Convolution): its kernel_size has 3 numbers"),
    "no window": (changed(0, kernel_size=[]), "'conv1' (Convolution): its blob 0"),
    "other window": (changed(0, kernel_size=[1 << 30]), "'conv1' (Convolution): its blob 0"),
    "no stride": (changed(0, stride=[0]), "'conv1' (Convolution): "),
    "no filters": (changed(0, num_output=0), "'conv1' (Convolution): 0 filters"),
    "no groups": (changed(0, group=0), "'conv1' (Convolution): 4 filters in 0 groups"),
    "other groups": (changed(0, group=3), "'conv1' (Convolution): its blob 0"),
    "groups of colours": (colour_by_colour, "'conv1' (Convolution): it reads the colours of the image in groups"),
    "huge padding": (changed(0, pad=[1 << 30]), "'conv1' (Convolution): "),
    "stochastic": (changed(2, pool="STOCHASTIC"), "'pool1' (Pooling): npconvnet has no stochastic"),
    "no pooling window": (changed(2, kernel_size=0), "'pool1' (Pooling): "),
    "window too large": (changed(2, kernel_size=16), "'pool1' (Pooling): a window of 16 pixels"),
    "padding too large": (changed(2, pad=3), "'pool1' (Pooling): "),
    "huge window": (changed(2, pad=1 << 30, kernel_size=(1 << 30) + 1), "'pool1' (Pooling): "),
    "slope": (behind_pool1("leaky", "ReLU", negative_slope=0.1), "'leaky' (ReLU): npconvnet has no ReLU with"),
    "drops all": (behind_pool1("drop", "Dropout", dropout_ratio=1.0), "'drop' (Dropout): "),
    "even window": (behind_pool1("n", "LRN", local_size=4), "'n' (LRN): its window of 4"),
    "no number": (behind_pool1("n", "LRN", alpha=math.nan), "'n' (LRN): "),
    "within": (behind_pool1("n", "LRN", norm_region="WITHIN_CHANNEL"), "'n' (LRN): npconvnet normalises across"),
    "part flattened": (behind_pool1("f", "Flatten", axis=2), "'f' (Flatten): npconvnet flattens all axes"),
    "rows": (behind_pool1("c", "Concat", axis=2), "'c' (Concat): npconvnet concatenates channels"),
    "old rows": (behind_pool1("c", "Concat", concat_dim=2), "'c' (Concat): npconvnet concatenates channels"),
    "product": (behind_pool1("e", "Eltwise", operation="PROD"), "'e' (Eltwise): npconvnet adds"),
    "difference": (behind_pool1("e", "Eltwise", coeff=[-1.0]), "'e' (Eltwise): npconvnet adds"),
    "TanH": (behind_pool1("tanh", "TanH"), "'tanh' (TanH): npconvnet has no such layer"),
    "colours": (inserted(Layer("n", "LRN", ("data",), ("n",))), "'n' (LRN): it reads the colours"),
    "joined colours": (inserted(Layer("c", "Concat", ("data",) * 2, ("c",))), "'c' (Concat): it reads the colours"),
    "flat colours": (inserted(Layer("f", "Flatten", ("data",), ("f",))), "'f' (Flatten): it reads the colours"),
    "a cycle": (
        inserted(Layer("a", "ReLU", ("b",), ("a",)), Layer("b", "ReLU", ("a",), ("b",))),
        "'a' (ReLU): it reads 'b', which no layer before it makes",
    ),
    "itself": (inserted(Layer("a", "ReLU", ("a",), ("a",))), "'a' (ReLU): it reads 'a', which no layer"),
    "softmax inside": (
        inserted(Layer("s", "Softmax", ("pool1",), ("s",)), Layer("r", "ReLU", ("s",), ("pool1",))),
        "'r' (ReLU): it reads labels, or what comes after the class scores",
    ),
    "reads nothing": (inserted(Layer("r", "ReLU", (), ("r",))), "'r' (ReLU): it reads 0"),
    "reads two": (inserted(Layer("r", "ReLU", ("pool1", "conv1"), ("r",))), "'r' (ReLU): it reads 2"),
    "unequal": (inserted(Layer("e", "Eltwise", ("pool1", "conv1"), ("e",))), "'e' (Eltwise): activations of different"),
    "transposed only in words": (changed(3, transpose=True), "'fc' (InnerProduct): its blob 0"),
    "other axis of fc": (changed(3, axis=2), "'fc' (InnerProduct): an inner product"),
    "no weights": (removed_blobs, "'conv1' (Convolution): the .caffemodel has no weights"),
    "no biases": (removed_bias, "'fc' (InnerProduct): the .caffemodel has no biases"),
    "wrong shape": (wrong_shape, "'fc' (InnerProduct): its blob 0 in the .caffemodel is 10 × 195 and must be 10 × 196"),
    "two of one name": (renamed, "'conv1' (ReLU): another layer has the same name"),
}


@pytest.mark.parametrize("with_prototxt", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_that_names_the_layer(case, with_prototxt, tmp_path):
    change, reason = REFUSED[case]
    layers = small()
    layers[0].blobs = [np.ones((4, 3, 5, 5), np.float32), np.ones(4, np.float32)]
    layers[3].blobs = [np.ones((10, 4 * 7 * 7), np.float32), np.ones(10, np.float32)]
    change(layers)
    path = write_model(tmp_path / "a", deploy(layers, 47))
    prototxt = write_prototxt(tmp_path / "b", deploy(layers, 47)) if with_prototxt else None
    with pytest.raises(InputError) as error:
        read_caffe(path, prototxt)
    assert str(error.value).startswith(f"{prototxt or path}: layer {reason}")
    assert "\n" not in str(error.value)


def test_layer_of_the_prototxt_that_the_model_lacks(caffe, tmp_path):
    layers = small()
    caffe.scores(layers, np.zeros((1, 3, 47, 47)), "fc")
    path = write_model(tmp_path / "a", deploy(layers, 47))
    layers[3].name = "fc8_flickr"
    prototxt = write_prototxt(tmp_path / "b", deploy(layers, 47))
    with pytest.raises(InputError, match=r"b: layer 'fc8_flickr' \(InnerProduct\): the \.caffemodel has no weights"):
        read_caffe(path, prototxt)


@pytest.mark.parametrize("sizes", [(1, 1, 47, 47), (1, 3, 47, 48), (3, 47, 47), (1, 3, 47, 47, 1)])
def test_inputs_that_are_not_square_or_in_colour(sizes, caffe, tmp_path):
    layers = small()
    caffe.scores(layers, np.zeros((1, 3, 47, 47)), "fc")
    path = write_model(tmp_path / "a", layers, input=["data"], input_shape=[CLASSES["BlobShape"](dim=sizes)])
    with pytest.raises(InputError, match="npconvnet takes square images in colour"):
        read_caffe(path)

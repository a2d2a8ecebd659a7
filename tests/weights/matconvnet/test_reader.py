"""MatConvNet's networks: scores as its own conventions give them, written out here in PyTorch, channels first."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npconvnet.data.image import read_image
from npconvnet.errors import InputError
from npconvnet.layers import Conv2d, Linear
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset
from npconvnet.weights import load_network, save_network
from npconvnet.weights.matconvnet import read_matconvnet
from tests.weights.matconvnet.files import (
    CAFFE_ALEX,
    CAFFE_REF,
    SMALL,
    VERYDEEP_16,
    VGG_F,
    VGG_M,
    VGG_S,
    cell,
    class_names,
    new,
    normalization,
    old,
    save,
    with_parameters,
)

PHOTO = Path(__file__).parents[3] / "npconvnet" / "assets" / "chelsea.jpg"


def prepared(norm, *, resize):
    """cnn_imagenet_get_batch of MatConvNet: resize, take the centre, subtract the mean; (1, 3, crop, crop)."""
    crop = norm["imageSize"][0]
    image = Image.open(PHOTO).convert("RGB")
    width, height = image.size
    left = (width - height) / 2 if norm["keepAspect"] else 0
    filter = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[norm["interpolation"]]
    square = np.asarray(image.resize((resize, resize), filter, box=(left, 0, width - left, height)), np.float32)
    at = (resize - crop) // 2
    x = square[at : at + crop, at : at + crop] - np.reshape(
        norm["averageImage"], (-1, *np.shape(norm["averageImage"])[-2:])
    )
    return x.transpose(2, 0, 1)[None]


def scores_by_torch(torch, layers, x):
    """What vl_simplenn computes before the softmax: sizes rounded down, and padding that no average counts."""
    f = torch.nn.functional
    x = torch.tensor(x, dtype=torch.float32)
    for layer in layers:
        top, bottom, left, right = (int(side) for side in layer.get("pad", [0] * 4))
        sides = (left, right, top, bottom)
        if layer["type"] == "conv":
            weight = torch.tensor(layer["W"].transpose(3, 2, 0, 1).copy())
            groups = x.shape[1] // weight.shape[1]
            x = f.conv2d(f.pad(x, sides), weight, torch.tensor(layer["b"].ravel()), layer["stride"], groups=groups)
        elif layer["type"] == "relu":
            x = f.relu(x)
        elif layer["type"] in ("lrn", "normalize"):
            n, kappa, alpha, beta = layer["param"]
            x = f.local_response_norm(x, n, alpha=alpha * n, beta=beta, k=kappa)  # PyTorch divides by n
        elif layer["type"] == "pool" and layer["method"] == "max":
            x = f.max_pool2d(f.pad(x, sides, value=-torch.inf), layer["pool"], layer["stride"])
        elif layer["type"] == "pool":
            seen = f.pad(torch.ones_like(x), sides)
            sums, counts = (f.avg_pool2d(part, layer["pool"], layer["stride"]) for part in (f.pad(x, sides), seen))
            x = sums / counts
    return x.flatten(1).numpy()


def assert_same_scores(network, expected):
    found = network.scores(network.preprocess([read_image(PHOTO)]))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.ptp(expected) > 0.1 * np.abs(expected).max()  # or the comparison would say little


def mean_image(crop, rng):
    """Brighter at the top left, so that a mirror image of it would be noticed."""
    ramp = np.linspace(160, 80, crop, dtype=np.float32)
    image = (ramp[:, None] + ramp) / 2
    return (
        image[..., None] + rng.uniform(-10, 10, (crop, crop, 3)).astype(np.float32) + np.array([20, 0, -20], np.float32)
    )


#: Side of the input, mean, and how pictures are resized; the Berkeley group's squeezes them to a square.
VGG = {"crop": 224, "border": (32, 32)}
BERKELEY = {"crop": 227, "border": (29, 29), "interpolation": "bicubic", "keepAspect": False}
PUBLISHED = {
    "imagenet-vgg-f": (VGG_F, VGG),
    "imagenet-vgg-m": (VGG_M, VGG),
    "imagenet-vgg-s": (VGG_S, VGG),
    "imagenet-vgg-verydeep-16": (VERYDEEP_16, VGG | {"mean": np.array([[[123.68, 116.779, 103.939]]])}),
    "imagenet-caffe-alex": (CAFFE_ALEX, BERKELEY),
    "imagenet-caffe-ref": (CAFFE_REF, BERKELEY),
}


@pytest.mark.parametrize("layout", [old, new])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(torch, tmp_path, rng, name, layout):
    rows, said = PUBLISHED[name]
    layers = with_parameters(rows, rng)
    norm = normalization(**{"mean": mean_image(said["crop"], rng)} | said)
    network = read_matconvnet(save(tmp_path / "net.mat", layout(layers, norm, class_names(10))))
    assert_same_scores(network, scores_by_torch(torch, layers, prepared(norm, resize=256)))
    assert list(network.shapes)[1:] == [layer["name"] for layer in layers[:-1]]
    assert {name for name, layer in layers_of(network).items() if isinstance(layer, Linear)} == {"fc6", "fc7", "fc8"}
    assert network.synsets[0] == Synset("n00000009", "thing 0, no. 0")
    assert (network.preprocessing.resize, network.preprocessing.crop) == (256, said["crop"])
    np.testing.assert_array_equal(network.preprocessing.mean, norm["averageImage"].squeeze())


@pytest.mark.parametrize("rows", [CAFFE_ALEX, CAFFE_REF])
def test_groups(tmp_path, rng, rows):
    norm = normalization(227, mean_image(227, rng), border=(29, 29))
    made = layers_of(
        read_matconvnet(save(tmp_path / "net.mat", new(with_parameters(rows, rng), norm, class_names(10))))
    )
    groups = {name: layer.groups for name, layer in made.items() if isinstance(layer, Conv2d)}
    assert groups == {"conv1": 1, "conv2": 2, "conv3": 1, "conv4": 2, "conv5": 2}


def layers_of(network):
    return {node.name: node.layer for node in network.nodes}


def small(rng, **fields):
    return with_parameters(SMALL, rng), normalization(
        14, np.array([[[120, 110, 100]]], np.float32), border=(2, 2), **fields
    )


@pytest.mark.parametrize("layout", [old, new])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_layout_of_a_small_network(torch, tmp_path, rng, layout, compressed, wrapped):
    """Unequal padding, averages that leave it out, oblong windows, LRN, groups, a mean colour as verydeep's."""
    layers, norm = small(rng)
    variables = layout(layers, norm, class_names(3))
    path = save(tmp_path / "net.mat", {"net": variables} if wrapped else variables, compressed=compressed)
    network = load_network(path)
    assert network.preprocessing == Preprocessing(16, 14, (120, 110, 100))
    assert_same_scores(network, scores_by_torch(torch, layers, prepared(norm, resize=16)))


def test_it_is_kept_in_an_own_weight_file(tmp_path, rng):
    layers, norm = small(rng, interpolation="bicubic", averageImage=mean_image(14, rng))
    network = read_matconvnet(save(tmp_path / "net.mat", new(layers, norm, class_names(3))))
    save_network(tmp_path / "own", network)
    again = load_network(tmp_path / "own")
    assert again.preprocessing == network.preprocessing
    assert again.synsets == network.synsets
    x = network.preprocess([read_image(PHOTO)])
    np.testing.assert_array_equal(again.scores(x), network.scores(x))


def read(path, rows, norm, classes=None, **more):
    return read_matconvnet(save(path / "net.mat", new(rows, norm, classes or class_names(3)) | more))


def test_what_is_left_out_is_as_vl_simplenn_tidy_fills_it_in(tmp_path, rng):
    layers = with_parameters(
        [
            {"type": "conv", "size": (3, 3, 3, 1)},  # one filter: MATLAB drops the last dimension
            {"type": "lrn"},
            {"type": "pool", "pool": [2]},
            {"type": "dropout"},
            {"type": "conv", "name": "fc", "size": (3, 3, 1, 2)},
        ],
        rng,
    )
    layers[0]["W"] = layers[0]["W"][..., 0]
    layers[-1]["b"] = np.zeros((0, 0))
    network = read(tmp_path, layers, {"imageSize": [6, 6]}, {"name": cell([])})
    conv, lrn, pool, dropout, _ = layers_of(network).values()
    assert list(network.shapes) == ["input", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert (conv.stride, conv.padding) == (1, (0, 0, 0, 0))
    assert (lrn.size, lrn.k, lrn.alpha_per_element, lrn.beta) == (5, 1, 2e-5, 0.75)
    assert (pool.stride, pool.padding, pool.rounding) == (1, (0, 0, 0, 0), "floor")
    assert type(pool).__name__ == "MaxPool2d"
    assert dropout.rate == 0.5
    assert not network.parameters["fc.bias"].any()
    assert network.preprocessing == Preprocessing(6, 6)
    assert network.synsets[1].wnid == "class1"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, Preprocessing(14, 14)),
        ({"border": [2, 2]}, Preprocessing(16, 14)),
        ({"border": [2, 2], "cropSize": [0.5, 0.5]}, Preprocessing(28, 14)),
        ({"cropSize": 0.875}, Preprocessing(16, 14)),
        ({"averageImage": np.array([0, 0], np.float32)}, Preprocessing(14, 14)),
        ({"averageImage": np.zeros((0, 0))}, Preprocessing(14, 14)),
        ({"averageImage": np.array([[1], [2], [3]], np.float64)}, Preprocessing(14, 14, (1, 2, 3))),
        (
            {"averageImage": np.full((14, 14, 3), 2, np.uint8)},
            Preprocessing(14, 14, np.full((14, 14, 3), 2, np.float32)),
        ),
        (
            {"interpolation": "bicubic", "keepAspect": 0.0},
            Preprocessing(14, 14, (0, 0, 0), (1, 1, 1), "bicubic", False),
        ),
    ],
)
def test_what_a_file_says_of_its_preprocessing(tmp_path, rng, said, expected):
    layers, _ = small(rng)
    assert read(tmp_path, layers, {"imageSize": [14, 14, 3, 10], **said}).preprocessing == expected


def test_layers_in_an_array_of_structs(tmp_path, rng):
    """What MATLAB makes of struct(…) with cells: every layer has every field, whether it uses it or not."""
    filters = np.ones((2, 2, 3, 1))
    rows = [("relu", "r", 0.0), ("conv", "c", cell([filters, 5.0]))]
    array = np.array(rows, [("type", object), ("name", object), ("weights", object)])
    network = read(tmp_path, [], {"imageSize": [2, 2, 3]}, class_names(1), layers=array)
    assert list(network.shapes) == ["input", "r", "c"]
    assert network.parameters["c.bias"] == 5


def test_names_are_made_unique(tmp_path, rng):
    layers = with_parameters([{"type": "relu", "name": name} for name in ("a", "input", "a", "a_3", "b\nc")], rng)
    layers += with_parameters([{"type": "conv", "size": (2, 2, 3, 1)}], rng)
    names = list(read(tmp_path, layers, {"imageSize": [2, 2, 3]}, class_names(1)).shapes)
    assert names == ["input", "a", "input_2", "a_2", "a_3", "b c", "layer6"]


def test_a_convolution_that_covers_its_input_without_padding_is_fully_connected(tmp_path, rng):
    rows = [
        {"type": "conv", "name": "seen whole, padded", "size": (3, 3, 3, 4), "pad": [1]},
        {"type": "conv", "name": "in groups", "size": (3, 3, 2, 4)},
        {"type": "conv", "name": "fc", "size": (1, 1, 4, 3)},
    ]
    made = layers_of(read(tmp_path, with_parameters(rows, rng), {"imageSize": [3, 3, 3]}))
    assert [type(layer) for layer in made.values()] == [Conv2d, Conv2d, Linear]


REFUSED_LAYERS = [
    ({"type": "bnorm"}, "npconvnet has no layer of type 'bnorm'; it reads conv, relu"),
    ({}, "npconvnet has no layer of type ''"),
    ({"type": "softmax"}, "a 'softmax' that is not the last layer"),
    ({"type": "relu", "leak": 0.1}, "leaky ReLUs are not read"),
    ({"type": "lrn", "param": [5.5, 1, 1, 1]}, r"'param' is \[5.5, 1.0, 1.0, 1.0\], and not"),
    ({"type": "lrn", "param": [5, 1, 1]}, "'param' is .*, and not"),
    ({"type": "lrn", "param": "abc"}, "'param' is not a few numbers"),
    ({"type": "lrn", "param": [5, 1, np.nan, 1]}, "'param' is not a few numbers"),
    ({"type": "pool"}, r"a window of \[\] is neither"),
    ({"type": "pool", "pool": [2, 3, 2]}, r"a window of \[2, 3, 2\] is neither"),
    ({"type": "pool", "pool": 2, "method": "median"}, "pooling by 'median' is not read"),
    ({"type": "pool", "pool": 2, "stride": [2, 1]}, r"a stride of \[2, 1\] is not read"),
    ({"type": "pool", "pool": 2, "stride": 1.5}, r"'stride' is \[1.5\], and not numbers of pixels"),
    ({"type": "pool", "pool": 2, "stride": 0}, "stride 0 must be positive"),
    ({"type": "pool", "pool": 2, "pad": [0, 2, 0, 2]}, "must be smaller than its window"),
    ({"type": "pool", "pool": 2, "pad": [1, 1, 1]}, r"a padding of \[1, 1, 1\] is not"),
    ({"type": "pool", "pool": 2, "pad": -1}, r"'pad' is \[-1.0\], and not"),
    ({"type": "pool", "pool": 99}, "a window of 99 pixels does not fit"),
    ({"type": "dropout", "rate": 1}, r"a dropout rate of \[1.0\] is impossible"),
    (
        {"type": "conv", "W": np.ones((3, 3, 3, 2)), "b": np.ones(2), "stride": [2, 1]},
        r"a stride of \[2, 1\] is not read",
    ),
    ({"type": "conv", "W": np.ones((3, 3, 3, 2)), "b": np.ones(2), "dilate": 2}, "dilated convolutions are not read"),
    (
        {"type": "conv", "W": np.ones((3, 3, 2, 2)), "b": np.ones(2)},
        "2 filters that take 2 channels do not fit an input of 3",
    ),
    (
        {"type": "conv", "W": np.ones((3, 3, 1, 2)), "b": np.ones(2)},
        "2 filters that take 1 channels do not fit an input of 3",
    ),
    (
        {"type": "conv", "W": np.ones((3, 3, 3, 2)), "b": np.ones(3)},
        "biases are not a number for each of its 2 filters",
    ),
    ({"type": "conv", "W": np.ones((3, 3, 3, 2)), "b": "ab"}, "biases are not a number for each of its 2 filters"),
    ({"type": "conv", "W": np.ones((3, 3, 3, 0)), "b": np.ones(0)}, "its filters are not numbers"),
    ({"type": "conv", "W": np.ones((1, 1, 3, 2, 2)), "b": np.ones(2)}, "its filters are not numbers"),
    ({"type": "conv", "W": "filters", "b": np.ones(2)}, "its filters are not numbers"),
    ({"type": "conv"}, "its filters are not numbers"),
]


@pytest.mark.parametrize(("layer", "message"), REFUSED_LAYERS)
def test_a_layer_that_cannot_be_had_is_named(tmp_path, rng, layer, message):
    rest, norm = small(rng)
    with pytest.raises(InputError, match=rf"^{tmp_path}/net\.mat: layer 'odd': .*{message}") as caught:
        read(tmp_path, [{**layer, "name": "odd"}, *rest], norm)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [{"type": "pool", "pool": 1}, {"type": "conv", "size": (1, 1, 3, 3), "pad": 1}])
def test_windows_need_an_image(tmp_path, rng, layer):
    layers, norm = small(rng)
    layers.insert(-1, with_parameters([layer | {"name": "odd"}], rng)[0])
    with pytest.raises(InputError, match="layer 'odd': its input is a vector, no longer an image"):
        read(tmp_path, layers, norm)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"imageSize": [14, 12, 3]}, r"'imageSize' \[14, 12, 3\] are not read"),
        ({"imageSize": [14, 14, 1]}, "three colours"),
        ({"imageSize": [1e9, 1e9, 3]}, "not numbers of pixels up to 4096"),
        ({"imageSize": []}, "they have to be square"),
        ({"averageImage": np.ones((13, 14, 3))}, r"'averageImage' is \(13, 14, 3\), and the pictures are 14 × 14 × 3"),
        ({"averageImage": np.full(3, np.nan)}, "'averageImage' is not an image"),
        ({"averageImage": np.full(3, 1e300)}, "'averageImage' is not an image"),
        ({"averageImage": "mean.mat"}, "'averageImage' is not an image"),
        ({"interpolation": "lanczos3"}, "no interpolation is called 'lanczos3'"),
        ({"cropSize": [0.5, 0.6]}, r"a crop of \[0.5, 0.6\] of the picture is not read"),
        ({"cropSize": 1e-9}, "of the picture is not read"),
        ({"cropSize": [], "border": [-14, -14]}, "'border' is"),
    ],
)
def test_preprocessing_that_cannot_be_had_is_named(tmp_path, rng, said, message):
    layers, norm = small(rng)
    with pytest.raises(InputError, match=message):
        read(tmp_path, layers, norm | said)


def test_weights_beyond_float32_are_no_reason_to_warn(tmp_path, rng):
    rows = [{"type": "conv", "name": "fc", "W": np.full((2, 2, 3, 1), 1e300), "b": np.full((1, 1), -1e300)}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = read(tmp_path, rows, {"imageSize": [2, 2, 3]}, class_names(1))
    assert all(np.isinf(parameter).all() for parameter in network.parameters.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": None}, "has no 'layers'"),
        ({"layers": np.zeros((2, 2))}, "numbers stand where a cell array is expected"),
        ({"layers": cell([])}, "the network has no layers"),
        ({"layers": cell([{"type": "softmax"}])}, "the network has no layers"),
        ({"layers": cell([{"type": "relu"}])}, r"the last layer 'layer1' makes \(14, 14, 3\), not one score"),
        ({"layers": cell([3.0])}, "'layer 1' is not a struct"),
        ({"layers": cell([{"type": "relu"}] * 1001)}, "1001 layers; 1000 are the most"),
        ({"layers": [{"name": "conv1", "block": {"size": [3, 3, 3, 4]}}] * 2}, "a network of DagNN, which is not read"),
        ({"meta": None}, "there is no 'normalization'"),
        ({"meta": 5.0}, "'meta' is not a struct"),
        ({"classes": {"name": cell(["n1"])}}, "1 class names for 3 classes"),
        ({"net": 5.0}, "'net' is not a struct"),
    ],
)
def test_what_is_not_a_network_is_refused(tmp_path, rng, change, message):
    layers, norm = small(rng)
    variables = new(layers, norm, class_names(3)) | change
    path = save(tmp_path / "net.mat", {key: value for key, value in variables.items() if value is not None})
    with pytest.raises(InputError, match=rf"^{path}: .*{message}"):
        read_matconvnet(path)

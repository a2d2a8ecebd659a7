"""Networks in ONNX files: the same photo gives the same scores as in onnxruntime, fed by hand."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from npconvnet.data.image import read_image
from npconvnet.errors import InputError
from npconvnet.layers import AveragePool2d, Conv2d, Flatten, GlobalAveragePool2d
from npconvnet.models import MODELS
from npconvnet.network import Network, Row
from npconvnet.preprocessing import Preprocessing
from npconvnet.synsets import Synset
from npconvnet.weights.conventions import caffe_preprocessing, torchvision_preprocessing
from npconvnet.weights.onnx.reader import read_onnx
from npconvnet.weights.onnx.writer import write_onnx

PHOTO = Path(__file__).parents[3] / "npconvnet" / "assets" / "chelsea.jpg"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def centre(crop, squeezed):
    """The photo, RGB, float64 (crop, crop, 3): all of it squeezed into 256×256, or its shorter side made 256."""
    image = Image.open(PHOTO).convert("RGB")
    side, (left, top) = min(image.size), ((size - min(image.size)) / 2 for size in image.size)
    box = (0, 0, *image.size) if squeezed else (left, top, left + side, top + side)
    resized = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR, box=box))
    start = (256 - crop) // 2
    return resized[start : start + crop, start : start + crop].astype(np.float64)


def like_caffe(crop):
    blue_first = centre(crop, squeezed=True)[..., ::-1] - (104.00698793, 116.66876762, 122.67891434)
    return blue_first.transpose(2, 0, 1)[None].astype(np.float32)


def like_torchvision(crop):
    scaled = (centre(crop, squeezed=False) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)


def in_onnxruntime(model, x, output=None):
    """What the model makes of `x` (N, C, H, W): its output, or another value in it."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    if output is not None:
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return y.reshape(len(x), -1)


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()  # scores that are all alike prove nothing
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def scores(network):
    return network.scores(network.preprocess([read_image(PHOTO)]))


def save(folder, model):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


# -- the model zoo's own graphs --------------------------------------------------------------------------------------


def narrow(name):
    """A network of the model zoo as the onnx package keeps it, without weights; an eighth as wide, with random ones."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    graph, rng = model.graph, np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {node.output[0]: shapes[node.input[0]] for node in graph.node if node.op_type == "ConstantOfShape"}
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    kept = {name for node in nodes for name in node.input} & shapes.keys()
    made |= {tensor.name: tensor.dims for tensor in graph.initializer if tensor.data_type == 1 and tensor.name in kept}
    (target,) = [shapes[node.input[1]] for node in nodes if node.op_type == "Reshape"] or [np.array([1, 0])]
    sizes = {name: [size if size in (3, 1000) else size // 8 for size in shape[:2]] for name, shape in made.items()}
    constants = [numpy_helper.from_array(np.array([1, target[1] // 8]), "OC2_DUMMY_1")]
    for value, shape in made.items():
        whole = (*sizes[value], *shape[2:])
        scale = np.sqrt(2 / np.prod(whole[1:])) if len(whole) > 1 else 0.1
        constants.append(numpy_helper.from_array((scale * rng.standard_normal(whole)).astype(np.float32), value))
    (image,) = [value for value in graph.input if value.name.endswith("data_0")]
    graph = helper.make_graph(nodes, name, [image], list(graph.output), constants)
    # Version 3 of the format lists the initializers among the inputs.
    graph.input.extend(helper.make_tensor_value_info(c.name, c.data_type, c.dims) for c in constants)
    return helper.make_model(graph, producer_name=model.producer_name, ir_version=3, opset_imports=model.opset_import)


def caffenet(alexnet):
    """The other order of normalisation and pooling."""
    nodes = {node.name: node for node in alexnet.graph.node}
    for norm, pool in (("n2", "n3"), ("n6", "n7")):
        first, last = nodes[norm], nodes[pool]
        before, after = first.input[0], last.output[0]
        kept = helper.make_node("MaxPool", [before], first.output, pool)
        kept.attribute.extend(last.attribute)
        last.CopyFrom(helper.make_node("LRN", first.output, [after], norm, size=5, alpha=1.0, beta=0.75, bias=1.0))
        first.CopyFrom(kept)
    return alexnet


ZOO = {
    "bvlc_alexnet": lambda: narrow("bvlc_alexnet"),
    "caffenet": lambda: caffenet(narrow("bvlc_alexnet")),
    "zfnet512": lambda: narrow("zfnet512"),
    "vgg19": lambda: narrow("vgg19"),
    "squeezenet": lambda: narrow("squeezenet"),
}


@pytest.mark.parametrize("name", ZOO)
def test_networks_of_the_model_zoo(name, tmp_path):
    """BGR minus mean, LRN's alpha, groups, padding at the end of a pooling, the order in which images are flattened."""
    model = ZOO[name]()
    network = read_onnx(save(tmp_path, model))
    before_softmax = model.graph.node[-1].input[0]
    assert model.graph.node[-1].op_type == "Softmax"
    assert_same(scores(network), in_onnxruntime(model, like_caffe(224), before_softmax))
    assert network.preprocessing == caffe_preprocessing(224)
    assert len(network.synsets) == 1000


def test_the_network_can_be_sent_backward_and_saved(tmp_path):
    from npconvnet.weights import load_network, save_network

    network = read_onnx(save(tmp_path, ZOO["bvlc_alexnet"]()))
    x = network.preprocess([read_image(PHOTO)])
    y, trace = network.forward(x)
    dx, gradients = network.backward(trace, np.eye(1000, dtype=np.float32)[[3]])
    assert dx is not None
    assert dx.shape == x.shape
    assert np.abs(dx).max() > 0
    assert gradients.keys() == network.parameters.keys()
    save_network(tmp_path / "out.safetensors", network)
    np.testing.assert_array_equal(load_network(tmp_path / "out.safetensors").scores(x), y)


# -- the forms of other exporters ------------------------------------------------------------------------------------


class Builder:
    """A graph that grows at its end, with random constants."""

    def __init__(self, size=("N", 3, 64, 64), opset=13):
        self.nodes, self.constants, self.rng, self.size, self.opset = [], [], np.random.default_rng(0), size, opset
        self.last = "data"

    def constant(self, *shape, value=None):
        array = self.rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:]))) if value is None else value
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, np.float32 if value is None else None), name))
        return name

    def node(self, operator, *inputs, outputs=(), **attributes):
        reads, self.last = self.last, f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [reads, *inputs], [self.last, *outputs], **attributes))
        return self

    def model(self, producer="", ir_version=7, **graph):
        made = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("data", TensorProto.FLOAT, self.size)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)],
            self.constants,
            **graph,
        )
        opset = [helper.make_opsetid("", self.opset)]
        return helper.make_model(made, producer_name=producer, ir_version=ir_version, opset_imports=opset)


def like_mxnet():
    """SqueezeNet 1.1 as MXNet writes it: an average over the last image by its size, and a Reshape."""
    b = Builder(size=(1, 3, 64, 64), opset=8)
    conv = {"dilations": [1, 1], "group": 1}
    b.node("Conv", b.constant(8, 3, 3, 3), b.constant(8), kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4, **conv)
    b.node("Relu").node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 0, 0])
    b.node("Conv", b.constant(4, 8, 1, 1), b.constant(4), kernel_shape=[1, 1], **conv).node("Relu")
    squeezed = b.last
    b.node("Conv", b.constant(6, 4, 1, 1), b.constant(6), kernel_shape=[1, 1], **conv).node("Relu")
    narrow_part, b.last = b.last, squeezed
    b.node("Conv", b.constant(6, 4, 3, 3), b.constant(6), kernel_shape=[3, 3], pads=[1, 1, 1, 1], **conv).node("Relu")
    b.node("Concat", narrow_part, axis=1).node("Dropout", outputs=["mask"], ratio=0.5)
    b.node("Conv", b.constant(10, 12, 1, 1), b.constant(10), kernel_shape=[1, 1], **conv).node("Relu")
    b.node("AveragePool", kernel_shape=[15, 15], strides=[15, 15], pads=[0, 0, 0, 0])
    return b.node("Reshape", b.constant(value=np.array([0, -1])))


def like_keras():
    """VGG as Keras is converted: automatic padding, Identity, MatMul and Add, no names."""
    b = Builder(size=("N", 3, 48, 48), opset=11)
    for channels, filters in ((3, 4), (4, 4), (4, 6)):
        b.node("Conv", b.constant(filters, channels, 3, 3), auto_pad="SAME_UPPER", strides=[1, 1])
        b.node("Add", b.constant(1, filters, 1, 1)).node("Relu").node("Identity")
        b.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID")
    b.node("Flatten").node("MatMul", b.constant(6 * 36, 20)).node("Add", b.constant(20)).node("Relu")
    b.node("Dropout", b.constant(value=np.float32(0.3)), b.constant(value=np.array(False)))
    b.opset = 13
    return b.node("Gemm", b.constant(20, 10), b.constant(1, 10), alpha=0.5, beta=2.0)


def like_caffe2(opset=8):
    """Unequal windows and padding, groups, a strong LRN; before version 7, a broadcast axis and a test mode."""
    b = Builder(opset=opset)
    b.node("Conv", b.constant(6, 3, 7, 5), kernel_shape=[7, 5], strides=[3, 3], pads=[0, 1, 2, 3])
    bias = b.rng.standard_normal(6).astype(np.float32)
    if opset < 7:
        b.node("Add", b.constant(value=bias), broadcast=1, axis=1).node("Relu")
    else:
        b.node("Add", b.constant(value=bias[:, None, None])).node("Relu")
    b.node("LRN", size=3, alpha=2.0, beta=0.6, bias=1.5)
    b.node("AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 0, 0])
    b.node("Conv", b.constant(9, 2, 3, 3), b.constant(9), group=3, pads=[1, 1, 1, 1]).node("Relu")
    b.node("Dropout", outputs=["mask"], ratio=0.4, **({"is_test": 1} if opset < 7 else {}))
    return b.node("Conv", b.constant(10, 9, 10, 11), b.constant(10))


def residual():
    """Sums of branches, both ways of writing them, and an average that is read as a vector."""
    b = Builder()
    b.node("Conv", b.constant(6, 3, 3, 3), b.constant(6), strides=[2, 2]).node("Relu")
    shortcut = b.last
    b.node("Conv", b.constant(6, 6, 3, 3), b.constant(6), pads=[1, 1, 1, 1]).node("Add", shortcut).node("Relu")
    b.node("Sum", shortcut).node("GlobalAveragePool").node("Flatten")
    return b.node("Gemm", b.constant(10, 6), transB=1)


def squeeze_and_classify():
    """Means that are read as images, by convolutions and beside other images of one pixel."""
    b = Builder()
    b.node("Conv", b.constant(6, 3, 3, 3), b.constant(6), strides=[2, 2]).node("Relu")
    image = b.last
    b.node("AveragePool", kernel_shape=[31, 31])
    average, b.last = b.last, image
    b.node("GlobalAveragePool").node("Add", average).node("Concat", average, axis=1).node(
        "MaxPool", kernel_shape=[1, 1]
    )
    both, b.last = b.last, image
    b.node("ReduceMean", axes=[-1, 2], keepdims=1).node("Conv", b.constant(6, 6, 1, 1)).node("Concat", both, axis=1)
    b.node("Conv", b.constant(10, 18, 1, 1), b.constant(10)).node("Flatten").node("LogSoftmax")
    return b


FORMS = {
    "MXNet": like_mxnet,
    "Keras": like_keras,
    "Caffe2": like_caffe2,
    "residual": residual,
    "means that are images": squeeze_and_classify,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_other_exporters(form, tmp_path):
    builder = FORMS[form]()
    model, crop = builder.model(ir_version=6), builder.size[-1]
    network = read_onnx(save(tmp_path, model))
    assert network.preprocessing == torchvision_preprocessing(crop)
    last = model.graph.node[-1]
    before_softmax = last.input[0] if last.op_type == "LogSoftmax" else None
    assert_same(scores(network), in_onnxruntime(model, like_torchvision(crop), before_softmax))


def test_old_forms_mean_what_new_ones_do(tmp_path):
    """onnxruntime goes back to version 7 only."""
    network = read_onnx(save(tmp_path, like_caffe2(opset=6).model()))
    assert_same(scores(network), in_onnxruntime(like_caffe2().model(), like_torchvision(64)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the newer exporter needs one more package
def test_a_network_from_pytorch(torch, tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 11, stride=4, padding=2),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d(3, 2, ceil_mode=True),
        torch.nn.AvgPool2d(3, 2, padding=1),
        torch.nn.Conv2d(8, 12, (5, 3), padding=(2, 1), groups=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.25),
        torch.nn.Linear(12 * 14 * 14, 20),
        torch.nn.ReLU(),
        torch.nn.Linear(20, 10),
    ).eval()
    path, x = tmp_path / "model.onnx", like_torchvision(224)
    torch.onnx.export(
        module,
        (torch.zeros(1, 3, 224, 224),),
        path,
        dynamo=False,
        dynamic_axes={"input": {0: "N"}},
        input_names=["input"],
    )
    network = read_onnx(path)
    assert_same(scores(network), module(torch.from_numpy(x)).detach().numpy())
    assert network.nodes[0].name == "/0/Conv"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Constant folding", "ignore:You are trying to export")
@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_views_and_means_from_pytorch(opset, torch, tmp_path):
    """`x.view(x.size(0), …)`, means over pixels, counted padding: how each is written depends on the version."""

    def forward(x):
        x = module.conv(x).relu()
        vector = module.fc(module.pool(x).view(x.size(0), -1))
        mean = x.mean((2, 3), keepdim=True)
        both = torch.cat([vector, mean.view(x.shape[0], mean.shape[1])], 1)
        return torch.log_softmax(module.last(both) + module.beside(x.mean((-1, -2))), 1)

    torch.manual_seed(0)
    module = torch.nn.Module()
    module.conv, module.pool = torch.nn.Conv2d(3, 8, 11, stride=4), torch.nn.AvgPool2d(3, 2, padding=1)
    module.fc, module.last, module.beside = (torch.nn.Linear(n, m) for n, m in ((392, 20), (28, 10), (8, 10)))
    module.forward = forward
    path, size = tmp_path / "model.onnx", (1, 3, 64, 64)
    names: Any = {"input_names": ["input"], "dynamic_axes": {"input": {0: "N"}}}
    torch.onnx.export(module.eval(), (torch.zeros(size),), path, dynamo=False, opset_version=opset, **names)
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert {"Shape", "Gather", "Unsqueeze", "ReduceMean", "LogSoftmax"} <= set(operators)
    assert ("Pad" in operators) == (opset == 9)
    network = read_onnx(path)
    assert network.scores(np.zeros((3, 64, 64, 3), np.float32)).shape == (3, 10)
    expected = module(torch.from_numpy(like_torchvision(64))).detach().numpy()
    actual = scores(network)
    assert_same(actual - np.log(np.exp(actual).sum()), expected)


def test_sizes_are_cut_out_of_shapes(tmp_path):
    """As in older exports of `torch.flatten`."""
    for opset in (9, 13):
        b = Builder(size=("N", 3, 8, 8), opset=opset)
        b.node("Conv", b.constant(4, 3, 3, 3), b.constant(4))
        image = b.last
        zero, one, rest = (b.constant(value=np.array([number])) for number in (0, 1, -1))
        b.node("Shape")
        if opset < 10:
            b.node("Slice", axes=[0], starts=[0], ends=[1])
        else:
            b.node("Slice", zero, one, zero, one)
        b.node("Concat", rest, axis=0)
        target, b.last = b.last, image
        b.node("Reshape", target)
        model = b.model()
        assert_same(scores(read_onnx(save(tmp_path, model))), in_onnxruntime(model, like_torchvision(8)))


@pytest.mark.parametrize("padding", [(1, 0, 1, 1), (0, 1, 1, 0), 1])
def test_counted_padding_and_overhang_come_back(padding, tmp_path, rng):
    layer = AveragePool2d(3, 2, padding, "ceil")
    rows: list[Row] = [("conv", Conv2d(3, 4, 3)), ("average", layer), ("mean", GlobalAveragePool2d())]
    for crop in (8, 9):
        network = Network("graph", rows, Preprocessing(10, crop))
        network.initialize(rng)
        write_onnx(tmp_path / "model.onnx", network)
        again = read_onnx(tmp_path / "model.onnx")
        assert again.shapes["average"] == network.shapes["average"]
        x = rng.standard_normal((2, crop, crop, 3)).astype(np.float32)
        np.testing.assert_allclose(
            again.activation(x, "average"), network.activation(x, "average"), rtol=1e-5, atol=1e-6
        )


def test_what_npconvnet_writes_it_reads(tmp_path, rng):
    for name in ("tiny", "squeezenet"):
        network = MODELS[name](classes=7) if name == "tiny" else MODELS[name]()
        network.initialize(rng)
        network.synsets = tuple(Synset(f"n{index}", f"größe, {index}") for index in range(len(network.synsets)))
        crop = network.preprocessing.crop
        network.preprocessing = Preprocessing(crop + 9, crop, (1, 2, 3), (4, 5, 6))
        write_onnx(tmp_path / "model.onnx", network, dynamic_batch=True)
        again = read_onnx(tmp_path / "model.onnx")
        assert again.preprocessing == network.preprocessing
        assert again.synsets == network.synsets
        assert_same(scores(again), scores(network))


# -- what belongs to a network ---------------------------------------------------------------------------------------


def small(size=("N", 3, 8, 8), **options):
    """conv, relu, global average: the smallest network."""
    b = Builder(size=size, **options)
    return b.node("Conv", b.constant(4, 3, 3, 3), b.constant(4)).node("Relu").node("GlobalAveragePool")


def test_metadata_of_npconvnet(tmp_path):
    mean = np.random.default_rng(0).uniform(90, 130, (8, 8, 3)).astype("<f4")
    described = Preprocessing(10, 8, mean, (2, 3, 4), "bicubic")
    names = [[f"n{index}", f"name {index}"] for index in range(4)]
    model = small(size=(1, 3, "H", "W")).model(producer="caffe2")
    helper.set_model_props(
        model,
        {
            "npconvnet.network": json.dumps({"model": "tiny", "preprocessing": described.to_json(), "synsets": names}),
            "npconvnet.mean": base64.b64encode(mean.tobytes()).decode(),
        },
    )
    network = read_onnx(save(tmp_path, model))
    assert network.preprocessing == described
    assert [[synset.wnid, synset.names] for synset in network.synsets] == names
    x = network.preprocess([read_image(PHOTO)])
    assert_same(network.scores(x), in_onnxruntime(model, x.transpose(0, 3, 1, 2)))  # RGB, whoever made the file


@pytest.mark.parametrize("producer", ["onnx-caffe2", "caffe2", "CaffeConverter"])
def test_files_from_caffe_read_bgr(producer, tmp_path):
    model = small(size=(10, 3, 227, 227)).model(producer=producer)
    assert_same(
        scores(read_onnx(save(tmp_path, model))), in_onnxruntime(small(size=(1, 3, 227, 227)).model(), like_caffe(227))
    )


def test_the_usual_size_where_any_is_taken(tmp_path):
    for size in (("N", 3, "H", "W"), ("N", 3, 0, 0), (None, None, None, None)):
        assert read_onnx(save(tmp_path, small(size=size).model())).preprocessing.crop == 224
    assert read_onnx(save(tmp_path, small(size=("N", 3, 32, "W")).model())).preprocessing.crop == 32


@pytest.mark.parametrize("producer", ["", "pytorch"])
def test_layers_are_called_what_their_nodes_are(producer, tmp_path):
    builder = small()
    assert [node.name for node in read_onnx(save(tmp_path, builder.model())).nodes] == ["v0", "v1", "v2"]
    for node, name in zip(builder.nodes, ("conv1", "relu1", "pool1"), strict=True):
        node.name = name
    assert [node.name for node in read_onnx(save(tmp_path, builder.model())).nodes] == ["conv1", "relu1", "pool1"]


def test_scores_that_come_as_an_image_become_a_vector(tmp_path):
    b = Builder(size=(1, 3, 8, 8))
    b.node("Conv", b.constant(4, 3, 8, 8))
    network = read_onnx(save(tmp_path, b.model()))
    assert network.shapes[network.last] == (4,)
    assert [type(node.layer) for node in network.nodes] == [Conv2d, Flatten]


@pytest.mark.parametrize("operator", ["Flatten", "Softmax", "LogSoftmax"])
def test_an_average_that_is_flattened_is_one_already(operator, tmp_path):
    network = read_onnx(save(tmp_path, small().node(operator, axis=1).model()))
    assert isinstance(network.nodes[-1].layer, GlobalAveragePool2d)


def test_layers_are_not_called_what_the_image_is(tmp_path):
    builder = small()
    conv, relu, pool = builder.nodes
    conv.output[0] = relu.input[0] = "input"
    relu.output[0] = pool.input[0] = "input_"
    assert [node.name for node in read_onnx(save(tmp_path, builder.model())).nodes] == ["input_2", "input_", "v2"]
    conv.name, relu.name, pool.name = "conv", "input", "pool"
    assert [node.name for node in read_onnx(save(tmp_path, builder.model())).nodes] == ["conv", "input_2", "pool"]


def test_the_last_layer_is_not_called_what_another_is(tmp_path):
    builder = Builder(size=(1, 3, 8, 8))
    builder.node("Relu").node("Conv", builder.constant(4, 3, 8, 8))
    for node, name in zip(builder.nodes, ("conv.scores", "conv"), strict=True):
        node.name = name
    assert read_onnx(save(tmp_path, builder.model())).last == "conv.scores_2"


@pytest.mark.parametrize("target", [[10, 4], [10, -1], [0, -1], [-1, 4], [0, 4]])
def test_a_batch_may_have_its_size_in_the_graph(target, tmp_path):
    builder = small(size=(10, 3, 8, 8))
    builder.node("Reshape", builder.constant(value=np.array(target)))
    network = read_onnx(save(tmp_path, builder.model()))
    assert network.scores(np.zeros((3, 8, 8, 3), np.float32)).shape == (3, 4)
    builder.constants[-1].CopyFrom(numpy_helper.from_array(np.array([1, -1]), builder.constants[-1].name))
    with pytest.raises(InputError, match=r"\(Reshape\): it makes \(1, 40\) of \(10, 4, 1, 1\)"):
        read_onnx(save(tmp_path, builder.model()))


def test_nodes_that_lead_nowhere_are_left_out(tmp_path):
    builder = small()
    builder.nodes.insert(1, helper.make_node("NonZero", ["v0"], ["nowhere"]))
    builder.nodes.append(helper.make_node("Relu", ["v2"], ["nowhere either"]))
    assert [node.name for node in read_onnx(save(tmp_path, builder.model())).nodes] == ["v0", "v1", "v2"]


# -- constants -------------------------------------------------------------------------------------------------------

TYPES = [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE]


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("data_type", TYPES)
def test_numbers_of_every_type(data_type, typed, tmp_path):
    """As bytes and as lists; bfloat16 is float32 without its last 16 bits."""
    builder, values = small(), np.array([-1.5, 0.25, 3.0, 1024.0], np.float32)
    bits: Any = {
        TensorProto.FLOAT: values,
        TensorProto.DOUBLE: values.astype(np.float64),
        TensorProto.FLOAT16: values.astype(np.float16).view(np.uint16),
        TensorProto.BFLOAT16: (values.view(np.uint32) >> 16).astype(np.uint16),
    }[data_type]
    bias = builder.constants[1]
    bias.Clear()
    bias.name, bias.data_type = "c1", data_type
    bias.dims.append(4)
    if typed:
        field = {TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data"}.get(data_type, "int32_data")
        getattr(bias, field).extend(bits.tolist())
    else:
        bias.raw_data = bits.tobytes()
    parameters = read_onnx(save(tmp_path, builder.model())).parameters
    assert parameters["v0.bias"].dtype == np.float32
    assert parameters["v0.bias"].tolist() == values.tolist()


def test_constants_may_be_made_by_nodes(tmp_path):
    builder = small()
    expected = read_onnx(save(tmp_path, builder.model())).parameters["v0.weight"]
    weight = builder.constants.pop(0)
    builder.nodes.insert(0, helper.make_node("Constant", [], ["of node"], value=weight))
    builder.nodes.insert(1, helper.make_node("Identity", ["of node"], ["c0"]))
    np.testing.assert_array_equal(read_onnx(save(tmp_path, builder.model())).parameters["v0.weight"], expected)


def test_numbers_in_other_files_of_the_folder(tmp_path):
    builder = small()
    expected = read_onnx(save(tmp_path, builder.model())).parameters["v0.weight"]
    onnx.save(
        builder.model(), tmp_path / "model.onnx", save_as_external_data=True, location="data.bin", size_threshold=0
    )
    assert (tmp_path / "data.bin").stat().st_size >= expected.nbytes
    np.testing.assert_array_equal(read_onnx(tmp_path / "model.onnx").parameters["v0.weight"], expected)


def test_a_bias_is_not_added_where_others_read_what_is_before_it(tmp_path):
    b = Builder()
    b.node("Conv", b.constant(4, 3, 3, 3))
    b.node("Add", b.constant(4, 1, 1)).node("Add", "v0").node("GlobalAveragePool")
    with pytest.raises(InputError, match=r"node 'v1' \(Add\): it adds a constant to 'v0', which no Conv"):
        read_onnx(save(tmp_path, b.model()))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("numbers", [[1e300, 1, 2, 3], [np.inf, -np.inf, np.nan, 3]])
def test_numbers_that_float32_has_not_pass_in_silence(numbers, tmp_path):
    builder = small().node("Flatten")
    weight, bias = np.array(numbers)[None], np.array([np.inf], np.float32)
    builder.node("Gemm", builder.constant(value=weight), builder.constant(value=bias), transB=1, alpha=0.0)
    builder.node("Add", builder.constant(value=-bias))
    parameters = read_onnx(save(tmp_path, builder.model())).parameters
    assert np.isnan(parameters["v4.weight"][0, 0])
    assert np.isnan(parameters["v4.bias"][0])


# -- refused, in one line --------------------------------------------------------------------------------------------


def changed(change, **options):
    """The smallest network after `change`."""
    builder = small(**options)
    model = builder.model()
    change(model.graph)
    return model


def with_node(operator, *constants, **attributes):
    builder = small()
    return builder.node(operator, *(builder.constant(value=value) for value in constants), **attributes).model()


def with_attribute(**attributes):
    return changed(
        lambda graph: graph.node[0].attribute.extend(helper.make_attribute(*item) for item in attributes.items())
    )


def with_pad(operator, top=1, channel=0, filling=0, mode="constant", **attributes):
    b = small()
    b.last = "v1"
    b.node(
        "Pad",
        b.constant(value=np.array([0, channel, top, 1, 0, 0, 1, 1])),
        b.constant(value=np.float32(filling)),
        mode=mode,
    )
    return b.node(operator, kernel_shape=[2, 2], strides=[2, 2], **attributes).node("GlobalAveragePool").model()


REFUSED = {
    r"node 'v3' \(Sigmoid\): the operator is not supported": lambda: with_node("Sigmoid"),
    r"node 'v3' \(Relu\): the operator of 'mine' is not supported": lambda: with_node("Relu", domain="mine"),
    r"node 'v3' \(Relu\): the attribute 'leak' is not supported": lambda: with_node("Relu", leak=0.1),
    r"node 'v3' \(Flatten\): it makes \(4, 1\) of \(1, 4, 1, 1\)": lambda: with_node("Flatten", axis=2),
    r"node 'v3' \(Concat\): its attribute axis is 0": lambda: with_node("Concat", axis=0),
    r"node 'v3' \(MaxPool\): it lacks the attribute kernel_shape": lambda: with_node("MaxPool"),
    r"node 'v3' \(Softmax\): it works along axis 3": lambda: with_node("Softmax"),
    r"node 'v3' \(Softmax\): it is not the last node": lambda: small().node("Softmax", axis=1).node("Relu").model(),
    r"node 'v3' \(Dropout\): its ratio is \(2,\), not one number": lambda: with_node("Dropout", np.zeros(2)),
    r"node 'v3' \(Dropout\): rate is 1.0, and has to be": lambda: with_node("Dropout", np.float32(1)),
    r"node 'v3' \(Gemm\): it reads \(1, 4, 1, 1\), and only 2 dimensions": lambda: with_node("Gemm", np.ones((4, 4))),
    r"node 'v0' \(Conv\): its attribute strides is \[1, 2\]": lambda: with_attribute(strides=[1, 2]),
    r"node 'v0' \(Conv\): its attribute strides is \[0, 0\], and has to be positive": lambda: with_attribute(
        strides=[0, 0]
    ),
    r"node 'v0' \(Conv\): its attribute strides is \[2, 1\], and only equal": lambda: with_attribute(strides=[2, 1]),
    r"node 'v3' \(ReduceMean\): its axes are \[1, 2\], and only": lambda: with_node("ReduceMean", axes=[1, 2]),
    r"node 'v3' \(ReduceMean\): it lacks input 1": lambda: with_node("ReduceMean"),
    r"node 'v3' \(Pad\): only what one AveragePool alone reads": lambda: with_pad("MaxPool"),
    r"node 'v3' \(Pad\): its pads are \[0, 0, -1, ": lambda: with_pad("AveragePool", top=-1),
    r"node 'v3' \(Pad\): its pads are \[0, 1, 1, ": lambda: with_pad("AveragePool", channel=1),
    r"node 'v3' \(Pad\): its pads are \[0, 0, 1, .* zeros": lambda: with_pad("AveragePool", filling=1),
    r"node 'v3' \(Pad\): its attribute mode is b'edge'": lambda: with_pad("AveragePool", mode="edge"),
    r"node 'v4' \(AveragePool\): behind a Pad, its own padding": lambda: with_pad("AveragePool", pads=[1, 0, 0, 0]),
    r"node 'v4' \(AveragePool\): behind a Pad, its own .*rounding": lambda: with_pad(
        "AveragePool", pads=[0, 0, 1, 1], count_include_pad=1
    ),
    r"node 'v0' \(Conv\): its attribute dilations is \[2, 2\]": lambda: with_attribute(dilations=[2, 2]),
    r"node 'v0' \(Conv\): its attribute strides has 3 numbers": lambda: with_attribute(strides=[1, 1, 1]),
    r"node 'v0' \(Conv\): its attribute group is not of the type INT": lambda: with_attribute(group=1.0),
    r"node 'v0' \(Conv\): its attribute kernel_shape is \[5, 5\]": lambda: with_attribute(kernel_shape=[5, 5]),
    r"node 'v0' \(Conv\): its attribute auto_pad is b'MAYBE'": lambda: with_attribute(auto_pad="MAYBE"),
    r"node 'v0' \(Conv\): padding is \[0, 0, 0, -1\]": lambda: with_attribute(pads=[0, 0, 0, -1]),
    r"node 'v0' \(Conv\): its attribute group is -1": lambda: with_attribute(group=-1),
    r"node 'v0' \(Conv\): the filters take 6 channels, the input has 3": lambda: with_attribute(group=2),
    r"node 'v0' \(Conv\): a window of 3 pixels does not fit": lambda: small(size=(1, 3, 2, 2)).model(),
    r"the graph has 0 inputs; only one, the image": lambda: changed(lambda graph: graph.ClearField("input")),
    r"the graph has 0 outputs; only one, the scores": lambda: changed(lambda graph: graph.ClearField("output")),
    r"its input 'data' is \(1, 8, 8, 3\); only square images": lambda: small(size=(1, 8, 8, 3)).model(),
    r"its input 'data' is \(1, 3, 8, 9\); only square images": lambda: small(size=(1, 3, 8, 9)).model(),
    r"its input 'data' is \(1, 3, 8\); only square images": lambda: small(size=(1, 3, 8)).model(),
    r"input 'data' is of type UINT8; only floating-point": lambda: changed(
        lambda graph: setattr(graph.input[0].type.tensor_type, "elem_type", TensorProto.UINT8)
    ),
    r"the last layer 'v1' makes \(6, 6, 4\), not one score": lambda: changed(
        lambda graph: setattr(graph.output[0], "name", "v1")
    ),
    r"'v0' reads the image as BGR, and only a convolution": lambda: (
        Builder(size=(1, 3, 8, 8)).node("GlobalAveragePool").model(producer="caffe2")
    ),
    r"node 'v0' \(Conv\): its input 'c0' is int64, not floating-point": lambda: changed(
        lambda graph: graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int64), "c0"))
    ),
    r"tensor 'c0' is of type INT8, which is not supported": lambda: changed(
        lambda graph: graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "c0"))
    ),
    r"node 'v0' \(Conv\): its bias is \(5,\), for 4 filters": lambda: changed(
        lambda graph: graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(5, np.float32), "c1"))
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_supported_is_named(message, tmp_path):
    path = save(tmp_path, REFUSED[message]())
    with pytest.raises(InputError, match=message) as refused:
        read_onnx(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def metadata(**changes):
    usual = {
        "model": "tiny",
        "preprocessing": Preprocessing(10, 8).to_json(),
        "synsets": [["n", "name"]] * 4,
    }
    model = small().model()
    helper.set_model_props(model, {"npconvnet.network": json.dumps(usual | changes)})
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (metadata(preprocessing={}), "its metadata are not what npconvnet writes"),
        (metadata(preprocessing=[]), "its metadata are not what npconvnet writes"),
        (metadata(synsets=[["n"]] * 4), "its metadata are not what npconvnet writes"),
        (metadata(synsets=[["n", "name"]] * 3), "3 class names for 4 classes"),
        (metadata(preprocessing=Preprocessing(10, 9).to_json()), "images of 8 pixels, and its metadata say 9"),
        (metadata(preprocessing={**Preprocessing(10, 8).to_json(), "mean": "image"}), "the mean image is missing"),
        (metadata(preprocessing={**Preprocessing(10, 8).to_json(), "crop": 1e999}), "its metadata are not"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(model, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_onnx(save(tmp_path, model))


def test_metadata_that_are_not_json_are_refused(tmp_path):
    for text in ("{", "[" * 100_000, "3", "null", "é"):
        model = small().model()
        helper.set_model_props(model, {"npconvnet.network": text})
        with pytest.raises(InputError, match="its metadata are not what npconvnet writes"):
            read_onnx(save(tmp_path, model))
    model = metadata()
    helper.set_model_props(model, {"npconvnet.network": model.metadata_props[0].value, "npconvnet.mean": "*"})
    with pytest.raises(InputError, match="not base64"):
        read_onnx(save(tmp_path, model))

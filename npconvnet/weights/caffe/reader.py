"""Networks of Caffe (Jia et al. 2014): a .caffemodel, with a .prototxt that describes its architecture or without.

What Caffe does otherwise: images are BGR, filters are (K, C, R, S), an inner product reads an image channel by channel,
the alpha of a local response normalisation is divided by its window, poolings round up, a layer may write over what it
reads, and the file holds the network that was trained, with its data and its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npconvnet.errors import InputError
from npconvnet.layers import Shape
from npconvnet.models.graph import MOST_ROWS, PlainRow, make_layer
from npconvnet.network import INPUT, Network
from npconvnet.preprocessing import Preprocessing
from npconvnet.weights.caffe.messages import CLASSES, Message, enum_name, read_binary, read_text
from npconvnet.weights.conventions import caffe_preprocessing, oihw_to_ohwi, swap_red_and_blue, vgg_preprocessing
from npconvnet.weights.imported import assemble, unique_name

#: The types of layers by their names in old files, where these differ.
_NEW_TYPES = {
    "CONVOLUTION": "Convolution",
    "RELU": "ReLU",
    "POOLING": "Pooling",
    "INNER_PRODUCT": "InnerProduct",
    "DROPOUT": "Dropout",
    "CONCAT": "Concat",
    "ELTWISE": "Eltwise",
    "FLATTEN": "Flatten",
    "SPLIT": "Split",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "HINGE_LOSS": "HingeLoss",
    "ACCURACY": "Accuracy",
}

#: What reads the class scores; the network ends before it.
_AFTER_SCORES = {"Softmax", "SoftmaxWithLoss", "MultinomialLogisticLoss", "HingeLoss", "Accuracy"}

Tensor: TypeAlias = npt.NDArray[Any]


def read_caffe(path: Path, prototxt: Path | None = None) -> Network:
    """The network whose weights are in the .caffemodel `path`, on the CPU, in the old format (V1) or the new.

    Its architecture is that of `prototxt`, whose layers find their weights by name, or else what the .caffemodel says.
    The size of its input is stated there, or else the crop of the Berkeley or of the VGG group that fits. Raises
    InputError for files that are damaged or hostile, and for layers that npconvnet does not have, which it names.
    Source: https://github.com/BVLC/caffe, src/caffe/proto/caffe.proto and src/caffe/layers.
    """
    trained = _Description.of(path, read_binary(path))
    net = _Description.of(prototxt, read_text(prototxt)) if prototxt else trained
    try:
        return _network(net, trained)
    except ValueError as error:
        raise InputError(f"{prototxt or path}: {error}") from error


def _network(net: _Description, trained: _Description) -> Network:
    is_vggs = "VGG_" in (net.name[:4], trained.name[:4])
    # What is for use says nothing of the mean, and the network that was trained often does.
    stated, transform = net.crop or trained.crop, net.transform or trained.transform
    # The first layers of CNN-F take both sizes: each group's own goes first.
    *others, last = (stated,) if stated else (224, 227) if is_vggs else (227, 224)

    def with_crop(crop: int) -> Network:
        usual = (vgg_preprocessing if is_vggs else caffe_preprocessing)(crop)
        return assemble(*_table(net, crop, trained.weights), _preprocessing(usual, transform))

    for crop in others:
        with suppress(ValueError):
            return with_crop(crop)
    return with_crop(last)


# -- layers, old and new ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of either format. Its settings have the same names in both."""

    name: str
    type: str
    message: Message

    @classmethod
    def of(cls, message: Message) -> _Layer:
        if isinstance(message, CLASSES["LayerParameter"]):
            return cls(message.name, message.type, message)
        if message.HasField("layer"):
            raise ValueError("written by a Caffe of 2013; Caffe's upgrade_net_proto_binary or _text makes it newer")
        old_type = enum_name(message, "type")
        return cls(message.name, _NEW_TYPES.get(old_type, old_type), message)

    @property
    def makes_data(self) -> bool:
        return not self.message.bottom and self.type not in _TRANSLATIONS

    @property
    def is_tested(self) -> bool:
        """Whether it belongs to the network that is tested, and not only to the one that is trained."""
        include, exclude = self.message.include, self.message.exclude
        return any(map(_means_testing, include)) if include else not any(map(_means_testing, exclude))


def _means_testing(rule: Message) -> bool:
    right_phase = not rule.HasField("phase") or enum_name(rule, "phase") == "TEST"
    return right_phase and rule.min_level <= 0 <= rule.max_level and not rule.stage


# -- what a file says ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Description:
    """A network as a file describes it.

    `inputs` are the activations that no layer computes, the image first. `crop` is the side of the image in pixels, 0
    where that isn't stated.
    """

    name: str
    layers: list[_Layer]
    inputs: list[str]
    crop: int
    transform: Message | None

    @classmethod
    def of(cls, path: Path, net: Message) -> _Description:
        try:
            layers = _layers(net)
            # The layers that make data for training and for testing make activations of the same names.
            sources = [layer.message for layer in layers if layer.makes_data]
            inputs = [*net.input, *(top for source in sources for top in source.top)]
            transform = next((source.transform_param for source in sources if source.HasField("transform_param")), None)
            crop = _side(net, sources) or (transform.crop_size if transform else 0)
            return cls(str(net.name), layers, inputs, crop, transform)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error

    @property
    def weights(self) -> dict[str, Sequence[Message]]:
        """The blobs of the layers that have some, by their names."""
        return {layer.name: layer.message.blobs for layer in self.layers if layer.message.blobs}


def _layers(net: Message) -> list[_Layer]:
    messages = net.layers or net.layer
    if not 0 < len(messages) <= MOST_ROWS:
        raise ValueError(f"describes {len(messages)} layers; a network of Caffe has 1 to {MOST_ROWS}")
    layers = [_Layer.of(message) for message in messages]
    for number, layer in enumerate(layers, 1):
        for name in (layer.name, layer.type, *layer.message.bottom, *layer.message.top):
            # What is not UTF-8 comes as bytes.
            if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 200:
                raise ValueError(f"layer number {number}: its name, its type or what it reads or makes can't be read")
    return layers


def _side(net: Message, sources: Sequence[Message]) -> int:
    """The side of the image as one of the three ways to declare an input states it, in pixels; 0 if none does."""
    shapes = [net.input_dim[:4], *(shape.dim[:5] for shape in net.input_shape[:1])]
    for source in sources:
        # In the old format, there are no such layers.
        if hasattr(source, "input_param"):
            shapes += [shape.dim[:5] for shape in source.input_param.shape[:1]]
    shape = next(filter(None, shapes), [0, 3, 0, 0])
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise ValueError(f"its input is {_by(shape)} (N × C × H × W); npconvnet takes square images in colour")
    side: int = shape[2]
    return side


def _preprocessing(usual: Preprocessing, transform: Message | None) -> Preprocessing:
    if transform is None:
        return usual
    mean = list(transform.mean_value) or list(reversed(usual.mean_colour))
    blue, green, red = mean if len(mean) == 3 else [mean[0]] * 3
    if len(mean) not in (1, 3) or not np.isfinite((blue, green, red)).all():
        raise ValueError(f"its mean_value is {_by(mean[:5])}, and should be one number each for blue, green and red")
    if not 0 < transform.scale < math.inf:
        raise ValueError(f"its transform_param has the scale {transform.scale}, which is no positive number")
    # Caffe multiplies by the scale after it subtracts the mean.
    return replace(usual, mean=(red, green, blue), std=(1 / transform.scale,) * 3)


# -- from layers to rows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Activation:
    """What a layer of Caffe reads: the activation of the row `row`, of `shape` (H, W, C) or (C,).

    `has_colours` where its channels are still blue, green and red, which are red, green and blue here.
    """

    row: str
    shape: Shape
    has_colours: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C), with one pixel where there is no image any more."""
        h, w, c = self.shape if len(self.shape) == 3 else (1, 1, *self.shape)
        return h, w, c


def _table(
    net: _Description, crop: int, weights: Mapping[str, Sequence[Message]]
) -> tuple[list[PlainRow], dict[str, Tensor]]:
    """The rows of the network that is tested, and their parameters."""
    table = _Table(net.inputs, crop, weights)
    for layer in net.layers:
        if layer.is_tested and not layer.makes_data:
            table.add(layer)
    return table.leading_to_scores()


class _Table:
    """The rows of a network and their parameters, as layers are added in Caffe's order."""

    def __init__(self, inputs: Sequence[str], crop: int, weights: Mapping[str, Sequence[Message]]) -> None:
        self.weights = weights
        #: By Caffe's names of their layers.
        self.rows: dict[str, PlainRow] = {}
        #: Names of rows: one that Caffe calls "input" has to be called something else.
        self.taken = {INPUT}
        self.parameters: dict[str, Tensor] = {}
        self.scores: str | None = None
        #: By Caffe's names. None is what no row makes: labels, and what comes after the class scores.
        self.activations: dict[str, _Activation | None] = dict.fromkeys(inputs)
        self.activations |= {name: _Activation(INPUT, (crop, crop, 3), has_colours=True) for name in inputs[:1]}

    def add(self, layer: _Layer) -> None:
        """Adds the row of `layer`; raises ValueError, naming it, where there is no such row."""
        try:
            made = self._translated(layer)
        except ValueError as error:
            raise ValueError(f"layer '{layer.name}' ({layer.type}): {error}") from error
        # Where this is one that the layer reads, what follows reads the new one.
        self.activations |= dict.fromkeys(layer.message.top, made)

    def _translated(self, layer: _Layer) -> _Activation | None:
        bottoms = layer.message.bottom
        if unknown := [name for name in bottoms if name not in self.activations]:
            raise ValueError(f"it reads '{unknown[0]}', which no layer before it makes")
        if layer.type in _AFTER_SCORES:
            if bottoms and (scores := self.activations[bottoms[0]]):
                self.scores = scores.row
            return None
        if layer.type not in _TRANSLATIONS:
            raise ValueError("npconvnet has no such layer")
        if layer.name in self.rows:
            raise ValueError("another layer has the same name")
        xs = [x for name in bottoms if (x := self.activations[name])]
        if layer.type == "Split" and not xs:
            return None
        if len(xs) < len(bottoms):
            raise ValueError("it reads labels, or what comes after the class scores")
        if not xs or (len(xs) > 1 and layer.type not in _OF_SEVERAL):
            raise ValueError(f"it reads {len(xs)} activations")
        return _TRANSLATIONS[layer.type](self, layer, *xs)

    def row(
        self, layer: _Layer, kind: str, arguments: Mapping[str, Any], *xs: _Activation, keeps_channels: bool = False
    ) -> _Activation:
        """Adds a row and returns what it makes."""
        shape = make_layer(kind, arguments).output_shape(*(x.shape for x in xs))
        if not keeps_channels and any(x.has_colours for x in xs):
            raise ValueError("it reads the colours of the image; only convolutions and inner products can")
        name = unique_name(layer.name, self.taken)
        self.taken.add(name)
        self.rows[layer.name] = (name, kind, dict(arguments), [x.row for x in xs])
        self.scores = name
        return _Activation(name, shape, any(x.has_colours for x in xs))

    def blob(self, layer: _Layer, index: int, shape: Shape) -> Tensor:
        """The weights (0) or biases (1) of `layer`, which must have `shape`; ones in front don't count."""
        if layer.name not in self.weights:
            raise ValueError("the .caffemodel has no weights for it")
        blobs = self.weights[layer.name]
        if index >= len(blobs):
            raise ValueError("the .caffemodel has no biases for it")
        blob = blobs[index]
        old = ("num", "channels", "height", "width")
        stated = [getattr(blob, name) for name in old] if any(map(blob.HasField, old)) else blob.shape.dim[:32]
        if _without_leading_ones(stated) != _without_leading_ones(shape):
            raise ValueError(f"its blob {index} in the .caffemodel is {_by(stated)} and must be {_by(shape)}")
        numbers, dtype = (blob.double_data, np.float64) if blob.double_data else (blob.data, np.float32)
        if len(numbers) != math.prod(shape):
            raise ValueError(f"its blob {index} in the .caffemodel has {len(numbers)} numbers for {_by(shape)}")
        return np.array(numbers, dtype).reshape(shape)

    def leading_to_scores(self) -> tuple[list[PlainRow], dict[str, Tensor]]:
        """The rows that the class scores depend on, and their parameters."""
        needed = {self.scores}
        for name, _, _, inputs in reversed(self.rows.values()):
            if name in needed:
                needed.update(inputs)
        parameters = {name: value for name, value in self.parameters.items() if name.rpartition(".")[0] in needed}
        if not parameters:
            raise ValueError("has no class scores that a layer with weights makes")
        return [row for row in self.rows.values() if row[0] in needed], parameters


# Each of these takes the layer and what it reads, adds a row, and returns what it makes.


def _convolution(table: _Table, layer: _Layer, x: _Activation) -> _Activation:
    settings = layer.message.convolution_param
    h, w, c = x.image_shape
    groups, filters = settings.group, settings.num_output
    if any(dilation != 1 for dilation in settings.dilation) or settings.axis != 1:
        raise ValueError("npconvnet has convolutions over rows and columns only, and none that is dilated")
    if min(groups, filters) < 1 or c % groups:
        raise ValueError(f"{filters} filters in {groups} groups can't read {c} channels")
    windows = _windows(settings)
    weight = oihw_to_ohwi(table.blob(layer, 0, (filters, c // groups, *windows["window"])))
    if (windows["window"], windows["padding"], groups) == ([h, w], [0] * 4, 1):
        return _linear(table, layer, x, weight, settings.bias_term)
    arguments = {"in_channels": c, "filters": filters, "groups": groups, **windows}
    return _weighted(table, layer, "Conv2d", arguments, x, weight, settings.bias_term)


def _inner_product(table: _Table, layer: _Layer, x: _Activation) -> _Activation:
    settings = layer.message.inner_product_param
    h, w, c = x.image_shape
    inputs, outputs = h * w * c, settings.num_output
    if settings.axis != 1 or outputs < 1:
        raise ValueError(f"an inner product of {outputs} outputs over axis {settings.axis}; over axis 1 is possible")
    weight = table.blob(layer, 0, (inputs, outputs) if settings.transpose else (outputs, inputs))
    weight = weight.T if settings.transpose else weight
    return _linear(table, layer, x, oihw_to_ohwi(weight.reshape(outputs, c, h, w)), settings.bias_term)


def _linear(table: _Table, layer: _Layer, x: _Activation, filters: Tensor, has_bias: bool) -> _Activation:
    """A fully connected layer whose filters (K, H, W, C) cover all that it reads."""
    arguments = {"in_features": filters[0].size, "out_features": len(filters)}
    return _weighted(table, layer, "Linear", arguments, x, filters, has_bias)


def _weighted(
    table: _Table,
    layer: _Layer,
    kind: str,
    arguments: Mapping[str, Any],
    x: _Activation,
    filters: Tensor,
    has_bias: bool,
) -> _Activation:
    if x.has_colours:
        if filters.shape[-1] != 3:
            raise ValueError("it reads the colours of the image in groups, which npconvnet can't turn from BGR to RGB")
        filters = swap_red_and_blue(filters)
    weight = filters.reshape(len(filters), -1) if kind == "Linear" else filters
    bias = table.blob(layer, 1, (len(filters),)) if has_bias else np.zeros(len(filters), np.float32)
    made = table.row(layer, kind, arguments, replace(x, has_colours=False))
    table.parameters |= {f"{made.row}.weight": weight, f"{made.row}.bias": bias}
    return made


def _pooling(table: _Table, layer: _Layer, x: _Activation) -> _Activation:
    settings = layer.message.pooling_param
    method, rounding = enum_name(settings, "pool"), enum_name(settings, "round_mode").lower()
    if method == "STOCHASTIC":
        raise ValueError("npconvnet has no stochastic pooling")
    whole = list(x.image_shape[:2])
    windows = {"window": whole, "stride": 1, "padding": [0] * 4} if settings.global_pooling else _windows(settings)
    if (method, windows["window"], windows["padding"]) == ("AVE", whole, [0] * 4):
        return table.row(layer, "GlobalAveragePool2d", {}, x, keeps_channels=True)
    # Caffe divides by the pixels of the window in the image and in its padding, as AveragePool2d does.
    kind = "MaxPool2d" if method == "MAX" else "AveragePool2d"
    return table.row(layer, kind, {**windows, "rounding": rounding}, x, keeps_channels=True)


def _relu(table: _Table, layer: _Layer, x: _Activation) -> _Activation:
    if layer.message.relu_param.negative_slope != 0:
        raise ValueError("npconvnet has no ReLU with a negative_slope")
    return table.row(layer, "ReLU", {}, x, keeps_channels=True)


def _lrn(table: _Table, layer: _Layer, x: _Activation) -> _Activation:
    settings = layer.message.lrn_param
    if enum_name(settings, "norm_region") != "ACROSS_CHANNELS":
        raise ValueError("npconvnet normalises across channels, and this is within each channel")
    if settings.local_size % 2 == 0:
        raise ValueError(f"its window of {settings.local_size} channels must be odd")
    arguments = {"size": settings.local_size, "alpha_per_element": settings.alpha / settings.local_size}
    arguments |= {"beta": settings.beta, "k": settings.k}
    return table.row(layer, "LRN", arguments, x)


def _dropout(table: _Table, layer: _Layer, x: _Activation) -> _Activation:
    return table.row(layer, "Dropout", {"rate": layer.message.dropout_param.dropout_ratio}, x, keeps_channels=True)


def _concat(table: _Table, layer: _Layer, *xs: _Activation) -> _Activation:
    settings = layer.message.concat_param
    if settings.axis != 1 or settings.concat_dim != 1:
        raise ValueError("npconvnet concatenates channels, axis 1")
    return table.row(layer, "Concatenate", {}, *xs)


def _eltwise(table: _Table, layer: _Layer, *xs: _Activation) -> _Activation:
    settings = layer.message.eltwise_param
    if enum_name(settings, "operation") != "SUM" or any(coefficient != 1 for coefficient in settings.coeff):
        raise ValueError("npconvnet adds activations as they are; it has no other operations on several")
    return table.row(layer, "Add", {}, *xs, keeps_channels=all(x.has_colours for x in xs))


def _flatten(table: _Table, layer: _Layer, x: _Activation) -> _Activation:
    # In the old format, it has no settings.
    settings = getattr(layer.message, "flatten_param", None)
    if settings is not None and (settings.axis != 1 or settings.end_axis not in (-1, 3)):
        raise ValueError("npconvnet flattens all axes of an image")
    return table.row(layer, "Flatten", {}, x) if len(x.shape) == 3 else x


def _split(table: _Table, layer: _Layer, x: _Activation) -> _Activation:
    return x


_TRANSLATIONS: dict[str, Callable[..., _Activation]] = {
    "Convolution": _convolution,
    "InnerProduct": _inner_product,
    "Pooling": _pooling,
    "ReLU": _relu,
    "LRN": _lrn,
    "Dropout": _dropout,
    "Concat": _concat,
    "Eltwise": _eltwise,
    "Flatten": _flatten,
    "Split": _split,
}
_OF_SEVERAL = {"Concat", "Eltwise"}


def _windows(settings: Message) -> dict[str, Any]:
    """Where the windows of a convolution or a pooling lie: arguments of the layers here."""
    window, stride = _size(settings, "kernel_size", 0), _size(settings, "stride", 1)
    rows, columns = _size(settings, "pad", 0)
    if stride[0] != stride[1]:
        raise ValueError(f"its stride is {_by(stride)}, and npconvnet moves windows as far both ways")
    return {"window": window, "stride": stride[0], "padding": [rows, rows, columns, columns]}


def _size(settings: Message, field: str, default: int) -> list[int]:
    """[over rows, over columns] of a window, a stride or a padding, which may be stated once for both."""
    rows, columns = (f"{field.removesuffix('_size')}_{side}" for side in "hw")
    if settings.HasField(rows) or settings.HasField(columns):
        return [getattr(settings, rows), getattr(settings, columns)]
    stated = getattr(settings, field)
    sizes = [stated] if isinstance(stated, int) else list(stated) or [default]
    if len(sizes) > 2:
        raise ValueError(f"its {field} has {len(sizes)} numbers, and an image has rows and columns")
    return [sizes[0], sizes[-1]]


def _without_leading_ones(shape: Sequence[int]) -> tuple[int, ...]:
    # An old file states four dimensions for every blob, and biases are 1 × 1 × 1 × K.
    first = next((axis for axis, size in enumerate(shape) if size != 1), len(shape))
    return tuple(shape[first:])


def _by(sizes: Sequence[float]) -> str:
    return " × ".join(map(str, sizes)) or "without a size"

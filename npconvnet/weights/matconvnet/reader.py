"""Networks of MatConvNet (Vedaldi and Lenc 2015): SimpleNN in .mat files, of the old layout and the new.

    net.layers{i}   type, name, weights {W, b} (once filters and biases), stride, pad [top bottom left right], …
    net.meta        normalization and classes (once beside the layers): imageSize, averageImage, …; name, description

Colours are RGB, filters H × W × C × N, sizes are rounded down, and alpha of the LRN is per element. Fully connected
layers are convolutions whose window covers all of their input. Fields that a file leaves out are filled in as
vl_simplenn_tidy does. Source: matlab/simplenn and examples/imagenet of MatConvNet 1.0-beta25.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from npconvnet.errors import InputError
from npconvnet.kernels.shapes import Padding
from npconvnet.layers import Shape
from npconvnet.models.graph import LAYERS, PlainRow
from npconvnet.network import INPUT, Network
from npconvnet.preprocessing import Colour, Interpolation, Preprocessing
from npconvnet.synsets import Synset
from npconvnet.weights.imported import assemble, unique_name
from npconvnet.weights.matconvnet.mat_file import read_mat

Matrix: TypeAlias = npt.NDArray[Any]
Fields: TypeAlias = Mapping[str, Matrix]

MOST_LAYERS = 1000
#: Pixels of a picture, a window, a stride or a padding.
MOST_PIXELS = 4096

#: A network in a file stands in a variable `net`, or its fields are the variables.
_VARIABLES = ("net", "layers", "meta", "normalization", "classes")
#: What a network ends with after the class scores.
_AFTER_SCORES = {"softmax", "softmaxloss"}


@dataclass(frozen=True, slots=True)
class Translated:
    """A layer in npconvnet's words: its kind and arguments as in models/graph.py, and its parameters."""

    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Matrix] = field(default_factory=dict)


def read_matconvnet(path: Path) -> Network:
    """The network in a .mat file of MatConvNet, with its preprocessing and class names.

    Raises InputError where the file is not a whole SimpleNN network, or has a layer that npconvnet has not.
    """
    variables = read_mat(path, _VARIABLES)
    try:
        net = _fields(variables["net"], "net") if "net" in variables else variables
        return _network(net)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error


def _network(net: Fields) -> Network:
    if "layers" not in net:
        raise ValueError("a .mat file, but not of MatConvNet: it has no 'layers'")
    meta = {**_fields(net["meta"], "meta")} if "meta" in net else {}
    meta |= {name: net[name] for name in ("normalization", "classes") if name in net}
    if "normalization" not in meta:
        raise ValueError("it does not say how pictures are prepared: there is no 'normalization'")
    preprocessing = _preprocessing(_fields(meta["normalization"], "normalization"))

    rows: list[PlainRow] = []
    parameters: dict[str, Matrix] = {}
    shape: Shape = (preprocessing.crop, preprocessing.crop, 3)
    above = INPUT
    for name, layer in _named_layers(net["layers"]):
        try:
            translated = _translate(layer, shape)
            if translated.kind.endswith("2d") and len(shape) != 3:
                raise ValueError("its input is a vector, no longer an image")
            shape = LAYERS[translated.kind](**translated.arguments).output_shape(shape)
        except ValueError as error:
            raise ValueError(f"layer '{name}': {error}") from None
        rows.append((name, translated.kind, translated.arguments, (above,)))
        parameters |= {f"{name}.{key}": value for key, value in translated.parameters.items()}
        above = name
    return assemble(rows, parameters, preprocessing, _synsets(meta.get("classes")))


# -- layers -----------------------------------------------------------------------------------------------------------


def _named_layers(layers: Matrix) -> Iterator[tuple[str, Fields]]:
    """The layers up to the class scores, by names that no two share."""
    items = _items(layers)
    if len(items) > MOST_LAYERS:
        raise ValueError(f"{len(items)} layers; {MOST_LAYERS} are the most that are read")
    every = [_fields(item, f"layer {number}") for number, item in enumerate(items, start=1)]
    if any("block" in layer for layer in every):
        raise ValueError("a network of DagNN, which is not read; those of SimpleNN are, such as imagenet-vgg-f.mat")
    if every and _text(every[-1].get("type")) in _AFTER_SCORES:
        del every[-1]
    if not every:
        raise ValueError("the network has no layers")
    taken = {INPUT}
    for number, layer in enumerate(every, start=1):
        name = unique_name(_text(layer.get("name")) or f"layer{number}", taken)
        taken.add(name)
        yield name, layer


def _translate(layer: Fields, shape: Shape) -> Translated:
    kind = _text(layer.get("type"))
    if kind in _AFTER_SCORES:
        raise ValueError(f"a '{kind}' that is not the last layer")
    if kind not in _TRANSLATIONS:
        raise ValueError(f"npconvnet has no layer of type '{kind}'; it reads {', '.join(_TRANSLATIONS)}")
    return _TRANSLATIONS[kind](layer, shape)


def _conv(layer: Fields, shape: Shape) -> Translated:
    """A convolution, or a fully connected layer where the window covers all of the input."""
    filters, bias = _weights(layer)
    height, width, depth, count = filters.shape
    *size, channels = shape if len(shape) == 3 else (1, 1, *shape)
    stride, padding = _stride(layer), _padding(layer)
    if any(_integers(layer, "dilate", 1) != 1):
        raise ValueError("dilated convolutions are not read")
    if channels % depth or count % (channels // depth):
        raise ValueError(f"{count} filters that take {depth} channels do not fit an input of {channels} channels")
    groups = channels // depth
    weight = filters.transpose(3, 0, 1, 2)
    if [height, width] == size and not any(padding) and groups == 1:
        parameters = {"weight": weight.reshape(count, -1), "bias": bias}
        return Translated("Linear", {"in_features": height * width * depth, "out_features": count}, parameters)
    arguments = {"in_channels": channels, "filters": count, "window": (height, width), "groups": groups}
    return Translated("Conv2d", {**arguments, "stride": stride, "padding": padding}, {"weight": weight, "bias": bias})


def _relu(layer: Fields, _: Shape) -> Translated:
    if _numbers(layer, "leak", 0).any():
        raise ValueError("leaky ReLUs are not read")
    return Translated("ReLU")


def _lrn(layer: Fields, _: Shape) -> Translated:
    param = _numbers(layer, "param", 5, 1, 0.0001 / 5, 0.75)
    if len(param) != 4 or not 1 <= param[0] <= MOST_PIXELS or param[0] % 1:
        raise ValueError(f"'param' is {param.tolist()}, and not [N κ α β]")
    size, k, alpha, beta = param.tolist()
    return Translated("LRN", {"size": int(size), "alpha_per_element": alpha, "beta": beta, "k": k})


def _pool(layer: Fields, _: Shape) -> Translated:
    method = _text(layer.get("method")) or "max"
    window = _integers(layer, "pool").tolist()
    if len(window) not in (1, 2):
        raise ValueError(f"a window of {window} is neither [height width] nor one number for both")
    arguments = {"window": (window[0], window[-1]), "stride": _stride(layer), "padding": _padding(layer)}
    if method == "max":
        return Translated("MaxPool2d", arguments)
    if method == "avg":
        return Translated("AveragePool2d", {**arguments, "count_padding": False})
    raise ValueError(f"pooling by '{method}' is not read; 'max' and 'avg' are")


def _dropout(layer: Fields, _: Shape) -> Translated:
    rate = _numbers(layer, "rate", 0.5)
    if len(rate) != 1 or not 0 <= rate[0] < 1:
        raise ValueError(f"a dropout rate of {rate.tolist()} is impossible")
    return Translated("Dropout", {"rate": float(rate[0])})


_TRANSLATIONS: dict[str, Callable[[Fields, Shape], Translated]] = {
    "conv": _conv,
    "relu": _relu,
    "lrn": _lrn,
    "normalize": _lrn,
    "pool": _pool,
    "dropout": _dropout,
}


def _weights(layer: Fields) -> tuple[Matrix, Matrix]:
    """(filters (H, W, C, N), biases (N,)) of a convolution; those that are left out are zeros."""
    filters: Matrix | None
    bias: Matrix | None
    if "weights" in layer:
        filters, bias, *_ = [*_items(layer["weights"]), None, None]
    else:
        filters, bias = layer.get("filters"), layer.get("biases")
    if filters is None or filters.dtype.kind not in "iuf" or filters.ndim > 4 or not filters.size:
        raise ValueError("its filters are not numbers, H × W × C × N")
    filters = filters.reshape((*filters.shape, 1, 1)[:4])  # MATLAB drops ones at the end
    count = filters.shape[3]
    bias = np.zeros(count, np.float32) if bias is None or not bias.size else bias
    if bias.dtype.kind not in "iuf" or bias.size != count:
        raise ValueError(f"its biases are not a number for each of its {count} filters")
    return filters, bias.ravel()


def _stride(layer: Fields) -> int:
    stride: list[int] = _integers(layer, "stride", 1).tolist()
    if len(stride) not in (1, 2) or len(set(stride)) != 1:
        raise ValueError(f"a stride of {stride} is not read; it has to be the same down and across")
    return stride[0]


def _padding(layer: Fields) -> Padding:
    """(top, bottom, left, right) of one number for all, two for down and across, or all four."""
    pad = _integers(layer, "pad", 0).tolist()
    if len(pad) not in (1, 2, 4):
        raise ValueError(f"a padding of {pad} is not [top bottom left right]")
    top, bottom, left, right = np.repeat(pad, 4 // len(pad)).tolist()
    return top, bottom, left, right


# -- preprocessing and class names ------------------------------------------------------------------------------------


def _preprocessing(normalization: Fields) -> Preprocessing:
    """Resize, take the centre, subtract the mean: cnn_imagenet_get_batch of MatConvNet."""
    size = _integers(normalization, "imageSize").tolist()
    if len(size) not in (2, 3, 4) or size[0] != size[1] or size[2:3] not in ([], [3]):
        raise ValueError(f"pictures of 'imageSize' {size} are not read; they have to be square, with three colours")
    crop = size[0]
    return Preprocessing(
        _resize(normalization, crop),
        crop,
        _mean(normalization, crop),
        interpolation=cast(Interpolation, _text(normalization.get("interpolation")) or "bilinear"),
        keep_aspect=bool(_numbers(normalization, "keepAspect", 1).all()),
    )


def _resize(normalization: Fields, crop: int) -> int:
    """The crop is a share of the resized picture; older files say how much wider that is."""
    share = _numbers(normalization, "cropSize")
    if not share.size:
        share = crop / (crop + _integers(normalization, "border", 0))
    if len(share) not in (1, 2) or len(set(share.tolist())) != 1 or not 0.1 <= share[0] <= 1:
        raise ValueError(f"a crop of {share.tolist()} of the picture is not read ('cropSize', or 'border')")
    return round(crop / float(share[0]))


def _mean(normalization: Fields, crop: int) -> Colour | npt.NDArray[np.float32]:
    mean = normalization.get("averageImage")
    if mean is None or not mean.size:
        return 0.0, 0.0, 0.0
    if mean.dtype.kind not in "iuf" or not (np.abs(mean) <= np.finfo(np.float32).max).all():
        raise ValueError("'averageImage' is not an image")
    if not mean.any():  # [0 0] has stood for none
        return 0.0, 0.0, 0.0
    if mean.size == 3:
        r, g, b = mean.ravel().tolist()
        return float(r), float(g), float(b)
    if mean.shape != (crop, crop, 3):
        raise ValueError(f"'averageImage' is {mean.shape}, and the pictures are {crop} × {crop} × 3")
    return np.ascontiguousarray(mean, np.float32)


def _synsets(classes: Matrix | None) -> list[Synset] | None:
    if classes is None or not classes.size:
        return None
    fields = _fields(classes, "classes")
    wnids, names = ([_text(item) for item in _items(fields.get(key))] for key in ("name", "description"))
    if len(names) != len(wnids):
        names = wnids
    return [Synset(*pair) for pair in zip(wnids, names, strict=True)] or None


# -- MATLAB's values, which are all matrices --------------------------------------------------------------------------


def _items(value: Matrix | None) -> list[Matrix]:
    """What is in a cell array, or the structs or texts of an array, in MATLAB's order."""
    if value is None or not value.size:
        return []
    if value.dtype.kind not in "OVU":
        raise ValueError("numbers stand where a cell array is expected")
    flat = value.ravel(order="F")
    return list(flat) if value.dtype.kind == "O" else [flat[n : n + 1] for n in range(len(flat))]


def _fields(value: Matrix | None, what: str) -> Fields:
    """The fields of a single struct, which may stand in cells of one."""
    while value is not None and value.dtype.kind == "O" and value.size == 1:
        value = value.item()
    if value is None:  # SciPy's struct without fields
        return {}
    if value.dtype.names is None or value.size != 1:
        raise ValueError(f"'{what}' is not a struct")
    record = value.item()
    return dict(zip(value.dtype.names, record, strict=True))


def _text(value: Matrix | None) -> str:
    """A text in one line; empty for anything else."""
    if value is None or value.dtype.kind != "U" or value.size != 1:
        return ""
    return "".join(c if c.isprintable() else " " for c in value.item()[:1000]).strip()


def _numbers(fields: Fields, name: str, *default: float) -> npt.NDArray[np.float64]:
    """A few numbers in a row; `default` where there are none."""
    value = fields.get(name)
    if value is None or not value.size:
        return np.array(default, np.float64)
    if value.dtype.kind not in "iuf" or value.size > 10 or not np.isfinite(value).all():
        raise ValueError(f"'{name}' is not a few numbers")
    return value.ravel().astype(np.float64)


def _integers(fields: Fields, name: str, *default: int) -> npt.NDArray[np.int64]:
    """The same, in pixels."""
    numbers = _numbers(fields, name, *default)
    if (numbers % 1).any() or (numbers < 0).any() or (numbers > MOST_PIXELS).any():
        raise ValueError(f"'{name}' is {numbers.tolist()}, and not numbers of pixels up to {MOST_PIXELS}")
    return numbers.astype(np.int64)

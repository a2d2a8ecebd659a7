"""State dicts of torchvision's AlexNet, VGG and SqueezeNet, in and out; timm's copies of VGG in.

PyTorch's filters are OIHW, and its fully connected layers read an image channel by channel. A layer is named after its
place in one of two lists, the features and the classifier, and the tables of models/ follow the same order.
"""

from __future__ import annotations

import json
import mmap
from collections import OrderedDict
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from npconvnet.backend import to_host
from npconvnet.errors import InputError
from npconvnet.layers import Dropout, Linear, Shape
from npconvnet.models import MODELS
from npconvnet.models.vgg import CONVOLUTIONS
from npconvnet.network import INPUT, Network
from npconvnet.outputs import write_whole
from npconvnet.weights.conventions import (
    chw_to_hwc,
    hwc_to_chw,
    ohwi_to_oihw,
    oihw_to_ohwi,
    torchvision_preprocessing,
)
from npconvnet.weights.metadata import from_metadata, to_metadata
from npconvnet.weights.torchvision.torch_file import BFLOAT16, Tensors, as_float32, read_torch_file

_SQUEEZENET = ("conv1", *(f"fire{n}.{part}" for n in range(2, 10) for part in ("squeeze1x1", "expand1x1")))
#: The networks that are read, and the layers whose numbers of filters are their `widths`.
_WIDTHS = {
    "alexnet_owt": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    **{model: tuple(f"conv{block}_1" for block in range(1, 6)) for model in CONVOLUTIONS},
    "squeezenet1_0": _SQUEEZENET,
    "squeezenet1_1": _SQUEEZENET,
    "squeezenet": _SQUEEZENET,
}
#: What torchvision calls those that it calls otherwise, or has under another number of pixels.
_TORCHVISION = {"alexnet_owt": "alexnet", "squeezenet": "squeezenet1_1"}
#: The longest header of a .safetensors file, in bytes: most of it would be a mean image.
LONGEST_HEADER = 1 << 22
#: timm makes convolutions of VGG's fully connected layers.
_TIMM = {"pre_logits.fc1": "classifier.0", "pre_logits.fc2": "classifier.3", "head.fc": "classifier.6"}


def read_torchvision(path: Path) -> Network:
    """The network whose state dict is in `path`: a .pth of any age, or .safetensors; for 224×224 RGB unless that says.

    AlexNet, VGG without batch normalisation, and SqueezeNet, with torchvision's names or, for VGG, timm's; layers may
    be narrower or wider. Raises InputError for anything else, with what was found.
    """
    tensors, metadata = _read_safetensors(path) if _is_safetensors(path) else (read_torch_file(path), {})
    try:
        tensors, described = _with_torchvision_names(tensors), from_metadata(metadata)
        model = _recognise(tensors)
        if described and described.model in _WIDTHS and _names_of(described.model) == _names_of(model):
            model = described.model  # there are two SqueezeNets 1.1
        network = MODELS[model](**_options(model, tensors))
        network.load(_from_torch(network, tensors))
        network.preprocessing = described.preprocessing if described else torchvision_preprocessing()
        if network.preprocessing.crop != network.shapes[INPUT][0]:
            raise ValueError(f"its metadata say {network.preprocessing.crop} pixels, for {network.shapes[INPUT][0]}")
        if described and len(described.synsets) != len(network.synsets):
            raise ValueError(f"{len(described.synsets)} class names for {len(network.synsets)} classes")
        network.synsets = described.synsets if described else network.synsets
    except MemoryError as error:
        raise InputError(f"{path}: its network does not fit into memory ({error})") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return network


def write_torchvision(path: Path, network: Network) -> None:
    """Writes the parameters so that `load_state_dict` of torchvision's network takes them, with `strict=True`.

    As .safetensors where `path` ends so, with preprocessing and class names in the metadata; otherwise by torch.save,
    which has no place for them. The `squeezenet` that reads 227 pixels rounds its pools down there, torchvision up;
    they agree on 224 pixels. Raises InputError for other architectures, where PyTorch is not installed, and where
    `path` cannot be written.
    """
    if network.model not in _WIDTHS:
        can = ", ".join(_WIDTHS)
        raise InputError(f"{path}: torchvision has no '{network.name}'; these can be written: {can}")
    tensors = _to_torch(network)
    if path.suffix == ".safetensors":
        write_whole(path, save(tensors, {"format": "pt", **to_metadata(network)}))
    else:
        write_whole(path, _torch_save(path, tensors))


# -- files -----------------------------------------------------------------------------------------------------------


def _is_safetensors(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


#: Those that weights can have; little-endian, like the files.
_FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
}


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """All that are floating point numbers, as they are there, in the memory of the file itself; and the metadata.

    The library reads no bfloat16 into NumPy, so it checks the header here, and the numbers are taken by that.
    """
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        start = 8 + int.from_bytes(data[:8], "little")
        if start > LONGEST_HEADER:
            raise ValueError(f"its header has {start} bytes, where those of these networks have a few thousand")
        with safe_open(path, framework="numpy"):
            pass
        header = json.loads(bytes(data[8:start]))
        metadata = header.pop("__metadata__", {})
        tensors = {
            name: np.frombuffer(data[start:][slice(*entry["data_offsets"])], dtype).reshape(entry["shape"])
            for name, entry in header.items()
            if (dtype := _FLOATS.get(entry["dtype"]))
        }
        return tensors, metadata
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged, cut off, or not a safetensors file ({error})") from error


def _torch_save(path: Path, tensors: Tensors) -> memoryview:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"{path}: needs PyTorch; pip install torch, or choose a name in .safetensors") from error
    file = BytesIO()
    torch.save(OrderedDict((name, torch.from_numpy(tensor)) for name, tensor in tensors.items()), file)
    return file.getbuffer()


# -- names -----------------------------------------------------------------------------------------------------------


def _torchvision_names(network: Network) -> dict[str, str]:
    """What torchvision calls each parameter, by its name here.

    A layer is called after its place in its list; a fire module, and all that is in it, has one place.
    """
    layers = {node.name: node.layer for node in network.nodes}
    modules = list(dict.fromkeys(name.partition(".")[0] for name in layers))
    features = next(place for place, name in enumerate(modules) if isinstance(layers[name], Dropout | Linear))
    places = {name: f"features.{place}" for place, name in enumerate(modules[:features])}
    places |= {name: f"classifier.{place}" for place, name in enumerate(modules[features:])}
    names = {}
    for name in network.parameters:
        module, dot, rest = name.partition(".")
        names[name] = f"{places[module]}{dot}{rest.replace('squeeze1x1', 'squeeze')}"
    return names


def _with_torchvision_names(tensors: Tensors) -> Tensors:
    if all(name.startswith("module.") for name in tensors):  # torch.nn.DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    renamed = {}
    for name, tensor in tensors.items():
        layer, dot, parameter = name.rpartition(".")
        flat = tensor.reshape(len(tensor), -1) if layer in _TIMM and tensor.ndim == 4 and tensor.size else tensor
        renamed[f"{_TIMM.get(layer, layer)}{dot}{parameter}"] = flat
    return renamed


@cache
def _names_of(model: str) -> dict[str, str]:
    return _torchvision_names(MODELS[model](classes=1, widths=[1] * len(_WIDTHS[model])))


def _recognise(tensors: Tensors) -> str:
    """The model whose parameters these are; raises ValueError, with what they are, where there is none."""
    found = tensors.keys()
    for name in found:
        if name.endswith("running_mean"):
            raise ValueError(f"has batch normalisation ({name!r:.80}), which npconvnet does not have")
    expected = {model: set(_names_of(model).values()) for model in _WIDTHS}
    nearest = max(expected, key=lambda model: len(expected[model] & found) - len(expected[model] - found))
    differences = [("without", expected[nearest] - found), ("with", found - expected[nearest])]
    listed = [f"{word} {min(names)!r:.80} ({len(names)} in all)" for word, names in differences if names]
    if listed:
        known = dict.fromkeys(_TORCHVISION.get(model, model) for model in _WIDTHS)
        near = f"the nearest is {_TORCHVISION.get(nearest, nearest)}, {' and '.join(listed)}"
        raise ValueError(f"is none of torchvision's networks that can be read, {', '.join(known)}; {near}")
    return nearest


# -- parameters ------------------------------------------------------------------------------------------------------


def _options(model: str, tensors: Tensors) -> dict[str, Any]:
    """What makes `model` again in the widths of `tensors`; raises ValueError where one of these is empty."""
    filters = {}
    for name, theirs in _names_of(model).items():
        if not tensors[theirs].ndim or not tensors[theirs].size:
            raise ValueError(f"{theirs} is {tensors[theirs].shape}, which is no layer")
        filters[name] = len(tensors[theirs])
    options = {"classes": list(filters.values())[-1], "widths": [filters[f"{name}.weight"] for name in _WIDTHS[model]]}
    return options | ({"hidden": filters["fc6.weight"]} if "fc6.weight" in filters else {})


def _from_torch(network: Network, tensors: Tensors) -> Tensors:
    """The parameters of `network`; raises ValueError where a tensor has another shape, or holds whole numbers."""
    names, parameters = _torchvision_names(network), {}
    for name, x_shape in _what_they_read(network).items():
        tensor, own = tensors[names[name]], network.parameters[name].shape
        expected = tuple(own[axis] for axis in (0, 3, 1, 2)) if len(own) == 4 else own
        if tensor.shape != expected:
            raise ValueError(f"{names[name]} is {tensor.shape}, and should be {expected} to fit the layers around it")
        if tensor.dtype not in _FLOATS.values():
            raise ValueError(f"{names[name]} holds {tensor.dtype} numbers, and weights are floating point numbers")
        parameters[name] = _channels_last(as_float32(tensor), x_shape)
    return parameters


def _to_torch(network: Network) -> Tensors:
    """The parameters of `network` as its state dict has them."""
    names = _torchvision_names(network)
    return {
        names[name]: _channels_first(to_host(network.parameters[name]).astype(np.float32), x_shape)
        for name, x_shape in _what_they_read(network).items()
    }


def _what_they_read(network: Network) -> dict[str, Shape]:
    """For each parameter, the shape of the activation that its layer reads."""
    return {
        f"{node.name}.{key}": network.shapes[node.inputs[0]] for node in network.nodes for key in node.layer.parameters
    }


def _channels_last(tensor: npt.NDArray[Any], x_shape: Shape) -> npt.NDArray[Any]:
    if tensor.ndim == 4:
        return oihw_to_ohwi(tensor)
    return chw_to_hwc(tensor, x_shape) if tensor.ndim == 2 and len(x_shape) == 3 else tensor


def _channels_first(tensor: npt.NDArray[Any], x_shape: Shape) -> npt.NDArray[Any]:
    if tensor.ndim == 4:
        return ohwi_to_oihw(tensor)
    return hwc_to_chw(tensor, x_shape) if tensor.ndim == 2 and len(x_shape) == 3 else tensor

"""ONNX out: the network as a graph that other runtimes compute, with all that belongs to it in the metadata.

Images (N, 3, S, S) go in as "image", class scores (N, classes) come out as "scores"; filters are turned to OIHW, and
what reads an image as one vector is turned from (H, W, C) to (C, H, W). The preprocessing is not in the graph: it is
in the metadata (see metadata.py), with the names of the classes, and `doc_string` says it in words.

Source: the operators of ONNX, opset 13 (https://github.com/onnx/onnx/blob/main/docs/Operators.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from npconvnet.backend import to_host
from npconvnet.errors import InputError
from npconvnet.kernels.shapes import NO_PADDING, Padding, Windows, place_windows
from npconvnet.layers import (
    LRN,
    Add,
    AveragePool2d,
    Concatenate,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAveragePool2d,
    Linear,
    MaxPool2d,
    ReLU,
    Shape,
)
from npconvnet.network import INPUT, Network, Node
from npconvnet.outputs import write_whole
from npconvnet.weights.conventions import hwc_to_chw, in_words, ohwi_to_oihw
from npconvnet.weights.imported import unique_name
from npconvnet.weights.metadata import to_metadata

#: What onnxruntime has read since its version 1.6 (2020).
OPSET, IR_VERSION = 13, 7
#: A protobuf ends at 2 GiB; the last 16 MiB are kept for all that is not parameters.
MOST_BYTES = (1 << 31) - (1 << 24)


def write_onnx(path: Path, network: Network, dynamic_batch: bool = False) -> None:
    """Writes `network` to `path`, atomically, for one image at a time or, with `dynamic_batch`, for any number.

    Raises InputError where the file can't be written, or would be larger than the 2 GiB that the format allows.
    """
    size = 4 * sum(parameter.size for parameter in network.parameters.values())
    if size > MOST_BYTES:
        raise InputError(f"{path}: {size / 2**30:.1f} GiB of parameters, and an .onnx file holds less than 2 GiB")
    write_whole(path, onnx_model(network, dynamic_batch).SerializeToString())


def onnx_model(network: Network, dynamic_batch: bool = False) -> onnx.ModelProto:
    """What `write_onnx` writes."""
    model = onnx.ModelProto(
        ir_version=IR_VERSION,
        opset_import=[helper.make_opsetid("", OPSET)],
        producer_name="npconvnet",
        doc_string=f"Input: {in_words(network.preprocessing)}. The metadata hold this as JSON, and the class names.",
    )
    helper.set_model_props(model, to_metadata(network))
    batch, crop = "N" if dynamic_batch else 1, network.preprocessing.crop
    model.graph.name = network.name
    model.graph.input.append(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 3, crop, crop]))
    classes = len(network.synsets)
    model.graph.output.append(helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [batch, classes]))
    graph = _Graph(model.graph)
    values = {INPUT: "image"}
    for node in network.nodes:
        values[node.name] = "scores" if node.name == network.last else graph.free_name(node.name)
        x_shape = network.shapes[node.inputs[0]]
        _add_layer(graph, node, x_shape, [values[name] for name in node.inputs], values[node.name])
    return model


class _Graph:
    """Adds to a graph, and knows the names that are taken: in ONNX all values share one space."""

    def __init__(self, proto: onnx.GraphProto) -> None:
        self._proto = proto
        self._taken = {value.name for value in (*proto.input, *proto.output)}

    def free_name(self, wish: str) -> str:
        """`wish`, or something like it where that is taken."""
        name = unique_name(wish, self._taken)
        self._taken.add(name)
        return name

    def constant(self, wish: str, value: npt.NDArray[Any]) -> str:
        """The name of a new constant."""
        name = self.free_name(wish)
        self._proto.initializer.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, name: str, **attributes: Any) -> str:
        """Adds a node that makes `output`, and returns that."""
        self._proto.node.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output


def _add_layer(graph: _Graph, node: Node, x_shape: Shape, xs: Sequence[str], y: str) -> None:
    """Adds what makes `y` of `xs`, the first of which has `x_shape`, as `node` does."""
    layer, name = node.layer, node.name
    parameters = {key: to_host(value).astype(np.float32, copy=False) for key, value in layer.parameters.items()}

    def constant(part: str, value: npt.NDArray[Any]) -> str:
        return graph.constant(f"{name}.{part}", value)

    def first(operator: str, *inputs: str, **attributes: Any) -> str:
        made = graph.free_name(f"{name}.{operator.lower()}")
        return graph.node(operator, inputs, made, made, **attributes)

    def last(operator: str, *inputs: str, **attributes: Any) -> None:
        graph.node(operator, inputs, y, name, **attributes)

    match layer:
        case Conv2d():
            filters = constant("weight", ohwi_to_oihw(parameters["weight"]))
            windows = _windows(layer, _placed(layer, x_shape).padding_and_overhang)
            last("Conv", *xs, filters, constant("bias", parameters["bias"]), group=layer.groups, **windows)
        case Linear():
            weight = parameters["weight"]
            if len(x_shape) == 3:
                weight, xs = hwc_to_chw(weight, x_shape), [first("Flatten", *xs)]
            last("Gemm", *xs, constant("weight", weight), constant("bias", parameters["bias"]), transB=1)
        case ReLU():
            last("Relu", *xs)
        case MaxPool2d():
            last("MaxPool", *xs, **_windows(layer, _placed(layer, x_shape).padding_and_overhang))
        case AveragePool2d():
            placed = _placed(layer, x_shape)
            around, counted = placed.padding_and_overhang, layer.padding if layer.count_padding else NO_PADDING
            if any(counted) and any(placed.overhang):
                # ONNX counts all of its padding or none: what counts becomes part of the image.
                xs = [first("Pad", *xs, constant("pads", np.array([0, 0, *_begins(counted), 0, 0, *_ends(counted)])))]
                around, counted = (0, placed.overhang[0], 0, placed.overhang[1]), NO_PADDING
            last("AveragePool", *xs, count_include_pad=int(any(counted)), **_windows(layer, around))
        case Flatten():
            last("Flatten", *xs)
        case GlobalAveragePool2d():
            last("Flatten", first("GlobalAveragePool", *xs))
        case LRN():
            # ONNX divides alpha by the size of the window.
            alpha = layer.size * layer.alpha_per_element
            last("LRN", *xs, size=layer.size, alpha=alpha, beta=layer.beta, bias=layer.k)
        case Dropout():
            # A runtime lets everything through; who trains on finds the rate.
            last("Dropout", *xs, constant("rate", np.array(layer.rate, np.float32)))
        case Concatenate():
            last("Concat", *xs, axis=1)
        case Add():
            last("Sum", *xs)
        case _:
            raise ValueError(f"'{name}': ONNX has nothing like {type(layer).__name__}")


def _placed(layer: Conv2d | MaxPool2d | AveragePool2d, x_shape: Shape) -> Windows:
    size = (x_shape[0], x_shape[1])
    return place_windows(size, layer.window, layer.stride, layer.padding, layer.rounding)


def _windows(layer: Conv2d | MaxPool2d | AveragePool2d, around: Padding) -> dict[str, Any]:
    """Rounding up is written as padding at the end, which all versions of ONNX and all runtimes agree on."""
    strides = [layer.stride, layer.stride]
    return {"kernel_shape": layer.window, "strides": strides, "pads": [*_begins(around), *_ends(around)]}


def _begins(padding: Padding) -> tuple[int, int]:
    top, _, left, _ = padding
    return top, left


def _ends(padding: Padding) -> tuple[int, int]:
    _, bottom, _, right = padding
    return bottom, right

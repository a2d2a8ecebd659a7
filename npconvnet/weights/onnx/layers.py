"""An ONNX graph as rows of models/graph.py and their parameters: each operator in a function of its own.

Images are (N, C, H, W) there and (N, H, W, C) here, filters OIHW there and OHWI here. Where a graph flattens an image,
Flatten numbers it channel by channel here too, and the weights behind it stay as they are. The mean over all pixels is
(N, C, 1, 1) there and (N, C) here, unless it is read as an image: so the shapes of ONNX are kept beside those of the
rows.

Source: https://github.com/onnx/onnx/blob/main/docs/Operators.md, and Changelog.md for the older forms.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from npconvnet.errors import InputError
from npconvnet.kernels.shapes import NO_PADDING, Padding, Rounding, place_windows
from npconvnet.layers import Shape
from npconvnet.models.graph import MOST_ROWS, PlainRow, make_layer
from npconvnet.weights.conventions import Tensor, oihw_to_ohwi
from npconvnet.weights.imported import unique_name
from npconvnet.weights.onnx.tensors import MOST_DIMENSIONS, Tensors, quoted, type_name

D = TypeVar("D", int, float, bytes, list[int])

_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)

#: The output of the graph, among the operators that read a value.
_OUTPUT = ""


class Activation(NamedTuple):
    """A value that depends on what is fed to the graph: the row that makes it, and its `shape` in ONNX, with N.

    A Pad makes no row: its `padding` is in the shape, and not yet around the image that the row makes.
    """

    row: str
    shape: tuple[int, ...]
    padding: Padding = NO_PADDING


#: What a name in the graph stands for; an array is a constant.
Value: TypeAlias = Activation | Tensor


def fed_inputs(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    """The shapes of what has to be fed to `graph`, by name; None where any size is taken.

    Raises InputError for inputs that are no tensors of floating-point numbers, or whose rank is not known.
    """
    filled = {tensor.name for tensor in graph.initializer}
    fed: dict[str, tuple[int | None, ...]] = {}
    for value in graph.input:
        if value.name in filled:
            continue
        tensor, label = value.type.tensor_type, f"input {quoted(value.name)}"
        if tensor.elem_type not in _FLOATS:
            raise InputError(f"{label} is of type {type_name(tensor.elem_type)}; only floating-point is supported")
        if not tensor.HasField("shape"):
            raise InputError(f"{label} has no shape")
        fed[value.name] = tuple(size.dim_value if size.dim_value > 0 else None for size in tensor.shape.dim)
    return fed


def translate(graph: onnx.GraphProto, opset: int, inputs: Mapping[str, Activation], folder: Path) -> Translation:
    """The rows that compute the outputs of `graph`, in version `opset` of the operators, from `inputs`, by their names.

    Constants that lie in other files are looked for in `folder`. Raises InputError, naming the node, for whatever the
    layers here don't compute.
    """
    translation = Translation(graph, opset, inputs, folder)
    nodes = _needed(graph)
    if len(nodes) > MOST_ROWS:
        raise InputError(f"the graph has {len(nodes)} nodes; {MOST_ROWS} are supported at most")
    for node in nodes:
        for name in node.input:
            translation.readers[name].append(node.op_type)
    for row, proto in zip(_row_names(nodes, translation.shapes), nodes, strict=True):
        translation.add_node(_Node(proto, row, translation))
    return translation


class Translation:
    """What `translate` makes: `rows` and `parameters` as in `graph`, the `shapes` of the rows, and the `outputs`."""

    def __init__(self, graph: onnx.GraphProto, opset: int, inputs: Mapping[str, Activation], folder: Path) -> None:
        self.opset = opset
        self.rows: list[PlainRow] = []
        self.parameters: dict[str, Tensor] = {}
        self.shapes: dict[str, Shape] = {x.row: (*x.shape[2:], *x.shape[1:2]) for x in inputs.values()}
        self.output_names = [output.name for output in graph.output]
        #: The operators that read a value.
        self.readers = defaultdict[str, list[str]](list, {name: [_OUTPUT] for name in self.output_names})
        #: The operator that made a value.
        self.makers: dict[str, str] = {}
        self._values: dict[str, Value] = dict(inputs)
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._tensors = Tensors(folder)
        # Where many nodes share a constant, the parameters could outgrow the file without bounds.
        self._room = graph.ByteSize()

    @property
    def outputs(self) -> dict[str, Value]:
        """The outputs of the graph, by their names there."""
        return {name: self.value(name, "the output of the graph") for name in self.output_names}

    def value(self, name: str, reader: str) -> Value:
        """What `name` stands for; raises InputError where it is not known yet."""
        if name not in self._values:
            if name not in self._constants:
                raise InputError(f"{reader} is {quoted(name)}, which nothing before it makes")
            self._values[name] = self.constant(self._constants[name])
        return self._values[name]

    def constant(self, tensor: onnx.TensorProto) -> Tensor:
        """The array of `tensor`."""
        array = self._tensors.read(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            self._room += array.nbytes
        return array

    def add_node(self, node: _Node) -> None:
        """Adds what `node` computes."""
        proto, operator = node.proto, _OPERATORS.get(node.proto.op_type)
        if operator is None or proto.domain not in ("", "ai.onnx"):
            domain = "" if proto.domain in ("", "ai.onnx") else f" of {quoted(proto.domain)}"
            raise node.refuse(f"the operator{domain} is not supported")
        if unknown := sorted(node.attributes.keys() - operator.attributes - {"consumed_inputs"}):
            raise node.refuse(f"the attribute {quoted(unknown[0])} is not supported")
        if len(proto.input) not in operator.inputs:
            raise node.refuse(f"it has {len(proto.input)} inputs")
        for name in proto.output[1:]:
            if self.readers[name]:
                raise node.refuse(f"its output {quoted(name)} is not supported")
        with np.errstate(over="ignore", invalid="ignore"):  # numbers beyond float32 become infinite, as in a runtime
            self._values[proto.output[0]] = operator.translate(self, node)
        self.makers[proto.output[0]] = proto.op_type

    def add(
        self,
        node: _Node,
        kind: str,
        arguments: Mapping[str, Any],
        xs: Sequence[Activation],
        shape: tuple[int, ...] | None = None,
        **parameters: Tensor,
    ) -> Activation:
        """Adds the row of `node`. Its `shape` in ONNX is that of the row with the channels first, unless given."""
        try:
            own_shape = make_layer(kind, arguments).output_shape(*(self.shapes[x.row] for x in xs))
        except ValueError as error:
            raise node.refuse(str(error)) from None
        self._room -= sum(parameter.size for parameter in parameters.values())
        if self._room < 0:
            raise node.refuse("its parameters have been used too often; the file holds fewer than the network would")
        self.rows.append([node.row, kind, dict(arguments), [x.row for x in xs]])
        self.parameters |= {f"{node.row}.{key}": np.asarray(value, np.float32) for key, value in parameters.items()}
        self.shapes[node.row] = own_shape
        return Activation(node.row, shape or (xs[0].shape[0], *own_shape[-1:], *own_shape[:-1]))


class _Node:
    """A node of the graph, with the `row` that it makes: its inputs and attributes, and how it is refused."""

    def __init__(self, proto: onnx.NodeProto, row: str, translation: Translation) -> None:
        self.proto, self.row, self._translation = proto, row, translation
        self.attributes = {attribute.name: attribute for attribute in proto.attribute}
        self._label = f"node {quoted(proto.name or proto.output[0])} ({proto.op_type:.40})"

    def refuse(self, why: str) -> InputError:
        """The exception to raise."""
        return InputError(f"{self._label}: {why}")

    def has(self, number: int) -> bool:
        """Whether the input of this `number` is given; those that are not may be left out at the end, or be empty."""
        return number < len(self.proto.input) and self.proto.input[number] != ""

    def value(self, number: int) -> Value:
        """The input of this `number`."""
        if not self.has(number):
            raise self.refuse(f"it lacks input {number}")
        return self._translation.value(self.proto.input[number], f"{self._label}: input {number}")

    def activation(self, number: int = 0, rank: int | None = None) -> Activation:
        """An input that depends on what is fed to the graph; of `rank`, the batch included."""
        x = self.value(number)
        if not isinstance(x, Activation):
            raise self.refuse(f"its input {quoted(self.proto.input[number])} is a constant")
        if rank is not None and len(x.shape) != rank:
            raise self.refuse(f"it reads {x.shape}, and only {rank} dimensions are supported")
        return x

    def constant(self, number: int, floats: bool = True) -> Tensor:
        """An input that is a constant, of floating-point numbers (in float32) or of others."""
        array = self.value(number)
        if isinstance(array, Activation):
            raise self.refuse(f"its input {quoted(self.proto.input[number])} has to be a constant, and is computed")
        if floats and array.dtype.kind in "biu":
            raise self.refuse(f"its input {quoted(self.proto.input[number])} is {array.dtype}, not floating-point")
        return array.astype(np.float32, copy=False) if floats else array

    def whole_numbers(self, name: str, number: int, count: int) -> list[int]:
        """`count` constants: the attribute `name` in older versions, the input of this `number` in newer ones."""
        if name in self.attributes:
            return self.get(name, [0] * count)
        array = self.constant(number, floats=False)
        if array.shape != (count,) or array.dtype.kind != "i":
            raise self.refuse(f"for its {name}, only {count} integers are supported, not {array.dtype} {array.shape}")
        return [int(value) for value in array]

    def get(self, name: str, default: D) -> D:
        """The attribute `name`, of the type of `default`."""
        attribute = self.attributes.get(name)
        if attribute is None:
            return default
        expected, field = _ATTRIBUTES[type(default)]
        if attribute.type != expected or attribute.ref_attr_name:
            raise self.refuse(f"its attribute {name} is not of the type {AttributeProto.AttributeType.Name(expected)}")
        value = getattr(attribute, field)
        if not isinstance(default, list):
            return value  # type: ignore[no-any-return]
        if len(value) != len(default):
            raise self.refuse(f"its attribute {name} has {len(value)} numbers, and only {len(default)} are supported")
        return list(value)

    def require(self, name: str, value: D) -> None:
        """Refuses the node unless its attribute `name` has this `value`, which is also the default."""
        if (given := self.get(name, value)) != value:
            raise self.refuse(f"its attribute {name} is {given!r}, and only {value!r} is supported")


_ATTRIBUTES: dict[type, tuple[Any, str]] = {
    int: (AttributeProto.INT, "i"),
    float: (AttributeProto.FLOAT, "f"),
    bytes: (AttributeProto.STRING, "s"),
    list: (AttributeProto.INTS, "ints"),
}

# -- the graph -------------------------------------------------------------------------------------------------------


def _needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in the order of the graph; raises InputError where a name is made twice."""
    constants = {tensor.name for tensor in graph.initializer}
    if len(constants) < len(graph.initializer):
        raise InputError("two initializers of the graph have the same name")
    made = constants | {value.name for value in graph.input}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in made:
                raise InputError(f"two things in the graph are called {quoted(name)}")
            made.add(name)
    wanted = {output.name for output in graph.output}
    needed = []
    for node in reversed(graph.node):
        if any(name in wanted for name in node.output):
            wanted.update(filter(None, node.input))
            needed.append(node)
    return needed[::-1]


def _row_names(nodes: Sequence[onnx.NodeProto], taken: Collection[str]) -> list[str]:
    """Rows are called what their nodes are, if all of those have names of their own; otherwise what they make."""
    names = [node.name for node in nodes]
    if len(set(names) - {""}) < len(nodes):
        names = [node.output[0] for node in nodes]
    return [unique_name(name, {*taken, *names}) if name in taken else name for name in names]


# -- windows ---------------------------------------------------------------------------------------------------------


def _conv(translation: Translation, node: _Node) -> Activation:
    x, filters = node.activation(rank=4), node.constant(1)
    if filters.ndim != 4:
        raise node.refuse(f"its filters are {filters.shape}, and only four dimensions are supported")
    bias = node.constant(2) if node.has(2) else np.zeros(len(filters))
    if bias.shape != filters.shape[:1]:
        raise node.refuse(f"its bias is {bias.shape}, for {len(filters)} filters")
    window, groups = list(filters.shape[2:]), node.get("group", 1)
    if groups < 1:
        raise node.refuse(f"its attribute group is {groups}")
    node.require("kernel_shape", window)
    arguments = {
        "in_channels": filters.shape[1] * groups,
        "filters": len(filters),
        **_placement(node, x, window),
        "groups": groups,
    }
    return translation.add(node, "Conv2d", arguments, [x], weight=oihw_to_ohwi(filters), bias=bias)


def _max_pool(translation: Translation, node: _Node) -> Activation:
    x = node.activation(rank=4)
    return translation.add(node, "MaxPool2d", _pool_placement(node, x), [x])


def _average_pool(translation: Translation, node: _Node) -> Activation:
    x = node.activation(rank=4)
    arguments = {**_pool_placement(node, x), "count_padding": node.get("count_include_pad", 0) != 0}
    if any(x.padding):
        arguments = _behind_pad(node, x, **arguments)
    return translation.add(node, "AveragePool2d", arguments, [x])


def _pad(translation: Translation, node: _Node) -> Activation:
    """Leaves the padding to the pooling behind it: for an AveragePool, that is padding which counts."""
    x = node.activation(rank=4)
    node.require("mode", b"constant")
    pads = node.whole_numbers("pads", 1, 8)
    _, _, top, left, _, _, bottom, right = pads
    filling = node.constant(2) if node.has(2) else np.array(node.get("value", 0.0))
    if min(pads) < 0 or any(pads[:2] + pads[4:6]) or filling.any():
        raise node.refuse(f"its pads are {pads}; only rows and columns of zeros around an image are supported")
    if translation.readers[node.proto.output[0]] != ["AveragePool"]:
        raise node.refuse("only what one AveragePool alone reads is supported")
    n, c, h, w = x.shape
    return Activation(x.row, (n, c, top + h + bottom, left + w + right), (top, bottom, left, right))


def _behind_pad(
    node: _Node,
    x: Activation,
    window: list[int],
    stride: int,
    padding: Padding,
    rounding: Rounding,
    count_padding: bool,
) -> dict[str, Any]:
    """The arguments of a pooling that is given here, of what a Pad made: that counts, and only overhang may not."""
    (_, _, h, w), (r, s), (top, bottom, left, right) = x.shape, window, x.padding
    roundings: tuple[Rounding, ...] = ("floor", "ceil")
    try:
        uncounted = place_windows((h, w), (r, s), stride, padding, rounding).padding_and_overhang
        for own in roundings:
            size = (h - top - bottom, w - left - right)
            below, beside = place_windows(size, (r, s), stride, x.padding, own).overhang
            if uncounted == (0, below, 0, beside) and not (count_padding and any(padding)):
                return {"window": window, "stride": stride, "padding": list(x.padding), "rounding": own}
    except ValueError as error:
        raise node.refuse(str(error)) from None
    raise node.refuse(f"behind a Pad, its own padding and rounding, {list(uncounted)}, are not supported")


def _pool_placement(node: _Node, x: Activation) -> dict[str, Any]:
    if "kernel_shape" not in node.attributes:
        raise node.refuse("it lacks the attribute kernel_shape")
    up = node.get("ceil_mode", 0) != 0
    if up and node.get("auto_pad", b"NOTSET") == b"VALID":
        raise node.refuse("its attributes ceil_mode and auto_pad VALID contradict each other, and runtimes disagree")
    return {**_placement(node, x, node.get("kernel_shape", [0, 0])), "rounding": "ceil" if up else "floor"}


def _placement(node: _Node, x: Activation, window: list[int]) -> dict[str, Any]:
    """Where the windows lie, as arguments of a layer: `window`, stride and padding."""
    node.require("dilations", [1, 1])
    stride, other = node.get("strides", [1, 1])
    if min(stride, other) < 1:
        raise node.refuse(f"its attribute strides is {[stride, other]}, and has to be positive")
    if stride != other:
        raise node.refuse(f"its attribute strides is {[stride, other]}, and only equal strides are supported")
    top, left, bottom, right = node.get("pads", [0, 0, 0, 0])
    auto_pad = node.get("auto_pad", b"NOTSET")
    if auto_pad == b"VALID":
        top, left, bottom, right = 0, 0, 0, 0
    elif auto_pad in (b"SAME_UPPER", b"SAME_LOWER"):
        (top, bottom), (left, right) = (
            _same(size, extent, stride, more_behind=auto_pad == b"SAME_UPPER")
            for size, extent in zip(x.shape[2:], window, strict=True)
        )
    elif auto_pad != b"NOTSET":
        raise node.refuse(f"its attribute auto_pad is {auto_pad!r:.40}, which is not supported")
    return {"window": window, "stride": stride, "padding": [top, bottom, left, right]}


def _same(size: int, window: int, stride: int, more_behind: bool) -> tuple[int, int]:
    """The padding before and behind `size` pixels that gives size / stride outputs, rounded up."""
    both = max(0, (-(-size // stride) - 1) * stride + window - size)
    less, more = both // 2, both - both // 2
    return (less, more) if more_behind else (more, less)


def _global_average_pool(translation: Translation, node: _Node) -> Activation:
    x = node.activation(rank=4)
    if _VECTOR_READERS.issuperset(translation.readers[node.proto.output[0]]):
        return translation.add(node, "GlobalAveragePool2d", {}, [x], (*x.shape[:2], 1, 1))
    arguments = {"window": list(x.shape[2:]), "stride": 1, "count_padding": False}
    return translation.add(node, "AveragePool2d", arguments, [x])


def _reduce_mean(translation: Translation, node: _Node) -> Activation:
    x, axes = node.activation(rank=4), node.whole_numbers("axes", 1, 2)
    if sorted(axis + 4 if axis < 0 else axis for axis in axes) != [2, 3]:
        raise node.refuse(f"its axes are {axes}, and only [2, 3], all pixels, are supported")
    if node.get("keepdims", 1) == 0:
        return translation.add(node, "GlobalAveragePool2d", {}, [x])
    return _global_average_pool(translation, node)


# -- fully connected layers and sums ---------------------------------------------------------------------------------


def _gemm(translation: Translation, node: _Node) -> Activation:
    x, weight = node.activation(rank=2), node.constant(1)
    node.require("transA", 0)
    if node.get("transB", 0) == 0:
        weight = weight.T
    bias = _times(node.get("beta", 1.0), node.constant(2)) if node.has(2) else np.zeros(())
    return _linear(translation, node, x, _times(node.get("alpha", 1.0), weight), bias)


def _times(factor: float, weight: Tensor) -> Tensor:
    """The product, which is nearly always by one."""
    return weight if factor == 1 else weight * np.float32(factor)


def _matmul(translation: Translation, node: _Node) -> Activation:
    return _linear(translation, node, node.activation(rank=2), node.constant(1).T, np.zeros(()))


def _linear(translation: Translation, node: _Node, x: Activation, weight: Tensor, bias: Tensor) -> Activation:
    if weight.ndim != 2:
        raise node.refuse(f"its weights have {weight.ndim} dimensions, and only two are supported")
    out_features, in_features = weight.shape
    arguments = {"in_features": in_features, "out_features": out_features}
    bias = _by_channel(node, bias, (x.shape[0], out_features))
    return translation.add(node, "Linear", arguments, [x], weight=weight, bias=bias)


def _add(translation: Translation, node: _Node) -> Activation:
    values = [node.value(0), node.value(1)]
    if all(isinstance(value, Activation) for value in values):
        return _sum(translation, node)
    constant = 0 if isinstance(values[1], Activation) else 1
    name, x = node.proto.input[1 - constant], node.activation(1 - constant)
    if translation.makers.get(name) not in ("Conv", "Gemm", "MatMul") or len(translation.readers[name]) > 1:
        raise node.refuse(f"it adds a constant to {quoted(name)}, which no Conv, Gemm or MatMul makes for it alone")
    bias = f"{x.row}.bias"
    translation.parameters[bias] = translation.parameters[bias] + _by_channel(node, node.constant(constant), x.shape)
    return x


def _sum(translation: Translation, node: _Node) -> Activation:
    xs = [node.activation(number) for number in range(len(node.proto.input))]
    if len({x.shape for x in xs}) > 1:
        raise node.refuse(f"it adds {', '.join(str(x.shape) for x in xs)}; only equal shapes are supported")
    return translation.add(node, "Add", {}, xs, xs[0].shape)


def _by_channel(node: _Node, constant: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`constant`, which is added to `shape`, as one number for each channel; refused if it is anything else."""
    axis = node.get("axis", -1) if "axis" in node.attributes else None
    own = constant.shape
    if axis is not None and 0 <= axis <= len(shape) - len(own):
        own = (*own, *(1,) * (len(shape) - len(own) - axis))  # until version 6 it could say where the channels are
    aligned = (*(1,) * (len(shape) - len(own)), *own)
    if len(aligned) != len(shape) or aligned[1] not in (1, shape[1]) or constant.size != aligned[1]:
        raise node.refuse(f"it adds a constant {constant.shape} to {shape}; only one number a channel is supported")
    return np.broadcast_to(constant.reshape(-1), shape[1:2])


# -- what leaves the numbers alone -----------------------------------------------------------------------------------


def _relu(translation: Translation, node: _Node) -> Activation:
    x = node.activation()
    return translation.add(node, "ReLU", {}, [x], x.shape)


def _lrn(translation: Translation, node: _Node) -> Activation:
    x, size = node.activation(rank=4), node.get("size", 0)
    arguments = {
        "size": size,
        "alpha_per_element": node.get("alpha", 1e-4) / max(1, size),
        "beta": node.get("beta", 0.75),
        "k": node.get("bias", 1.0),
    }
    return translation.add(node, "LRN", arguments, [x], x.shape)


def _dropout(translation: Translation, node: _Node) -> Activation:
    x = node.activation()
    rate = node.constant(1) if node.has(1) else np.array(node.get("ratio", 0.5))
    if rate.size != 1:
        raise node.refuse(f"its ratio is {rate.shape}, not one number")
    if node.has(2) and node.constant(2, floats=False).any():
        raise node.refuse("its training_mode is on, and only networks that are not in training are supported")
    return translation.add(node, "Dropout", {"rate": rate.item()}, [x], x.shape)


def _concat(translation: Translation, node: _Node) -> Value:
    numbers = range(len(node.proto.input))
    if not any(isinstance(node.value(number), Activation) for number in numbers):
        node.require("axis", 0)
        return np.concatenate([_sizes(node, number, 1) for number in numbers])
    xs = [node.activation(number) for number in numbers]
    if "axis" not in node.attributes and translation.opset >= 4:
        raise node.refuse("it lacks the attribute axis")
    rank, axis = len(xs[0].shape), node.get("axis", 1)
    if rank < 2 or axis not in (1, 1 - rank):
        raise node.refuse(f"its attribute axis is {axis}, and only 1, the channels, is supported")
    others = {(x.shape[:1], x.shape[2:]) for x in xs}
    if len(others) > 1:
        raise node.refuse(f"it joins {', '.join(str(x.shape) for x in xs)}, which differ in more than their channels")
    shape = (xs[0].shape[0], sum(x.shape[1] for x in xs), *xs[0].shape[2:])
    return translation.add(node, "Concatenate", {}, xs, shape)


def _flatten(translation: Translation, node: _Node) -> Activation:
    x = node.activation()
    axis = node.get("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    return _as_vector(translation, node, x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


def _reshape(translation: Translation, node: _Node) -> Activation:
    x = node.activation()
    sizes = node.whole_numbers("shape", 1, 2)
    if node.get("allowzero", 0) == 0:
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    if sizes.count(-1) == 1 and max(sizes) > 0:
        sizes[sizes.index(-1)] = math.prod(x.shape) // max(sizes)
    return _as_vector(translation, node, x, sizes)


def _as_vector(translation: Translation, node: _Node, x: Activation, sizes: list[int]) -> Activation:
    vector = (x.shape[0], math.prod(x.shape[1:]))
    if tuple(sizes) != vector:
        raise node.refuse(f"it makes {tuple(sizes)} of {x.shape}; only one vector for each image is supported")
    if len(translation.shapes[x.row]) == 1:  # it is one already
        return Activation(x.row, vector)
    if len(x.shape) != 4:
        raise node.refuse(f"it reads {x.shape}, and only 4 dimensions are supported")
    return translation.add(node, "Flatten", {}, [x], vector)


def _softmax(translation: Translation, node: _Node) -> Activation:
    x = node.activation()
    axis = node.get("axis", 1 if translation.opset < 13 else -1)
    axis += len(x.shape) if axis < 0 else 0
    if axis != 1 or math.prod(x.shape[2:]) != 1:
        raise node.refuse(f"it works along axis {axis} of {x.shape}; only one vector of class scores is supported")
    if node.proto.output[0] not in translation.output_names:
        raise node.refuse("it is not the last node; only class scores can be turned into probabilities")
    return x


def _identity(translation: Translation, node: _Node) -> Value:
    return node.value(0)


def _constant(translation: Translation, node: _Node) -> Value:
    if "value" not in node.attributes:
        raise node.refuse("only the attribute value is supported")
    return translation.constant(node.attributes["value"].t)


# -- sizes, which are constants as soon as the shape of the image is known -------------------------------------------


def _shape(translation: Translation, node: _Node) -> Tensor:
    shape = node.activation().shape
    return np.array(shape[node.get("start", 0) : node.get("end", len(shape))])


def _gather(translation: Translation, node: _Node) -> Tensor:
    node.require("axis", 0)
    sizes, places = _sizes(node, 0, 1), _sizes(node, 1, 0, 1)
    if not all(-len(sizes) <= place < len(sizes) for place in places.flat):
        raise node.refuse(f"it takes number {places.tolist()} of {len(sizes)}")
    return sizes[places]


def _slice(translation: Translation, node: _Node) -> Tensor:
    sizes = _sizes(node, 0, 1)
    (start,), (end,) = node.whole_numbers("starts", 1, 1), node.whole_numbers("ends", 2, 1)
    for number, (name, value) in enumerate((("axes", 0), ("steps", 1)), start=3):
        if (name in node.attributes or node.has(number)) and node.whole_numbers(name, number, 1) != [value]:
            raise node.refuse(f"its {name} are not {[value]}")
    return sizes[start:end]


def _unsqueeze(translation: Translation, node: _Node) -> Tensor:
    size, (axis,) = _sizes(node, 0, 0), node.whole_numbers("axes", 1, 1)
    if axis not in (0, -1):
        raise node.refuse(f"its axes are {[axis]}, of one number")
    return size.reshape(1)


def _sizes(node: _Node, number: int, *ranks: int) -> Tensor:
    """An input that is a few sizes, or one; everything else that is computed of constants is refused."""
    sizes = node.constant(number, floats=False)
    if sizes.dtype.kind != "i" or sizes.ndim not in ranks or sizes.size > MOST_DIMENSIONS:
        raise node.refuse(f"its input {number} is {sizes.dtype} {sizes.shape}; of constants, only sizes are supported")
    return sizes


# -- the operators ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operator:
    """How a node is translated, how many inputs it can have, and the attributes that are known."""

    translate: Callable[[Translation, _Node], Value]
    inputs: range
    attributes: frozenset[str] = frozenset()


def _operator(translate: Callable[[Translation, _Node], Value], fewest: int, most: int, attributes: str) -> _Operator:
    return _Operator(translate, range(fewest, most + 1), frozenset(attributes.split()))


#: Operators that make the same of an image of one pixel and of a vector, or drop out.
_VECTOR_READERS = frozenset({"Flatten", "LogSoftmax", "Reshape", "Shape", "Softmax", _OUTPUT})

_WINDOWS = "auto_pad dilations kernel_shape pads strides"

_OPERATORS = {
    "Add": _operator(_add, 2, 2, "axis broadcast"),
    "AveragePool": _operator(_average_pool, 1, 1, f"{_WINDOWS} ceil_mode count_include_pad"),
    "Concat": _operator(_concat, 1, MOST_ROWS, "axis"),
    "Constant": _operator(_constant, 0, 0, "value"),
    "Conv": _operator(_conv, 2, 3, f"{_WINDOWS} group"),
    "Dropout": _operator(_dropout, 1, 3, "is_test ratio seed"),
    "Flatten": _operator(_flatten, 1, 1, "axis"),
    "Gather": _operator(_gather, 2, 2, "axis"),
    "Gemm": _operator(_gemm, 2, 3, "alpha beta broadcast transA transB"),
    "GlobalAveragePool": _operator(_global_average_pool, 1, 1, ""),
    "Identity": _operator(_identity, 1, 1, ""),
    "LRN": _operator(_lrn, 1, 1, "alpha beta bias size"),
    "LogSoftmax": _operator(_softmax, 1, 1, "axis"),
    "MatMul": _operator(_matmul, 2, 2, ""),
    "MaxPool": _operator(_max_pool, 1, 1, f"{_WINDOWS} ceil_mode storage_order"),
    "Pad": _operator(_pad, 1, 3, "mode pads value"),
    "ReduceMean": _operator(_reduce_mean, 1, 2, "axes keepdims noop_with_empty_axes"),
    "Relu": _operator(_relu, 1, 1, ""),
    "Reshape": _operator(_reshape, 1, 2, "allowzero shape"),
    "Shape": _operator(_shape, 1, 1, "end start"),
    "Slice": _operator(_slice, 1, 5, "axes ends starts"),
    "Softmax": _operator(_softmax, 1, 1, "axis"),
    "Sum": _operator(_sum, 1, MOST_ROWS, ""),
    "Unsqueeze": _operator(_unsqueeze, 1, 2, "axes"),
}

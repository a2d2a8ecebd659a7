"""Layers in the place of several, so that less is moved through memory; on a GPU tensor cores do the sums.

`fuse` looks in a network's table for these runs of layers, each of which alone reads the one before it:

    Conv2d [ReLU [LRN] [MaxPool2d]]        Linear [ReLU]                   "tf32", "bfloat16"
    Conv2d [ReLU [MaxPool2d]]              Linear [ReLU]                   "float32", on a CPU as well

A sum is done sooner than its numbers have come and gone. Around conv1 of the paper's network, the layers one by one
pass through memory 18 times with all 54×54×64 numbers of an image, 4 bytes each. Here the convolution adds the bias and
applies the ReLU before it writes, and one more kernel does LRN and pooling (or the convolution pools too, where there
is no LRN); on the way back one kernel does un-pooling, LRN, ReLU rule and the gradient of the bias. That makes less
than 5 passes, of 2 bytes each in bfloat16.

In the precision "bfloat16" activations and their derivatives are words, uint16, as in kernels/cpu/bfloat16.py, but for
the image and the class scores, which are float32. In "tf32" they are float32. Every layer takes either, and gives the
derivative back in the type of what it took. Parameters and their gradients are float32, and so are all sums.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npconvnet import kernels
from npconvnet.backend import Array, Precision, in_one_array, is_on_gpu
from npconvnet.kernels.cpu.conv2d_by_shape import FEW_CHANNELS
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.kernels.cuda.conv2d_tensor_core import (
    conv2d_backward_filters,
    conv2d_backward_input,
    conv2d_forward,
    conv2d_pool_forward,
    linear_backward_input,
    linear_backward_weights,
    linear_forward,
)
from npconvnet.kernels.cuda.lrn_max_pool2d import (
    LRNConstants,
    lrn_max_pool2d_backward,
    lrn_max_pool2d_forward,
    relu_max_pool2d_backward,
)
from npconvnet.kernels.cuda.space_to_depth import (
    Cells,
    filter_cells,
    filters_of_cells,
    image_cells,
    images_of_cells,
)
from npconvnet.kernels.shapes import NO_PADDING, Pooling, place_windows
from npconvnet.layers import (
    EVERYTHING,
    INPUT,
    LRN,
    Affine,
    BackwardOptions,
    Concatenate,
    Conv2d,
    Dropout,
    Flatten,
    Gradients,
    Layer,
    Linear,
    MaxPool2d,
    Node,
    ReLU,
    Shape,
)
from npconvnet.parallel import even_parts
from npconvnet.randomness import Chances

FLOAT32, WORDS = np.dtype(np.float32), np.dtype(np.uint16)

_ON_TENSOR_CORES = ((Conv2d, ReLU, LRN, MaxPool2d), (Conv2d, ReLU, MaxPool2d), (Linear, ReLU))
#: What one layer can take the place of: each of these, and whatever it begins with.
RUNS: Mapping[Precision, Sequence[tuple[type[Layer], ...]]] = {
    "float32": ((Conv2d, ReLU, MaxPool2d), (Linear, ReLU)),
    "tf32": _ON_TENSOR_CORES,
    "bfloat16": _ON_TENSOR_CORES,
}
#: Pixels of the largest window of a pooling in a run: a convolution that pools has all of them in one of its tiles.
LARGEST_POOL = 64
#: Images that a convolution takes at a time, at least, which the cache is to hold until they are pooled. With a single
#: one the sums might be done otherwise.
AT_ONCE = 2


def fuse(nodes: Sequence[Node], shapes: Mapping[str, Shape], precision: Precision) -> tuple[Node, ...]:
    """The same network with one node for each run. It goes by the name of the run's first, which has the parameters.

    `shapes` are those of the activations of `nodes`.
    """
    readers = Counter(name for node in nodes for name in node.inputs)
    runs: dict[str, list[Node]] = {}  # by name
    home: dict[str, str] = {}  # for each activation, the run that makes it
    for node in nodes:
        source = node.inputs[0]
        run = runs.get(home.get(source, source), [])
        if run and readers[source] == 1 and _is_run([*run, node], precision):
            run.append(node)
        else:
            run = runs[node.name] = [node]
        home[node.name] = run[0].name
    return tuple(
        replace(
            run[0],
            layer=_in_one(run, shapes, precision, gives_scores=run[-1] is nodes[-1]),
            inputs=tuple(home.get(name, name) for name in run[0].inputs),
        )
        for run in runs.values()
    )


def _is_run(nodes: Sequence[Node], precision: Precision) -> bool:
    kinds = tuple(type(node.layer) for node in nodes)
    windows = [node.layer.window for node in nodes if isinstance(node.layer, MaxPool2d)]
    fits = all(math.prod(window) <= LARGEST_POOL for window in windows)
    return fits and any(kinds == pattern[: len(kinds)] for pattern in RUNS[precision])


def _in_one(run: Sequence[Node], shapes: Mapping[str, Shape], precision: Precision, gives_scores: bool) -> Layer:
    """The layer that computes what those of a run do, one after another."""
    first, *rest = layers = [node.layer for node in run]
    if precision == "float32":
        if isinstance(first, Conv2d) and isinstance(layers[-1], MaxPool2d):
            return PooledConv2d(first, layers[-1])
        return first.with_relu() if isinstance(first, Affine) and rest else first
    dtype = WORDS if precision == "bfloat16" else FLOAT32
    y_dtype = FLOAT32 if gives_scores else dtype
    if isinstance(first, Conv2d):
        h, w, c = shapes[run[0].inputs[0]]
        if (c, first.groups) == (3, 1):
            cells = Cells((h, w), first.window, first.stride, first.padding, first.rounding)
            return FirstConv2d(layers, dtype, y_dtype, cells)
        return FusedConv2d(layers, dtype, y_dtype)
    if isinstance(first, Linear):
        return FusedLinear(layers, dtype, y_dtype)
    takes_words = isinstance(first, Concatenate | Dropout | Flatten) and INPUT not in run[0].inputs
    if dtype == FLOAT32 or (takes_words and not gives_scores):
        return first
    return Widened(first, y_dtype)


def converted(x: Array, dtype: npt.DTypeLike) -> Array:
    """`x`, float32 or words of bfloat16, as the one of the two that `dtype` is."""
    if x.dtype == dtype:
        return x
    return kernels.to_bfloat16(x) if dtype == WORDS else kernels.from_bfloat16(x)


class PooledConv2d(Layer):
    """Convolution, bias, ReLU and max pooling in float32 or float64, bit for bit what they give one after another.

    The pooled y takes the place of the ReLU's. A switch points to a pixel that has the pooled value, so the sign of
    that value is all that the gradient asks of the ReLU; every other pixel gets no derivative, and does not matter. So
    what the sign of the input forbids is left out before un-pooling, of an array that is as much smaller as the pool
    makes it. The sign of the reconstruction is that of the sum where windows overlap, and decides behind un-pooling.

    Where no backward follows, bias and ReLU come behind the pool: as neither changes the order of two numbers, they
    make of the largest what is the largest afterwards.

    Behind the image, where activations are largest and filters least, it takes a few images at a time: what lies
    between the convolution and the pool is in the cache then, and in the memory of the images before.
    """

    def __init__(self, conv: Conv2d, pool: MaxPool2d) -> None:
        super().__init__()
        self.conv, self.pool, self.parameters = conv, pool, conv.parameters

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """(P, Q, K) of the pool."""
        return self.pool.output_shape(self.conv.output_shape(*x_shapes))

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves x, the pooled y and the switches."""
        (x,), conv = xs, self.conv.with_relu()
        pooled = [kernels.max_pool2d_forward(conv.infer(x[part]), *self.pool.placement) for part in self._parts(x)]
        y, switches = (in_one_array(parts) for parts in zip(*pooled, strict=True))
        return y, (x, y, switches)

    def infer(self, *xs: Array) -> Array:
        """With bias and ReLU behind the pool."""
        (x,), (weight, bias) = xs, (self.parameters["weight"], self.parameters["bias"])
        sums = (kernels.conv2d_forward(x[part], weight, *self.conv.placement) for part in self._parts(x))
        return kernels.bias_relu_forward(in_one_array([self.pool.infer(each) for each in sums]), bias)

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dx, and the gradients of the convolution: these are sums over all images, and so take all at a time."""
        x, y, switches = saved
        dx_alone = options.input_gradient and not options.parameter_gradients
        parts = self._parts(x) if dx_alone else [slice(None)]
        sent_back = []
        for part in parts:
            d_sum = self._to_sum(dy[part], y[part], switches[part], x[part], options.relu_rule)
            sent_back.append(self.conv.backward(d_sum, (x[part], None), options))
        return sent_back[0] if len(parts) == 1 else (in_one_array([dx for dx, _ in sent_back]), {})

    def _to_sum(self, dy: Array, y: Array, switches: Array, x: Array, rule: ReLURule) -> Array:
        """The derivative of what the convolution gave, of `dy`, that of the pooled `y`."""
        if rule != "deconvnet":
            dy = kernels.relu_backward(dy, y, "gradient")
        shape = len(x), *self.conv.output_shape(x.shape[1:])
        d_sum = kernels.max_pool2d_backward(dy, switches, shape, *self.pool.placement)
        return d_sum if rule == "gradient" else kernels.relu_backward(d_sum, d_sum, "deconvnet")

    def _parts(self, x: Array) -> list[slice]:
        few = self.parameters["weight"].shape[3] <= FEW_CHANNELS and not is_on_gpu(x)
        count = max(1, len(x) // AT_ONCE) if few else 1
        return even_parts(len(x), count)


class Saved(NamedTuple):
    """What the backward of a fused layer sees again."""

    x_shape: tuple[int, ...]
    x_dtype: npt.DTypeLike
    x: Array  # as the sum takes it
    w: Array  # likewise
    y: Any  # that of the ReLU, if there is one; where the convolution pools, that of the pooling
    switches: Any = None
    unpooled_shape: tuple[int, ...] = ()


class FusedAffine(Layer):
    """What the fused layers share: they compute a run of `layers` that begins with a convolution or a full connection.

    `dtype` is the type of the activations that they compute with, and `y_dtype` of those that they give.
    """

    relu = False
    lrn: LRNConstants | None = None
    pool: Pooling | None = None

    def __init__(self, layers: Sequence[Layer], dtype: npt.DTypeLike, y_dtype: npt.DTypeLike) -> None:
        super().__init__()
        self.layers, self.dtype, self.y_dtype = tuple(layers), np.dtype(dtype), np.dtype(y_dtype)
        for layer in layers:
            if isinstance(layer, Affine):
                self.parameters, self.relu = layer.parameters, layer.relu
            elif isinstance(layer, ReLU):
                self.relu = True
            elif isinstance(layer, LRN):
                self.lrn = LRNConstants(layer.size, layer.alpha_per_element, layer.beta, layer.k)
            elif isinstance(layer, MaxPool2d):
                self.pool = Pooling(*layer.placement)
        if self.dtype == WORDS:
            self.copies = {"weight": kernels.to_bfloat16(self.parameters["weight"])}

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """What the layers make of it, one after another."""
        for layer in self.layers:
            x_shapes = (layer.output_shape(*x_shapes),)
        return x_shapes[0]

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dx in the type of x, whatever that of dy is."""
        dy, db = self._to_sum(dy, saved, options)
        gradients = {}
        if options.parameter_gradients:
            gradients = {"weight": self._weight_gradient(dy, saved, options.into.get("weight")), "bias": db}
        dx = converted(self._x_gradient(dy, saved), saved.x_dtype) if options.input_gradient else None
        return dx, gradients

    def _to_sum(self, dy: Array, saved: Saved, options: BackwardOptions) -> tuple[Array, Any]:
        """The derivative of the sum, of `dy`, that of the run's y; and the gradient of the bias if it is wanted."""
        dy = converted(dy, self.dtype)
        bias: Any = {"bias_gradient": options.parameter_gradients, "out": options.into.get("bias")}
        if self.pool and not self.lrn:
            at = saved.y, saved.switches, saved.unpooled_shape, self.pool
            return relu_max_pool2d_backward(dy, *at, options.relu_rule, **bias)
        y, rule = (converted(saved.y, self.dtype), options.relu_rule) if self.relu else (None, None)
        return lrn_max_pool2d_backward(dy, y, saved.switches, self.lrn, self.pool, rule, **bias)

    @abstractmethod
    def _weight_gradient(self, dy: Array, saved: Saved, out: Array | None) -> Array:
        """Of the derivative `dy` of the sum; in the memory of `out`, if given."""

    @abstractmethod
    def _x_gradient(self, dy: Array, saved: Saved) -> Array:
        """Of the derivative `dy` of the sum: dx in the shape of x, in either type."""

    @property
    def _weight(self) -> Array:
        return self.copies.get("weight", self.parameters["weight"])


class FusedLinear(FusedAffine):
    """Fully connected layer and bias, and the ReLU if it is there."""

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves x, the weights, and what the ReLU gave."""
        (x,) = xs
        flat, w = converted(x, self.dtype).reshape(len(x), -1), self._weight
        y = linear_forward(flat, w, bias=self.parameters["bias"], relu=self.relu, dtype=self.y_dtype)
        return y, Saved(x.shape, x.dtype, flat, w, y if self.relu else None)

    def _weight_gradient(self, dy: Array, saved: Saved, out: Array | None) -> Array:
        return linear_backward_weights(dy, saved.x, out=out)

    def _x_gradient(self, dy: Array, saved: Saved) -> Array:
        return linear_backward_input(dy, saved.w).reshape(saved.x_shape)


class FusedConv2d(FusedAffine):
    """Convolution and bias, and as far as they are there: ReLU, LRN and max pooling."""

    def __init__(self, layers: Sequence[Layer], dtype: npt.DTypeLike, y_dtype: npt.DTypeLike) -> None:
        super().__init__(layers, dtype, y_dtype)
        (self.placement,) = (layer.placement for layer in layers if isinstance(layer, Conv2d))

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves x, the filters, what the ReLU gave, and the switches."""
        x, w, bias = self._operand(xs[0]), self._filters(), self.parameters["bias"]
        operands = xs[0].shape, xs[0].dtype, x, w
        if self.lrn:
            activation = conv2d_forward(x, w, *self.placement, bias=bias, relu=True)
            y, switches = lrn_max_pool2d_forward(activation, self.lrn, self.pool)
            return converted(y, self.y_dtype), Saved(*operands, activation, switches)
        if self.pool:  # the convolution pools, and what the ReLU gives is written nowhere
            y, switches = conv2d_pool_forward(x, w, bias, *self.placement, self.pool)
            return converted(y, self.y_dtype), Saved(*operands, y, switches, self._unpooled_shape(x, w))
        y = conv2d_forward(x, w, *self.placement, bias=bias, relu=self.relu, dtype=self.y_dtype)
        return y, Saved(*operands, y if self.relu else None)

    def _unpooled_shape(self, x: Array, w: Array) -> tuple[int, ...]:
        stride, padding, _, rounding = self.placement
        return len(x), *place_windows(x.shape[1:3], w.shape[1:3], stride, padding, rounding).outputs, len(w)

    # What is different where images are cut into cells:

    def _operand(self, x: Array) -> Array:
        return converted(x, self.dtype)

    def _filters(self) -> Array:
        return self._weight

    def _weight_gradient(self, dy: Array, saved: Saved, out: Array | None) -> Array:
        return conv2d_backward_filters(dy, saved.x, saved.w.shape, *self.placement, out=out)

    def _x_gradient(self, dy: Array, saved: Saved) -> Array:
        return conv2d_backward_input(dy, saved.w, saved.x.shape, *self.placement)


class FirstConv2d(FusedConv2d):
    """Convolution of images of 3 channels, as one of their `cells`; it takes either.

    The images are float32 (N, H, W, 3). The filters are cut into cells at each forward, from the float32 parameters.
    """

    def __init__(self, layers: Sequence[Layer], dtype: npt.DTypeLike, y_dtype: npt.DTypeLike, cells: Cells) -> None:
        super().__init__(layers, dtype, y_dtype)
        self.cells, self.copies = cells, {}
        self.placement = 1, NO_PADDING, 1, "floor"

    def _operand(self, x: Array) -> Array:
        if x.shape == self.cells.shape(len(x)):
            return converted(x, self.dtype)
        return image_cells(converted(x, FLOAT32), self.cells, self.dtype)

    def _filters(self) -> Array:
        return filter_cells(self.parameters["weight"], self.cells, self.dtype)

    def _weight_gradient(self, dy: Array, saved: Saved, out: Array | None) -> Array:
        in_cells = super()._weight_gradient(dy, saved, None)
        return filters_of_cells(in_cells, self.parameters["weight"].shape, self.cells, out)

    def _x_gradient(self, dy: Array, saved: Saved) -> Array:
        dx = super()._x_gradient(dy, saved)
        return dx if saved.x_shape == saved.x.shape else images_of_cells(dx, saved.x_shape, self.cells)


class Widened(Layer):
    """Another layer, which computes in float32 what it is given in words of bfloat16; y is of the type `y_dtype`."""

    def __init__(self, layer: Layer, y_dtype: npt.DTypeLike) -> None:
        super().__init__()
        self.layer, self.y_dtype, self.parameters = layer, np.dtype(y_dtype), layer.parameters

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """That of the layer."""
        return self.layer.output_shape(*x_shapes)

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves what the layer saves, and the types of the xs."""
        y, saved = self.layer.forward(*(converted(x, FLOAT32) for x in xs), chances=chances)
        return converted(y, self.y_dtype), (saved, [x.dtype for x in xs])

    def infer(self, *xs: Array) -> Array:
        """What the layer infers."""
        return converted(self.layer.infer(*(converted(x, FLOAT32) for x in xs)), self.y_dtype)

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dx of the layer, in the types of the xs."""
        own, dtypes = saved
        dx, gradients = self.layer.backward(converted(dy, FLOAT32), own, options)
        parts = dx if isinstance(dx, tuple) else (dx,)
        narrowed = tuple(converted(part, dtype) for part, dtype in zip(parts, dtypes, strict=True))
        return narrowed if isinstance(dx, tuple) else narrowed[0], gradients

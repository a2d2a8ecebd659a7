"""Layers: parameters, and what a backward needs to see again. The arithmetic is in `npconvnet.kernels`.

Every layer maps activations (N, H, W, C), or (N, C) once the image is gone:

    y, saved = layer.forward(x)                    dx, gradients = layer.backward(dy, saved)

`saved` belongs to the call and holds all that the backward uses; nothing is hidden on the layer between the two.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import numpy as np

from npconvnet import kernels
from npconvnet.backend import Array, array_module
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.kernels.shapes import Padding, Rounding, place_windows, require_pixels_in_every_window
from npconvnet.randomness import Chances

#: The size of one activation without the batch: (H, W, C) or (C,).
Shape: TypeAlias = tuple[int, ...]
Gradients: TypeAlias = dict[str, Array]

#: The name of the activation that is the image itself.
INPUT = "input"


@dataclass(frozen=True, slots=True)
class BackwardOptions:
    """What the caller of a backward wants: which derivatives, and under which ReLU rule.

    `into` holds arrays by parameter whose memory may become that of the gradients.
    """

    input_gradient: bool = True
    parameter_gradients: bool = True
    relu_rule: ReLURule = "gradient"
    into: Mapping[str, Array] = field(default_factory=dict)


EVERYTHING = BackwardOptions()


class Layer(ABC):
    """One step of a network. Layers without parameters inherit an empty `parameters`.

    `copies` are those of parameters in bfloat16, where the layer computes with them: who changes the parameters changes
    them too. `keeps_channels_apart` says that every channel of y, if it has as many as x, is made of that channel of x
    alone.
    """

    keeps_channels_apart = False

    def __init__(self) -> None:
        self.parameters: dict[str, Array] = {}
        self.copies: dict[str, Array] = {}

    def initialize(self, rng: np.random.Generator, std: float | None = None) -> None:
        """Draws weights from N(0, `std`²), by default N(0, 2 / fan-in) (He et al. 2015); biases are zero.

        Layers without parameters draw nothing.
        """
        if not self.parameters:
            return
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        std = std or (2 / weight[0].size) ** 0.5
        weight[...] = array_module(weight).asarray(rng.standard_normal(weight.shape, np.float32) * np.float32(std))
        bias[...] = 0

    def with_channels(self, channels: Sequence[int]) -> Layer:
        """The same layer, which gives these of its channels alone."""
        return Selected(self, channels)

    @abstractmethod
    def output_shape(self, *x_shapes: Shape) -> Shape:
        """The shape of y for inputs of `x_shapes`; raises ValueError for inputs that the layer can't take."""

    @abstractmethod
    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """(y, saved). `chances`, those of the images, are given in training only, and used by dropout only."""

    def infer(self, *xs: Array) -> Array:
        """y alone, where no backward follows."""
        return self.forward(*xs)[0]

    @abstractmethod
    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """(dx, gradients): dx like the input (a tuple where there are several, None where it isn't wanted)."""


@dataclass(frozen=True, slots=True)
class Node:
    """A layer in its place. Its activation goes by its name; the stream of its chances, by its row in the table."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    row: int


class Affine(Layer):
    """What a convolution and a fully connected layer share: they end with a bias, and perhaps with the ReLU behind it.

    `relu` says that it is there. It makes no difference but in time: what comes next is read and written once less.
    """

    relu = False

    def with_relu(self) -> Self:
        """The same layer, on the same parameters, with the ReLU that follows it."""
        layer = copy(self)
        layer.relu = True
        return layer

    def with_channels(self, channels: Sequence[int]) -> Layer:
        """With the filters of these channels alone: copies, unlike all else."""
        layer = copy(self)
        layer.parameters = {name: parameter[list(channels)] for name, parameter in self.parameters.items()}
        return layer

    def _end(self, y: Array) -> Array:
        return (kernels.bias_relu_forward if self.relu else kernels.bias_forward)(y, self.parameters["bias"])

    def _begin_backward(self, dy: Array, y: Array, options: BackwardOptions) -> Array:
        return kernels.relu_backward(dy, y, options.relu_rule) if self.relu else dy


class Conv2d(Affine):
    """Convolution and bias: `weight` (K, R, S, C / groups), `bias` (K,)."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        window: int | tuple[int, int],
        stride: int = 1,
        padding: int | Padding = 0,
        groups: int = 1,
        rounding: Rounding = "floor",
    ) -> None:
        super().__init__()
        if in_channels % groups or filters % groups:
            raise ValueError(f"{in_channels} channels and {filters} filters can't be dealt out to {groups} groups")
        self.window, self.stride, self.padding = _both_ways(window), stride, _all_sides(padding)
        self.groups, self.rounding = groups, rounding
        self.parameters = {
            "weight": np.zeros((filters, *self.window, in_channels // groups), np.float32),
            "bias": np.zeros(filters, np.float32),
        }

    def with_channels(self, channels: Sequence[int]) -> Layer:
        """With the filters of these channels alone, unless the filters come in groups, which have one size."""
        return super().with_channels(channels) if self.groups == 1 else Selected(self, channels)

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """(P, Q, K) of (H, W, C)."""
        h, w, c = _image(x_shapes)
        filters, _, _, channels = self.parameters["weight"].shape
        if c != channels * self.groups:
            raise ValueError(f"the filters take {channels * self.groups} channels, the input has {c}")
        return *place_windows((h, w), self.window, self.stride, self.padding, self.rounding).outputs, filters

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves x, and y where a ReLU is in it."""
        (x,) = xs
        y = self._end(kernels.conv2d_forward(x, self.parameters["weight"], *self.placement))
        return y, (x, y if self.relu else None)

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dx by dgrad, the filters by wgrad."""
        (x, y), weight = saved, self.parameters["weight"]
        if not options.parameter_gradients and self.groups == 1:
            dy, y, weight = kernels.with_signal(dy, y, weight)
        dy = self._begin_backward(dy, y, options)
        dx = dw = None
        if options.input_gradient and options.parameter_gradients:
            dx, dw = kernels.conv2d_backward(dy, x, weight, *self.placement)
        elif options.input_gradient:
            dx = kernels.conv2d_backward_input(dy, weight, x.shape, *self.placement)
        elif options.parameter_gradients:
            dw = kernels.conv2d_backward_filters(dy, x, weight.shape, *self.placement)
        return dx, {} if dw is None else {"weight": dw, "bias": kernels.bias_backward(dy)}

    @property
    def placement(self) -> tuple[int, Padding, int, Rounding]:
        """(stride, padding, groups, rounding), as the kernels take them."""
        return self.stride, self.padding, self.groups, self.rounding


class Linear(Affine):
    """Fully connected layer: `weight` (out, in), `bias` (out,). Reads an image as one vector, row by row (H, W, C)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.parameters = {
            "weight": np.zeros((out_features, in_features), np.float32),
            "bias": np.zeros(out_features, np.float32),
        }

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """(out,) of any shape that has `in` numbers."""
        (x_shape,) = x_shapes
        out_features, in_features = self.parameters["weight"].shape
        if math.prod(x_shape) != in_features:
            raise ValueError(f"the layer takes {in_features} numbers, the input has {x_shape}")
        return (out_features,)

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves x, and y where a ReLU is in it."""
        (x,) = xs
        y = self._end(kernels.linear_forward(_flat(x), self.parameters["weight"]))
        return y, (x, y if self.relu else None)

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dx in the shape of x."""
        x, y = saved
        dy = self._begin_backward(dy, y, options)
        gradients = {}
        if options.parameter_gradients:
            gradients["weight"] = kernels.linear_backward_weights(dy, _flat(x), options.into.get("weight"))
            gradients["bias"] = kernels.bias_backward(dy)
        if not options.input_gradient:
            return None, gradients
        return kernels.linear_backward_input(dy, self.parameters["weight"]).reshape(x.shape), gradients


class ReLU(Layer):
    """max(x, 0); the backward follows `options.relu_rule`."""

    keeps_channels_apart = True

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """That of x."""
        return x_shapes[0]

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves y, whose sign is that of x."""
        y = kernels.relu_forward(xs[0])
        return y, y

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dx under the rule; see kernels/cpu/relu.py."""
        return kernels.relu_backward(dy, saved, options.relu_rule), {}


class _Pool2d(Layer):
    """What the poolings over windows share: where the windows lie."""

    keeps_channels_apart = True

    def __init__(
        self,
        window: int | tuple[int, int],
        stride: int,
        padding: int | Padding = 0,
        rounding: Rounding = "floor",
    ) -> None:
        super().__init__()
        self.window, self.stride = _both_ways(window), stride
        self.padding, self.rounding = _all_sides(padding), rounding

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """(P, Q, C) of (H, W, C)."""
        h, w, c = _image(x_shapes)
        require_pixels_in_every_window(self.window, self.padding)
        return *place_windows((h, w), self.window, self.stride, self.padding, self.rounding).outputs, c

    @property
    def placement(self) -> tuple[tuple[int, int], int, Padding, Rounding]:
        """(window, stride, padding, rounding), as the kernels take them."""
        return self.window, self.stride, self.padding, self.rounding


class MaxPool2d(_Pool2d):
    """Max pooling; the backward goes through the switches."""

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves the switches."""
        (x,) = xs
        y, switches = kernels.max_pool2d_forward(x, *self.placement)
        return y, (switches, x.shape)

    def infer(self, *xs: Array) -> Array:
        """Without the switches."""
        return kernels.max_pool2d(xs[0], *self.placement)

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dy, where the switches point."""
        switches, x_shape = saved
        return kernels.max_pool2d_backward(dy, switches, x_shape, *self.placement), {}


class AveragePool2d(_Pool2d):
    """Average pooling; `count_padding` as in kernels/cpu/average_pool2d.py."""

    def __init__(
        self,
        window: int | tuple[int, int],
        stride: int,
        padding: int | Padding = 0,
        rounding: Rounding = "floor",
        count_padding: bool = True,
    ) -> None:
        super().__init__(window, stride, padding, rounding)
        self.count_padding = count_padding

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves the shape of x."""
        (x,) = xs
        return kernels.average_pool2d_forward(x, *self.placement, self.count_padding), x.shape

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dy, shared out over the window."""
        return kernels.average_pool2d_backward(dy, saved, *self.placement, self.count_padding), {}


class GlobalAveragePool2d(Layer):
    """The mean over all pixels: (H, W, C) to (C,)."""

    keeps_channels_apart = True

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """(C,)."""
        return _image(x_shapes)[2:]

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves the shape of x."""
        return kernels.global_average_pool2d_forward(xs[0]), xs[0].shape

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dy, shared out over all pixels."""
        return kernels.global_average_pool2d_backward(dy, saved), {}


class LRN(Layer):
    """Local response normalisation. The defaults are AlexNet's and VGG CNN-F's; its true gradient under every rule."""

    def __init__(self, size: int = 5, alpha_per_element: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__()
        self.size, self.alpha_per_element, self.beta, self.k = size, alpha_per_element, beta, k

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """That of x."""
        return x_shapes[0]

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves x and the scale s."""
        (x,) = xs
        y, s = kernels.lrn_forward(x, self.size, self.alpha_per_element, self.beta, self.k)
        return y, (x, s)

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """The true gradient."""
        x, s = saved
        return kernels.lrn_backward(dy, x, s, self.size, self.alpha_per_element, self.beta), {}


class Dropout(Layer):
    """Zeroes a share `rate` of the activations while training; does nothing without `chances`."""

    keeps_channels_apart = True

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """That of x."""
        return x_shapes[0]

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves what was kept, or None when not training."""
        (x,) = xs
        if chances is None:
            return x, None
        kept = kernels.draw_kept(x, chances, self.rate)
        return kernels.dropout(x, kept, self.rate), kept

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dy where kept."""
        return (dy if saved is None else kernels.dropout(dy, saved, self.rate)), {}


class Concatenate(Layer):
    """Puts the channels of several inputs behind each other."""

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """(H, W, C₁ + C₂ + …)."""
        if len({shape[:-1] for shape in x_shapes}) != 1:
            raise ValueError(f"activations of different sizes can't be concatenated: {x_shapes}")
        return *x_shapes[0][:-1], sum(shape[-1] for shape in x_shapes)

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves the numbers of channels."""
        return kernels.concatenate_forward(xs), [x.shape[-1] for x in xs]

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """A part of dy for each input."""
        return kernels.concatenate_backward(dy, saved), {}


class Flatten(Layer):
    """An image as one vector, channel by channel (C, H, W), as other frameworks number it."""

    keeps_channels_apart = True  # of an image of one pixel: of a larger one y has more channels

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """(C·H·W,) of (H, W, C)."""
        h, w, c = _image(x_shapes)
        return (c * h * w,)

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves the shape of x."""
        return kernels.flatten_forward(xs[0]), xs[0].shape

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dy in the shape of x."""
        return kernels.flatten_backward(dy, saved), {}


class Add(Layer):
    """Adds several inputs of one shape."""

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """That of each input."""
        if len(set(x_shapes)) != 1:
            raise ValueError(f"activations of different shapes can't be added: {x_shapes}")
        return x_shapes[0]

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves how many there were."""
        return kernels.add_forward(xs), len(xs)

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dy for each input."""
        return kernels.add_backward(dy, saved), {}


class Selected(Layer):
    """Another layer, which computes all of its channels, and gives `channels` of them."""

    def __init__(self, layer: Layer, channels: Sequence[int]) -> None:
        super().__init__()
        self.layer, self.channels = layer, list(channels)
        self.parameters, self.copies = layer.parameters, layer.copies

    def output_shape(self, *x_shapes: Shape) -> Shape:
        """That of the layer, but for the number of channels."""
        return *self.layer.output_shape(*x_shapes)[:-1], len(self.channels)

    def forward(self, *xs: Array, chances: Chances | None = None) -> tuple[Array, Any]:
        """Saves what the layer saves, and the shape of its y."""
        y, saved = self.layer.forward(*xs, chances=chances)
        return self._select(y), (saved, y.shape)

    def infer(self, *xs: Array) -> Array:
        """Some channels of what the layer infers."""
        return self._select(self.layer.infer(*xs))

    def backward(self, dy: Array, saved: Any, options: BackwardOptions = EVERYTHING) -> tuple[Any, Gradients]:
        """dx of the layer: nothing comes back to its other channels."""
        own, shape = saved
        whole = array_module(dy).zeros(shape, dy.dtype)
        for place, channel in enumerate(self.channels):
            whole[..., channel] += dy[..., place]  # one may be there twice
        return self.layer.backward(whole, own, options)

    def _select(self, y: Array) -> Array:
        selected: Array = array_module(y).ascontiguousarray(y[..., self.channels])
        return selected


def _both_ways(window: int | tuple[int, int]) -> tuple[int, int]:
    return (window, window) if isinstance(window, int) else window


def _all_sides(padding: int | Padding) -> Padding:
    return (padding,) * 4 if isinstance(padding, int) else padding


def _image(x_shapes: tuple[Shape, ...]) -> tuple[int, int, int]:
    if [len(x_shape) for x_shape in x_shapes] != [3]:
        raise ValueError(f"the layer reads one image (H, W, C), the input has {', '.join(map(str, x_shapes))}")
    ((h, w, c),) = x_shapes
    return h, w, c


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)

"""The same network in PyTorch: the peer of the benchmarks, and the oracle of the tests.

PyTorch's own modules in npconvnet's order, with the same parameters. PyTorch images are NCHW, its filters OIHW, and a
linear layer reads an image channel by channel (C, H, W), so parameters are converted at the door, and gradients back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, pad
from torch.nn.utils import skip_init

from npconvnet.backend import Array, to_host
from npconvnet.kernels.shapes import Padding, place_windows
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


class TorchPeer(nn.Module):  # type: ignore[misc]
    """`network` as a PyTorch module: NCHW images to class scores, with copies of the same parameters.

    A new peer is in training mode, as PyTorch modules are: `peer.eval()` switches dropout off. `steps[name]` is the
    module that stands for the layer of that name. Raises ValueError for a layer that PyTorch cannot express.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._inputs = {node.name: node.inputs for node in network.nodes}
        self._shapes = network.shapes
        self._keys = {node.name: tuple(node.layer.parameters) for node in network.nodes}
        self.steps = {node.name: _module(node, network) for node in network.nodes}
        self._registered = nn.ModuleList(self.steps.values())  # names with dots can't be registered
        for node in network.nodes:
            for key, value in node.layer.parameters.items():
                converted = _to_torch(to_host(value), self._shapes[node.inputs[0]])
                setattr(self._holder(node.name), key, nn.Parameter(converted))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The class scores (N, classes) of `images` (N, 3, H, W)."""
        activations = {INPUT: images}
        for name, inputs in self._inputs.items():
            y = activations[name] = self.steps[name](*(activations[source] for source in inputs))
        return y

    def out_of_place(self) -> TorchPeer:
        """Lets no ReLU work in place any more, as Captum's hooks require, and returns the peer."""
        for step in self.steps.values():
            if isinstance(step, nn.ReLU):
                step.inplace = False
        return self

    def gradients(self) -> dict[str, Array]:
        """The gradient of every parameter, under the name and in the layout that npconvnet gives it."""
        return {
            f"{name}.{key}": _from_torch(getattr(self._holder(name), key).grad, self._shapes[inputs[0]])
            for name, inputs in self._inputs.items()
            for key in self._keys[name]
        }

    def _holder(self, name: str) -> nn.Module:
        """The module that holds the parameters of layer `name`: the last one, after any padding or flattening."""
        step = self.steps[name]
        return step[-1] if isinstance(step, nn.Sequential) else step


# -- one module for each layer ---------------------------------------------------------------------------------------


def _module(node: Node, network: Network) -> nn.Module:
    layer, x_shape = node.layer, network.shapes[node.inputs[0]]
    match layer:
        case Conv2d():
            return _conv2d(layer, x_shape)
        case Linear():
            out_features, in_features = layer.parameters["weight"].shape
            return nn.Sequential(nn.Flatten(), skip_init(nn.Linear, in_features, out_features))
        case ReLU():
            return nn.ReLU(inplace=_may_overwrite(node.inputs[0], network))
        case MaxPool2d():
            return _max_pool2d(layer, x_shape)
        case AveragePool2d():
            return _average_pool2d(layer, x_shape)
        case GlobalAveragePool2d():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case LRN():
            if layer.size % 2 == 0:
                raise ValueError("PyTorch centres an even LRN window elsewhere")
            return nn.LocalResponseNorm(layer.size, layer.size * layer.alpha_per_element, layer.beta, layer.k)
        case Dropout():
            return nn.Dropout(layer.rate)
        case Flatten():
            return nn.Flatten()
        case Concatenate():
            return _Of(lambda *xs: torch.cat(xs, dim=1))
        case Add():
            return _Of(lambda *xs: sum(xs[1:], xs[0]))
    raise ValueError(f"PyTorch has no peer for {type(layer).__name__}")


class _Of(nn.Module):  # type: ignore[misc]
    """A function as a module."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: torch.Tensor) -> torch.Tensor:
        """What the function makes of them."""
        return self.function(*xs)


def _conv2d(layer: Conv2d, x_shape: Shape) -> nn.Module:
    filters, _, _, channels = layer.parameters["weight"].shape
    padding = _padding_and_overhang(layer, x_shape)
    own = _both_sides(padding)
    size = (channels * layer.groups, filters, layer.window, layer.stride)
    conv = skip_init(nn.Conv2d, *size, padding=own or 0, groups=layer.groups)
    return conv if own else nn.Sequential(nn.ZeroPad2d(_left_first(padding)), conv)


def _max_pool2d(layer: MaxPool2d, x_shape: Shape) -> nn.Module:
    own = _pool_padding(layer)
    if own:
        return nn.MaxPool2d(layer.window, layer.stride, own, ceil_mode=layer.rounding == "ceil")
    padding = _left_first(_padding_and_overhang(layer, x_shape))
    return nn.Sequential(nn.ConstantPad2d(padding, -np.inf), nn.MaxPool2d(layer.window, layer.stride))


def _average_pool2d(layer: AveragePool2d, x_shape: Shape) -> nn.Module:
    own = _pool_padding(layer)
    if own:
        return nn.AvgPool2d(layer.window, layer.stride, own, layer.rounding == "ceil", layer.count_padding)
    around = _left_first(_padding_and_overhang(layer, x_shape))
    counted = _left_first(layer.padding) if layer.count_padding else (0, 0, 0, 0)
    uncounted = tuple(whole - part for whole, part in zip(around, counted, strict=True))

    def average(x: torch.Tensor) -> torch.Tensor:
        ones = pad(pad(torch.ones_like(x), counted, value=1), uncounted)
        return avg_pool2d(pad(x, around), layer.window, layer.stride) / avg_pool2d(ones, layer.window, layer.stride)

    return _Of(average)


def _may_overwrite(name: str, network: Network) -> bool:
    """Whether a ReLU may work in the memory of activation `name`, as PyTorch's own models do to save some.

    It may where it is the only reader, and where the layer that made it does not need it for its backward.
    """
    makers = {node.name: node.layer for node in network.nodes}
    readers = sum(node.inputs.count(name) for node in network.nodes)
    return readers == 1 and isinstance(makers.get(name), Conv2d | Linear)


# -- padding: (top, bottom, left, right) here ------------------------------------------------------------------------


def _padding_and_overhang(layer: Conv2d | MaxPool2d | AveragePool2d, x_shape: Shape) -> Padding:
    size = (x_shape[0], x_shape[1])
    return place_windows(size, layer.window, layer.stride, layer.padding, layer.rounding).padding_and_overhang


def _pool_padding(layer: MaxPool2d | AveragePool2d) -> tuple[int, int] | None:
    """(vertical, horizontal) padding as PyTorch's poolings take it: alike on both sides, half a window at most."""
    own = _both_sides(layer.padding)
    fits = own and own[0] <= layer.window[0] // 2 and own[1] <= layer.window[1] // 2
    return own if fits else None


def _both_sides(padding: Padding) -> tuple[int, int] | None:
    """(vertical, horizontal) padding, None where two opposite sides differ."""
    top, bottom, left, right = padding
    return (top, left) if (top, left) == (bottom, right) else None


def _left_first(padding: Padding) -> Padding:
    top, bottom, left, right = padding
    return left, right, top, bottom  # the order of torch.nn.functional.pad


# -- parameters ------------------------------------------------------------------------------------------------------


def _to_torch(value: Array, x_shape: Shape) -> torch.Tensor:
    """A copy, in PyTorch's layout, of a parameter of a layer that reads `x_shape`; biases have only one layout."""
    tensor = torch.tensor(value)
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 3, 1, 2)  # (K, R, S, C) to (K, C, R, S)
    elif tensor.ndim == 2 and len(x_shape) == 3:
        tensor = tensor.reshape(-1, *x_shape).permute(0, 3, 1, 2).flatten(1)  # columns (H, W, C) to (C, H, W)
    return tensor.contiguous()


def _from_torch(tensor: torch.Tensor, x_shape: Shape) -> Array:
    """The inverse of `_to_torch`, as a NumPy array."""
    tensor = tensor.detach().cpu()
    if tensor.ndim == 4:
        tensor = tensor.permute(0, 2, 3, 1)
    elif tensor.ndim == 2 and len(x_shape) == 3:
        h, w, c = x_shape
        tensor = tensor.reshape(-1, c, h, w).permute(0, 2, 3, 1).flatten(1)
    array: Array = tensor.contiguous().numpy()
    return array

"""From one unit back to the image: Zeiler & Fergus' DeconvNet from any layer, beside the gradient and guided backprop.

    f = the activation of a unit             R = ∂f/∂I, sent back to the image under one of the three ReLU rules

Zeiler & Fergus (2013, section 2) set all other activations of the layer to zero and send the unit's activation down;
here a 1 is sent, so that under the rule "gradient" R is the derivative itself. No rule is moved by a positive factor,
so the two differ in scale only. Where the activation is not positive they part: a silent unit, one that is 0 behind its
ReLU, has no gradient and no guided reconstruction (R = 0), and a DeconvNet that sent its activation would show nothing
either; the DeconvNet rule alone sends the 1 on, whatever the photo shows. LRN keeps its true gradient under every rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from npconvnet.backend import Array, array_module, to_host
from npconvnet.errors import InputError
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.network import Network

RULES: tuple[ReLURule, ...] = get_args(ReLURule)


@dataclass(frozen=True, slots=True)
class Unit:
    """One number that a network computes on its way: a `channel` of a `layer`, at a `position` (row, column).

    Without a position it is the sum over the whole feature map; a layer behind the last image (fully connected, class
    scores) has no positions, and the channel is the unit.
    """

    layer: str
    channel: int
    position: tuple[int, int] | None = None

    def __str__(self) -> str:
        place = f" at row {self.position[0]}, column {self.position[1]}" if self.position else ""
        return f"{self.layer}, channel {self.channel}{place}"

    def value(self, activation: Array) -> float:
        """The unit's value, where `activation` (1, …, C) is that of its layer."""
        return float(activation[self._index(activation)].sum())

    def derivative(self, activation: Array) -> Array:
        """Of the unit with respect to its layer's `activation` (N, …, C): 1 at the unit, 0 elsewhere; in every image.

        Raises ValueError where the layer has no such channel or position.
        """
        derivative: Array = array_module(activation).zeros_like(activation)
        derivative[self._index(activation)] = 1
        return derivative

    def _index(self, activation: Array) -> tuple[Any, ...]:
        *places, channels = activation.shape[1:]
        if self.channel not in range(channels):
            raise ValueError(f"{self.layer} has no channel {self.channel}; it has {channels}")
        if self.position is None:
            return slice(None), ..., self.channel
        if len(places) != 2 or not all(at in range(size) for at, size in zip(self.position, places, strict=True)):
            raise ValueError(f"{self.layer} has no position {self.position}; its maps are {tuple(places)}")
        return slice(None), *self.position, self.channel


def find_unit(network: Network, x: Array, layer: str | None = None, choice: str = "strongest") -> Unit:
    """The unit of `layer` (by default the class scores) that `choice` means for a preprocessed image `x` (1, H, W, 3).

    "strongest" is the channel and position with the largest activation; a number is a channel, taken where it is
    largest: in the class scores the top-1 class, or the class of that number. Of equals, the first.

    Raises InputError for a layer or a channel that does not exist, and says which do.
    """
    layer = layer or network.last
    require_layer(network, layer)
    activation = to_host(network.activation(x, layer))[0]
    *places, channels = activation.shape
    if choice == "strongest":
        channel = int(activation.argmax()) % channels
    elif choice.isdecimal():
        channel = require_channel(network, layer, int(choice))
    else:
        raise InputError(f"unit '{choice}' is neither the number of a channel nor 'strongest'")
    if not places:
        return Unit(layer, channel)
    row, column = np.unravel_index(activation[..., channel].argmax(), places)
    return Unit(layer, channel, (int(row), int(column)))


def reconstruct(network: Network, x: Array, unit: Unit, rule: ReLURule = "deconvnet") -> Array:
    """R (N, H, W, 3): what `unit` sends back to the preprocessed images `x` (N, H, W, 3) under `rule`.

    Raises ValueError for a layer, channel, position or rule that does not exist.
    """
    activation, trace = network.forward(x, until=unit.layer)
    dx, _ = network.backward(trace, unit.derivative(activation), relu_rule=rule, parameter_gradients=False)
    assert dx is not None  # it was not declined
    return dx


def require_layer(network: Network, layer: str) -> None:
    """Raises InputError where the network has no such layer, and lists those it has."""
    names = [node.name for node in network.nodes]
    if layer not in names:
        raise InputError(f"no layer '{layer}' in {network.name}; it has {', '.join(names)}")


def require_channel(network: Network, layer: str, channel: int) -> int:
    """`channel` itself; raises InputError where the layer has no such channel, and says how many it has."""
    channels = network.shapes[layer][-1]
    if channel not in range(channels):
        raise InputError(f"{layer} has no unit {channel}: its {channels} channels are 0 to {channels - 1}")
    return channel

"""A batch on its way through a network and back: a few images at a time, on all cores.

What is computed stands in network.py. Here the batch is cut into pieces, at least two, so that the activations of one
stay in the cache from layer to layer, and every thread takes piece after piece. At the first fully connected layer the
pieces are joined, because it would read all of its weights again for each. On a GPU the batch is one piece.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from npconvnet.backend import Array, in_one_array, is_on_gpu
from npconvnet.fused_layers import FusedLinear
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.layers import Gradients, Linear
from npconvnet.network import INPUT, Network, Trace
from npconvnet.parallel import even_parts, in_parallel
from npconvnet.randomness import Chances

#: The most images in a piece.
PIECE = 16

R = TypeVar("R")


class ForwardPass:
    """The class `scores` (N, classes) of the images `x` (N, H, W, 3), and the way back, as often as one likes.

    `chances`, those of the N images, switch dropout on (training): each image has its own, whichever piece it is in.
    """

    def __init__(self, network: Network, x: Array, chances: Chances | None = None) -> None:
        network = network.fused()
        self._network, self._joint, self._pieces = network, joint(network), pieces(x)

        def forward(piece: slice) -> tuple[Array, Trace]:
            own = None if chances is None else chances[piece]
            return network.forward(x[piece], chances=own, until=self._joint)

        parts = in_parallel(forward, self._pieces)
        self._traces = [trace for _, trace in parts]
        joined = in_one_array([activation for activation, _ in parts])
        self.scores, self._joined_trace = network.forward(joined, chances=chances, start=self._joint)

    def backward(
        self,
        d_scores: Array,
        *,
        relu_rule: ReLURule = "gradient",
        input_gradient: bool = True,
        parameter_gradients: bool = True,
        into: Mapping[str, Array] | None = None,
        ready: Callable[[Gradients], None] | None = None,
    ) -> tuple[Array | None, Gradients]:
        """(dx, gradients) of `d_scores` (N, classes), as `Network.backward` gives them."""
        d_joint, gradients = self._network.backward(
            self._joined_trace,
            d_scores,
            stop=self._joint,
            relu_rule=relu_rule,
            parameter_gradients=parameter_gradients,
            into=into,
            ready=ready,
        )
        assert d_joint is not None  # it was not declined
        of_pieces = _SumInOrder()

        def backward(number: int) -> Array | None:
            dx, of_piece = self._network.backward(
                self._traces[number],
                d_joint[self._pieces[number]],
                relu_rule=relu_rule,
                input_gradient=input_gradient,
                parameter_gradients=parameter_gradients,
                into=into if len(self._pieces) == 1 else None,  # pieces would write over each other
                ready=ready if len(self._pieces) == 1 else None,
            )
            of_pieces.add(number, of_piece)
            return dx

        dxs = in_parallel(backward, range(len(self._pieces)))
        if ready and len(self._pieces) > 1:
            ready(of_pieces.total)
        dx = in_one_array([dx for dx in dxs if dx is not None]) if input_gradient else None
        return dx, gradients | of_pieces.total


def class_scores(network: Network, x: Array, prepare: Callable[[Array], Array] = lambda x: x) -> Array:
    """The class scores (N, classes) of the images `x` (N, H, W, 3), keeping nothing for a backward.

    Where `x` is something else, `prepare` makes the images of each piece of it.
    """
    network = network.fused()
    at = joint(network)
    joined = in_one_array(in_pieces(lambda piece: network.activation(prepare(piece), at), x))
    return network.activation(joined, network.last, start=at)


def in_pieces(function: Callable[[Array], R], x: Array) -> list[R]:
    """[function(piece) for each piece] of `x` (N, ...)."""
    return in_parallel(lambda piece: function(x[piece]), pieces(x))


def pieces(x: Array) -> list[slice]:
    """The images `x` (N, ...) in parts of nearly one size; an even number of them, for two cores."""
    count = 1 if is_on_gpu(x) or len(x) < 2 else 2 * -(-len(x) // (2 * PIECE))
    return even_parts(len(x), count)


def joint(network: Network) -> str:
    """The activation that the first fully connected layer reads; the last one, if there is none or a way around it."""
    first = next(
        (node.inputs[0] for node in network.nodes if isinstance(node.layer, Linear | FusedLinear)), network.last
    )
    names = [INPUT, *(node.name for node in network.nodes)]
    behind = network.nodes[names.index(first) :]
    known = {first, *(node.name for node in behind)}
    return first if all(known.issuperset(node.inputs) for node in behind) else network.last


class _SumInOrder:
    """Adds gradients up in the order of their numbers, whatever the order in which they come, and as soon as it can."""

    def __init__(self) -> None:
        self.total: Gradients = {}
        self._waiting: dict[int, Gradients] = {}
        self._next = 0
        self._lock = threading.Lock()

    def add(self, number: int, gradients: Gradients) -> None:
        with self._lock:
            self._waiting[number] = gradients
            while self._next in self._waiting:
                for name, gradient in self._waiting.pop(self._next).items():
                    if name in self.total:
                        self.total[name] += gradient
                    else:
                        self.total[name] = gradient
                self._next += 1

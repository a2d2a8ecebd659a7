"""Network: named layers in topological order; forward to the class scores, backward from their derivative.

    scores, trace = network.forward(x)
    dx, gradients = network.backward(trace, d_scores, relu_rule="gradient" | "deconvnet" | "guided")

The network ends at the unnormalised class scores S_c of the paper; softmax and loss stand apart. Nothing is recorded
but what the layers save, and `trace` holds all of it: the same trace can be sent backward as often as one likes.

Meanwhile BLAS has one thread, so that the bits do not depend on the number of cores. forward_pass.py uses them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from npconvnet import kernels
from npconvnet.backend import Array, Device, Precision, is_on_gpu, to_device
from npconvnet.fused_layers import fuse
from npconvnet.kernels.cpu.relu import ReLURule
from npconvnet.layers import INPUT as INPUT
from npconvnet.layers import BackwardOptions, Gradients, Layer, Shape
from npconvnet.layers import Node as Node
from npconvnet.parallel import one_blas_thread
from npconvnet.preprocessing import Picture, Preprocessing, ViewCount, resize_and_centre_crop
from npconvnet.randomness import Chances
from npconvnet.synsets import Synset, numbered_synsets

#: (name, layer): reads the row above; (name, layer, inputs): reads the activations of these names.
Row: TypeAlias = "tuple[str, Layer] | tuple[str, Layer, tuple[str, ...]]"


@dataclass(slots=True)
class Trace:
    """What a forward leaves behind: what each layer saved, and the activations that the caller asked to keep."""

    last: str
    saved: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Array] = field(default_factory=dict)


class Network:
    """A directed acyclic graph of layers, written as a table.

    `model` and `options` name the function in `npconvnet.models` that makes it again; `name` is for people: that of the
    model, or of the file that the table came from. `preprocessing` and `synsets`, the names of the classes, travel with
    the weights; until some are loaded or trained, the names are numbers. `precision` is the one of `fused`.
    Raises ValueError where a row reads what no earlier row makes, or does not fit its input.
    """

    def __init__(
        self,
        model: str,
        rows: Iterable[Row],
        preprocessing: Preprocessing,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = self.name = model
        self.options = dict(options or {})
        self.precision: Precision = "float32"
        self.preprocessing = preprocessing
        self.nodes = _read_table(rows)
        self.shapes = _shapes(self.nodes, (preprocessing.crop, preprocessing.crop, 3))
        self.synsets: tuple[Synset, ...] = numbered_synsets(self.shapes[self.last][-1])
        self._last_readers = _last_readers(self.nodes)

    @property
    def last(self) -> str:
        """The name of the layer that makes the class scores."""
        return self.nodes[-1].name

    @property
    def device(self) -> Device:
        """Where the parameters live, and where images have to be."""
        return "gpu" if any(is_on_gpu(parameter) for parameter in self.parameters.values()) else "cpu"

    # -- forward and backward ----------------------------------------------------------------------------------------

    def forward(
        self,
        x: Array,
        *,
        chances: Chances | None = None,
        start: str = INPUT,
        until: str | None = None,
        keep: Collection[str] = (),
    ) -> tuple[Array, Trace]:
        """The class scores (N, classes) of `x` (N, H, W, 3), and the trace that a backward starts from.

        `chances`, those of the N images, switch dropout on (training). `start` names the activation that `x` is, if
        not the image, and `until` the one to stop at and to return; nothing after `start` may read what is before it.
        The activations named in `keep` stay in `trace.kept`. Raises ValueError for names that do not exist and, where
        something is dropped, for chances of another number of images.
        """
        trace = Trace(self._require(until or self.last))
        keep = {self._require(name) for name in keep}
        y = self._run(x, self._require(start), trace.last, chances, trace.saved, keep, trace.kept)
        return y, trace

    def scores(self, x: Array) -> Array:
        """The class scores (N, classes) of `x` (N, H, W, 3), keeping nothing for a backward."""
        return self.activation(x, self.last)

    def activation(self, x: Array, name: str, start: str = INPUT) -> Array:
        """The activation of the layer `name`, of the activation `start`, keeping nothing.

        Raises ValueError for a name that does not exist.
        """
        return self._run(x, self._require(start), self._require(name), None, None, (), {})

    @one_blas_thread()
    def backward(
        self,
        trace: Trace,
        dy: Array,
        *,
        start: str | None = None,
        stop: str = INPUT,
        relu_rule: ReLURule = "gradient",
        input_gradient: bool = True,
        parameter_gradients: bool = True,
        keep: Collection[str] = (),
        into: Mapping[str, Array] | None = None,
        ready: Callable[[Gradients], None] | None = None,
    ) -> tuple[Array | None, Gradients]:
        """Sends `dy`, the derivative with respect to the activation `start`, back to the activation `stop`.

        `start` is the last activation of the trace unless named, `stop` the image. Returns (dx, gradients): dx in the
        shape of the activation `stop`, None unless `input_gradient`; the gradients of the parameters that lie between,
        as "layer.parameter", empty unless `parameter_gradients`, and the derivatives with respect to the activations
        named in `keep`, by their names. Activations that nothing between depends on are skipped. The gradients of an
        earlier call, given as `into`, may be written over, which saves the time that fresh memory takes. `ready` is
        called with the gradients of each layer as soon as they are there. Raises ValueError for unknown names, and
        where `start` does not depend on `stop`.
        """
        start = self._require(start or trace.last)
        if start != stop and start not in trace.saved:
            raise ValueError(f"the forward stopped at '{trace.last}' and did not reach '{start}'")
        between = self._depending_on(self._require(stop))
        if start not in between and start != stop:
            raise ValueError(f"'{start}' does not depend on '{stop}'; nothing can be sent back")
        wanted = self._wanted(between, stop, input_gradient, parameter_gradients)
        keep = {self._require(name) for name in keep}
        arrived, old = {start: dy}, into or {}
        gradients: Gradients = {}
        for node in reversed(self.nodes):
            if node.name not in between or node.name not in arrived:
                continue
            if node.name in keep:
                gradients[node.name] = arrived[node.name]
            free = {key: old[name] for key in node.layer.parameters if (name := f"{node.name}.{key}") in old}
            asked = BackwardOptions(any(name in wanted for name in node.inputs), parameter_gradients, relu_rule, free)
            dx, own = node.layer.backward(arrived.pop(node.name), trace.saved[node.name], asked)
            named = {f"{node.name}.{key}": gradient for key, gradient in own.items()}
            gradients |= named
            if ready and named:
                ready(named)
            for name, part in zip(node.inputs, dx if isinstance(dx, tuple) else (dx,), strict=True):
                if name in wanted:
                    arrived[name] = kernels.add_forward((arrived[name], part)) if name in arrived else part
        if stop in keep and stop in arrived:
            gradients[stop] = arrived[stop]
        return arrived.get(stop) if input_gradient else None, gradients

    @one_blas_thread()
    def _run(
        self,
        x: Array,
        start: str,
        last: str,
        chances: Chances | None,
        saved: dict[str, Any] | None,
        keep: Collection[str],
        kept: dict[str, Array],
    ) -> Array:
        """Runs the layers after `start` up to `last`, and lets go of activations that no later layer reads."""
        live = {start: x}
        if start in keep:
            kept[start] = x
        names = [INPUT, *(node.name for node in self.nodes)]
        for node in self.nodes[names.index(start) : names.index(last)]:
            xs = [live[name] for name in node.inputs]
            if saved is None:
                live[node.name] = node.layer.infer(*xs)
            else:
                own = chances.in_stream(node.row) if chances is not None else None
                live[node.name], saved[node.name] = node.layer.forward(*xs, chances=own)
            del xs  # or they would stay while the next layer runs
            if node.name in keep:
                kept[node.name] = live[node.name]
            for name in self._last_readers.get(node.name, ()):
                del live[name]
        return live[last]

    def _require(self, name: str) -> str:
        if name != INPUT and name not in self.shapes:
            raise ValueError(f"no layer '{name}' in {self.name}; it has {', '.join(self.shapes)}")
        return name

    def _depending_on(self, stop: str) -> set[str]:
        """The activations that are computed from `stop`, directly or not."""
        found: set[str] = set()
        for node in self.nodes:
            if any(name == stop or name in found for name in node.inputs):
                found.add(node.name)
        return found

    def _wanted(self, between: set[str], stop: str, input_gradient: bool, parameter_gradients: bool) -> set[str]:
        """The activations whose derivative is needed: they lead to `stop`, or to parameters, by way of `between`."""
        wanted = {stop} if input_gradient else set()
        for node in self.nodes:
            leads_on = any(name in wanted for name in node.inputs)
            if node.name in between and (leads_on or (parameter_gradients and node.layer.parameters)):
                wanted.add(node.name)
        return wanted

    def fused(self, precision: Precision = "float32") -> Network:
        """The same network, on the same parameters, with one layer in place of several; see fused_layers.py.

        In "float32" every ReLU is inside the layer that it alone reads, if it can be, and so is a max pool that alone
        reads the ReLU of a convolution: that gives the same scores and gradients, bit for bit, sooner. The other
        precisions are for a network on a GPU whose tensor cores know them: activations are words of bfloat16 in
        "bfloat16", float32 in "tf32"; images, scores, parameters and gradients are float32. Those activations that are
        left go by the names of the layers with the parameters.

        What is fused for tensor cores already is given back as it is. `copies` are made here of the weights: whoever
        changes the weights changes them too, or fuses the network again. Raises ValueError for tensor cores where the
        network is on the CPU.
        """
        if self.precision != "float32":
            return self
        if precision != "float32" and self.device == "cpu":
            raise ValueError(f"{precision} is for a network on a GPU, and {self.name} is on the CPU")
        fused = self._with_nodes(fuse(self.nodes, self.shapes, precision))
        fused.precision = precision
        return fused

    def for_classes(self, classes: Sequence[int]) -> Network:
        """The same network for these of its `classes` alone, in this order: its scores are (N, len(classes)).

        The choice is made where the scores are: at the last layer with parameters, if every layer behind it keeps
        channels apart and is all that reads the one before it. There a convolution or fully connected layer has only
        the filters of the classes. These are copies, and all other parameters the very arrays of this network: whoever
        changes the weights asks again. It is for computing, not for saving. Raises ValueError for a class that does not
        exist.
        """
        count = self.shapes[self.last][-1]
        for index in classes:
            if not 0 <= index < count:
                raise ValueError(f"no class {index}: {self.name} has classes 0 to {count - 1}")
        chosen = self._origin_of_channels()
        layer = chosen.layer.with_channels(classes)
        of_classes = self._with_nodes(replace(node, layer=layer) if node is chosen else node for node in self.nodes)
        of_classes.synsets = tuple(self.synsets[index] for index in classes)
        return of_classes

    def _with_nodes(self, nodes: Iterable[Node]) -> Network:
        network = copy(self)
        network.nodes = tuple(nodes)
        network.shapes = _shapes(network.nodes, self.shapes[INPUT])
        network._last_readers = _last_readers(network.nodes)
        return network

    def _origin_of_channels(self) -> Node:
        """The first node whose channels are those of the class scores: what lies between keeps them apart."""
        makers = {node.name: node for node in self.nodes}
        readers = Counter(name for node in self.nodes for name in node.inputs)
        node = self.nodes[-1]
        while node.layer.keeps_channels_apart:
            (source,) = node.inputs
            as_many = self.shapes[source][-1] == self.shapes[node.name][-1]
            if source == INPUT or readers[source] > 1 or not as_many:
                break
            node = makers[source]
        return node

    # -- parameters --------------------------------------------------------------------------------------------------

    def initialize(self, rng: np.random.Generator) -> None:
        """Draws the initial parameters of every layer, in the order of the table.

        The weights that make the scores start at N(0, 0.01²), as in AlexNet, so that no class begins ahead.
        """
        *hidden, final = [node.layer for node in self.nodes if node.layer.parameters]
        for layer in hidden:
            layer.initialize(rng)
        final.initialize(rng, std=0.01)

    @property
    def parameters(self) -> dict[str, Array]:
        """Every parameter as "layer.parameter": the arrays themselves, which the layers compute with."""
        return {f"{node.name}.{key}": value for node in self.nodes for key, value in node.layer.parameters.items()}

    @property
    def copies(self) -> dict[str, Array]:
        """The bfloat16 copies of weights that layers compute with, by the names of these parameters."""
        return {f"{node.name}.{key}": value for node in self.nodes for key, value in node.layer.copies.items()}

    def load(self, parameters: Mapping[str, Array]) -> None:
        """Replaces every parameter by a copy; ValueError unless names and shapes are exactly those of the network."""
        own = self.parameters
        if missing := sorted(own.keys() - parameters.keys()):
            raise ValueError(f"{self.model} lacks the parameters {', '.join(missing[:3])} ({len(missing)} in all)")
        if unknown := sorted(parameters.keys() - own.keys()):
            raise ValueError(f"{self.model} has no parameters {', '.join(unknown[:3])} ({len(unknown)} in all)")
        for name, value in parameters.items():
            if own[name].shape != value.shape:
                raise ValueError(f"{name} is {value.shape}, and {self.model} wants {own[name].shape}")
        self._replace_parameters(lambda name, _: parameters[name].copy())

    def astype(self, dtype: npt.DTypeLike) -> Network:
        """Converts the parameters in place, to float32 or float64, and returns the network."""
        return self._replace_parameters(lambda _, value: value.astype(dtype))

    def to(self, device: Device) -> Network:
        """Moves the parameters to `device` and returns the network."""
        return self._replace_parameters(lambda _, value: to_device(value, device))

    def _replace_parameters(self, replacement: Callable[[str, Array], Array]) -> Network:
        for node in self.nodes:
            for key, value in node.layer.parameters.items():
                node.layer.parameters[key] = replacement(f"{node.name}.{key}", value)
        return self

    # -- pictures ----------------------------------------------------------------------------------------------------

    def preprocess(self, pictures: Sequence[Picture], views: ViewCount = 1) -> npt.NDArray[np.float32]:
        """float32 (N·views, crop, crop, 3) of `pictures` of any sizes, uint8 (H, W, 3), on the CPU."""
        squares = np.stack([resize_and_centre_crop(picture, self.preprocessing) for picture in pictures])
        return self.preprocessing.views(squares, views)


def _read_table(rows: Iterable[Row]) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for name, layer, *rest in rows:
        above = nodes[-1].name if nodes else INPUT
        inputs = rest[0] if rest else (above,)
        known = {INPUT, *(node.name for node in nodes)}
        if name in known:
            raise ValueError(f"two rows are named '{name}'")
        if unknown := set(inputs) - known:
            raise ValueError(f"row '{name}' reads {sorted(unknown)}, which no earlier row makes")
        nodes.append(Node(name, layer, inputs, len(nodes)))
    return tuple(nodes)


def _shapes(nodes: Sequence[Node], input_shape: Shape) -> dict[str, Shape]:
    shapes = {INPUT: input_shape}
    for node in nodes:
        try:
            shapes[node.name] = node.layer.output_shape(*(shapes[name] for name in node.inputs))
        except ValueError as error:
            raise ValueError(f"row '{node.name}': {error}") from None
    return shapes


def _last_readers(nodes: Sequence[Node]) -> dict[str, list[str]]:
    """For each node, the activations that no node after it reads."""
    last_reader = {name: node.name for node in nodes for name in node.inputs}
    spent: dict[str, list[str]] = {}
    for name, reader in last_reader.items():
        spent.setdefault(reader, []).append(name)
    return spent

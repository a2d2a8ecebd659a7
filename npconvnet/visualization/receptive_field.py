"""Receptive fields: the part of the image that a unit of a layer can see at all.

A window of k pixels with stride s and padding p, at the places start to stop - 1, reads below it

    start·s − p   to   (stop − 1)·s − p + k      (the end not included)

and so on down to the image; where branches meet, what any of them reads counts (Araujo et al. 2019, Computing Receptive
Fields of Convolutional Neural Networks, Distill). ReLU, LRN and dropout read what is straight below; fully connected
layers and global pooling read everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from npconvnet.errors import InputError
from npconvnet.layers import LRN, Add, AveragePool2d, Concatenate, Conv2d, Dropout, Layer, MaxPool2d, ReLU
from npconvnet.network import INPUT, Network

#: Layers that look straight down; any that is neither one of these nor a window is taken to see everything.
POINTWISE = (ReLU, LRN, Dropout, Concatenate, Add)


class Rectangle(NamedTuple):
    """A part of an image, in pixels: rows `top` to `bottom` - 1, columns `left` to `right` - 1."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """What the units of one layer see of an image without end; each pair is (vertical, horizontal), in pixels.

    Every unit sees `size`, neighbours lie `stride` apart (0 where a layer on the way sees everything), and `offset` is
    where the view of the first unit begins: negative where padding is a part of it.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]

    def at(self, row: int, column: int) -> Rectangle:
        """What the unit in this place sees; it may reach beyond the image."""
        top, left = (o + s * at for o, s, at in zip(self.offset, self.stride, (row, column), strict=True))
        return Rectangle(top, left, top + self.size[0], left + self.size[1])


def receptive_field(network: Network, layer: str) -> ReceptiveField:
    """Size, stride and offset of the receptive field of the units of `layer`.

    Raises InputError where branches of different strides meet, and no one field describes all units; `patch` still can.
    """
    sizes, strides, offsets = [], [], []
    for axis in (0, 1):
        first, second, third = (_seen(network, layer, place, axis, clip=False) for place in range(3))
        (start, stop), stride = first, second[0] - first[0]
        if [second, third] != [(start + n * stride, stop + n * stride) for n in (1, 2)]:
            raise InputError(f"'{layer}' of {network.name} has no one receptive field: branches differ in their stride")
        sizes.append(stop - start)
        strides.append(stride)
        offsets.append(start)
    return ReceptiveField((sizes[0], sizes[1]), (strides[0], strides[1]), (offsets[0], offsets[1]))


def patch(network: Network, layer: str, row: int = 0, column: int = 0) -> Rectangle:
    """The part of the network's input that can move the units of `layer` at this place: exact, at the borders too.

    All channels together: in a concatenation, those of a narrow branch see less. A fully connected layer has the one
    place (0, 0). The part is empty where units see nothing but padding.
    """
    (top, bottom), (left, right) = (_seen(network, layer, at, axis, clip=True) for axis, at in enumerate((row, column)))
    return Rectangle(top, left, bottom, right)


def _seen(network: Network, layer: str, place: int, axis: int, clip: bool) -> tuple[int, int]:
    """Start and stop of what the unit at `place` sees of the image; with `clip` every layer on the way has its end.

    Clipping at the image alone is not enough: where a unit reads padding, the formula goes on to pixels all the same.
    """
    seen = {layer: (place, place + 1)}
    for node in reversed(network.nodes):
        if node.name not in seen:
            continue
        above = seen.pop(node.name)
        for name in node.inputs:
            length = network.shapes[name][axis] if len(network.shapes[name]) == 3 else 1
            start, stop = _read(node.layer, axis, above, length)
            if clip:
                start, stop = max(start, 0), min(stop, length)
            if start < stop:
                others = seen.get(name, (start, stop))
                seen[name] = min(start, others[0]), max(stop, others[1])
    return seen.get(INPUT, (0, 0))


def _read(layer: Layer, axis: int, above: tuple[int, int], length: int) -> tuple[int, int]:
    """What the places `above` of a layer's output read of its input, which is `length` long."""
    start, stop = above
    if isinstance(layer, Conv2d | MaxPool2d | AveragePool2d):
        before = layer.padding[2 * axis]
        return start * layer.stride - before, (stop - 1) * layer.stride - before + layer.window[axis]
    return above if isinstance(layer, POINTWISE) else (0, length)

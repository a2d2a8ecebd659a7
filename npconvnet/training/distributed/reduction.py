"""The ranks' gradients, summed bucket by bucket while the backward still makes the next ones.

The backward begins with the last layers, and in the networks of the paper's kind these are the linear ones, which hold
96% of the parameters: they are on their way while the convolutions compute. Gradients that follow each other are sent
together, a bucket at a time. The buckets depend on the network alone, and so does the order in which they are sent.

What a wire does is in wires.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod

from npconvnet.backend import Array, Device, array_module
from npconvnet.layers import Gradients
from npconvnet.network import Network
from npconvnet.training.distributed.ranks import MPIRanks, Ranks
from npconvnet.training.distributed.wires import MPIWire, NCCLWire, Wire, WireFormat

#: Bytes of a bucket, at least: enough to make nothing of the time it takes to begin, and little beside the whole.
BUCKET = 2**22


def reduction_over(ranks: Ranks, network: Network, device: Device, form: WireFormat) -> Reduction:
    """How the gradients of `network` on `device` are summed over the `ranks`, sent in the given `form`."""
    if not isinstance(ranks, MPIRanks):
        return Reduction()
    return BucketReduction(network, (NCCLWire if device == "gpu" else MPIWire)(ranks, form))


class Reduction:
    """Of one rank alone, whose gradients are the sum as they are."""

    def add(self, gradients: Gradients) -> None:
        """Takes gradients that the backward has finished; they may be overwritten."""

    def finish(self, gradients: Gradients) -> Gradients:
        """The sums over all ranks of the `gradients` of this step, when all of them have been added."""
        return gradients


class BucketReduction(Reduction):
    """Of several ranks, over a `wire`."""

    def __init__(self, network: Network, wire: Wire, bucket: int = BUCKET) -> None:
        self._network, self._wire = network, wire
        self._buckets = buckets({name: p.nbytes for name, p in network.parameters.items()}, bucket)
        self._there: Gradients = {}
        self._sent: list[tuple[Array, Callable[[], None]]] = []

    def add(self, gradients: Gradients) -> None:
        """Sends the buckets that are full with these, in their order."""
        self._there |= gradients
        for bucket in self._buckets[len(self._sent) :]:
            if not self._there.keys() >= set(bucket):
                break
            flat = _flat([self._there[name] for name in bucket])
            self._sent.append((flat, self._wire.begin_sum(flat)))

    def finish(self, gradients: Gradients) -> Gradients:
        """Waits for all buckets. A rank that has added nothing in this step, for want of images, adds zeros."""
        parameters = self._network.parameters
        if not self._there:
            self.add({name: array_module(p).zeros_like(p) for name, p in parameters.items()})
        sums: Gradients = {}
        for bucket, (flat, wait) in zip(self._buckets, self._sent, strict=True):
            wait()
            sums |= _apart(flat, {name: parameters[name].shape for name in bucket})
        self._there, self._sent = {}, []
        return sums


def buckets(sizes: Mapping[str, int], least: int) -> list[list[str]]:
    """The names of `sizes` (bytes) from the last to the first: large ones alone, as they need not be copied then.

    Small ones are put together until they make `least` bytes.
    """
    found: list[list[str]] = []
    small: list[str] = []
    for name in reversed(list(sizes)):
        if sizes[name] >= least:
            found.append([name])
            continue
        small.append(name)
        if sum(sizes[each] for each in small) >= least:
            found.append(small)
            small = []
    return [*found, small] if small else found


def _flat(arrays: list[Array]) -> Array:
    """All numbers in a row; one array alone is not copied."""
    rows = [array.reshape(-1) for array in arrays]
    row: Array = rows[0] if len(rows) == 1 else array_module(rows[0]).concatenate(rows)
    return row


def _apart(flat: Array, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Array]]:
    """The arrays that `_flat` put in a row, by name."""
    begin = 0
    for name, shape in shapes.items():
        end = begin + prod(shape)
        yield name, flat[begin:end].reshape(shape)
        begin = end

"""Counts what a training step has to compute and to move on a GPU, and says how long that takes at least.

    python bench/floors.py                              # the paper's network, batches of 256, on an H100
    python bench/floors.py --batch-size 1024 --no-lrn

A kernel takes at least the larger of two times: its floating-point operations over the rate of the tensor cores, and
its bytes over the rate of the memory, were every operand read once and every result written once. The step takes at
least the sum over its kernels, which are those of `network.fused(precision)`. Nothing here is measured, and the rates
are assumed:

    floor      = Σ max(FLOP / matrix rate, bytes / copy rate)
    prediction = Σ max(FLOP / (MATRIX_SHARE · matrix rate), bytes / (COPY_SHARE · copy rate))

A multiplication and an addition are two operations. A convolution to the input and one to the filters count as many as
the one forward; the first one's to the input is not computed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, Python looks in bench/ only

from npconvnet.cli import run
from npconvnet.errors import InputError
from npconvnet.fused_layers import FirstConv2d, FusedAffine, fuse
from npconvnet.kernels.cuda.space_to_depth import Cells
from npconvnet.layers import LRN, Conv2d, Dropout, Linear, MaxPool2d, Shape
from npconvnet.models.paper import paper
from npconvnet.network import INPUT, Network, Node

#: Of large matrix products, and of a large copy, counting what is read and what is written: assumptions, of the order
#: that an H100 (SXM) reaches. bench/kernels.py measures those of the GPU that is there, and goes by them.
MATRIX_RATE = {"bfloat16": 798e12, "tf32": 399e12}
COPY_RATE = 3.0e12
#: What mma.sync reaches of the rate of wgmma, by which the library multiplies; and kernels, of that of a plain copy.
MATRIX_SHARE, COPY_SHARE = 0.6, 0.85
#: Bytes of an activation and of a weight that a kernel reads.
BYTES = {"bfloat16": 2, "tf32": 4, "float32": 4}


@dataclass(frozen=True, slots=True)
class Work:
    """What the kernel `kernel` has to do for the layer `layer`: `flop` in tensor cores, and `bytes` to move."""

    kernel: str
    layer: str
    flop: float
    bytes: float

    def seconds(self, matrix_rate: float, copy_rate: float) -> float:
        """The time it takes at these rates, in FLOP/s and in B/s."""
        return max(self.flop / matrix_rate, self.bytes / copy_rate)


@dataclass(frozen=True, slots=True)
class Run:
    """A convolution or linear layer and what follows it up to the next: what `network.fused` makes one layer of."""

    name: str
    layer: Conv2d | Linear
    x_shape: Shape
    is_first: bool
    relu: bool = False
    lrn: LRN | None = None
    pool: MaxPool2d | None = None
    dropout: Dropout | None = None

    @property
    def y_shape(self) -> Shape:
        """Of the convolution, before it is pooled."""
        return self.layer.output_shape(self.x_shape)

    @property
    def pooled_shape(self) -> Shape:
        """Of what the next layer reads."""
        return self.pool.output_shape(self.y_shape) if self.pool else self.y_shape

    @property
    def read_shape(self) -> Shape:
        """Of what the matrix product reads: x, or its cells where it is the image."""
        if self.is_first and isinstance(self.layer, Conv2d):
            return cells_of(self.layer, self.x_shape).shape(1)[1:]
        return self.x_shape

    @property
    def filter_cells(self) -> int:
        """Numbers in the cells of the first convolution's filters."""
        assert isinstance(self.layer, Conv2d)
        return math.prod(cells_of(self.layer, self.x_shape).of_filters.shape(len(self.layer.parameters["weight"])))


def runs(network: Network) -> list[Run]:
    """The runs of a network that is one chain of layers. Raises InputError where it is not."""
    found: list[Run] = []
    above = INPUT
    for node in fuse(network.nodes, network.shapes, "tf32"):  # the runs of bfloat16, too, without copies of weights
        if node.inputs != (above,) or not isinstance(node.layer, FusedAffine | Dropout):
            raise InputError(f"{network.name} is no chain of convolutions, poolings and linear layers")
        if isinstance(node.layer, Dropout):
            found[-1] = replace(found[-1], dropout=node.layer)
        else:
            x_shape = found[-1].pooled_shape if found else network.shapes[INPUT]
            found.append(_run(node.name, node.layer, x_shape))
        above = node.name
    return found


def _run(name: str, fused: FusedAffine, x_shape: Shape) -> Run:
    parts: dict[str, Any] = {}
    for layer in fused.layers:
        match layer:
            case Conv2d() | Linear():
                parts["layer"] = layer
            case LRN():
                parts["lrn"] = layer
            case MaxPool2d():
                parts["pool"] = layer
    return Run(name, x_shape=x_shape, is_first=isinstance(fused, FirstConv2d), relu=fused.relu, **parts)


def cells_of(layer: Conv2d, x_shape: Shape) -> Cells:
    """The cells that the first convolution reads in place of the image."""
    return Cells((x_shape[0], x_shape[1]), layer.window, layer.stride, layer.padding, layer.rounding)


def forward_flop(layer: Conv2d | Linear, y_shape: Shape) -> int:
    """Operations of a layer's forward for one image, by the definition: 2 · outputs · the numbers of one filter."""
    return 2 * math.prod(y_shape) * math.prod(layer.parameters["weight"].shape[1:])


def step_flop(network: Network) -> int:
    """Operations of a training step of any network for one image; its class scores alone take `scores_flop`."""
    return sum((2 if node.inputs == (INPUT,) else 3) * flop for node, flop in _forward_flops(network))


def scores_flop(network: Network) -> int:
    """Operations of the class scores of one image."""
    return sum(flop for _, flop in _forward_flops(network))


def _forward_flops(network: Network) -> Iterator[tuple[Node, int]]:
    for node in network.nodes:
        if isinstance(node.layer, Conv2d | Linear):
            yield node, forward_flop(node.layer, network.shapes[node.name])


def work(network: Network, count: int, precision: str) -> list[Work]:
    """Of every kernel of a training step on `count` images, in the order in which they run."""
    chain, size = runs(network), BYTES[precision]
    crop = network.preprocessing.crop
    cells = count * math.prod(chain[0].read_shape) * size
    forward = [item for run in chain for item in _forward(run, count, size, is_last=run is chain[-1])]
    backward = [item for run in reversed(chain) for item in _backward(run, count, size)]
    parameters = sum(parameter.size for parameter in network.parameters.values())
    update = 20 + (
        2 if precision == "bfloat16" else 0
    )  # w, velocity and dw read, the first two written, and words of w
    scores = count * math.prod(chain[-1].y_shape)
    return [
        Work("augment", chain[0].name, 0, count * crop * crop * 3 + cells),
        *forward,
        Work("softmax", chain[-1].name, 0, scores * (4 + size)),
        *backward,
        Work("sgd", "all", 0, parameters * update),
    ]


def _forward(run: Run, count: int, size: int, *, is_last: bool) -> Iterator[Work]:
    x, y, pooled = (count * math.prod(shape) for shape in (run.read_shape, run.y_shape, run.pooled_shape))
    weights, flop = run.layer.parameters["weight"].size, count * forward_flop(run.layer, run.y_shape)
    read = (x + weights) * size
    if run.is_first:
        yield Work("filter cells", run.name, 0, weights * 4 + run.filter_cells * size)
    if run.pool and not run.lrn:
        yield Work("fprop+pool", run.name, flop, read + pooled * (size + 1))
    else:
        yield Work("fprop", run.name, flop, read + y * (4 if is_last else size))
    if run.lrn:
        yield Work("lrn+pool", run.name, 0, y * size + pooled * (size + bool(run.pool)))
    if run.dropout:
        yield Work("dropout", run.name, 0, pooled * (2 * size + 1))


def _backward(run: Run, count: int, size: int) -> Iterator[Work]:
    x, y, pooled = (count * math.prod(shape) for shape in (run.read_shape, run.y_shape, run.pooled_shape))
    weights, flop = run.layer.parameters["weight"].size, count * forward_flop(run.layer, run.y_shape)
    if run.dropout:
        yield Work("dropout backward", run.name, 0, pooled * (2 * size + 1))
    if run.lrn:
        yield Work("lrn+pool backward", run.name, 0, pooled * (size + bool(run.pool)) + 2 * y * size)
    elif run.pool:
        yield Work("pool backward", run.name, 0, pooled * (2 * size + 1) + y * size)
    elif run.relu:
        yield Work("relu backward", run.name, 0, 3 * y * size)
    else:
        yield Work("bias backward", run.name, 0, y * size)
    yield Work("wgrad", run.name, flop, (y + x) * size + weights * 4)
    if run.is_first:
        yield Work("filters of cells", run.name, 0, run.filter_cells * 4 + weights * 4)
    else:
        yield Work("dgrad", run.name, flop, (y + weights + x) * size)


# -- reporting -------------------------------------------------------------------------------------------------------


def as_table(items: Iterable[Work], count: int, precision: str) -> str:
    """Every kernel with its floor, then the step's and what is predicted of it, in Markdown."""
    items, rate = list(items), MATRIX_RATE[precision]
    lines = ["| kernel | layer | GFLOP | MB | floor, µs | bound by |", "|---|---|---:|---:|---:|---|"]
    for item in items:
        bound = "arithmetic" if item.flop / rate > item.bytes / COPY_RATE else "memory"
        numbers = f"{item.flop / 1e9:.1f} | {item.bytes / 1e6:.1f} | {1e6 * item.seconds(rate, COPY_RATE):.0f}"
        lines.append(f"| {item.kernel} | {item.layer} | {numbers} | {bound} |")
    flop, moved = sum(item.flop for item in items), sum(item.bytes for item in items)
    floor = sum(item.seconds(rate, COPY_RATE) for item in items)
    predicted = sum(item.seconds(MATRIX_SHARE * rate, COPY_SHARE * COPY_RATE) for item in items)
    return "\n".join(
        [
            *lines,
            f"| **floor of the step** | | {flop / 1e9:.1f} | {moved / 1e6:.1f} | {1e6 * floor:.0f} | |",
            "",
            f"Floor {1e3 * floor:.2f} ms, {count / floor:,.0f} images/s. "
            f"Predicted of mma.sync {1e3 * predicted:.2f} ms, {count / predicted:,.0f} images/s.",
        ]
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--lrn/--no-lrn", default=True, help="Local response normalisation.")
@click.option("--batch-size", type=click.IntRange(1), default=256, help="Images of a step.")
@click.option("--precision", type=click.Choice(list(MATRIX_RATE)), default="bfloat16", help="What it computes in.")
def main(lrn: bool, batch_size: int, precision: str) -> None:
    """Print what a training step has to compute and to move, and how long that takes at least on an H100."""
    click.echo(as_table(work(paper(lrn=lrn), batch_size, precision), batch_size, precision))


if __name__ == "__main__":
    run(main)

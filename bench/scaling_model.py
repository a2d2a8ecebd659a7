"""What a training step costs on many ranks: a model of a few numbers, each measured or with its source.

**A step.** The gradients come in buckets, the last layers first. Bucket i is `ready` so many seconds after the step
began, and takes `sum_i` to be summed over the ranks; one sum follows the other:

    end_i     = max(ready_i, end_{i−1}) + sum_i
    exposed   = max(0, end_last − backward)        what outlasts the backward; Σ sum_i where nothing overlaps
    step      = backward + exposed + update
    images/s  = ranks · batch / step

**A sum over measured ranks** takes latency + bytes · seconds per byte, fitted to what was measured (`fit`).

**A sum over N GPUs**, g in each of M machines (g = 8, or N if that is less). `out` is what leaves a machine in a
second: all that its ports move; where NVLink connects the machines, too, half of what its GPUs have.

float32 is NCCL's all-reduce, by the formulas with which NCCL chooses its own way (ncclTopoTuneModel in its
src/graph/tuning.cc, which has the constants of `RINGS` and `TREES` too); the fastest way counts. GPUs that NVLink
connects are one machine to it:

    B            = NVLink for M = 1, else min(NVLink, out)
    ring         = base + (2(N−1) − 2M) · nvlink + 2M · net + 2(N−1)/N · bytes / (share · B)      without 2M for M = 1
    tree         = base + 2(g−1) · nvlink + 2 log2(M) · net + 2 · bytes / (share · B)

bfloat16 (npconvnet/training/distributed/wires.py) goes through levels; at one of them, s GPUs share w bytes:

    within a machine     s = g      w = bytes/2        B = NVLink      hop = nvlink
    between machines     s = M      w = bytes/2 / g    B = out / g     hop = net; all g of a machine send at once

    all-to-all   = base + s · part + (s−1)/s · w / B
    all-gather   = base + (s−1) · hop + (s−1)/s · w / (share · B)

and launches kernels, which move in the GPU's own memory, for each number (what NCCL moves there is within its
bandwidths; what goes into s parts is copied for that only where it does not go into equal ones, which is left out):

    3 launches, 20 bytes            to words 6, back 6, and into its place 8
    1 launch, 2 + 2/s, at a level   the parts are read, and 1/s of them, the sums, are written

What is assumed, and from where:

    NVLink    370 GB/s each way of 450: a maintainer of NCCL, github.com/NVIDIA/nccl-tests/issues/212. The sums that
              the switches themselves can do (NVLS, up to 480 GB/s there) are left out
    NVLink throughout: the NVLink Switch System connects 32 machines of 8 H100 by a tree with half the bandwidth at
              its root: NVIDIA's white paper on the H100
    port      47 GB/s of 400 Gb/s: a maintainer, github.com/NVIDIA/nccl-tests/issues/290 (46 to 48)
    memory    3.35 TB/s, and 989 TFLOP/s dense bfloat16: NVIDIA's data sheet of the H100 SXM; eight of them and eight
              ports of 400 Gb/s a machine: that of the DGX H100
    part      5 µs, in which Python hands a message to NCCL and takes one: our estimate
    launch    10 µs, in which Python launches a kernel: our estimate
    one GPU   a tenth of its peak, where it has not been measured: our estimate. Forward and backward share its time as
              they share the operations; all ranks take the same time, and data are never late
    free      the copy of small gradients into buckets (9 MB), and what a sum takes of a GPU that computes meanwhile
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from typing import Any

import numpy as np

from npconvnet.errors import InputError
from npconvnet.network import Network
from npconvnet.training.distributed.reduction import BUCKET, buckets
from npconvnet.training.distributed.wires import WireFormat

NVLINK, PORT, MEMORY = 370e9, 47e9, 3.35e12
PEAK, SHARE_OF_PEAK = 989e12, 0.1
MACHINE = 8
PART, LAUNCH = 5e-6, 10e-6
#: Global batches up to which the linear rule for the learning rate held: You et al. 2017, Goyal et al. 2017.
LINEAR_RULE = {"AlexNet": 1024, "ResNet-50": 8192}
#: Bytes that the update moves for each parameter: it reads three numbers of float32 and writes two.
OF_AN_UPDATE = 20


# -- a step ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """A step of one rank that sums nothing: seconds from its beginning, for `batch` images; `buckets` in bytes."""

    batch: int
    buckets: tuple[int, ...]
    ready: tuple[float, ...]
    backward: float
    update: float

    def exposed(self, sums: Sequence[float], overlap: bool = True) -> float:
        """Seconds by which the `sums` of the buckets make the step longer."""
        if not overlap:
            return sum(sums)
        end = 0.0
        for ready, seconds in zip(self.ready, sums, strict=True):
            end = max(ready, end) + seconds
        return max(0.0, end - self.backward)

    def faster(self, factor: float) -> Step:
        """The same with forward and backward so many times as fast; memory bounds the update as before."""
        return replace(self, ready=tuple(t / factor for t in self.ready), backward=self.backward / factor)

    def images_per_second(self, ranks: int = 1, exposed: float = 0.0) -> float:
        """Of so many ranks."""
        return ranks * self.batch / (self.backward + exposed + self.update)


def bucket_names(network: Network) -> list[list[str]]:
    """The parameters of each bucket, in the order in which they are sent."""
    return buckets({name: p.nbytes for name, p in network.parameters.items()}, BUCKET)


def bucket_bytes(network: Network) -> tuple[int, ...]:
    """The size of each."""
    return tuple(sum(network.parameters[name].nbytes for name in bucket) for bucket in bucket_names(network))


def operations(network: Network) -> dict[str, int]:
    """Multiplications and additions of an image's forward, by the layers that have parameters, by the definition."""
    return {
        node.name: 2 * node.layer.parameters["weight"].size * prod(network.shapes[node.name][:-1])
        for node in network.nodes
        if node.layer.parameters
    }


def backward_operations(network: Network) -> dict[str, int]:
    """The same of the backward: to the weights and to the input; from the first layer nothing goes on."""
    forward = operations(network)
    return {name: count * (1 if name == next(iter(forward)) else 2) for name, count in forward.items()}


def assumed_images_per_second(network: Network) -> float:
    """Of one GPU that keeps to its share of the peak."""
    count = sum(operations(network).values()) + sum(backward_operations(network).values())
    return SHARE_OF_PEAK * PEAK / count


def assumed_step(network: Network, images_per_second: float, batch: int) -> Step:
    """A step of one GPU of which only its speed is known.

    Raises InputError where that leaves no time beside the update, which its memory bounds.
    """
    update = OF_AN_UPDATE * sum(p.size for p in network.parameters.values()) / MEMORY
    forward_and_backward = batch / images_per_second - update
    if not forward_and_backward > 0:  # nor NaN
        raise InputError(
            f"--images-per-second {images_per_second:g}: the update alone takes a GPU {1000 * update:.2f} ms, so it "
            f"cannot reach more than {batch / update:.0f} in batches of {batch}"
        )
    forward, backward = sum(operations(network).values()), backward_operations(network)
    second = forward_and_backward / (forward + sum(backward.values()))
    done, ready = float(forward), {}
    for name in reversed(list(backward)):
        done += backward[name]
        ready[name] = done * second
    return Step(
        batch,
        bucket_bytes(network),
        tuple(max(ready[name.rpartition(".")[0]] for name in bucket) for bucket in bucket_names(network)),
        forward_and_backward,
        update,
    )


# -- a sum over measured ranks -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """What a sum takes by its bytes."""

    latency: float
    seconds_per_byte: float

    def seconds(self, size: int) -> float:
        """Of so many bytes."""
        return self.latency + size * self.seconds_per_byte


def fit(measured: Sequence[tuple[int, float]]) -> Line:
    """The line nearest to all (bytes, seconds), relative to each; neither part is below 0."""
    from scipy.optimize import nnls

    sizes, seconds = np.array(measured, float).T
    (latency, per_byte), _ = nnls(np.stack([1 / seconds, sizes / seconds], axis=1), np.ones(len(seconds)))
    return Line(float(latency), float(per_byte))


# -- a sum over GPUs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines of 8 GPUs. NVLink connects `domain` GPUs, and so many `ports` a machine, if it has any, all of them."""

    name: str
    domain: int
    ports: int

    def holds(self, gpus: int) -> bool:
        """Whether there are so many."""
        return gpus <= self.domain or self.ports > 0

    def domains(self, gpus: int) -> int:
        """Over how many so many are spread."""
        return ceil(gpus / self.domain)

    def out(self, gpus: int) -> float:
        """Bytes a second that leave a machine."""
        return MACHINE * NVLINK / 2 if self.domains(gpus) == 1 else self.ports * PORT


CLUSTERS = (
    Cluster("NVLink throughout, 256 at most", 256, 0),
    Cluster("machines of 8, 400 Gb/s a GPU", 8, 8),
    Cluster("machines of 8, 400 Gb/s a machine", 8, 1),
)
#: The numbers of GPUs that tables show.
GPUS = 1, 8, 16, 64, 256, 1024


@dataclass(frozen=True, slots=True)
class Way:
    """One of NCCL's: seconds to begin, of a step by NVLink and over the network, and its share of the bandwidth."""

    base: float
    nvlink: float
    net: float
    share: float


RINGS = Way(14.0e-6, 1.9e-6, 4.0e-6, 0.92), Way(8.4e-6, 3.4e-6, 14.0e-6, 1.0)  # LL128 and Simple
TREES = Way(14.0e-6, 1.25e-6, 8.5e-6, 0.92 * 120 / 128), Way(0.0, 28e-6, 28e-6, 0.92)


def all_reduce(size: float, gpus: int, cluster: Cluster) -> float:
    """Seconds in which NCCL sums `size` bytes over so many `gpus`."""
    domains, bandwidth = cluster.domains(gpus), min(NVLINK, cluster.out(gpus))
    between = 2 * domains if domains > 1 else 0
    rings = (
        way.base
        + (2 * (gpus - 1) - between) * way.nvlink
        + between * way.net
        + 2 * (gpus - 1) / gpus * size / (way.share * bandwidth)
        for way in RINGS
    )
    trees = (
        way.base
        + 2 * (min(gpus, cluster.domain) - 1) * way.nvlink
        + 2 * log2(domains) * way.net
        + 2 * size / (way.share * bandwidth)
        for way in TREES
    )
    return min(*rings, *trees)


def sum_by_levels(size: float, gpus: int, cluster: Cluster) -> float:
    """Seconds in which `gpus`, whole machines of them or a part of one, sum `size` bytes of float32 as bfloat16."""
    here, words, numbers = min(gpus, MACHINE), size / 2, size / 4
    within = level(words, here, NVLINK, net=False)
    between = level(words / here, gpus // here, cluster.out(gpus) / here, net=cluster.domains(gpus) > 1)
    return within + between + 3 * LAUNCH + 20 * numbers / MEMORY


def level(words: float, gpus: int, bandwidth: float, net: bool) -> float:
    """Seconds of one level, over `words` bytes of bfloat16; `bandwidth` is what each of the `gpus` has."""
    if gpus == 1:
        return 0.0
    numbers, sent = words / 2, (gpus - 1) / gpus * words
    all_to_all = min(way.base for way in RINGS) + gpus * PART + sent / bandwidth
    all_gather = min(
        way.base + (gpus - 1) * (way.net if net else way.nvlink) + sent / (way.share * bandwidth) for way in RINGS
    )
    return all_to_all + LAUNCH + (2 + 2 / gpus) * numbers / MEMORY + all_gather


#: Seconds of a sum by what is sent.
SUMS: Mapping[WireFormat, Callable[[float, int, Cluster], float]] = {"float32": all_reduce, "bfloat16": sum_by_levels}


def predict(step: Step, gpus: int, cluster: Cluster, wire: WireFormat) -> float:
    """Images/s of so many `gpus`, each of which makes `step`."""
    if gpus == 1:
        return step.images_per_second()
    sums = [SUMS[wire](size, gpus, cluster) for size in step.buckets]
    return step.images_per_second(gpus, step.exposed(sums))


def rank_counts(most: int) -> list[int]:
    """1, 2, 4 … up to `most`, and `most` itself."""
    return sorted({most, *(2**n for n in range(most.bit_length()))})


def predictions(step: Step) -> list[dict[str, Any]]:
    """Images/s of 1, 2, 4 … GPUs that make `step`, a row for each cluster and wire."""
    counts = rank_counts(max(GPUS))
    return [
        {
            "cluster": cluster.name,
            "wire": wire,
            "images_per_second": {n: predict(step, n, cluster, wire) for n in counts if cluster.holds(n)},
        }
        for cluster in CLUSTERS
        for wire in SUMS
    ]

"""A batch of pictures, and its way to the GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, module_of


@dataclass(frozen=True, slots=True)
class Batch:
    """`squares` uint8 (N, size, size, 3), `labels` (N,), and `numbers` (N,), the places in the list of pictures."""

    squares: Array
    labels: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]


def copied_ahead(batches: Iterable[Batch], shape: tuple[int, ...]) -> Iterator[Batch]:
    """`batches` with their squares on the GPU, each copied there while the network computes with the one before it.

    No batch has more squares than `shape`, (N, size, size, 3). As with `batches`, the squares of a batch are good until
    the next one is asked for.
    """
    gpu = module_of("gpu")
    copying = gpu.cuda.Stream(non_blocking=True)  # it waits for nobody unasked, and nobody for it
    ready: Batch | None = None
    for batch, array in zip(batches, cycle([gpu.empty(shape, np.uint8) for _ in range(2)]), strict=False):
        copying.wait_event(gpu.cuda.get_current_stream().record())  # the network may still compute with what is there
        squares = array[: len(batch.squares)]
        squares.set(batch.squares, stream=copying)
        copied = copying.record(gpu.cuda.Event(block=True, disable_timing=True))  # that waits without a core
        try:
            if ready is not None:
                yield ready
        finally:
            copied.synchronize()  # only then may the memory on the host take the next batch, or be given back
        ready = replace(batch, squares=squares)
    if ready is not None:
        yield ready

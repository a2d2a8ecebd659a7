"""A whole training step on a GPU, captured as a CUDA graph and replayed: one launch in place of some sixty.

Augmentation, forward, loss, backward and update are the same functions that run one by one elsewhere; here their
launches are recorded. What changes from step to step, the views, the labels, the chances of dropout and the learning
rate, lies at fixed places in the GPU's memory, which one copy fills before each replay. What the step computes with
lies in a memory pool of its own, so that nobody else gets that memory between two replays.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from npconvnet.backend import Array, host_memory, module_of
from npconvnet.fused_layers import FirstConv2d
from npconvnet.kernels import Views
from npconvnet.kernels.cuda.augment import VIEW, augment_cells, pack_views
from npconvnet.network import Network
from npconvnet.randomness import Chances
from npconvnet.training.optimizer import SGD
from npconvnet.training.step import loss_and_gradients

R = TypeVar("R")

#: Pictures come in two places by turns (data/batch.py), which are others in the next epoch.
PLACES = 2


class CapturedStep:
    """Trains `network`, fused for tensor cores, by `optimizer`, on batches of exactly `batch_size` pictures.

    Raises ValueError where the network does not begin with a convolution on the image.
    """

    def __init__(self, network: Network, optimizer: SGD, batch_size: int) -> None:
        first = network.nodes[0].layer
        if not isinstance(first, FirstConv2d):
            raise ValueError(f"{network.name} does not begin with a convolution that is fused for tensor cores")
        self._gpu = module_of("gpu")
        self._network, self._optimizer, self._first = network, optimizer, first
        self._inputs = _Inputs(batch_size)
        preprocessing = network.preprocessing
        self._mean = self._gpu.asarray(preprocessing.mean, np.float32)
        self._std = self._gpu.asarray(preprocessing.std, np.float32)
        self._gradients = {name: self._gpu.empty_like(p) for name, p in network.parameters.items()}
        self._stream = self._gpu.cuda.Stream(non_blocking=True)
        self._blocks: list[Any] = []  # graphs use them: the pool must not give them back when memory gets short
        self._pool = self._gpu.cuda.MemoryPool(self._new_block)
        self._captured: dict[int, tuple[Any, Array]] = {}
        self._has_run = False

    def __call__(
        self, squares: Any, views: Views, labels: npt.NDArray[np.int64], chances: Chances, learning_rate: float
    ) -> Array:
        """One step on `squares`, uint8 (N, resize, resize, 3) on the GPU, seen by `views`; N is the step's batch size.

        `labels` (N,) and `chances` are on the host. Returns the mean loss, float32 () on the GPU, without waiting for
        it. Each place of `squares` in memory has a graph of its own, so there should be few of them. Raises ValueError
        for another number of pictures.
        """
        preprocessing = self._network.preprocessing
        margins = squares.shape[1] - preprocessing.crop, squares.shape[2] - preprocessing.crop
        self._inputs.fill(pack_views(views, len(squares), margins), labels, chances, learning_rate)
        if not self._has_run:  # compiles the kernels and fills the pool, for which a capture is no time
            self._has_run = True
            return self._in_own_pool(lambda: self._run(squares).copy())
        address = squares.data.ptr
        if address not in self._captured:
            if len(self._captured) == PLACES:
                self._gpu.cuda.get_current_stream().synchronize()  # the last replay needs its graph to the end
                self._captured.clear()
            self._captured[address] = self._in_own_pool(lambda: self._capture(squares))
        graph, loss = self._captured[address]
        graph.launch()
        return loss.copy()  # the next replay writes its own there

    def _run(self, squares: Array) -> Array:
        """The step itself, launch by launch: what a graph records."""
        network, inputs = self._network, self._inputs
        crop, cells = network.preprocessing.crop, self._first.cells
        x = augment_cells(squares, inputs.views, crop, self._mean, self._std, cells, self._first.dtype)
        loss, gradients = loss_and_gradients(network, x, inputs.labels, inputs.chances, into=self._gradients)
        self._optimizer.update(gradients, inputs.learning_rate, network.copies)
        return loss

    def _capture(self, squares: Array) -> tuple[Any, Array]:
        self._stream.begin_capture()
        try:
            loss = self._run(squares)
        except BaseException:
            with suppress(Exception):  # whose words would hide those of the first error
                self._stream.end_capture()  # nobody could wait for the GPU any more
            raise
        return self._stream.end_capture(), loss

    def _new_block(self, size: int) -> Any:
        memory = self._gpu.cuda.Memory(size)
        self._blocks.append(memory)
        return self._gpu.cuda.MemoryPointer(memory, 0)

    def _in_own_pool(self, function: Callable[[], R]) -> R:
        """What `function` gives, in a stream that can be captured, between what came before and what comes after."""
        outside = self._gpu.cuda.get_current_stream()
        self._stream.wait_event(outside.record())
        with self._stream, self._gpu.cuda.using_allocator(self._pool.malloc):
            result = function()
        outside.wait_event(self._stream.record())
        return result


class _Inputs:
    """What changes from step to step, side by side on the GPU, where one copy from the host fills it."""

    def __init__(self, count: int) -> None:
        fields: Any = np.dtype(
            [
                ("items", np.int64, (count,)),
                ("labels", np.int64, (count,)),
                ("key", np.uint32, (2,)),
                ("learning_rate", np.float32, (1,)),
                ("views", np.uint8, (count * VIEW.itemsize,)),
            ]
        )
        gpu = module_of("gpu")
        self._count = count
        self._device = gpu.empty(fields.itemsize, np.uint8)
        # Two, so that one can be filled while the other is still being copied; with the event after its last copy.
        hosts = [host_memory((fields.itemsize,), np.uint8, "gpu") for _ in range(2)]
        copied = [gpu.cuda.Event(block=True, disable_timing=True) for _ in hosts]
        self._hosts = cycle([(host, host.view(fields)[0], event) for host, event in zip(hosts, copied, strict=True)])
        items, self.labels, key, self.learning_rate, self.views = (self._part(*fields.fields[n]) for n in fields.names)
        self.chances = Chances(items, key)

    def fill(
        self,
        views: npt.NDArray[np.void],
        labels: npt.NDArray[np.int64],
        chances: Chances,
        learning_rate: float,
    ) -> None:
        """Sends them after what the GPU is doing; raises ValueError where they are of another number of pictures."""
        if {len(views), len(labels), len(chances.items)} != {self._count}:
            raise ValueError(f"the step takes {self._count} pictures, and not {len(views)} with {len(labels)} labels")
        host, fields, copied = next(self._hosts)
        copied.synchronize()
        fields["items"], fields["key"], fields["labels"] = chances.items, chances.key, labels
        fields["learning_rate"], fields["views"] = learning_rate, views.view(np.uint8)
        stream = module_of("gpu").cuda.get_current_stream()
        self._device.set(host, stream=stream)
        copied.record(stream)

    def _part(self, dtype: np.dtype[Any], offset: int) -> Array:
        """The array on the GPU of one field."""
        part: Array = self._device[offset : offset + dtype.itemsize].view(dtype.base)
        return part

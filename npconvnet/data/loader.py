"""From pictures to batches, read ahead of the network by a few threads into memory that is used over and over."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from npconvnet.backend import Device, host_memory
from npconvnet.data.augment import ColourStatistics
from npconvnet.data.batch import Batch, copied_ahead
from npconvnet.data.image_files import UnreadableImage
from npconvnet.errors import InputError
from npconvnet.parallel import threads
from npconvnet.preprocessing import Picture
from npconvnet.randomness import Purpose, generator

#: Batches in memory: the one that the network sees, and those that are read ahead.
BUFFERS = 4
#: So many pictures of a batch are one task of a thread.
PIECE = 16
#: Pictures that the colour statistics are measured on.
STATISTICS_SAMPLE = 1000
#: So many unreadable pictures are named as they are met; all of them are in `Loader.unreadable`.
UNREADABLE_SHOWN = 20

Numbers = npt.NDArray[np.int64]
#: The numbers of a batch, the memory for its squares, and for each piece of it which pictures could be read.
_Reading = tuple[Numbers, Picture, list[Future[npt.NDArray[np.bool_]]]]


class Source(Protocol):
    """Pictures that can be read in any order, and from many threads at once: Shards, or ImageFiles.

    All are `size` pixels high and wide; `labels` (N,) are whole numbers.
    """

    size: int
    labels: npt.NDArray[Any]

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """The name of a picture in its data set."""

    def read(self, number: int, square: Picture) -> None:
        """Reads a picture into `square`, uint8 (size, size, 3).

        Raises UnreadableImage where the picture is to be left out; any other error is raised by the loader.
        """


#: Of so many pictures of a batch, those that are to be read.
Share = Callable[[int], slice]


class Loader:
    """Batches of the pictures of `source`, with their squares on `device`; `labels` (N,) if not the source's own.

    Where several processes read the same epochs, the `share` of each tells it which part of every batch it reads; it
    may be none of a small one.

    The squares of a batch are good until the next batch is asked for, which then may take their memory: an epoch needs
    memory for BUFFERS batches, however slow the network is. Pictures that are to be left out are missing from their
    batch, named once on standard error, and listed in `unreadable` (name to reason). Any other error in a thread is
    raised in place of the batch, or of the one before it on a GPU.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        device: Device = "cpu",
        labels: npt.NDArray[Any] | None = None,
        share: Share = slice,
    ) -> None:
        self.source, self.batch_size, self.device, self.share = source, batch_size, device, share
        self.labels = source.labels if labels is None else labels
        self.unreadable: dict[str, str] = {}

    @property
    def batches(self) -> int:
        """The number of batches in an epoch; the last may be smaller."""
        return -(-len(self.source) // self.batch_size)

    def epoch(self, seed: int, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, shuffled by (seed, epoch), from `first_batch` on."""
        order = generator(seed, Purpose.SHUFFLE, epoch).permutation(len(self.source))
        return self._batches(order[first_batch * self.batch_size :])

    def in_order(self) -> Iterator[Batch]:
        """All batches, in the order of the list."""
        return self._batches(np.arange(len(self.source)))

    def colour_statistics(self) -> ColourStatistics:
        """Measured on up to STATISTICS_SAMPLE pictures, evenly spaced; InputError where none can be read."""
        count = min(len(self.source), STATISTICS_SAMPLE)
        sample = np.linspace(0, len(self.source) - 1, count).astype(int)
        squares = chain.from_iterable(batch.squares for batch in self._on_host(sample))
        bar = iter(tqdm(squares, "colour statistics", count, unit="image", leave=False, disable=None))
        first = next(bar, None)
        if first is None:
            raise InputError(f"not one of the training images can be read ({next(iter(self.unreadable.values()))})")
        return ColourStatistics.of(chain([first], bar))

    def _batches(self, order: Numbers) -> Iterator[Batch]:
        batches = self._on_host(order)
        return copied_ahead(batches, self._shape(order)) if self.device == "gpu" else batches

    def _shape(self, order: Numbers) -> tuple[int, ...]:
        """Of the squares of the largest batch, which is the first or, by the shares, the last."""
        full, rest = min(self.batch_size, len(order)), len(order) % self.batch_size
        largest = max(len(range(count)[self.share(count)]) for count in (full, rest))
        return largest, self.source.size, self.source.size, 3

    def _on_host(self, order: Numbers) -> Iterator[Batch]:
        """The pictures in `order`. All threads work at the batch that is wanted next, then at the one after it."""
        pool = ThreadPoolExecutor(threads(), "npconvnet-loader")

        def begin(numbers: Numbers, buffer: Picture) -> _Reading:
            pieces = [slice(first, first + PIECE) for first in range(0, len(numbers), PIECE)]
            return numbers, buffer, [pool.submit(self._read, numbers[piece], buffer[piece]) for piece in pieces]

        batches = (order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size))
        upcoming = (numbers[self.share(len(numbers))] for numbers in batches)
        try:
            ahead = deque(
                begin(numbers, host_memory(self._shape(order), np.uint8, self.device))
                for numbers in islice(upcoming, BUFFERS)
            )
            while ahead:
                numbers, buffer, pieces = ahead.popleft()
                read = np.concatenate([np.ones(0, np.bool_), *(piece.result() for piece in pieces)])
                yield self._batch(numbers, buffer, read)
                ahead.extend(begin(following, buffer) for following in islice(upcoming, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, numbers: Numbers, squares: Picture) -> npt.NDArray[np.bool_]:
        """Whether each of the pictures could be read into `squares`."""
        read = np.ones(len(numbers), np.bool_)
        for n, number in enumerate(numbers.tolist()):
            try:
                self.source.read(number, squares[n])
            except UnreadableImage as error:
                self._leave_out(self.source.name(number), str(error))
                read[n] = False
        return read

    def _leave_out(self, name: str, reason: str) -> None:
        if name not in self.unreadable:
            self.unreadable[name] = reason
            if len(self.unreadable) <= UNREADABLE_SHOWN:
                tqdm.write(f"skipped: {reason}", file=sys.stderr)

    def _batch(self, numbers: Numbers, buffer: Picture, read: npt.NDArray[np.bool_]) -> Batch:
        """The pictures of a buffer that could be read, moved up to its beginning."""
        if not read.all():
            numbers = numbers[read]
            buffer[: len(numbers)] = buffer[: len(read)][read]
        return Batch(buffer[: len(numbers)], self.labels[numbers].astype(np.int64), numbers)

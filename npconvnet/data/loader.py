"""From the list of a data set's images to batches, decoded ahead of the network by a few threads."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from npconvnet.data.augment import ColourStatistics
from npconvnet.data.ilsvrc import Example
from npconvnet.data.image import load_square
from npconvnet.errors import InputError
from npconvnet.preprocessing import Picture, Preprocessing
from npconvnet.randomness import Purpose, generator

#: Threads that decode, and batches that wait for the network.
WORKERS = 2
BATCHES_AHEAD = 4
#: Decoded pictures up to this many bytes stay in memory from one epoch to the next.
CACHE_BYTES = 2**30
#: Pictures that the colour statistics are measured on.
STATISTICS_SAMPLE = 1000
#: So many unreadable pictures are named as they are met; all of them are in `Loader.unreadable`.
UNREADABLE_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Batch:
    """`squares` uint8 (N, size, size, 3), `labels` (N,), and `numbers` (N,), the places in the list of images."""

    squares: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]


class Loader:
    """Batches of `examples` as squares, resized as `preprocessing` says.

    Images that can't be read are left out of their batch, named once on standard error, and listed in `unreadable`
    (name to reason). Pictures are kept decoded while they fit into CACHE_BYTES.
    """

    def __init__(self, examples: Sequence[Example], preprocessing: Preprocessing, batch_size: int) -> None:
        self.examples, self.preprocessing, self.batch_size = examples, preprocessing, batch_size
        self.unreadable: dict[str, str] = {}
        self._cache: dict[int, Picture] = {}
        self._cache_limit = CACHE_BYTES // (preprocessing.resize**2 * 3)

    @property
    def batches(self) -> int:
        """The number of batches in an epoch; the last may be smaller."""
        return -(-len(self.examples) // self.batch_size)

    def epoch(self, seed: int, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, shuffled by (seed, epoch), from `first_batch` on."""
        order = generator(seed, Purpose.SHUFFLE, epoch).permutation(len(self.examples))
        return self._batches(order[first_batch * self.batch_size :])

    def in_order(self) -> Iterator[Batch]:
        """All batches, in the order of the list."""
        return self._batches(np.arange(len(self.examples)))

    def colour_statistics(self) -> ColourStatistics:
        """Measured on up to STATISTICS_SAMPLE pictures, evenly spaced; InputError where none can be read."""
        count = min(len(self.examples), STATISTICS_SAMPLE)
        numbers = np.linspace(0, len(self.examples) - 1, count).astype(int)
        bar = tqdm(numbers, desc="colour statistics", unit="image", leave=False, disable=None)
        with ThreadPoolExecutor(WORKERS) as pool:
            squares = (square for square in pool.map(self._square, bar) if square is not None)
            first = next(squares, None)
            if first is None:
                raise InputError(f"not one of the training images can be read ({next(iter(self.unreadable.values()))})")
            return ColourStatistics.of(chain([first], squares))

    def _batches(self, order: npt.NDArray[np.int64]) -> Iterator[Batch]:
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                for first in range(0, len(order), self.batch_size):
                    waiting.append(pool.submit(self._batch, order[first : first + self.batch_size]))
                    if len(waiting) > BATCHES_AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _batch(self, numbers: npt.NDArray[np.int64]) -> Batch:
        loaded = [(number, square) for number in numbers if (square := self._square(number)) is not None]
        size = self.preprocessing.resize
        squares = np.empty((len(loaded), size, size, 3), np.uint8)
        for n, (_, square) in enumerate(loaded):
            squares[n] = square
        read = np.array([number for number, _ in loaded], np.int64)
        return Batch(squares, np.array([self.examples[number].label for number in read], np.int64), read)

    def _square(self, number: int) -> Picture | None:
        if (square := self._cache.get(number)) is not None:
            return square
        example = self.examples[number]
        try:
            square = load_square(example.read(), example.name, self.preprocessing)
        except InputError as error:
            if example.name not in self.unreadable:
                self.unreadable[example.name] = str(error)
                if len(self.unreadable) <= UNREADABLE_SHOWN:
                    tqdm.write(f"skipped: {error}", file=sys.stderr)
            return None
        if len(self._cache) < self._cache_limit:
            self._cache[number] = square
        return square

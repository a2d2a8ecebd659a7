"""One source of chance for each random choice of a run, made from the seed, what it is for, and where the run stands.

So nothing random depends on what was drawn before: an interrupted run goes on with the same bits, and an image is
cropped and coloured, and its activations are dropped, in the same way whichever batch or process it falls to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt


class Purpose(IntEnum):
    """What a generator is for. The numbers are part of every run's random state: never renumber."""

    INITIALIZE = 0
    SHUFFLE = 1
    AUGMENT = 2
    DROPOUT = 3


def generator(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The generator for `purpose` at `position`, such as (epoch,); all numbers are non-negative."""
    return np.random.default_rng([seed, purpose, *position])


def uniforms(
    count: int, items: npt.NDArray[np.int64], seed: int, purpose: Purpose, *position: int
) -> npt.NDArray[np.float64]:
    """(N, count) numbers between 0 and 1, both excluded, for each of `items` (N,), at `position`.

    Each row is the item's own, whichever others are asked for: as if it had a generator, but that takes 12 µs to make
    for each item, and this 2 µs.
    """
    rows, blocks = np.indices((len(items), -(-count // 4)))
    words = np.stack(Chances.of(items, seed, purpose, *position).words(rows, blocks), axis=2)  # (N, blocks, 4)
    return (words.reshape(len(items), 4 * blocks.shape[1])[:, :count] + 0.5) / 2**32


@dataclass(frozen=True, slots=True, eq=False)
class Chances:
    """Random words of 32 bits for each of `items` (N,): its own, whichever others are with it.

    Word i of item n is word i % 4 of Philox4x32-10 with the counter (i // 4, `stream`, low half of n, high half of n)
    and `key` (2,), which is made of the seed, the purpose and the position by NumPy's SeedSequence.

    Both may be arrays on a GPU, int64 and uint32: `kernels.draw_kept` reads there what they hold by then.
    """

    items: npt.NDArray[np.int64]
    key: npt.NDArray[np.unsignedinteger[Any]]
    stream: int = 0

    @classmethod
    def of(cls, items: npt.NDArray[np.int64], seed: int, purpose: Purpose, *position: int) -> Chances:
        """The chances of `items` for `purpose` at `position`, such as (epoch,)."""
        return cls(items, np.random.SeedSequence([seed, purpose, *position]).generate_state(2))

    def __getitem__(self, part: slice) -> Chances:
        """Those of some of the items."""
        return replace(self, items=self.items[part])

    def in_stream(self, number: int) -> Chances:
        """Other chances of the same items: every stream is independent of the others."""
        return replace(self, stream=number)

    def words(self, rows: npt.NDArray[np.int64], blocks: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint64], ...]:
        """Words 4·b to 4·b + 3, as four arrays, for each b of `blocks` (…) and the item in that row of `items` (…)."""
        items = self.items.astype(np.uint64)[rows]
        stream = np.full(items.shape, self.stream, np.uint64)
        return philox((blocks.astype(np.uint64), stream, items & _LOW, items >> _HALF), self.key)


_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)
_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_KEY_STEPS = np.array([0x9E3779B9, 0xBB67AE85], np.uint64)
_ROUNDS = 10


def philox(counter: Sequence[npt.NDArray[np.uint64]], key: npt.ArrayLike) -> tuple[npt.NDArray[np.uint64], ...]:
    """Philox4x32-10: four words of 32 bits, each (…), as random as can be, from four words `counter` and two `key`.

    Words are held in uint64. Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
    """
    a, b, c, d = counter
    low, high = np.asarray(key, np.uint64)
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (second >> _HALF) ^ b ^ low, second & _LOW, (first >> _HALF) ^ d ^ high, first & _LOW
        low, high = (low + _KEY_STEPS[0]) & _LOW, (high + _KEY_STEPS[1]) & _LOW
    return a, b, c, d

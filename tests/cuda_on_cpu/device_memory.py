"""The stand-in's memory: pools of it, as CuPy has them, and what lies at an address.

When nobody has an array in a block of memory any more, the block goes back to its pool, and the stream in which it was
allocated fills it with nonsense as soon as it gets on, whatever other streams still want with it. A block of the
default pool is gone then, for anybody may get it. One of any other pool stays where it is as long as the pool lives.
"""

import bisect
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.cuda_on_cpu.fenced_memory import NONSENSE, FencedMemory
from tests.cuda_on_cpu.streams import Stream, get_current_stream

#: Pools count the bytes of a block as a multiple of this.
UNIT = 512


class OutOfMemoryError(MemoryError):
    """In CuPy's words."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


class _Places:
    """All memory of the device, in the order of addresses."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._memory: dict[int, memoryview] = {}
        self._lock = threading.RLock()  # the collector of garbage may come between, in the same thread

    def add(self, memory: memoryview) -> None:
        with self._lock:
            self._memory[_address(memory)] = memory
            bisect.insort(self._begins, _address(memory))

    def remove(self, memory: memoryview) -> None:
        with self._lock:
            del self._memory[_address(memory)]
            self._begins.remove(_address(memory))

    def find(self, address: int) -> memoryview | None:
        """The memory that begins at `address` or before it, if there is any."""
        with self._lock:
            i = bisect.bisect(self._begins, address)
            return self._memory[self._begins[i - 1]] if i else None


@dataclass(frozen=True)
class Memory:
    """So many bytes, as who gives a pool its memory makes them."""

    size: int


@dataclass(frozen=True)
class MemoryPointer:
    """A place in memory."""

    mem: Memory
    offset: int


class MemoryPool:
    """Blocks of memory that are used again, by the stream that had them, where the same size is asked for."""

    def __init__(self, allocator: "Callable[[int], MemoryPointer] | None" = None) -> None:
        self._allocator = allocator or (lambda size: MemoryPointer(Memory(size), 0))
        self._free: defaultdict[tuple[int, int], list[memoryview]] = defaultdict(list)
        self._total = self._used = self._limit = 0
        weakref.finalize(self, _remove_all, self._free).atexit = False

    def malloc(self, size: int) -> Any:
        """A block of bytes, as an array, which outlives the arrays that are made on it."""
        size, stream = max(size, 1), get_current_stream()
        free = self._free[stream.ptr, size]
        if free:
            memory = free.pop()
            stream._do(stream._appended)  # it is filled with nonsense before it is used again, not after
        else:
            memory = self._new(size)
        self._used += _counted(memory)
        block = np.frombuffer(memory, np.uint8)
        weakref.finalize(block, _free, weakref.ref(self), memory, stream).atexit = False
        return block

    def total_bytes(self) -> int:
        return self._total

    def used_bytes(self) -> int:
        return self._used

    def set_limit(self, size: int) -> None:
        """It has at most so many bytes; 0: as many as are asked for."""
        self._limit = size

    def _new(self, size: int) -> memoryview:
        memory = memoryview(FencedMemory(size).bytes)  # type: ignore[arg-type]
        if self._limit and self._total + _counted(memory) > self._limit:
            raise OutOfMemoryError(_counted(memory), self._total, self._limit)
        self._total += _counted(memory)
        self._allocator(size)  # asked as by CuPy; what the pool has here is its own
        _places.add(memory)
        return memory

    def _take_back(self, memory: memoryview, stream: Stream) -> None:
        self._used -= _counted(memory)
        self._free[stream.ptr, memory.nbytes].append(memory)


class _DefaultPool(MemoryPool):
    """What is freed is gone, so that nobody finds in it what he left there."""

    def _take_back(self, memory: memoryview, stream: Stream) -> None:
        self._used -= _counted(memory)
        self._total -= _counted(memory)
        _places.remove(memory)


def _free(pool: "weakref.ref[MemoryPool]", memory: memoryview, stream: Stream) -> None:
    if not stream.is_capturing():  # nothing is done while it is: nobody would see the difference
        stream._append(lambda: np.frombuffer(memory, np.uint8).fill(NONSENSE))
    owner = pool()
    if owner is None:
        _places.remove(memory)
    else:
        owner._take_back(memory, stream)


def _remove_all(free: dict[Any, list[memoryview]]) -> None:
    for blocks in free.values():
        for memory in blocks:
            _places.remove(memory)


def _address(memory: memoryview) -> int:
    address: int = np.frombuffer(memory, np.uint8).ctypes.data
    return address


def _counted(memory: memoryview) -> int:
    return -(-memory.nbytes // UNIT) * UNIT


def allocate(size: int) -> Any:
    """A block of bytes, from the pool that this thread uses now."""
    allocator: Callable[[int], Any] = getattr(_current, "allocator", _default.malloc)
    return allocator(size)


@contextmanager
def using_allocator(allocator: Callable[[int], Any]) -> Iterator[None]:
    """Memory of this thread comes from `allocator`, the malloc of a pool."""
    before = getattr(_current, "allocator", _default.malloc)
    _current.allocator = allocator
    try:
        yield
    finally:
        _current.allocator = before


def get_default_memory_pool() -> MemoryPool:
    return _default


def memory_at(address: int, size: int) -> Any:
    """So many bytes of the device, as who has but an address sees them: to him they may be taken away.

    Raises ValueError where nothing on the device is as large.
    """
    memory = _places.find(address)
    if memory is None or address + size > _address(memory) + memory.nbytes:
        raise ValueError(f"no {size} bytes of the device are at {address:#x}")
    return np.frombuffer(memory, np.uint8, size, address - _address(memory))


class Place:
    """Where an array lies, as a graph remembers it: what is there by then may be somebody else's."""

    def __init__(self, host: Any) -> None:
        self._address, self._shape, self._dtype, self._strides = host.ctypes.data, host.shape, host.dtype, host.strides
        self._memory = _places.find(self._address)  # held, so that the system gives its address to nobody else
        self.find()

    def find(self) -> Any:
        """The array that is there; raises RuntimeError where its memory has gone back to the default pool."""
        if self._memory is None or self._memory is not _places.find(self._address):
            raise RuntimeError(f"a graph's array {self._dtype} {self._shape} has gone back to the default pool")
        offset = self._address - _address(self._memory)
        return np.ndarray(self._shape, self._dtype, self._memory, offset, self._strides)


_current = threading.local()
_places = _Places()
_default = _DefaultPool()

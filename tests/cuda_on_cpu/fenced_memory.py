"""Memory that nobody leaves unseen: nearby there is no other, and the few bytes that are left beside it are watched."""

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

#: What memory holds that nobody has written: NaN, or -1, or 255.
NONSENSE = 0xFF
#: Arrays begin at multiples of this: as many bytes are read and written at once.
ALIGNMENT = 16
#: So many bytes before and behind are at addresses where no memory is.
FENCE = 64 * mmap.PAGESIZE

_mprotect = ctypes.CDLL(None).mprotect
_mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


class FencedMemory:
    """`size` bytes of NONSENSE, in `bytes`, that begin at a multiple of ALIGNMENT plus `offset`."""

    def __init__(self, size: int, offset: int = 0) -> None:
        room = -(-(size + 2 * ALIGNMENT) // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = mmap.mmap(-1, FENCE + room + FENCE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory: npt.NDArray[Any] = np.frombuffer(pages, np.uint8)
        for fence in memory[:FENCE], memory[FENCE + room :]:
            _mprotect(fence.ctypes.data, FENCE, 0)
        begin = (room - size - offset) // ALIGNMENT * ALIGNMENT + offset
        inside = memory[FENCE : FENCE + room]
        inside[:] = NONSENSE
        self.bytes = inside[begin : begin + size]
        self._beside = inside[:begin], inside[begin + size :]

    def is_written_beside(self) -> bool:
        return any((part != NONSENSE).any() for part in self._beside)

    def distance(self, address: int) -> int:
        """How many bytes `address` lies before the first byte (negative) or behind the last; 0 within."""
        begin = self.bytes.ctypes.data
        return min(address - begin, 0) or max(address - begin - self.bytes.nbytes + 1, 0)

"""The stand-in's streams, events and graphs: work is done as late as CUDA may do it, or recorded and done often.

A thread begins on the first GPU; there is one, or as many as `runtime` says.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

#: Work whose arrays have been found, to be done when its turn comes.
Work = Callable[[], object]

TOTAL_MEMORY = 8 << 30
runtime = SimpleNamespace(
    getDeviceCount=lambda: 1,
    memGetInfo=lambda: (TOTAL_MEMORY * 3 // 4, TOTAL_MEMORY),
    getDeviceProperties=lambda device: {
        "name": b"stand-in",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": Device(device).attributes["MultiProcessorCount"],
        "totalGlobalMem": TOTAL_MEMORY,
    },
)

_current = threading.local()
_lock = threading.RLock()  # held by who does the work
_counting = threading.RLock()  # held for a moment, also by who frees memory, at whatever time
_by_pointer: "weakref.WeakValueDictionary[int, Stream]" = weakref.WeakValueDictionary()


class Device:
    """A GPU by its number, or that of this thread."""

    compute_capability = "90"
    attributes: ClassVar[dict[str, int]] = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}

    def __init__(self, device: int | None = None) -> None:
        self.id: int = getattr(_current, "gpu", 0) if device is None else device

    def use(self) -> None:
        """Makes it that of this thread."""
        if self.id >= runtime.getDeviceCount():
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        _current.gpu = self.id

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02X}:00.0"

    @property
    def mem_info(self) -> tuple[int, int]:
        """Bytes that are free, and all."""
        free, total = runtime.memGetInfo()
        return free, total

    def synchronize(self) -> None:
        """All streams."""
        for stream in list(_by_pointer.values()):
            stream.synchronize()


class Graph:
    """What a stream recorded. Each entry finds its arrays by their addresses, and gives the work to be done."""

    def __init__(self) -> None:
        self._entries: list[Callable[[], Work]] = []

    def launch(self, stream: "Stream | None" = None) -> None:
        """Does all of it, when its turn comes in `stream` or else in the current stream."""
        works = [entry() for entry in self._entries]

        def replay() -> None:
            for work in works:
                work()

        (stream or get_current_stream())._append(replay)


class Stream:
    """What is still to be done, in order; it is done when somebody waits for it."""

    null: ClassVar["Stream"]

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self._waiting: deque[Work] = deque()
        self._appended = self._done = 0
        self._graph: Graph | None = None
        self._gpu = None if null else Device().id  # each GPU has a null stream; one plays them all
        self.ptr = 0 if null else id(self)
        _by_pointer[self.ptr] = self

    def __enter__(self) -> "Stream":
        if self._gpu not in (None, Device().id):
            raise RuntimeError(
                f"The device that the stream is created on ({self._gpu}) does not match with the current device "
                f"({Device().id})"
            )
        _current.streams = [*_streams(), self]
        return self

    def __exit__(self, *args: object) -> None:
        _current.streams = _streams()[:-1]

    def synchronize(self) -> None:
        self._refuse_while_capturing()
        self._do(self._appended)

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        """What is appended from now on comes after what `event` has recorded by now."""
        self._append(event._last_recorded())

    def begin_capture(self) -> None:
        """From now on kernels and copies are recorded, not run."""
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self._refuse_while_capturing()
        self._graph = Graph()

    def end_capture(self) -> Graph:
        if self._graph is None:
            raise RuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state")
        graph, self._graph = self._graph, None
        return graph

    def is_capturing(self) -> bool:
        return self._graph is not None

    def _refuse_while_capturing(self) -> None:
        if self.is_capturing():
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")

    def _record(self, entry: Callable[[], Work]) -> None:
        """For the graph that it captures."""
        assert self._graph is not None
        self._graph._entries.append(entry)

    def _append(self, work: Work) -> None:
        self._refuse_while_capturing()
        with _counting:
            self._waiting.append(work)
            self._appended += 1

    def _do(self, count: int) -> None:
        """The first `count` of all that was ever appended."""
        with _lock:
            while self._done < count:
                self._done += 1
                self._waiting.popleft()()


class Event:
    """A place in a stream: what was appended before it was recorded there."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self._stream, self._place = Stream.null, 0

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or get_current_stream()
        stream._refuse_while_capturing()
        self._stream, self._place = stream, stream._appended

    def synchronize(self) -> None:
        self._last_recorded()()

    def _last_recorded(self) -> Callable[[], None]:
        stream, place = self._stream, self._place
        return lambda: stream._do(place)


def stream_at(pointer: int) -> Stream:
    """The stream with this `ptr`."""
    return _by_pointer[pointer]


def get_current_stream() -> Stream:
    """That of the innermost `with stream:` of this thread."""
    return _streams()[-1]


def _streams() -> list[Stream]:
    streams: list[Stream] = getattr(_current, "streams", [Stream.null])
    return streams


Stream.null = Stream(null=True)

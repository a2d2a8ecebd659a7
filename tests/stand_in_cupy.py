"""A stand-in for cupy on machines without a GPU: NumPy behind a wall that lets nothing through unasked.

Its arrays compute with one another and with numbers, and go in by `asarray` and out by `.get()`, as CuPy's do. Handing
one to a numpy function, or mixing it with a NumPy array, raises TypeError. It is stricter than CuPy 14, which sends
numpy.exp(x) to cupy.exp(x), and copies NumPy arrays that are used as indices, unasked, at the price of a transfer.

Arithmetic is done at once; copies to the device are done as late as CUDA may do them: when their stream computes
something, or when it, or an event behind them, is synchronised or waited for. Until then the array on the device holds
what it held before, and the copy takes what the memory on the host holds by then. As with CuPy's non-blocking streams,
no stream waits for another unless it is told to.

Memory comes from CuPy's pool: when nobody has an array there any more, the stream in which it was allocated may fill it
anew as soon as it gets on, whatever other streams still want with it. What is found there then is nonsense.

A machine has one GPU, or as many as `runtime` says. A thread begins on the first, and an array stays where it is made.
"""

import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from tests.cuda_on_cpu import emulator

# What the stand-in offers of CuPy 14 (checked against its source); a function that the kernels newly use goes in here.
FUNCTIONS = """
    arange argmax argsort array_equal ascontiguousarray broadcast_to concatenate copyto exp full isfinite isnan log
    matmul maximum mean minimum ones prod repeat roll split sqrt stack sum tanh tile where zeros zeros_like
""".split()  # noqa: SIM905
METHODS = "all any argmax astype copy fill item max mean min ravel reshape squeeze sum transpose view".split()  # noqa: SIM905
ATTRIBUTES = "dtype flags itemsize nbytes ndim shape size strides".split()  # noqa: SIM905
OPERATORS = """
    neg pos abs invert lt le eq ne gt ge add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv
    floordiv rfloordiv ifloordiv mod rmod imod pow rpow ipow and rand iand or ror ior xor rxor ixor
    lshift rlshift ilshift rshift rrshift irshift matmul rmatmul imatmul getitem setitem len bool int float
""".split()  # noqa: SIM905


class ndarray:  # noqa: N801 (cupy's name)
    """An array "on the device". `_host` is where it really is."""

    __array_ufunc__ = None  # numpy's ufuncs refuse it; numpy_array + it comes to __radd__ below, which refuses too
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: Any) -> None:
        self._host = _in_pool(host)
        self._gpu = Device().id

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called on a CuPy array")

    def __repr__(self) -> str:
        return f"cupy.{self._host!r}"

    @property
    def T(self) -> "ndarray":  # noqa: N802 (cupy's name)
        return ndarray(self._host.T)

    @property
    def data(self) -> Any:
        """Where its first number is."""
        return SimpleNamespace(ptr=self._host.ctypes.data)

    def get(self) -> Any:
        get_current_stream().synchronize()
        return self._host.copy()

    def set(self, arr: Any, stream: "Stream | None" = None) -> None:
        """Copies `arr` to the device, once its turn comes in `stream` or else in the current stream."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self._host.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self._host.dtype} array")
        if self._host.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self._host.shape}, new shape: {arr.shape}")
        if not self._host.flags.forc:
            raise RuntimeError("Cannot set to non-contiguous array")
        held = np.require(arr, requirements="C" if self._host.flags.c_contiguous else "F")
        (stream or get_current_stream())._append(lambda: np.copyto(self._host, held))


def asarray(x: Any, dtype: Any = None) -> ndarray:
    """The way in: copies a NumPy array to the device. What `x` holds now is what comes there, however late."""
    if isinstance(x, ndarray):
        return x if dtype in (None, x._host.dtype) else x.astype(dtype)  # type: ignore[attr-defined]
    held = np.array(x, dtype)
    on_device = empty_like(ndarray(held))
    on_device.set(held)
    return on_device


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Memory as nobody expects to find it: NaN, or -1, or 255."""
    host = np.empty(_unwrap(shape), dtype)
    host.reshape(-1).view(np.uint8).fill(_NONSENSE)
    return ndarray(host)


def _in_pool(host: Any) -> Any:
    """`host` in memory of the device: as it is where it shows an array there, else a copy."""
    owner = host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner.base is not None:
        return host
    block = _allocate(owner.nbytes)
    np.ndarray(owner.shape, owner.dtype, block, strides=owner.strides)[...] = owner
    return np.ndarray(host.shape, host.dtype, block, host.ctypes.data - owner.ctypes.data, host.strides)


def _allocate(size: int) -> Any:
    """A block of bytes, which outlives the arrays that are made on it."""
    memory = memoryview(bytearray([_NONSENSE]) * max(size, 1))
    block = np.frombuffer(memory, np.uint8)
    freed = weakref.finalize(
        block, get_current_stream()._append, lambda: np.frombuffer(memory, np.uint8).fill(_NONSENSE)
    )
    freed.atexit = False
    _blocks[block.ctypes.data] = block
    return block


def memory_at(address: int, size: int) -> Any:
    """So many bytes of the device, as who has but an address sees them: to him they may be taken away.

    Raises ValueError where nothing on the device is as large.
    """
    for begin, block in list(_blocks.items()):
        if begin <= address and address + size <= begin + block.nbytes:
            return np.frombuffer(block.base, np.uint8, size, address - begin)
    raise ValueError(f"no {size} bytes of the device are at {address:#x}")


def empty_like(x: ndarray, dtype: Any = None) -> ndarray:
    return empty(x._host.shape, dtype or x._host.dtype)


def _on_device(function: Any) -> Any:
    """`function` of NumPy, with arrays of the stand-in for arguments and results."""

    def call(*args: Any, **kwargs: Any) -> Any:
        get_current_stream().synchronize()  # what it computes with comes after what is there before it
        result = function(*_unwrap(args), **{name: _unwrap(value) for name, value in kwargs.items()})
        return args[0] if args and isinstance(args[0], ndarray) and result is args[0]._host else _wrap(result)

    return call


def _unwrap(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (tuple, list)):
        return type(x)(_unwrap(part) for part in x)
    if not isinstance(x, ndarray):
        return x
    if x._gpu != Device().id:
        raise ValueError(
            f"The device where the array resides ({x._gpu}) is different from the current device ({Device().id})."
        )
    return x._host


def _wrap(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):  # where NumPy answers with a scalar, CuPy does with a 0-d array
        return ndarray(np.asarray(x))
    return type(x)(_wrap(part) for part in x) if isinstance(x, (tuple, list)) else x


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self._host, name))


for _name in ATTRIBUTES:
    setattr(ndarray, _name, _attribute(_name))
for _name in METHODS + [f"__{operator}__" for operator in OPERATORS]:
    setattr(ndarray, _name, _on_device(getattr(np.ndarray, _name)))


def __getattr__(name: str) -> Any:
    if name in FUNCTIONS:
        return _on_device(getattr(np, name))
    raise AttributeError(f"the stand-in has no cupy.{name}: look whether CuPy has it, and add it to FUNCTIONS")


stride_tricks = ModuleType("cupy.lib.stride_tricks")
stride_tricks.sliding_window_view = _on_device(np.lib.stride_tricks.sliding_window_view)  # type: ignore[attr-defined]
lib = SimpleNamespace(stride_tricks=stride_tricks)


class Device:
    """A GPU by its number, or that of this thread."""

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


class Stream:
    """What is still to be done, in order; it is done when somebody waits for it."""

    null: ClassVar["Stream"]

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._appended = self._done = 0
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

    def __exit__(self, *args: Any) -> None:
        _current.streams = _streams()[:-1]

    def synchronize(self) -> None:
        self._do(self._appended)

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        """What is appended from now on comes after what `event` has recorded by now."""
        self._append(event._last_recorded())

    def _append(self, work: Callable[[], object]) -> None:
        with _lock:
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
        self._stream = stream or get_current_stream()
        self._place = self._stream._appended

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


def alloc_pinned_memory(size: int) -> Any:
    """A buffer for numpy.frombuffer(buffer, dtype, count): full of nonsense, and as much too large as CuPy's are."""
    buffer = (ctypes.c_byte * (1 << (max(size, 512) - 1).bit_length()))()
    ctypes.memset(buffer, 0xFF, len(buffer))
    return buffer


class RawModule:
    """CUDA source, compiled for the CPU."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        self.code, self.options = code, options

    def get_function(self, name: str) -> Callable[..., None]:
        kernel = emulator.compile_kernel(self.code, name, self.options)

        def run(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int = 0) -> None:
            get_current_stream().synchronize()
            emulator.launch(kernel, grid, block, _unwrap(args))

        return run


_NONSENSE = 0xFF
_current = threading.local()
_lock = threading.RLock()
_blocks: "weakref.WeakValueDictionary[int, Any]" = weakref.WeakValueDictionary()
_by_pointer: "weakref.WeakValueDictionary[int, Stream]" = weakref.WeakValueDictionary()
Stream.null = Stream(null=True)
runtime = SimpleNamespace(getDeviceCount=lambda: 1)
cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    Stream=Stream,
    alloc_pinned_memory=alloc_pinned_memory,
    compiler=SimpleNamespace(CompileException=emulator.CompileError),
    get_current_stream=get_current_stream,
    runtime=runtime,
)

"""A stand-in for cupy on machines without a GPU: NumPy behind a wall that lets nothing through unasked.

Its arrays compute with one another and with numbers, and go in by `asarray` and out by `.get()`, as CuPy's do. Handing
one to a numpy function, or mixing it with a NumPy array, raises TypeError. It is stricter than CuPy 14, which sends
numpy.exp(x) to cupy.exp(x), and copies NumPy arrays that are used as indices, unasked, at the price of a transfer.

Arithmetic is done at once; copies to the device are done as late as CUDA may do them: when their stream computes
something, or when it, or an event behind them, is synchronised or waited for. Until then the array on the device holds
what it held before, and the copy takes what the memory on the host holds by then. As with CuPy's non-blocking streams,
no stream waits for another unless it is told to.

While a stream captures, launches of kernels and copies on the device are recorded with the addresses of their arrays,
and whatever else would do something is refused, also what CuPy would record: its own kernels.

Memory comes from CuPy's pool: when nobody has an array there any more, the stream in which it was allocated may fill it
anew as soon as it gets on, whatever other streams still want with it. What is found there then is nonsense.

A machine has one GPU, or as many as `runtime` says. A thread begins on the first, and an array stays where it is made.

`take_the_place_of_cupy` brings, with the module, what of the driver its GPUs need.
"""

import ctypes
import sys
from copy import deepcopy
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from npconvnet.kernels.cuda import tensor_map
from tests.cuda_on_cpu import emulator
from tests.cuda_on_cpu.device_memory import (
    Memory,
    MemoryPointer,
    MemoryPool,
    OutOfMemoryError,
    Place,
    allocate,
    get_default_memory_pool,
    memory_at,
    using_allocator,
)
from tests.cuda_on_cpu.driver import driver
from tests.cuda_on_cpu.fenced_memory import NONSENSE
from tests.cuda_on_cpu.streams import Device, Event, Graph, Stream, Work, get_current_stream, runtime, stream_at

__all__ = ["Device", "Stream", "get_default_memory_pool", "memory_at", "runtime", "stream_at"]


def take_the_place_of_cupy(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone, `import cupy` finds this module, and tensor maps are made for the emulator."""
    patch.setitem(sys.modules, "cupy", sys.modules[__name__])
    patch.setattr(tensor_map, "driver", driver)


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


#: What makes arrays that show memory of others, if it can.
VIEWS = """
    ascontiguousarray broadcast_to split sliding_window_view ravel reshape squeeze transpose view __getitem__ __len__
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
    on_device = empty(held.shape, held.dtype)
    on_device.set(held)
    return on_device


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Memory as nobody expects to find it: NaN, or -1, or 255."""
    size = int(np.prod(_unwrap(shape), dtype=np.int64)) * np.dtype(dtype).itemsize
    block = allocate(size)
    _fill(block, NONSENSE)
    return ndarray(np.ndarray(_unwrap(shape), dtype, block))


def _in_pool(host: Any) -> Any:
    """`host` in memory of the device: as it is where it shows an array there, else a copy."""
    owner = host
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner.base is not None:
        return host
    block = allocate(owner.nbytes)
    np.ndarray(owner.shape, owner.dtype, block, strides=owner.strides)[...] = owner
    return np.ndarray(host.shape, host.dtype, block, host.ctypes.data - owner.ctypes.data, host.strides)


def empty_like(x: ndarray, dtype: Any = None) -> ndarray:
    return empty(x._host.shape, dtype or x._host.dtype)


def _on_device(function: Any) -> Any:
    """`function` of NumPy, with arrays of the stand-in for arguments and results."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if get_current_stream().is_capturing():
            return _in_capture(function, args, kwargs)
        get_current_stream().synchronize()  # what it computes with comes after what is there before it
        return _call(function, args, kwargs)

    return call


def _call(function: Any, args: Any, kwargs: Any) -> Any:
    result = function(*_unwrap(args), **{name: _unwrap(value) for name, value in kwargs.items()})
    return args[0] if args and isinstance(args[0], ndarray) and result is args[0]._host else _wrap(result)


def _in_capture(function: Any, args: Any, kwargs: Any) -> Any:
    """Records `function`, if it copies; else it may only look at memory in another way."""
    name = function.__name__
    if name in ("zeros", "copy"):
        made = empty(*args, **kwargs) if name == "zeros" else empty_like(*args)
        _copy(made._host, 0 if name == "zeros" else args[0])
        return made
    if name in ("copyto", "fill"):
        return _copy(_unwrap(args[0]), args[1])
    if name == "__setitem__":
        to, index, source = args
        return _copy(_unwrap(to)[index], source)
    if name in VIEWS:
        result = _call(function, args, kwargs)
        parts = [part for part in (result if isinstance(result, list) else [result]) if isinstance(part, ndarray)]
        if all(np.may_share_memory(part._host, args[0]._host) or not part._host.size for part in parts):
            return result
    raise RuntimeError(f"{name} is called while the stream is capturing, which records nothing but kernels and copies")


def _copy(to: Any, source: Any) -> None:
    """Records that an array, or a number everywhere, is copied."""
    stream = get_current_stream()
    place = Place(to)
    if not isinstance(source, ndarray):
        stream._record(lambda: partial(place.find().fill, source))
        return
    read = Place(_unwrap(source))
    if (to.shape, to.dtype) != (source._host.shape, source._host.dtype):
        raise RuntimeError("a capture of the stand-in records copies between arrays of one type and shape only")
    stream._record(lambda: partial(np.copyto, place.find(), read.find()))


def _fill(block: Any, value: int) -> None:
    if get_current_stream().is_capturing():
        _copy(block, value)
    else:
        block.fill(value)


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


def alloc_pinned_memory(size: int) -> Any:
    """A buffer for numpy.frombuffer(buffer, dtype, count): full of nonsense, and as much too large as CuPy's are."""
    buffer = (ctypes.c_byte * (1 << (max(size, 512) - 1).bit_length()))()
    ctypes.memset(buffer, 0xFF, len(buffer))
    return buffer


class RawModule:
    """CUDA source, compiled for the CPU."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        # NVRTC takes the number of CuPy's architecture, the GPU's, and the letter of another: sm_90a needs an sm_90.
        is_90 = Device.compute_capability == "90"
        self.code, self.options = code, tuple(o for o in options if is_90 or o != emulator.ARCHITECTURE_90)

    def get_function(self, name: str) -> "Function":
        return Function(emulator.compile_kernel(self.code, name, self.options))


class Function:
    """A kernel. As with CuPy, what is set on one is set on all of the same source, options and name."""

    def __init__(self, compiled: ctypes.CDLL) -> None:
        self._compiled = compiled

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return getattr(self._compiled, "_most_shared", emulator.SHARED)

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._compiled._most_shared = size  # type: ignore[attr-defined]

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int = 0
    ) -> None:
        stream, most_shared = get_current_stream(), self.max_dynamic_shared_size_bytes
        arguments = [x if _is_struct(x) else _unwrap(x) for x in args]
        if stream.is_capturing():
            kept = [Place(x._host) if isinstance(x, ndarray) else deepcopy(x) for x in args]

            def entry() -> Work:
                found = [x.find() if isinstance(x, Place) else x for x in kept]
                return lambda: emulator.launch(self._compiled, grid, block, found, shared_mem, most_shared)

            stream._record(entry)
        else:
            stream.synchronize()
            emulator.launch(self._compiled, grid, block, arguments, shared_mem, most_shared)


def _is_struct(x: Any) -> bool:
    """Whether `x` is memory of the host whose bytes are a kernel's parameter."""
    return isinstance(x, np.ndarray) and x.dtype.kind == "V"


cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    Graph=Graph,
    Memory=Memory,
    MemoryPointer=MemoryPointer,
    MemoryPool=MemoryPool,
    Stream=Stream,
    alloc_pinned_memory=alloc_pinned_memory,
    compiler=SimpleNamespace(CompileException=emulator.CompileError),
    get_current_stream=get_current_stream,
    nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
    memory=SimpleNamespace(MemoryPool=MemoryPool, OutOfMemoryError=OutOfMemoryError),
    runtime=runtime,
    using_allocator=using_allocator,
)

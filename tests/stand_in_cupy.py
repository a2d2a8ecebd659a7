"""A stand-in for cupy on machines without a GPU: NumPy behind a wall that lets nothing through unasked.

Its arrays compute with one another and with numbers, and go in by `asarray` and out by `.get()`, as CuPy's do. Handing
one to a numpy function, or mixing it with a NumPy array, raises TypeError. It is stricter than CuPy 14, which sends
numpy.exp(x) to cupy.exp(x), and copies NumPy arrays that are used as indices, unasked, at the price of a transfer.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

# What the stand-in offers of CuPy 14 (checked against its source); a function that the kernels newly use goes in here.
FUNCTIONS = """
    arange argmax argsort array_equal broadcast_to concatenate copyto empty empty_like exp full isfinite isnan log
    matmul maximum mean minimum ones prod repeat roll split sqrt stack sum tanh tile where zeros zeros_like
""".split()  # noqa: SIM905
METHODS = "all any argmax astype copy fill item max mean min ravel reshape squeeze sum transpose view".split()  # noqa: SIM905
ATTRIBUTES = "dtype flags itemsize nbytes ndim shape size strides".split()  # noqa: SIM905
OPERATORS = """
    neg pos abs invert lt le eq ne gt ge add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv
    floordiv rfloordiv ifloordiv mod rmod imod pow rpow ipow and rand iand or ror ior xor rxor ixor
    matmul rmatmul imatmul getitem setitem len bool int float
""".split()  # noqa: SIM905


class ndarray:  # noqa: N801 (cupy's name)
    """An array "on the device". `_host` is where it really is."""

    __array_ufunc__ = None  # numpy's ufuncs refuse it; numpy_array + it comes to __radd__ below, which refuses too
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: Any) -> None:
        self._host = host

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called on a CuPy array")

    def __repr__(self) -> str:
        return f"cupy.{self._host!r}"

    @property
    def T(self) -> "ndarray":  # noqa: N802 (cupy's name)
        return ndarray(self._host.T)

    def get(self) -> Any:
        return self._host.copy()


def asarray(x: Any, dtype: Any = None) -> ndarray:
    """The way in: copies a NumPy array to the device."""
    return ndarray(x._host.astype(dtype or x._host.dtype, copy=False) if isinstance(x, ndarray) else np.array(x, dtype))


def _on_device(function: Any) -> Any:
    """`function` of NumPy, with arrays of the stand-in for arguments and results."""

    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*_unwrap(args), **{name: _unwrap(value) for name, value in kwargs.items()})
        return args[0] if args and isinstance(args[0], ndarray) and result is args[0]._host else _wrap(result)

    return call


def _unwrap(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, (tuple, list)):
        return type(x)(_unwrap(part) for part in x)
    return x._host if isinstance(x, ndarray) else x


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
cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: 1))

"""Where arrays live: NumPy on the CPU, CuPy on an NVIDIA GPU. The only module that imports cupy, and only if asked."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from npconvnet.errors import InputError

#: A NumPy array, or a CuPy array, which answers to the same methods.
Array: TypeAlias = npt.NDArray[Any]
Device = Literal["cpu", "gpu"]
#: What a network computes in. "tf32": float32 numbers, multiplied by tensor cores; "bfloat16": activations of 16 bits.
#: Sums, the parameters themselves and their gradients are float32 in all of them.
Precision = Literal["float32", "tf32", "bfloat16"]

#: The compute capability from which tensor cores know bfloat16 and TF32 (Ampere).
TENSOR_CORES = 80


def array_module(x: Array) -> Any:
    """The module whose functions work on `x`: numpy or cupy."""
    return module_of("cpu" if isinstance(x, np.ndarray) else "gpu")


def module_of(device: Device) -> ModuleType:
    """The module whose arrays live on `device`: numpy or cupy."""
    return np if device == "cpu" else importlib.import_module("cupy")


def is_on_gpu(x: Array) -> bool:
    """Whether `x` lives on the GPU."""
    return not isinstance(x, np.ndarray)


def sliding_windows(x: Array, window: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """A read-only view with every `window` of `axes` as new last axes (sliding_window_view, on both devices)."""
    view: Array = array_module(x).lib.stride_tricks.sliding_window_view(x, window, axes)
    return view


def in_one_array(parts: Sequence[Array], axis: int = 0) -> Array:
    """The `parts` behind each other on `axis`; a single one as it is."""
    joined: Array = parts[0] if len(parts) == 1 else array_module(parts[0]).concatenate(parts, axis)
    return joined


def resolve_device(device: Literal["auto", "cpu", "gpu"]) -> Device:
    """The device to run on: "auto" takes the GPU where there is one.

    Raises InputError where "gpu" is asked for and there is none, with the way out.
    """
    if device == "cpu":
        return "cpu"
    reason = why_no_gpu()
    if reason is None:
        return "gpu"
    if device == "auto":
        return "cpu"
    raise InputError(f"no GPU can be used: {reason}, or run with --device cpu")


def resolve_precision(precision: Literal["auto"] | Precision, device: Device) -> tuple[Precision, str | None]:
    """What to train in on `device`: "auto" takes bfloat16 on a GPU, float32 on the CPU. And a line to say, or None.

    A GPU that is too old for tensor cores takes float32, and the line says so. Raises InputError where anything else is
    asked for on a CPU.
    """
    if device == "cpu":
        if precision in ("auto", "float32"):
            return "float32", None
        raise InputError(f"--precision {precision} is for a GPU; run with --device gpu, or with --precision auto")
    asked: Precision = "bfloat16" if precision == "auto" else precision
    capability = int(module_of("gpu").cuda.Device().compute_capability)
    if asked == "float32" or capability >= TENSOR_CORES:
        return asked, None
    line = (
        f"This GPU has compute capability {capability // 10}.{capability % 10}, and {asked} needs 8.0: "
        f"computing in float32, which is slower"
    )
    return "float32", line


def why_no_gpu() -> str | None:
    """None where a GPU can be used; otherwise the reason and what to do about it, as half a sentence."""
    try:
        cupy = module_of("gpu")
    except Exception as error:  # a CUDA library that is missing or broken raises nearly anything at import
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return "cupy is not installed; in the clone of npconvnet, run: pip install -e '.[gpu]'"
        return f"cupy does not load ({_first_line(error)}); reinstall it to match your driver"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CUDARuntimeError: no driver, or one older than this cupy
        return f"the CUDA driver does not answer ({_first_line(error)}); install or update the NVIDIA driver"
    if not count:
        return "cupy finds no NVIDIA GPU on this machine; use a machine that has one"
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # what is raised for a library that is not there differs between versions
        return f"cupy finds no NVRTC, CUDA's compiler ({_first_line(error)}); run: pip install -e '.[gpu]'"
    return None


def nccl() -> ModuleType:
    """CuPy's module for NCCL; where there is none, its `available` is False."""
    with warnings.catch_warnings(action="ignore"):  # CuPy would say in ten lines that there is none
        return importlib.import_module("cupy.cuda.nccl")


def use_gpu(local_rank: int) -> str:
    """Gives this thread a GPU: the processes of a machine, numbered by `local_rank`, take those they see in turn.

    Returns its address on the PCI bus, which no other GPU of the machine has.
    """
    cuda = module_of("gpu").cuda
    gpu = cuda.Device(local_rank % cuda.runtime.getDeviceCount())
    gpu.use()
    address: str = gpu.pci_bus_id
    return address


def to_device(x: Array, device: Device) -> Array:
    """`x` on `device`; the same array where it is there already."""
    if device == "gpu":
        on_gpu: Array = module_of("gpu").asarray(x)
        return on_gpu
    return to_host(x)


def host_memory(shape: tuple[int, ...], dtype: npt.DTypeLike, device: Device) -> npt.NDArray[Any]:
    """A NumPy array, not filled yet, that is to be copied to `device`: for a GPU in pinned memory.

    A GPU copies from pinned memory while it computes and while Python goes on.
    """
    if device == "cpu":
        return np.empty(shape, dtype)
    count = math.prod(shape)
    memory = module_of(device).cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


def to_host(x: Array) -> npt.NDArray[Any]:
    """`x` as a NumPy array; the same array where it is one already."""
    return x if isinstance(x, np.ndarray) else x.get()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

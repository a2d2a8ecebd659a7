"""How benchmarks measure on a GPU: events around the work, the rates that the card reaches, arrays of two libraries.

CuPy and PyTorch share the GPU's default stream, so events of CuPy's stand around the work of either.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from npconvnet.backend import Array, module_of, to_host, why_no_gpu
from npconvnet.errors import InputError

WARM_UP = 3
#: Products of two matrices of so many rows and columns, and copies of so many bytes, are large enough for any GPU.
MATRIX_SIZE, COPY_BYTES = 8192, 2**31
#: More than the cache of any GPU. To write so much takes longer than to launch a kernel from Python, too.
FLUSH_BYTES = 2**29


# -- time ------------------------------------------------------------------------------------------------------------


def milliseconds(begin: Any, end: Any) -> float:
    """Between two events of CuPy's, when the second has come."""
    end.synchronize()
    passed: float = module_of("gpu").cuda.get_elapsed_time(begin, end)
    return passed


def seconds_of_turn(step: Callable[[], Any], steps: int) -> float:
    """The seconds of one of so many steps, given to the GPU one after the other when it has nothing else to do."""
    cuda = module_of("gpu").cuda
    cuda.Device().synchronize()
    begin, end = cuda.Event(), cuda.Event()
    begin.record()
    for _ in range(steps):
        step()
    end.record()
    return milliseconds(begin, end) / 1e3 / steps


def median_seconds(function: Callable[[], Any], repetitions: int) -> float:
    """The median seconds of `function`, which finds nothing of its operands in the cache."""
    gpu = module_of("gpu")
    flushed = gpu.empty(FLUSH_BYTES, np.uint8)
    for _ in range(WARM_UP):
        function()
    pairs = [(gpu.cuda.Event(), gpu.cuda.Event()) for _ in range(repetitions)]
    for begin, end in pairs:
        flushed.fill(1)  # and while the GPU does so, Python gets ahead of it
        begin.record()
        function()
        end.record()
    return statistics.median(milliseconds(begin, end) for begin, end in pairs) / 1e3


# -- rates -----------------------------------------------------------------------------------------------------------


def matrix_rate(torch: Any, precision: str) -> float:
    """FLOP/s of PyTorch's product of two large random matrices."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    use_tf32(torch, precision != "float32")
    a, b = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, device="cuda", dtype=dtype) for _ in range(2))
    rate: float = 2 * MATRIX_SIZE**3 / median_seconds(lambda: a @ b, 7)
    return rate


def copy_rate() -> float:
    """Bytes/s, those read and those written, of a large copy on the GPU."""
    gpu = module_of("gpu")
    a, b = (gpu.full(COPY_BYTES // 8, value, np.uint32) for value in (1, 2))
    rate: float = 2 * a.nbytes / median_seconds(lambda: gpu.copyto(a, b), 7)
    return rate


def use_tf32(torch: Any, on: bool) -> None:
    """Whether PyTorch may multiply float32 numbers as TF32."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


# -- memory ----------------------------------------------------------------------------------------------------------


def give_back_memory(torch: Any | None) -> None:
    """Lets the pools of CuPy and PyTorch give the GPU back what nobody uses."""
    gpu = module_of("gpu")
    gpu.cuda.Device().synchronize()
    gpu.get_default_memory_pool().free_all_blocks()
    if torch is not None:
        torch.cuda.empty_cache()


def free_bytes() -> int:
    """What is left of the GPU's memory, besides what the pools hold."""
    gpu = module_of("gpu")
    gpu.cuda.Device().synchronize()
    free: int = gpu.cuda.runtime.memGetInfo()[0]
    return free


# -- arrays of both --------------------------------------------------------------------------------------------------


def to_torch(torch: Any, x: Array) -> Any:
    """A tensor in the memory of `x`, of bfloat16 where `x` holds its words (uint16)."""
    words = x.dtype == np.uint16
    x = x.view({np.uint16: np.int16, np.bool_: np.uint8}.get(x.dtype.type, x.dtype))  # types that both know
    tensor = torch.from_dlpack(x) if hasattr(x, "__dlpack__") else torch.from_numpy(to_host(x))
    return tensor.view(torch.bfloat16) if words else tensor


def to_cupy(torch: Any, x: Any) -> Array:
    """An array in the memory of the tensor `x`, which is contiguous; of words (uint16) where that is bfloat16."""
    gpu = module_of("gpu")
    words = x.dtype == torch.bfloat16
    x = x.view(torch.int16) if words else x
    array: Array = gpu.from_dlpack(x) if x.is_cuda else gpu.asarray(x.numpy())
    return array.view(np.uint16) if words else array


# -- words -----------------------------------------------------------------------------------------------------------


def reason(error: BaseException) -> str:
    """The first line of what `error` says."""
    lines = str(error).strip().splitlines()
    return f"failed: {lines[0] if lines else type(error).__name__}"


def require_gpu() -> None:
    """Raises InputError where no GPU can be used, of what computes nowhere else."""
    if reason := why_no_gpu():
        raise InputError(f"no GPU can be used: {reason}")


def require_cuda(option: str) -> None:
    """Raises InputError where PyTorch, which is installed, finds no GPU."""
    if not import_module("torch").cuda.is_available():
        raise InputError(f"{option}: this PyTorch finds no GPU; install its CUDA build, or leave it out")


def gpu_versions() -> dict[str, Any]:
    """The GPU and its software, as far as CuPy knows."""
    gpu = module_of("gpu")
    runtime = gpu.cuda.runtime
    properties = runtime.getDeviceProperties(gpu.cuda.Device().id)
    return {
        "gpu": properties["name"].decode(),
        "cuda driver": runtime.driverGetVersion(),
        "cuda runtime": runtime.runtimeGetVersion(),
        "cupy": gpu.__version__,
    }

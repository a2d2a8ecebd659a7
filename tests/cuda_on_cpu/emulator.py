"""Runs CUDA kernels on the CPU: g++ compiles the source behind cuda_on_cpu.h, and ctypes calls it.

What CUDA leaves to its user is checked here: arguments are as many and of the types that the kernel takes, arrays are
contiguous, nothing is written beside them, and no number grows too large for its type (g++ -fsanitize=undefined).
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
#: Products and sums are rounded one by one, as by NumPy.
COMMAND = ["g++", "-x", "c++", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-fsanitize=undefined"]
#: What CUDA allows: blocks of a grid along x, y and z, threads of a block likewise, and all threads of a block.
GRID, BLOCK, THREADS = (2**31 - 1, 65535, 65535), (1024, 1024, 64), 1024
#: Bytes on either side of an array that a kernel must leave alone.
MARGIN = 1024

#: Whether the last thread of the last block goes first.
backwards = False

_one_at_a_time = threading.Lock()


class CompileError(Exception):
    """In the compiler's words."""


@cache
def compile_kernel(code: str, name: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The kernel `name` of the CUDA source `code`; skips the test where there is no g++."""
    if shutil.which("g++") is None:
        pytest.skip("CUDA kernels run on the CPU where there is g++")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernel.so"
        command = [*COMMAND, *options, "-include", str(HEADER), "-", "-o", str(library)]
        done = subprocess.run(command, input=f"{code}\nRUN_ON_CPU({name})\n", text=True, capture_output=True)
        if done.returncode:
            raise CompileError(done.stderr)
        compiled = ctypes.CDLL(str(library))
    compiled.parameters.restype = ctypes.c_char_p
    return compiled


def launch(kernel: ctypes.CDLL, grid: tuple[int, ...], block: tuple[int, ...], arguments: Sequence[Any]) -> None:
    """Runs all threads. Arrays stand for memory on the device, all else are numbers, which keep their types."""
    grid, block = _three(grid, GRID), _three(block, BLOCK)
    if np.prod(block) > THREADS:
        raise ValueError(f"a block has {np.prod(block)} threads, and at most {THREADS}")
    parameters = kernel.parameters().decode().split()
    if len(arguments) != len(parameters):
        raise TypeError(f"{len(arguments)} arguments for {len(parameters)} parameters")
    values = [_argument(x, parameter) for x, parameter in zip(arguments, parameters, strict=True)]
    pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value, _ in values))
    sizes = (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block)
    with _one_at_a_time:
        complaints = _written_to_stderr(lambda: kernel.launch(*sizes, pointers, ctypes.c_bool(backwards)))
    if complaints:
        raise RuntimeError(complaints)
    for _, finish in values:
        finish()


def _three(sizes: tuple[int, ...], limits: tuple[int, ...]) -> tuple[int, ...]:
    sizes = tuple(max(1, size) for size in (*sizes, 1, 1)[:3])  # as CuPy does: no blocks are one block
    if any(size > limit for size, limit in zip(sizes, limits, strict=True)):
        raise ValueError(f"a launch of {sizes} is larger than {limits}")
    return sizes


def _argument(x: Any, parameter: str) -> tuple[np.ndarray[Any, Any], Callable[[], None]]:
    """The value of a parameter, in an array of one, and what is to be done when the kernel has run."""
    access, _, wanted = parameter.rpartition(":")
    given = "V" + wanted[1:] if _is_bytes_of(x, wanted) else np.asarray(x).dtype.str[1:]
    if (given, isinstance(x, np.ndarray)) != (wanted, bool(access)):
        raise TypeError(f"{x!r} was given for a parameter {parameter}")
    if not access:
        return np.asarray(x).reshape(1), lambda: None
    if not x.flags.c_contiguous:
        raise TypeError(f"an array with strides {x.strides} was given for a parameter {parameter}")
    if access == "in":
        return np.array([x.ctypes.data]), lambda: None

    fenced = np.full(x.nbytes + 2 * MARGIN, 0xFF, np.uint8)
    inside = fenced[MARGIN : MARGIN + x.nbytes]
    inside[:] = x.reshape(-1).view(np.uint8)

    def finish() -> None:
        if (fenced[:MARGIN] != 0xFF).any() or (fenced[MARGIN + x.nbytes :] != 0xFF).any():
            raise RuntimeError(f"the kernel wrote beside its array {x.shape}")
        x.reshape(-1).view(np.uint8)[:] = inside

    return np.array([inside.ctypes.data]), finish


def _is_bytes_of(x: Any, wanted: str) -> bool:
    """Whether `x` are the bytes of some structs."""
    is_bytes = isinstance(x, np.ndarray) and x.dtype == np.uint8
    return is_bytes and wanted.startswith("V") and x.nbytes % int(wanted[1:]) == 0


def _written_to_stderr(call: Callable[[], object]) -> str:
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            call()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        return file.read().decode()

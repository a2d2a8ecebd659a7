"""Runs CUDA kernels on the CPU: g++ compiles the source behind cuda_on_cpu.h, and ctypes calls it.

What CUDA leaves to its user is checked here: arguments are as many and of the types that the kernel takes, arrays are
contiguous, nothing is read or written beside them, no number grows too large for its type (g++ -fsanitize=undefined),
all threads reach a barrier, and a block has the shared memory that it was given. Where a test runs a kernel once as it
is and once `backwards`, threads that should have waited for one another are found too.
"""

import atexit
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
import numpy.typing as npt
import pytest

from tests.cuda_on_cpu.fenced_memory import ALIGNMENT, NONSENSE, FencedMemory

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
#: What the header declares, and what it declares for sm_90a. They are compiled once, and never report numbers that grow
#: too large.
SOURCES, SOURCES_90 = (sorted(folder.glob("*.cpp")) for folder in (HEADER.parent, HEADER.with_name("sm_90")))
#: Products and sums are rounded one by one, as by NumPy; each library keeps what is its own (visibility).
COMMAND = """
    g++ -std=c++17 -march=native -fPIC -ffp-contract=off -fvisibility=hidden -U_FORTIFY_SOURCE
""".split()  # noqa: SIM905
#: For kernels, which take longer to compile than to run. Pointers are cast as CUDA allows it; what is not written here
#: may be written all the same (addressable).
KERNEL = """
    -O1 -shared -fsanitize=undefined -fno-strict-aliasing -fno-ipa-reference-addressable -x c++
""".split()  # noqa: SIM905
#: What CUDA allows: blocks of a grid along x, y and z, threads of a block likewise, and all threads of a block.
GRID, BLOCK, THREADS = (2**31 - 1, 65535, 65535), (1024, 1024, 64), 1024
#: Bytes of shared memory that a block may have, unasked and on an sm_80 at most; and those of a kernel for sm_90a.
SHARED, MOST_SHARED, MOST_SHARED_90 = 48 << 10, 163 << 10, 227 << 10
#: Dynamic shared memory begins at a multiple of this.
SHARED_ALIGNMENT = 128
#: What a kernel's options say if it has the words of sm_90a; then it has more shared memory too.
ARCHITECTURE_90 = "-arch=sm_90a"
#: Structs begin at a multiple of this, as a tensor's map has to.
STRUCT_ALIGNMENT = 64
#: Larger arrays that are only read are not copied behind a fence.
LARGE = 64 << 20

#: Whether the last thread of the last block goes first.
backwards = False

_one_at_a_time = threading.Lock()


class CompileError(Exception):
    """In the compiler's words."""


class _Launch(ctypes.Structure):
    """`Launch` of launch.cpp."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("arguments", ctypes.c_void_p),
        ("dynamic_shared", ctypes.c_void_p),
        ("dynamic_shared_size", ctypes.c_size_t),
        ("backwards", ctypes.c_bool),
        ("fault", ctypes.c_void_p),
    )


@cache
def compile_kernel(code: str, name: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """The kernel `name` of the CUDA source `code`; skips the test where there is no g++."""
    if shutil.which("g++") is None:
        pytest.skip("CUDA kernels run on the CPU where there is g++")
    # Without a name, the namespace keeps what it holds from the kernels of other libraries, and unused parts out.
    whole = f"namespace {{\n#line 1\n{code}\n}}\nRUN_ON_CPU({name})\n"
    macros = ["-D__CUDA_ARCH_FEAT_SM90_ALL" if option == ARCHITECTURE_90 else option for option in options]
    is_for_90 = ARCHITECTURE_90 in options
    objects = [*_compiled(*SOURCES), *(_compiled(*SOURCES_90) if is_for_90 else [])]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernel.so"
        files = ["-include", HEADER, "-", "-x", "none", *objects, "-o", library]
        run_compiler([*COMMAND, *KERNEL, *macros, *files], whole)
        compiled = ctypes.CDLL(str(library))
    compiled.most_shared = MOST_SHARED_90 if is_for_90 else MOST_SHARED  # type: ignore[attr-defined]
    compiled.parameters.restype = compiled.launch.restype = ctypes.c_char_p
    compiled.static_shared_size.restype = ctypes.c_size_t
    return compiled


@cache
def _compiled(*sources: Path) -> list[Path]:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    run_compiler([*COMMAND, "-O3", "-c", *sources], cwd=folder)
    return sorted(folder.glob("*.o"))


def run_compiler(command: list[Any], code: str = "", cwd: Path | None = None) -> None:
    """Raises CompileError."""
    done = subprocess.run(command, input=code, text=True, capture_output=True, cwd=cwd)
    if done.returncode:
        raise CompileError(done.stderr)


def launch(
    kernel: ctypes.CDLL,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: Sequence[Any],
    shared_bytes: int = 0,
    most_shared_bytes: int = 0,
) -> None:
    """Runs all threads. Arrays stand for memory on the device, all else are numbers, which keep their types.

    A block has `shared_bytes` of dynamic shared memory, for which `most_shared_bytes` were asked beforehand, if any.
    """
    grid, block = _three(grid, GRID), _three(block, BLOCK)
    if np.prod(block) > THREADS:
        raise ValueError(f"a block has {np.prod(block)} threads, and at most {THREADS}")
    _check_shared_memory(kernel, shared_bytes, most_shared_bytes)
    parameters = kernel.parameters().decode().split()
    if len(arguments) != len(parameters):
        raise TypeError(f"{len(arguments)} arguments for {len(parameters)} parameters")
    memory = _Memory()
    values = [memory.value(x, parameter) for x, parameter in zip(arguments, parameters, strict=True)]
    pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
    shared = FencedMemory(-(-shared_bytes // SHARED_ALIGNMENT) * SHARED_ALIGNMENT)
    how = _Launch(grid, block, ctypes.addressof(pointers), shared.bytes.ctypes.data, shared_bytes, backwards, None)
    complaints: list[str] = []

    def run() -> None:
        if complaint := kernel.launch(ctypes.byref(how)):
            complaints.append(complaint.decode())

    with _one_at_a_time:
        printed = _written_to_stderr(run)
    if how.fault is not None:
        complaints.append(memory.nearest(how.fault, shared))
    if printed or complaints:
        raise RuntimeError("\n".join([*complaints, printed]))
    if shared.is_written_beside() or (shared.bytes[shared_bytes:] != NONSENSE).any():
        raise RuntimeError(f"the kernel wrote beside its dynamic shared memory, {shared_bytes} bytes")
    memory.finish()


def _three(sizes: tuple[int, ...], limits: tuple[int, ...]) -> tuple[int, ...]:
    sizes = tuple(max(1, size) for size in (*sizes, 1, 1)[:3])  # as CuPy does: no blocks are one block
    if any(size > limit for size, limit in zip(sizes, limits, strict=True)):
        raise ValueError(f"a launch of {sizes} is larger than {limits}")
    return sizes


def _check_shared_memory(kernel: ctypes.CDLL, dynamic: int, most_dynamic: int) -> None:
    static, most = kernel.static_shared_size(), kernel.most_shared
    if static > SHARED:
        raise ValueError(f"the kernel has {static} bytes of static shared memory, and at most {SHARED}")
    if static + max(dynamic, most_dynamic) > most:
        raise ValueError(f"{static} + {max(dynamic, most_dynamic)} bytes of shared memory are more than {most}")
    if dynamic > (most_dynamic or SHARED - static):
        raise ValueError(
            f"a block is to have {dynamic} bytes of shared memory, and max_dynamic_shared_size_bytes is "
            f"{most_dynamic or 'not set'}"
        )


class _Memory:
    """The arrays of one launch, each in memory with a fence of its own while the kernel runs."""

    def __init__(self) -> None:
        self._fenced: dict[tuple[int, int], tuple[npt.NDArray[Any], FencedMemory, set[str]]] = {}

    def value(self, x: Any, parameter: str) -> npt.NDArray[Any]:
        """What the kernel gets for `x`, in an array of one; raises TypeError where it is not what a parameter takes."""
        access, _, wanted = parameter.rpartition(":")
        if not access:
            return _number(x, wanted)
        if x is None:
            return np.zeros(1, np.uint64)
        if not isinstance(x, np.ndarray) or (x.dtype.str[1:] != wanted and not _are_structs(x, wanted)):
            raise TypeError(f"{x!r} was given for a parameter {parameter}")
        if not x.flags.c_contiguous:
            raise TypeError(f"an array with strides {x.strides} was given for a parameter {parameter}")
        if access == "in" and x.nbytes > LARGE:
            return np.array([x.ctypes.data])
        return np.array([self._fence(x, access).bytes.ctypes.data])

    def _fence(self, x: npt.NDArray[Any], access: str) -> FencedMemory:
        """That of `x`, which may be given several times, as a whole."""
        key = x.ctypes.data, x.nbytes
        if key not in self._fenced:
            self._fenced[key] = x, FencedMemory(x.nbytes, x.ctypes.data % ALIGNMENT), set()
            self._fenced[key][1].bytes[:] = x.reshape(-1).view(np.uint8)
        _, memory, accesses = self._fenced[key]
        accesses.add(access)
        return memory

    def finish(self) -> None:
        """Gives the arrays what was written; raises RuntimeError where it was written beside one."""
        for x, memory, accesses in self._fenced.values():
            if memory.is_written_beside():
                raise RuntimeError(f"the kernel wrote beside its array {x.dtype} {x.shape}")
            if "out" in accesses:
                if sum(np.may_share_memory(x, other) for other, _, _ in self._fenced.values()) > 1:
                    raise RuntimeError(f"the kernel writes to {x.dtype} {x.shape}, which overlaps another argument")
                x.reshape(-1).view(np.uint8)[:] = memory.bytes

    def nearest(self, address: int, shared: FencedMemory) -> str:
        """What of the kernel's lies nearest to `address`, in words."""
        places = [(memory, f"its array {x.dtype} {x.shape}") for x, memory, _ in self._fenced.values()]
        places.append((shared, "its dynamic shared memory"))
        memory, name = min(places, key=lambda place: abs(place[0].distance(address)))
        distance = memory.distance(address)
        where = "before" if distance < 0 else "behind"
        return f"the kernel reads or writes beside {name}: {abs(distance)} bytes {where} it"


def _number(x: Any, wanted: str) -> npt.NDArray[Any]:
    """`x`, a number or a struct, in an array of one; of an array CuPy takes the bytes, if it has but one element."""
    value = np.array(x)
    is_struct = value.dtype.kind == "V" and value.size == 1
    if value.dtype.str[1:] != wanted or (isinstance(x, np.ndarray) and not is_struct):
        raise TypeError(f"{x!r} was given for a parameter {wanted}")
    room = np.empty(value.nbytes + STRUCT_ALIGNMENT, np.uint8)
    aligned = room[-room.ctypes.data % STRUCT_ALIGNMENT :][: value.nbytes]
    aligned[:] = value.reshape(1).view(np.uint8)
    return aligned


def _are_structs(x: npt.NDArray[Any], wanted: str) -> bool:
    """Whether `x` are the bytes of some structs."""
    return x.dtype == np.uint8 and wanted.startswith("V") and x.nbytes % int(wanted[1:]) == 0


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

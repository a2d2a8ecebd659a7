"""Compiles the .cu files of this folder, by NVRTC through CuPy, for the GPU at hand.

CuPy adds the GPU's architecture to the options, and keeps what it has compiled on disk, by the text it was given: so
`#include "x.cuh"` is written out here, or a change in a header would go unnoticed. No header of CUDA's is included:
NVRTC knows CUDA's own words without any. (CuPy itself wants to find those of the package nvidia-cuda-runtime.)

What only sm_90a has is compiled by naming it before CuPy names sm_90: of two architectures NVRTC (12.9 and later) takes
the number of the last and the letter of either. That is another one on another GPU, so a source that needs this one has
to refuse to compile without its macro, __CUDA_ARCH_FEAT_SM90_ALL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType

OPTIONS = ("-std=c++17",)

_INCLUDE = re.compile(r'#include "(\w+\.cuh)"\n')


@cache
def kernel(
    cupy: ModuleType,
    source: str,
    name: str,
    shared_bytes: int = 0,
    *,
    architecture: str | None = None,
    **constants: int,
) -> Callable[[tuple[int, ...], tuple[int, ...], tuple[object, ...]], None]:
    """The kernel `name`, an `extern "C" __global__` function in the file `source` beside this one.

    It is called with (grid, block, arguments), as a cupy.RawKernel: numbers go in as NumPy scalars of the very types
    of its parameters, since nothing converts them, structs as NumPy arrays of one, and arrays must be contiguous.
    `shared_bytes` is the dynamic shared memory of a block; `constants` are macros that the source leaves open, such as
    the sizes of a tile; `architecture`, such as sm_90a, is the GPU's with the letter of what the source needs. Raises
    RuntimeError with the compiler's words, which name the line of the file, where it does not compile.
    """
    path = Path(__file__).with_name(source)
    options = [*OPTIONS, *(f"-D{macro}={value}" for macro, value in constants.items())]
    if architecture:
        options.append(f"-arch={architecture}")
    try:
        compiled = cupy.RawModule(code=written_out(path), options=tuple(options)).get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        raise RuntimeError(f"{path} does not compile:\n{error}") from None
    # CuPy hands the same function out again, and others of its launches may need more.
    if shared_bytes > compiled.max_dynamic_shared_size_bytes:
        compiled.max_dynamic_shared_size_bytes = shared_bytes
    return partial(compiled, shared_mem=shared_bytes)


def written_out(path: Path) -> str:
    """The source at `path` with each header that it names written out where it is named first.

    A compiler's messages still name the files and the lines in them.
    """
    return _written_out(path, set())


def _written_out(path: Path, seen: set[str]) -> str:
    seen.add(path.name)
    text = [f'#line 1 "{path.name}"\n']
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(keepends=True), 1):
        named = _INCLUDE.fullmatch(line)
        if not named:
            text.append(line)
        elif named[1] not in seen:
            text.append(f'{_written_out(path.with_name(named[1]), seen)}\n#line {number + 1} "{path.name}"\n')
        else:
            text.append("\n")
    return "".join(text)

"""Compiles the .cu files of this folder, by NVRTC through CuPy, for the GPU at hand.

CuPy adds the GPU's architecture to the options, and keeps what it has compiled on disk. NVRTC knows CUDA's own words
without any header; the sources include none, so that a toolkit's headers need not be found.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

OPTIONS = ("-std=c++17",)


@cache
def kernel(cupy: ModuleType, source: str, name: str) -> Callable[..., None]:
    """The kernel `name`, an `extern "C" __global__` function in the file `source` beside this one.

    It is called with (grid, block, arguments), as a cupy.RawKernel: numbers go in as NumPy scalars of the very types
    of its parameters, since nothing converts them, and arrays must be contiguous. Raises RuntimeError with the
    compiler's words, which name the line of `source`, where it does not compile.
    """
    path = Path(__file__).with_name(source)
    code = f'#line 1 "{source}"\n{path.read_text(encoding="ascii")}'
    try:
        compiled: Callable[..., None] = cupy.RawModule(code=code, options=OPTIONS).get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        raise RuntimeError(f"{path} does not compile:\n{error}") from None
    return compiled

"""What the emulator has of the CUDA driver: a library with the functions that make maps of tensors."""

import ctypes
import tempfile
from functools import cache
from pathlib import Path

from tests.cuda_on_cpu import emulator

SOURCE = Path(__file__).with_name("tensor_maps.cpp")


@cache
def driver() -> ctypes.CDLL:
    """cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col; skips the test where there is no g++."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "driver.so"
        emulator.run_compiler(["g++", "-std=c++17", "-O1", "-shared", "-fPIC", SOURCE, "-o", library])
        return ctypes.CDLL(str(library))

"""What holds for every .cu file: it compiles for all GPUs that it is for, and keeps what it computes in registers.

NVRTC compiles, as it does for CuPy, where the package nvidia-cuda-nvrtc is installed, else nvcc: neither needs a GPU.
"""

import ctypes
import importlib
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from npconvnet.kernels import cpu, cuda
from npconvnet.kernels.cuda.compile import OPTIONS, written_out
from tests.cuda_on_cpu import warpgroup_product

FOLDER = Path(cuda.__file__).parent
SOURCES, HEADERS = sorted(FOLDER.glob("*.cu")), sorted(FOLDER.glob("*.cuh"))
#: What a source is for, unless the module beside it has others in its ARCHITECTURES.
ARCHITECTURES = "sm_80", "sm_90a"
#: One without tensor cores for bfloat16, which computes in float32: by what has a definition in kernels/cpu.
OLD = "sm_75"
DEFINITIONS = {path.stem for path in Path(cpu.__file__).parent.glob("*.py")}
#: What the compiler of a source's registers says for each of its kernels.
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
#: What it says about wgmma.
MENDED = re.compile(r"\(C75\d\d\)")

over_files = pytest.mark.parametrize("path", SOURCES + HEADERS, ids=lambda path: path.name)


def module_of(source: Path) -> ModuleType:
    return importlib.import_module(f"{cuda.__name__}.{source.stem}")


def variants() -> list[Any]:
    """Each source with each set of constants that the module beside it compiles it with."""
    return [
        pytest.param(source, constants, id="-".join([source.name, *map(str, constants.values())]))
        for source in SOURCES
        for constants in getattr(module_of(source), "VARIANTS", [{}])
    ]


def on_its_architectures() -> list[Any]:
    """Those, each for every GPU that it is for."""
    return [
        pytest.param(architecture, *variant.values, id=f"{architecture}-{variant.id}")
        for variant in variants()
        for architecture in getattr(module_of(variant.values[0]), "ARCHITECTURES", ARCHITECTURES)
    ]


def by_nvcc(code: str, options: list[str], folder: Path) -> str:
    """What nvcc says about `code`; raises AssertionError where it does not compile."""
    (folder / "kernel.cu").write_text(code)
    command = ["nvcc", "-cubin", "-Xptxas", "-v", *options, "kernel.cu"]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def by_nvrtc(code: str, options: list[str], folder: Path) -> str:
    """What NVRTC says about `code`; raises AssertionError where it does not compile."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert library is not None
    every = [option.encode() for option in ["--ptxas-options=-v", *options]]
    assert library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None) == 0
    error = library.nvrtcCompileProgram(program, len(every), (ctypes.c_char_p * len(every))(*every))
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert error == 0, log.value.decode()
    return log.value.decode()


@cache
def nvrtc() -> ctypes.CDLL | None:
    """The library of the package, if it is installed."""
    try:
        files = metadata.files("nvidia-cuda-nvrtc") or []
    except metadata.PackageNotFoundError:
        return None
    return next(
        (ctypes.CDLL(str(file.locate())) for file in files if re.fullmatch(r"libnvrtc\.so\.\d+", file.name)), None
    )


@pytest.fixture
def compiler() -> Callable[[str, list[str], Path], str]:
    if nvrtc():
        return by_nvrtc
    if shutil.which("nvcc"):
        return by_nvcc
    pytest.skip("neither nvcc nor NVRTC (pip install nvidia-cuda-nvrtc) is installed")


def check(compiler, code, options, folder):
    """Raises AssertionError unless `code` compiles without a warning, and no kernel has memory for registers.

    Nor may the compiler have to mend what a kernel does with the sums of wgmma, or make one product after the other,
    which it says for information.
    """
    log = compiler(code, [*options, *OPTIONS, "-Werror=all-warnings"], folder)
    assert "warning" not in log, log
    assert not MENDED.search(log), log
    kernels = MEMORY.findall(log)
    assert kernels, log
    assert set(kernels) == {("0", "0", "0")}, log


def test_each_stands_beside_the_module_that_launches_it():
    assert SOURCES
    assert all(source.with_suffix(".py").exists() for source in SOURCES)


@pytest.mark.parametrize(("architecture", "source", "constants"), on_its_architectures())
def test_it_compiles_and_keeps_its_numbers_in_registers(compiler, tmp_path, architecture, source, constants):
    macros = [f"-D{macro}={value}" for macro, value in constants.items()]
    check(compiler, written_out(source), [f"-arch={architecture}", *macros], tmp_path)


@pytest.mark.parametrize(
    ("source", "constants"), [variant for variant in variants() if variant.values[0].stem in DEFINITIONS]
)
def test_what_computes_in_float32_compiles_for_gpus_without_tensor_cores(compiler, tmp_path, source, constants):
    test_it_compiles_and_keeps_its_numbers_in_registers(compiler, tmp_path, OLD, source, constants)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x[0] = y;", "y"),
        ("int unused;", "never referenced"),
        ("int many[100]; for (int i = 0; i < 100; i++) many[i] = x[i]; x[0] = many[x[1]];", "400 bytes stack frame"),
    ],
)
def test_a_kernel_that_does_not_is_found(compiler, tmp_path, body, message):
    code = f'extern "C" __global__ void k(int* x) {{ {body} }}'
    with pytest.raises(AssertionError, match=message):
        check(compiler, code, ["-arch=sm_80"], tmp_path)


@pytest.mark.parametrize("b_lies", [False, True])
@pytest.mark.parametrize("a_lies", [False, True])
def test_a_small_kernel_that_tests_wgmma(compiler, tmp_path, a_lies, b_lies):
    options = ["-arch=sm_90a", *warpgroup_product.constants(a_lies, b_lies)]
    check(compiler, warpgroup_product.INSTRUCTIONS + warpgroup_product.SOURCE, options, tmp_path)


def test_sums_of_wgmma_that_are_used_too_early_are_found(compiler, tmp_path):
    body = """
        float sum[128] = {};
        wgmma_fence(sum);
        for (int i = 0; i < steps; i++) {
            wgmma_fence();
            USE
            wgmma_m64n256k16<false, false>(sum, a + i, a);
            wgmma_commit();
            wgmma_wait<1>();
        }
        wgmma_wait<0>(sum);
        for (int i = 0; i < 128; i++) x[threadIdx.x * 128 + i] = sum[i];
    """
    header = (FOLDER / "ptx.cuh").read_text()
    code = f'{header}\nextern "C" __global__ void k(float* x, unsigned long long a, int steps) {{ {body} }}'
    check(compiler, code.replace("USE", ""), ["-arch=sm_90a"], tmp_path)
    with pytest.raises(AssertionError, match="wgmma"):
        check(compiler, code.replace("USE", "sum[0] += 1;"), ["-arch=sm_90a"], tmp_path)


@over_files
def test_it_begins_with_what_it_computes(path):
    text = path.read_text(encoding="ascii")  # CuPy writes it to a file in the encoding of the machine
    assert all(line.startswith("//") for line in text.splitlines()[:3])


@over_files
def test_it_includes_headers_of_this_folder_alone(path):
    for line in re.findall(r"^\s*#\s*include.*", path.read_text(), re.MULTILINE):
        named = re.fullmatch(r'#include "(\w+\.cuh)"', line)
        assert named
        assert FOLDER / named[1] in HEADERS


@over_files
def test_ptx_is_in_one_header_alone(path):
    assert path.name == "ptx.cuh" or not re.search(r"\basm\b", path.read_text())

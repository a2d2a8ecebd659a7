"""What holds for every .cu file: nvcc compiles it, and NVRTC can, which has no headers and reads what CuPy writes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from npconvnet.kernels import cuda
from npconvnet.kernels.cuda.compile import OPTIONS

SOURCES = sorted(Path(cuda.__file__).parent.glob("*.cu"))
over_sources = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)


def test_each_stands_beside_the_module_that_launches_it():
    assert SOURCES
    assert all(source.with_suffix(".py").exists() for source in SOURCES)


@over_sources
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_nvcc_compiles_it(source, architecture, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    command = ["nvcc", "-cubin", f"-arch={architecture}", "-Werror=all-warnings", *OPTIONS, source]
    done = subprocess.run([*command, "-o", tmp_path / "kernel.cubin"], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@over_sources
def test_it_begins_with_what_it_computes_and_includes_nothing(source):
    text = source.read_text(encoding="ascii")  # CuPy writes it to a file in the encoding of the machine
    assert all(line.startswith("//") for line in text.splitlines()[:3])
    assert "#include" not in text

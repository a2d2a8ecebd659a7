import numpy as np
import pytest

from npconvnet.kernels.cuda import compile
from npconvnet.kernels.cuda.compile import kernel


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where `kernel` looks for sources."""
    monkeypatch.setattr(compile, "__file__", str(tmp_path / "compile.py"))
    return tmp_path


def test_a_kernel_runs(cupy, folder):
    (folder / "double.cu").write_text('extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }')
    x = cupy.asarray(np.arange(5, dtype=np.float32))
    kernel(cupy, "double.cu", "twice")((1,), (5,), (x,))
    assert x.get().tolist() == [0, 2, 4, 6, 8]


def test_it_is_compiled_once(cupy, folder):
    source = folder / "none.cu"
    source.write_text('extern "C" __global__ void none() {}')
    compiled = kernel(cupy, "none.cu", "none")
    source.unlink()
    assert kernel(cupy, "none.cu", "none") is compiled


def test_an_error_names_the_file_and_the_line(cupy, folder):
    (folder / "wrong.cu").write_text('// one\n// two\nextern "C" __global__ void wrong() { int i = j; }')
    with pytest.raises(RuntimeError, match=r"(?s)wrong\.cu does not compile:.*wrong\.cu:3:.*j") as caught:
        kernel(cupy, "wrong.cu", "wrong")
    assert str(folder / "wrong.cu") in str(caught.value)

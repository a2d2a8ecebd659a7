import numpy as np
import pytest

from npconvnet.kernels.cuda import compile
from npconvnet.kernels.cuda.compile import kernel
from tests.kernels.cuda.test_sources import by_nvrtc, nvrtc


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


SPECIFIC = """
#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#error not sm_90a
#endif
extern "C" __global__ void one(float* x) { x[0] = 1; }
"""


def test_what_only_sm_90a_has(xp, folder):
    (folder / "specific.cu").write_text(SPECIFIC)
    if xp.cuda.Device().compute_capability != "90":
        pytest.skip("this GPU is no sm_90a")
    x = xp.zeros(1, np.float32)
    kernel(xp, "specific.cu", "one", architecture="sm_90a")((1,), (1,), (x,))
    assert x.get().tolist() == [1]
    with pytest.raises(RuntimeError, match=r"specific\.cu does not compile:(?s:.*)not sm_90a"):
        kernel(xp, "specific.cu", "one")


def test_another_gpu_does_not_get_it(cupy, folder, monkeypatch):
    (folder / "refused.cu").write_text(SPECIFIC)
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "100")
    with pytest.raises(RuntimeError, match=r"refused\.cu does not compile:(?s:.*)not sm_90a"):
        kernel(cupy, "refused.cu", "one", architecture="sm_90a")


@pytest.mark.skipif(nvrtc() is None, reason="NVRTC (pip install nvidia-cuda-nvrtc) is not installed")
def test_of_two_architectures_nvrtc_takes_the_number_of_the_last_and_the_letter_of_either(tmp_path):
    for by_cupy in ("sm_90", "compute_90"):
        by_nvrtc(SPECIFIC, ["-arch=sm_90a", f"-arch={by_cupy}"], tmp_path)
    for options in (["-arch=sm_90"], ["-arch=sm_90a", "-arch=sm_100"]):
        with pytest.raises(AssertionError, match="not sm_90a"):
            by_nvrtc(SPECIFIC, options, tmp_path)

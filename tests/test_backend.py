import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from npconvnet import backend
from npconvnet.errors import InputError


def fake_cupy(monkeypatch, device_count, nvrtc_version=lambda: (13, 0)):
    """A cupy whose driver answers `device_count()`, and whose compiler `nvrtc_version()`."""
    nvrtc = SimpleNamespace(getVersion=nvrtc_version)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=device_count), nvrtc=nvrtc))
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # makes `import cupy` raise ModuleNotFoundError


def unloadable_cupy(monkeypatch, error):
    def load(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", load)


def raising(error):
    def call():
        raise error

    return call


TWO_LINES = "libnvrtc.so.13: cannot open shared object file\n  (please reinstall CuPy)"
WITHOUT_A_GPU = {
    "not installed": (no_cupy, r"cupy is not installed; in the clone of npconvnet, run: pip install -e '.\[gpu\]'"),
    "does not load": (
        lambda patch: unloadable_cupy(patch, ImportError(TWO_LINES)),
        r"cupy does not load \(libnvrtc.so.13: cannot open shared object file\); reinstall it",
    ),
    "lacks a module of its own": (
        lambda patch: unloadable_cupy(patch, ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock")),
        r"cupy does not load \(No module named 'fastrlock'\); reinstall it",
    ),
    "fails without a word": (
        lambda patch: unloadable_cupy(patch, OSError()),
        r"cupy does not load \(OSError\); reinstall it",
    ),
    "no driver": (
        lambda patch: fake_cupy(patch, raising(RuntimeError("cudaErrorInsufficientDriver: too old\nfor this"))),
        r"the CUDA driver does not answer \(cudaErrorInsufficientDriver: too old\); install or update",
    ),
    "no device": (
        lambda patch: fake_cupy(patch, lambda: 0),
        r"cupy finds no NVIDIA GPU on this machine; use a machine",
    ),
    "no compiler": (
        lambda patch: fake_cupy(patch, lambda: 1, raising(RuntimeError("No such file: libnvrtc.so.13\nthere"))),
        r"cupy finds no NVRTC, CUDA's compiler \(No such file: libnvrtc.so.13\); run: pip install -e '.\[gpu\]'",
    ),
}


@pytest.mark.parametrize(("arrange", "reason"), WITHOUT_A_GPU.values(), ids=WITHOUT_A_GPU)
def test_without_a_gpu(monkeypatch, arrange, reason):
    arrange(monkeypatch)
    assert backend.resolve_device("auto") == "cpu"
    assert backend.resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match=f"^no GPU can be used: {reason}.* or run with --device cpu$") as refusal:
        backend.resolve_device("gpu")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("devices", [1, 8])
def test_with_a_gpu(monkeypatch, devices):
    fake_cupy(monkeypatch, lambda: devices)
    assert backend.why_no_gpu() is None
    assert backend.resolve_device("gpu") == "gpu"
    assert backend.resolve_device("auto") == "gpu"
    assert backend.resolve_device("cpu") == "cpu"


def test_the_cpu_is_taken_without_asking_for_a_gpu(monkeypatch):
    unloadable_cupy(monkeypatch, AssertionError("cupy was imported"))
    assert backend.resolve_device("cpu") == "cpu"


def test_arrays_say_where_they_are(cupy):
    on_cpu = np.ones(3)
    on_gpu = cupy.asarray(on_cpu)
    assert (backend.array_module(on_cpu), backend.array_module(on_gpu)) == (np, cupy)
    assert (backend.is_on_gpu(on_cpu), backend.is_on_gpu(on_gpu)) == (False, True)


def test_there_and_back(cupy):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert backend.resolve_device("auto") == "gpu"
    on_gpu = backend.to_device(x, "gpu")
    assert isinstance(on_gpu, cupy.ndarray)
    assert backend.to_device(x, "cpu") is x
    for back in [backend.to_host(on_gpu), backend.to_device(on_gpu, "cpu")]:
        assert type(back) is np.ndarray
        np.testing.assert_array_equal(back, x)
    assert backend.to_host(x) is x


def test_what_stays_on_the_device_is_not_copied(cupy):
    on_gpu = cupy.asarray(np.zeros(3))
    backend.to_device(on_gpu, "gpu")[0] = 5
    assert on_gpu.get().tolist() == [5, 0, 0]


def test_sliding_windows_are_the_same_on_both_devices(cupy):
    x = np.arange(12).reshape(3, 4)
    windows = backend.sliding_windows(x, (2, 3), (0, 1))
    assert windows.shape == (2, 2, 2, 3)
    assert windows[1, 0].tolist() == [[4, 5, 6], [8, 9, 10]]
    assert np.shares_memory(windows, x)
    np.testing.assert_array_equal(backend.to_host(backend.sliding_windows(cupy.asarray(x), (2, 3), (0, 1))), windows)


def test_importing_the_package_does_not_even_try_to_import_cupy(tmp_path):
    """It takes seconds, and cupy may be installed where there is no driver."""
    (tmp_path / "cupy.py").write_text("raise SystemExit('cupy was imported')")
    program = (
        "import numpy, npconvnet, npconvnet.backend, npconvnet.kernels\n"
        "assert npconvnet.kernels.relu_forward(numpy.array([-1.0, 1.0])).tolist() == [0, 1]\n"
        "assert npconvnet.backend.resolve_device('cpu') == 'cpu'\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize(
    ("asked", "device", "capability", "expected"),
    [
        ("auto", "cpu", None, "float32"),
        ("float32", "cpu", None, "float32"),
        ("auto", "gpu", "80", "bfloat16"),
        ("auto", "gpu", "90", "bfloat16"),
        ("auto", "gpu", "120", "bfloat16"),
        ("tf32", "gpu", "80", "tf32"),
        ("float32", "gpu", "75", "float32"),
    ],
)
def test_precision(cupy, monkeypatch, asked, device, capability, expected):
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", capability)
    assert backend.resolve_precision(asked, device) == (expected, None)


@pytest.mark.parametrize("asked", ["auto", "bfloat16", "tf32"])
def test_a_gpu_without_tensor_cores_computes_in_float32_and_says_so(cupy, monkeypatch, asked):
    monkeypatch.setattr(cupy.cuda.Device, "compute_capability", "75")
    precision, line = backend.resolve_precision(asked, "gpu")
    assert precision == "float32"
    assert line is not None
    assert "compute capability 7.5" in line
    assert "\n" not in line


@pytest.mark.parametrize("asked", ["bfloat16", "tf32"])
def test_tensor_cores_are_not_asked_of_a_cpu(asked):
    with pytest.raises(InputError, match=rf"^--precision {asked} is for a GPU; run .* or with --precision auto$"):
        backend.resolve_precision(asked, "cpu")

"""Which implementation runs: the definition, or the CUDA kernel of the same stem and name."""

import importlib
import importlib.util
import inspect
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.backend import to_host


@pytest.fixture
def cuda_stem(monkeypatch):
    """Plants an empty module npconvnet.kernels.cuda.<stem>."""

    def plant(stem):
        name = f"npconvnet.kernels.cuda.{stem}"
        module = importlib.util.module_from_spec(ModuleSpec(name, loader=None))
        monkeypatch.setitem(sys.modules, name, module)
        return module

    kernels._cuda_twin.cache_clear()
    yield plant
    kernels._cuda_twin.cache_clear()


X = np.array([1.0, -1.0], np.float32)


def test_numpy_arrays_go_to_the_definition(cuda_stem, cupy):
    cuda_stem("relu").relu_forward = lambda x: pytest.fail("the CUDA kernel was called")
    assert kernels.relu_forward(X).tolist() == [1, 0]


def test_cupy_arrays_go_to_the_cuda_kernel(cuda_stem, cupy):
    cuda_stem("relu").relu_backward = lambda *args, **kwargs: ("what CUDA said", args, kwargs)
    dy, y = cupy.asarray(X), cupy.asarray(X)
    said, args, kwargs = kernels.relu_backward(dy, y, rule="guided")
    assert said == "what CUDA said"
    assert [id(x) for x in args] == [id(dy), id(y)]
    assert kwargs == {"rule": "guided"}


def test_a_list_is_where_its_first_array_is(cuda_stem, cupy):
    cuda_stem("add").add_forward = lambda xs: "what CUDA said"
    assert kernels.add_forward([cupy.asarray(X), cupy.asarray(X)]) == "what CUDA said"
    assert kernels.add_forward([X, X]).tolist() == [2, -2]


def test_cupy_arrays_go_to_the_definition_where_the_stem_lacks_the_name(cuda_stem, cupy):
    cuda_stem("relu").relu_backward = lambda dy, y: pytest.fail("that is another kernel")
    assert to_host(kernels.relu_forward(cupy.asarray(X))).tolist() == [1, 0]


def test_cupy_arrays_go_to_the_definition_where_there_is_no_stem(cuda_stem, cupy, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "cuda.relu" in name else find_spec(name))
    assert to_host(kernels.relu_forward(cupy.asarray(X))).tolist() == [1, 0]


def test_a_cuda_kernel_that_does_not_load_is_not_passed_over(cuda_stem, cupy, monkeypatch):
    """A broken kernel must show, or the slow definition would run in its place and nobody would know."""
    cuda_stem("relu")
    monkeypatch.setattr(importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kernels.relu_forward(cupy.asarray(X))


def test_the_names_and_the_words_are_those_of_the_definition():
    assert kernels.conv2d_forward.__name__ == "conv2d_forward"
    assert "fprop" in (kernels.conv2d_forward.__doc__ or "")


def test_cuda_kernels_are_called_as_their_definitions():
    definitions = [kernel.__wrapped__ for kernel in vars(kernels).values() if hasattr(kernel, "__wrapped__")]
    twins = {d: twin for d in definitions if (twin := kernels._cuda_twin(d)) is not d}
    assert twins
    for definition, twin in twins.items():
        assert inspect.signature(twin, eval_str=True) == inspect.signature(definition, eval_str=True)

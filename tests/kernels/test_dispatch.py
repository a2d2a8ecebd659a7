"""Which implementation runs: the definition, or the compiled loop or CUDA kernel of the same stem and name."""

import importlib
import importlib.util
import inspect
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.backend import to_host
from npconvnet.kernels import twins
from npconvnet.kernels.cpu import tiles as cpu_tiles


@pytest.fixture
def cuda_stem(monkeypatch):
    """Plants an empty module npconvnet.kernels.cuda.<stem>."""

    def plant(stem):
        name = f"npconvnet.kernels.cuda.{stem}"
        module = importlib.util.module_from_spec(ModuleSpec(name, loader=None))
        monkeypatch.setitem(sys.modules, name, module)
        return module

    twins.cuda_twin.cache_clear()
    yield plant
    twins.cuda_twin.cache_clear()


@pytest.fixture
def forget_twins():
    """Whatever a test says of numba holds for its time."""
    for found in (twins.compiled_twin, twins._has_numba):
        found.cache_clear()
    yield
    for found in (twins.compiled_twin, twins._has_numba):
        found.cache_clear()


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


def pooled():
    return kernels.max_pool2d_forward(np.array([[1, 2]], np.float32).reshape(1, 1, 2, 1), (1, 2), 1)[0].item()


def test_numpy_arrays_go_to_the_compiled_loop_where_numba_is_installed(forget_twins, monkeypatch):
    pytest.importorskip("numba")
    assert pooled() == 2
    compiled = importlib.import_module("npconvnet.kernels.compiled.max_pool2d")
    twins.compiled_twin.cache_clear()
    monkeypatch.setattr(compiled, "max_pool2d_forward", lambda *args: (np.array("what numba said"), None))
    assert pooled() == "what numba said"


def test_without_numba_nobody_asks_for_it(forget_twins, monkeypatch, recwarn):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else find_spec(name))
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    assert pooled() == 2
    assert not recwarn.list


def test_tiles_go_to_the_compiled_loop_where_numba_is_installed(forget_twins, monkeypatch):
    pytest.importorskip("numba")
    compiled = importlib.import_module("npconvnet.kernels.compiled.tiles")
    seen = []
    monkeypatch.setattr(compiled, "place_tiles", lambda tiles, y: seen.append((tiles, y)))
    cpu_tiles.place_tiles(X, X)
    assert len(seen) == 1


@pytest.mark.parametrize("kind", [ImportError, OSError, SystemError, AttributeError])
def test_numba_that_cannot_be_imported_is_named_once(forget_twins, monkeypatch, kind):
    def refuse(name):
        raise kind("Numba needs NumPy 2.3 or less")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, loader=None))
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.warns(UserWarning, match="numba is not used.*needs NumPy 2.3 or less") as warned:
        assert pooled() == pooled() == 2
    assert len(warned) == 1


def test_the_names_and_the_words_are_those_of_the_definition():
    assert kernels.conv2d_forward.__name__ == "conv2d_forward"
    assert "fprop" in (kernels.conv2d_forward.__doc__ or "")


def test_compiled_loops_are_called_as_their_definitions():
    pytest.importorskip("numba")
    tiles = [cpu_tiles.cut_tiles, cpu_tiles.place_tiles, cpu_tiles.add_tiles]
    definitions = [kernel.__wrapped__ for kernel in [*vars(kernels).values(), *tiles] if hasattr(kernel, "__wrapped__")]
    pairs = {d: twin for d in definitions if (twin := twins.compiled_twin(d))}
    assert {"max_pool2d_forward", "relu_backward", "cut_tiles", "add_tiles"} < {d.__name__ for d in pairs}
    for definition, twin in pairs.items():
        assert inspect.signature(twin, eval_str=True) == inspect.signature(definition, eval_str=True)


def test_cuda_kernels_are_called_as_their_definitions():
    definitions = [kernel.__wrapped__ for kernel in vars(kernels).values() if hasattr(kernel, "__wrapped__")]
    pairs = {d: twin for d in definitions if (twin := twins.cuda_twin(d)) is not d}
    assert pairs
    for definition, twin in pairs.items():
        assert inspect.signature(twin, eval_str=True) == inspect.signature(definition, eval_str=True)

"""The CUDA kernels against the definition, bit by bit, on the CPU; on a GPU too where there is one."""

import numpy as np
import pytest

from npconvnet.backend import to_host, why_no_gpu
from npconvnet.kernels.cpu import bfloat16 as definition
from npconvnet.kernels.cuda import bfloat16
from tests.kernels.cuda import emulator
from tests.kernels.test_bfloat16 import numbers

WORDS = np.arange(2**16, dtype=np.uint16)
BLOCK = bfloat16.THREADS * bfloat16.PER_THREAD
SHAPES = [(), (1,), (5,), (bfloat16.THREADS + 1,), (BLOCK - 1,), (BLOCK,), (BLOCK + 1,), (3, 5, 7, 31), (0,), (3, 0)]

both_orders = pytest.mark.parametrize("backwards", [False, True])
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_kernels = pytest.mark.parametrize("name", ["to_bfloat16", "from_bfloat16"])


def arguments(rng, name):
    """What has every corner in it; in no order, so that a part of it has all kinds of numbers."""
    return rng.permutation(numbers(rng) if name == "to_bfloat16" else WORDS)


def check(cupy, name, x):
    result = getattr(bfloat16, name)(cupy.asarray(x))
    assert isinstance(result, cupy.ndarray)
    assert_same_bits(to_host(result), getattr(definition, name)(x))


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.view(f"u{actual.itemsize}"), expected.view(f"u{expected.itemsize}"))


@pytest.fixture
def gpu():
    if reason := why_no_gpu():
        pytest.skip(reason)
    return pytest.importorskip("cupy")


@both_orders
@over_kernels
def test_same_bits(cupy, rng, monkeypatch, backwards, name):
    monkeypatch.setattr(emulator, "backwards", backwards)
    check(cupy, name, arguments(rng, name))


@over_shapes
@over_kernels
def test_any_shape(cupy, rng, name, shape):
    check(cupy, name, np.resize(arguments(rng, name), shape))


@pytest.mark.gpu
@over_kernels
def test_same_bits_on_a_gpu(gpu, rng, name):
    check(gpu, name, arguments(rng, name))


@pytest.mark.gpu
@over_shapes
@over_kernels
def test_any_shape_on_a_gpu(gpu, rng, name, shape):
    check(gpu, name, np.resize(arguments(rng, name), shape))


@pytest.mark.gpu
@over_kernels
def test_more_numbers_than_an_int_counts(gpu, rng, name):
    last = arguments(rng, name)[:BLOCK]
    if gpu.cuda.runtime.memGetInfo()[0] < 15 * 2**30:
        pytest.skip("needs 15 GiB of free memory on the GPU")
    x = gpu.zeros(2**31 + len(last), last.dtype)
    x[2**31 :] = gpu.asarray(last)
    result = getattr(bfloat16, name)(x)
    assert_same_bits(to_host(result[2**31 :]), getattr(definition, name)(last))
    assert not result[: 2**31].any()


@pytest.mark.parametrize("view", [lambda x: x[::2], lambda x: x[::-1], lambda x: x.reshape(4, -1).T])
@over_kernels
def test_arrays_that_are_not_contiguous(cupy, rng, name, view):
    x = arguments(rng, name)[:4096]
    assert_same_bits(to_host(getattr(bfloat16, name)(view(cupy.asarray(x)))), getattr(definition, name)(view(x)))


@over_kernels
def test_a_part_that_begins_anywhere(cupy, rng, name):
    """As the parts of a gradient do."""
    x = arguments(rng, name)[:4096]
    assert_same_bits(to_host(getattr(bfloat16, name)(cupy.asarray(x)[1:])), getattr(definition, name)(x[1:]))


@over_kernels
def test_nothing_is_launched_for_no_numbers(cupy, monkeypatch, name):
    monkeypatch.setattr(bfloat16, "kernel", lambda *args: pytest.fail("CUDA refuses a launch of no blocks"))
    assert getattr(bfloat16, name)(cupy.asarray(arguments(np.random.default_rng(0), name)[:0])).shape == (0,)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("to_bfloat16", "f8"), ("to_bfloat16", "u4"), ("from_bfloat16", "i2"), ("from_bfloat16", "u4")],
)
def test_other_types_are_refused(cupy, name, dtype):
    with pytest.raises(ValueError, match=f"{name} takes .*, not {np.dtype(dtype)}"):
        getattr(bfloat16, name)(cupy.zeros(5, dtype))

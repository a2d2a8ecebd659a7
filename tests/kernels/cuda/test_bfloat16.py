"""The CUDA kernels against the definition, bit by bit, on the CPU; on a GPU too where there is one."""

import numpy as np
import pytest

from npconvnet.backend import to_host, why_no_gpu
from npconvnet.kernels.cpu import bfloat16 as definition
from npconvnet.kernels.cuda import bfloat16
from tests.cuda_on_cpu import emulator
from tests.kernels.test_bfloat16 import numbers, parts_of_all_kinds

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


# ---- sums ------------------------------------------------------------------------------------------------------------

over_parts = pytest.mark.parametrize(
    ("rows", "columns"),
    [(1, 5), (2, BLOCK - 1), (3, BLOCK), (3, BLOCK + 1), (7, 3 * BLOCK + 5), (8, 10_000), (2, 0)],
)
ignore_infinities = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in add")


def without_subnormals(parts):
    """Zeros in place of what is below 2⁻¹¹⁹: the last digit of all else is 2⁻¹²⁶ or more, and so is that of sums."""
    return np.where(parts & 0x7FFF < 0x0400, parts & 0x8000, parts)


@ignore_infinities
@both_orders
@over_parts
def test_same_sums(cupy, rng, monkeypatch, backwards, rows, columns):
    monkeypatch.setattr(emulator, "backwards", backwards)
    check(cupy, "sum_of_words", parts_of_all_kinds(rng, rows, columns))


@ignore_infinities
@pytest.mark.gpu
@over_parts
def test_same_sums_on_a_gpu(gpu, rng, rows, columns):
    check(gpu, "sum_of_words", without_subnormals(parts_of_all_kinds(rng, rows, columns)))


@pytest.mark.gpu
def test_subnormals_are_zeros_in_sums_on_a_gpu(gpu):
    """As the docstring has it: 2⁻¹²⁷ + 2⁻¹²⁷, 2⁻¹²⁶ + 2⁻¹²⁷, and 1.5 · 2⁻¹²⁶ − 2⁻¹²⁶."""
    parts = np.array([[0x0040, 0x0080, 0x00C0], [0x0040, 0x0040, 0x8080]], np.uint16)
    assert definition.sum_of_words(parts).tolist() == [0x0080, 0x00C0, 0x0040]
    assert to_host(bfloat16.sum_of_words(gpu.asarray(parts))).tolist() == [0, 0x0080, 0]


@ignore_infinities
@pytest.mark.gpu
def test_sums_of_more_columns_than_an_int_counts(gpu, rng):
    last = without_subnormals(parts_of_all_kinds(rng, 2, BLOCK))
    if gpu.cuda.runtime.memGetInfo()[0] < 15 * 2**30:
        pytest.skip("needs 15 GiB of free memory on the GPU")
    parts = gpu.zeros((2, 2**31 + BLOCK), np.uint16)
    parts[:, 2**31 :] = gpu.asarray(last)
    sums = bfloat16.sum_of_words(parts)
    assert_same_bits(to_host(sums[2**31 :]), definition.sum_of_words(last))
    assert not sums[: 2**31].any()


@ignore_infinities
@pytest.mark.parametrize("view", [lambda x: x[:, ::2], lambda x: x[::-1], lambda x: x.T, lambda x: x[:, 1:]])
def test_sums_of_arrays_that_are_not_contiguous(cupy, rng, view):
    parts = parts_of_all_kinds(rng, 6, 999)
    sums = bfloat16.sum_of_words(view(cupy.asarray(parts)))
    assert_same_bits(to_host(sums), definition.sum_of_words(view(parts)))


@pytest.mark.parametrize(("dtype", "shape"), [("i2", (2, 5)), ("f4", (2, 5)), ("u2", (5,)), ("u2", (2, 5, 1))])
def test_sums_of_anything_else_are_refused(cupy, dtype, shape):
    with pytest.raises(ValueError):
        bfloat16.sum_of_words(cupy.zeros(shape, dtype))

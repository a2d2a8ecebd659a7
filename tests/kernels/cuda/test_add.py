import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu.add import add_forward as definition
from npconvnet.kernels.cpu.bfloat16 import from_bfloat16, to_bfloat16
from npconvnet.kernels.cuda import elementwise
from npconvnet.kernels.cuda.add import MOST, add_forward

COUNTS = [1, 2, 3, 7]
SHAPES = [(1,), (2, 3, 5, 7), (elementwise.THREADS + 1,), (0, 3)]

over_counts = pytest.mark.parametrize("count", [*COUNTS, MOST])
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def draw(rng, count, shape):
    return [rng.standard_normal(shape, np.float32) for _ in range(count)]


@over_counts
def test_floats_have_the_bits_of_the_definition(xp, rng, count):
    xs = draw(rng, count, (3, 5))
    np.testing.assert_array_equal(to_host(add_forward([xp.asarray(x) for x in xs])), definition(xs))


@over_shapes
def test_floats_of_any_shape(xp, rng, shape):
    xs = draw(rng, 3, shape)
    y = to_host(add_forward([xp.asarray(x) for x in xs]))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, definition(xs))


@pytest.mark.parametrize("count", COUNTS)
@over_shapes
def test_words_are_numbers_that_are_rounded_once(xp, rng, count, shape):
    words = [to_bfloat16(x) for x in draw(rng, count, shape)]
    y = to_host(add_forward([xp.asarray(x) for x in words]))
    assert y.dtype == np.uint16
    np.testing.assert_array_equal(y, to_bfloat16(definition([from_bfloat16(x) for x in words])))


def test_words_rounded_once_by_hand(xp):
    """256 + 1 is 256 in bfloat16, and 256 + 1 + 1 is 258."""
    words = [xp.asarray(to_bfloat16(np.array([x], np.float32))) for x in (256, 1, 1)]
    assert from_bfloat16(to_host(add_forward(words))).tolist() == [258]


def test_the_sum_has_memory_of_its_own(xp, rng):
    x = rng.standard_normal((3, 4), np.float32)
    first, second = xp.asarray(x), xp.asarray(x)
    for xs in [first], [first, second], [first, first]:
        y = add_forward(xs)
        y += 1
        np.testing.assert_array_equal(to_host(first), x)
        np.testing.assert_array_equal(to_host(second), x)


def test_arrays_that_are_not_contiguous(xp, rng):
    x, z = draw(rng, 2, (4, 6))
    y = add_forward([xp.asarray(x).T, xp.asarray(z)[::-1].T])
    np.testing.assert_array_equal(to_host(y), x.T + z[::-1].T)


def test_more_arrays_than_a_launch_takes_are_refused(cupy):
    with pytest.raises(ValueError, match="up to 64 arrays, not 65"):
        add_forward([cupy.zeros(3, np.float32)] * (MOST + 1))


def test_other_arrays_are_refused(cupy):
    x, words = cupy.zeros((2, 3), np.float32), cupy.zeros((2, 3), np.uint16)
    for xs in [x, words], [words, x], [x, x[:1]], [x, cupy.zeros((2, 3), np.float64)]:
        with pytest.raises(TypeError, match=r"add_forward: xs\[1\] is"):
            add_forward(xs)
    with pytest.raises(TypeError, match=r"add_forward: xs\[0\] is float64"):
        add_forward([cupy.zeros((2, 3), np.float64)])
    with pytest.raises(TypeError, match=r"add_forward: xs\[1\] is on the CPU, and has to be on the GPU"):
        add_forward([x, np.zeros((2, 3), np.float32)])

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import bias as definition
from npconvnet.kernels.cuda.bias import ROWS, bias_backward, bias_forward
from tests.kernels.cuda.agreement import assert_agrees

SHAPES = [(1, 1), (5, 3), (2, 3, 4, 7), (ROWS, 5), (ROWS + 1, 5), (3, 300), (0, 4), (2, 0, 4)]
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@over_shapes
def test_forward_adds_in_place(xp, rng, shape):
    x, b = rng.standard_normal(shape, np.float32), rng.standard_normal(shape[-1:], np.float32)
    on_device = xp.asarray(x)
    assert bias_forward(on_device, xp.asarray(b)) is on_device
    np.testing.assert_array_equal(to_host(on_device), x + b)


def test_forward_adds_in_place_where_that_is_not_contiguous(xp, rng):
    x, b = rng.standard_normal((4, 6), np.float32), rng.standard_normal((3,), np.float32)
    on_device = xp.asarray(x)
    bias_forward(on_device[:, ::2], xp.asarray(b))
    x[:, ::2] += b
    np.testing.assert_array_equal(to_host(on_device), x)


@pytest.mark.parametrize("shape", [*SHAPES, (2 * ROWS**2 + 3, 2), (2, ROWS, ROWS, 3)], ids=str)
def test_backward_is_the_definition(xp, rng, shape):
    dy = rng.standard_normal(shape, np.float32)
    assert_agrees(bias_backward(xp.asarray(dy)), definition.bias_backward(dy.astype(np.float64)))


def test_backward_counts_every_row_once(xp):
    """In whole numbers, which float32 adds without rounding."""
    rows = 5 * ROWS + 7
    dy = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    assert to_host(bias_backward(xp.asarray(dy))).tolist() == dy.sum(axis=0, dtype=np.int64).tolist()


def test_sums_of_many_numbers_are_exact_to_float32(xp):
    """One after the other, 300 000 times 0.1 is off by 1e-3 in float32."""
    dy = np.full((300_000, 1), 0.1, np.float32)
    assert_agrees(bias_backward(xp.asarray(dy)), definition.bias_backward(dy.astype(np.float64)), 1e-6)


def test_other_arrays_are_refused(cupy):
    x, b = cupy.zeros((2, 3), np.float32), cupy.zeros(3, np.float32)
    for wrong in cupy.zeros(2, np.float32), cupy.zeros((1, 3), np.float32), cupy.zeros(3, np.float64):
        with pytest.raises(TypeError, match="bias_forward: b is"):
            bias_forward(x, wrong)
    with pytest.raises(TypeError, match="bias_forward: x is"):
        bias_forward(cupy.zeros((2, 3), np.float64), b)
    with pytest.raises(TypeError, match="bias_backward: dy is"):
        bias_backward(cupy.zeros((2, 3), np.uint16))

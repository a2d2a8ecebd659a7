import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import flatten as definition
from npconvnet.kernels.cuda.flatten import flatten_backward, flatten_forward
from npconvnet.kernels.cuda.relu import relu_forward
from npconvnet.layers import Flatten
from tests.kernels.cuda.capturing import replayed

over_types = pytest.mark.parametrize("dtype", [np.float32, np.uint16])
over_shapes = pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 6, 6, 16), (3, 1, 1, 4), (0, 2, 2, 3)], ids=str)


@over_types
@over_shapes
def test_it_gives_the_numbers_of_the_definition(xp, rng, dtype, shape):
    x = rng.integers(0, 2**16, shape).astype(dtype)
    y = definition.flatten_forward(x)
    for ours, theirs in (flatten_forward(xp.asarray(x)), y), (flatten_backward(xp.asarray(y), shape), x):
        assert ours.dtype == dtype
        assert ours.flags.c_contiguous
        np.testing.assert_array_equal(to_host(ours), theirs)


def test_arrays_that_are_not_contiguous(xp, rng):
    x = rng.standard_normal((2, 3, 5, 8), np.float32)
    np.testing.assert_array_equal(
        to_host(flatten_forward(xp.asarray(x)[..., ::2])), definition.flatten_forward(x[..., ::2])
    )


def test_a_captured_step_flattens(xp, rng):
    """And computes with the derivative in the shape of the image."""
    x, dy = rng.standard_normal((2, 3, 4, 5), np.float32), rng.standard_normal((2, 60), np.float32)
    x_on_gpu, dy_on_gpu, layer = xp.asarray(x), xp.asarray(dy), Flatten()

    def step():
        y, saved = layer.forward(x_on_gpu)
        return y, relu_forward(layer.backward(dy_on_gpu, saved)[0])

    y, dx = map(to_host, replayed(xp, step))
    np.testing.assert_array_equal(y, definition.flatten_forward(x))
    np.testing.assert_array_equal(dx, np.maximum(definition.flatten_backward(dy, x.shape), 0))


def test_other_arrays_are_refused(cupy):
    x = cupy.zeros((2, 3, 3, 4), np.float32)
    for other in x.astype(np.float64), x[0], np.zeros((2, 3, 3, 4), np.float32):
        with pytest.raises(TypeError, match="flatten_forward: x is"):
            flatten_forward(other)
    with pytest.raises(TypeError, match="flatten_backward: dy is float32"):
        flatten_backward(cupy.zeros((2, 35), np.float32), x.shape)

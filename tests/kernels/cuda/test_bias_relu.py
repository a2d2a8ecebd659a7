import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import bias_relu as definition
from npconvnet.kernels.cuda.bias import bias_forward
from npconvnet.kernels.cuda.bias_relu import bias_relu_forward
from npconvnet.kernels.cuda.relu import relu_forward

SHAPES = [(1, 1), (2, 3, 4, 7), (3, 300), (0, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_definition_in_place(xp, rng, shape):
    x, b = rng.standard_normal(shape, np.float32), rng.standard_normal(shape[-1:], np.float32)
    on_device = xp.asarray(x)
    assert bias_relu_forward(on_device, xp.asarray(b)) is on_device
    np.testing.assert_array_equal(to_host(on_device), definition.bias_relu_forward(x, b))


def test_it_is_the_bias_and_the_relu_bit_for_bit(xp, rng):
    x, b = rng.standard_normal((4, 5, 6), np.float32), rng.standard_normal((6,), np.float32)
    x[0, 0] = [np.nan, np.inf, -np.inf, 0, -0.0, 1e-30]
    apart = relu_forward(bias_forward(xp.asarray(x), xp.asarray(b)))
    together = bias_relu_forward(xp.asarray(x), xp.asarray(b))
    np.testing.assert_array_equal(to_host(together).view(np.uint32), to_host(apart).view(np.uint32))


def test_in_place_where_that_is_not_contiguous(xp, rng):
    x, b = rng.standard_normal((4, 6), np.float32), rng.standard_normal((3,), np.float32)
    on_device = xp.asarray(x)
    bias_relu_forward(on_device[:, ::2], xp.asarray(b))
    x[:, ::2] = np.maximum(x[:, ::2] + b, 0)
    np.testing.assert_array_equal(to_host(on_device), x)


def test_other_arrays_are_refused(cupy):
    x, b = cupy.zeros((2, 3), np.float32), cupy.zeros(3, np.float32)
    with pytest.raises(TypeError, match="bias_relu_forward: b is"):
        bias_relu_forward(x, b[:2])
    with pytest.raises(TypeError, match="bias_relu_forward: x is"):
        bias_relu_forward(cupy.zeros((2, 3), np.float64), b)

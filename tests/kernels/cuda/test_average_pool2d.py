import numpy as np
import pytest

from npconvnet.kernels.cpu import average_pool2d as definition
from npconvnet.kernels.cuda import average_pool2d
from tests.kernels.cuda.agreement import assert_agrees
from tests.kernels.geometry import Geometry, over_the_table
from tests.kernels.test_average_pool2d import over_counting, where


def check(xp, rng, geometry, count_padding):
    x, kwargs = rng.standard_normal((2, *geometry.size, 3), np.float32), where(geometry, count_padding)
    expected = definition.average_pool2d_forward(x.astype(np.float64), **kwargs)
    assert_agrees(average_pool2d.average_pool2d_forward(xp.asarray(x), **kwargs), expected, 1e-6)

    dy = rng.standard_normal(expected.shape, np.float32)
    dx = average_pool2d.average_pool2d_backward(xp.asarray(dy), x.shape, **kwargs)
    assert_agrees(dx, definition.average_pool2d_backward(dy.astype(np.float64), x.shape, **kwargs), 1e-6)


@over_the_table
@over_counting
def test_both_ways_are_the_definition(xp, rng, geometry, count_padding):
    check(xp, rng, geometry, count_padding)


def test_random_shapes(xp, rng):
    for _ in range(40):
        (h, w), (r, s, stride) = rng.integers(4, 12, 2).tolist(), rng.integers(1, 5, 3).tolist()
        top, bottom, left, right = rng.integers(0, [r, r, s, s]).tolist()
        geometry = Geometry((h, w), (r, s), stride, (top, bottom, left, right), rng.choice(["floor", "ceil"]))
        check(xp, rng, geometry, count_padding=bool(rng.integers(2)))


def test_global_both_ways(xp, rng):
    for shape in (1, 1, 1, 1), (2, 13, 11, 70), (0, 3, 3, 5):
        x, dy = rng.standard_normal(shape, np.float32), rng.standard_normal((shape[0], shape[3]), np.float32)
        y = average_pool2d.global_average_pool2d_forward(xp.asarray(x))
        assert_agrees(y, definition.global_average_pool2d_forward(x.astype(np.float64)))
        dx = average_pool2d.global_average_pool2d_backward(xp.asarray(dy), shape)
        assert_agrees(dx, definition.global_average_pool2d_backward(dy.astype(np.float64), shape))


def test_no_images(xp):
    y = average_pool2d.average_pool2d_forward(xp.zeros((0, 5, 5, 3), np.float32), (3, 3), 2)
    assert y.shape == (0, 2, 2, 3)
    assert average_pool2d.average_pool2d_backward(y, (0, 5, 5, 3), (3, 3), 2).shape == (0, 5, 5, 3)


def test_arrays_that_are_not_contiguous(xp, rng):
    x = rng.standard_normal((6, 5, 2, 3), np.float32)
    y = average_pool2d.average_pool2d_forward(xp.asarray(x).transpose(2, 1, 0, 3), (2, 2), 1)
    assert_agrees(y, definition.average_pool2d_forward(x.transpose(2, 1, 0, 3).astype(np.float64), (2, 2), 1))


def test_other_arrays_are_refused(cupy):
    x = cupy.zeros((1, 4, 4, 2), np.float32)
    with pytest.raises(TypeError, match="average_pool2d_forward: x is float64"):
        average_pool2d.average_pool2d_forward(cupy.zeros((1, 4, 4, 2), np.float64), (2, 2), 2)
    with pytest.raises(TypeError, match=r"average_pool2d_backward: dy is .*has to be float32 \(1, 2, 2, 2\)"):
        average_pool2d.average_pool2d_backward(x, x.shape, (2, 2), 2)
    with pytest.raises(TypeError, match="global_average_pool2d_backward: dy is"):
        average_pool2d.global_average_pool2d_backward(x, x.shape)
    with pytest.raises(ValueError, match="smaller than its window"):
        average_pool2d.average_pool2d_forward(x, (2, 2), 2, (2, 0, 0, 0))

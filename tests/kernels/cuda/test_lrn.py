import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import lrn as definition
from npconvnet.kernels.cuda import lrn
from tests.kernels.cuda.agreement import assert_agrees
from tests.kernels.test_lrn import SETTINGS, over_settings


def check(xp, rng, shape, settings):
    x, dy = (3 * rng.standard_normal(shape, np.float32) for _ in range(2))
    y, s = definition.lrn_forward(x.astype(np.float64), *settings)
    for result, expected in zip(lrn.lrn_forward(xp.asarray(x), *settings), (y, s), strict=True):
        assert_agrees(result, expected, 1e-6)
    dx = lrn.lrn_backward(*(xp.asarray(a) for a in (dy, x, s.astype(np.float32))), *settings[:3])
    assert_agrees(dx, definition.lrn_backward(dy.astype(np.float64), x.astype(np.float64), s, *settings[:3]), 1e-6)


@over_settings
@pytest.mark.parametrize("shape", [(2, 3, 5, 9), (7,), (3, 64), (2, 2, 1), (2, 3, 130)], ids=str)
def test_both_ways_are_the_definition(xp, rng, shape, settings):
    check(xp, rng, shape, settings)


@pytest.mark.parametrize("size", range(1, 9))
def test_windows_of_any_size(xp, rng, size):
    for channels in 1, 2, 5, 8:
        check(xp, rng, (3, channels), (size, 0.4, 0.75, 1.0))


def test_pixels_do_not_see_each_other(xp, rng):
    x = rng.standard_normal((2, 3, 2, 4), np.float32)
    x[0, 1, 1] = np.nan
    y, s = lrn.lrn_forward(xp.asarray(x), 5, 0.5, 0.75, 2.0)
    dx = lrn.lrn_backward(xp.asarray(np.ones_like(x)), xp.asarray(x), s, 5, 0.5, 0.75)
    for result in y, s, dx:
        np.testing.assert_array_equal(np.isnan(to_host(result)), np.isnan(x))


def test_no_images(xp):
    y, s = lrn.lrn_forward(xp.zeros((0, 5, 5, 3), np.float32), *SETTINGS[0])
    assert y.shape == s.shape == lrn.lrn_backward(y, y, s, *SETTINGS[0][:3]).shape == (0, 5, 5, 3)


def test_arrays_that_are_not_contiguous(xp, rng):
    x = rng.standard_normal((6, 5, 3), np.float32)
    y, _ = lrn.lrn_forward(xp.asarray(x).transpose(2, 1, 0), *SETTINGS[1])
    assert_agrees(y, definition.lrn_forward(x.transpose(2, 1, 0).astype(np.float64), *SETTINGS[1])[0])


def test_other_arrays_are_refused(cupy):
    x = cupy.zeros((2, 4), np.float32)
    with pytest.raises(TypeError, match="lrn_forward: x is float64"):
        lrn.lrn_forward(cupy.zeros((2, 4), np.float64), *SETTINGS[0])
    with pytest.raises(TypeError, match=r"lrn_backward: s is float32 \(1, 4\)"):
        lrn.lrn_backward(x, x, x[:1], *SETTINGS[0][:3])

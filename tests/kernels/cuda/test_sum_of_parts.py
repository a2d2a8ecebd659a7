import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu.bfloat16 import to_bfloat16
from npconvnet.kernels.cuda.elementwise import THREADS
from npconvnet.kernels.cuda.sum_of_parts import sum_of_parts


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 2, THREADS)])
def test_sums_bias_and_relu(xp, rng, parts, shape):
    x = rng.standard_normal((parts, *shape), np.float32)
    x[0, ..., -1] = np.nan
    bias = rng.standard_normal(shape[-1], np.float32)
    expected = x[0].copy()
    for part in x[1:]:
        expected += part
    for given in (None, bias):
        for relu in (False, True):
            y, words = xp.empty(shape, np.float32), xp.empty(shape, np.uint16)
            for out in (y, words):
                sum_of_parts(xp.asarray(x), out, None if given is None else xp.asarray(given), relu)
            wanted = expected if given is None else expected + given
            wanted = np.maximum(wanted, 0) if relu else wanted
            np.testing.assert_array_equal(to_host(y), wanted)
            np.testing.assert_array_equal(to_host(words), to_bfloat16(wanted))


def test_nothing(cupy):
    sum_of_parts(cupy.zeros((3, 0, 4), np.float32), cupy.zeros((0, 4), np.float32))


def test_other_arrays_are_refused(cupy):
    parts, y, bias = (cupy.zeros(shape, np.float32) for shape in [(2, 3, 4), (3, 4), 4])
    for arrays in [
        (parts.astype(np.float64), y, bias),
        (parts[:, 1:], y, bias),
        (parts, y.astype(np.float64), bias),
        (parts, y, bias[1:]),
    ]:
        with pytest.raises(TypeError):
            sum_of_parts(*arrays)

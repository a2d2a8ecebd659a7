import numpy as np
import pytest

from npconvnet import kernels
from npconvnet.kernels.cpu import bias_relu
from tests.conftest import distinct

over_shapes = pytest.mark.parametrize("shape", [(3, 5), (2, 7, 6, 5), (1, 1, 1, 5)], ids=str)


@pytest.fixture(params=[1, 4, 2**20], ids="in parts of {} pixels".format)
def parts(request, monkeypatch):
    monkeypatch.setattr("npconvnet.kernels.cpu.windows.CACHE_BYTES", request.param * 5 * 8)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("line", [1, 10, 33, 2**12])
@over_shapes
def test_the_forward_is_one_after_the_other(rng, monkeypatch, shape, line, dtype):
    monkeypatch.setattr(bias_relu, "LINE", line)
    x, b = distinct(rng, shape, dtype), distinct(rng, shape[-1:], dtype)
    expected = kernels.relu_forward(kernels.bias_forward(x.copy(), b))
    y = kernels.bias_relu_forward(x, b)
    np.testing.assert_array_equal(y, expected)
    assert y is x

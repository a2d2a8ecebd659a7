import numpy as np
import pytest

from npconvnet.kernels.cpu import linear, linear_in_parallel
from npconvnet.parallel import use_threads
from tests.conftest import assert_close, distinct


@pytest.fixture(params=[None, 1, 2, 3], autouse=True)
def count(request):
    """Of threads; every test runs with each."""
    use_threads(request.param)
    yield request.param
    use_threads(None)


def all_three(module, xwdy):
    """(y, dx, dw) by the functions of `module`."""
    x, w, dy = xwdy
    return module.linear_forward(x, w), module.linear_backward_input(dy, w), module.linear_backward_weights(dy, x)


def operands(rng, images, inputs, outputs, dtype):
    """(x, w, dy)"""
    return tuple(distinct(rng, shape, dtype) for shape in ((images, inputs), (outputs, inputs), (images, outputs)))


def assert_like_the_definition(xwdy):
    results = all_three(linear_in_parallel, xwdy)
    for actual, expected in zip(results, all_three(linear, xwdy), strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("outputs", [1, 4, 11])
@pytest.mark.parametrize("inputs", [1, 3, 4, 5, 8, 9])
def test_around_the_number_of_columns_at_once(rng, monkeypatch, inputs, outputs, dtype):
    monkeypatch.setattr(linear_in_parallel, "COLUMNS", 4)
    assert_like_the_definition(operands(rng, 3, inputs, outputs, dtype))
    assert_like_the_definition(operands(rng, 3, outputs, inputs, dtype))


def test_many_columns(rng, dtype):
    some, more = linear_in_parallel.COLUMNS - 1, 2 * linear_in_parallel.COLUMNS + 1
    assert_like_the_definition(operands(rng, 5, some, more, dtype))


def test_without_images_there_is_nothing_to_learn(rng, dtype):
    x, w, dy = np.zeros((0, 700), dtype), distinct(rng, (600, 700), dtype), np.zeros((0, 600), dtype)
    y, dx, dw = all_three(linear_in_parallel, (x, w, dy))
    assert (y.shape, dx.shape, dw.shape) == (dy.shape, x.shape, w.shape)
    assert (y.dtype, dx.dtype, dw.dtype) == (dtype, dtype, dtype)
    assert not dw.any()


def test_the_layout_in_memory_does_not_matter(rng, monkeypatch, dtype):
    monkeypatch.setattr(linear_in_parallel, "COLUMNS", 4)
    xwdy = operands(rng, 3, 9, 10, dtype)
    assert_like_the_definition([np.asfortranarray(a) for a in xwdy])
    assert_like_the_definition([np.repeat(a, 2, axis=1)[:, ::2] for a in xwdy])


def test_nothing_is_written_over(rng, dtype):
    xwdy = operands(rng, 3, 9, 10, dtype)
    for a in xwdy:
        a.flags.writeable = False  # writing raises ValueError
    all_three(linear_in_parallel, xwdy)


@pytest.mark.parametrize("images", [1, 7])
def test_the_same_bits_on_any_number_of_threads(rng, count, images, dtype):
    xwdy = operands(rng, images, 1300, 1100, dtype)
    results = all_three(linear_in_parallel, xwdy)
    use_threads(1)
    for actual, expected in zip(results, all_three(linear_in_parallel, xwdy), strict=True):
        np.testing.assert_array_equal(actual, expected)

import numpy as np
import pytest

from npconvnet.backend import to_host
from npconvnet.kernels.cpu import linear as definition
from npconvnet.kernels.cuda import linear
from npconvnet.kernels.cuda.tiled_product import TILE
from tests.kernels.cuda.agreement import assert_agrees

#: N, in, out: less than a tile, just one, more than two, and nothing.
SIZES = [(1, 1, 1), (3, 5, 4), (TILE, TILE, TILE), (TILE + 1, 17, 2), (2, TILE + 5, 2 * TILE + 3), (70, 9, 3)]
EMPTY = [(0, 5, 4), (3, 0, 4), (3, 5, 0)]

over_sizes = pytest.mark.parametrize("sizes", [*SIZES, *EMPTY], ids=str)


def draw(rng, sizes):
    """x, w and dy."""
    n, inputs, outputs = sizes
    return (rng.standard_normal(shape, np.float32) for shape in [(n, inputs), (outputs, inputs), (n, outputs)])


def doubled(*arrays):
    return [x.astype(np.float64) for x in arrays]


@over_sizes
def test_the_three_products_are_the_definition(xp, rng, sizes):
    x, w, dy = draw(rng, sizes)
    on_device = [xp.asarray(each) for each in (x, w, dy)]
    assert_agrees(linear.linear_forward(*on_device[:2]), definition.linear_forward(*doubled(x, w)))
    assert_agrees(
        linear.linear_backward_input(on_device[2], on_device[1]), definition.linear_backward_input(*doubled(dy, w))
    )
    assert_agrees(
        linear.linear_backward_weights(on_device[2], on_device[0]), definition.linear_backward_weights(*doubled(dy, x))
    )


def test_whole_numbers_are_exact(xp):
    """Which no tolerance can hide: every product once, and in its place."""
    n, inputs, outputs = TILE + 3, 19, TILE + 7
    x = xp.asarray((np.arange(n * inputs) % 101).reshape(n, inputs).astype(np.float32))
    w = xp.asarray((np.arange(outputs * inputs) % 97).reshape(outputs, inputs).astype(np.float32))
    np.testing.assert_array_equal(to_host(linear.linear_forward(x, w)), to_host(x) @ to_host(w).T)


def test_the_weights_take_the_memory_they_are_given(xp, rng):
    x, _, dy = draw(rng, (3, 5, 4))
    expected = definition.linear_backward_weights(*doubled(dy, x))
    out = xp.zeros((4, 5), np.float32)
    assert linear.linear_backward_weights(xp.asarray(dy), xp.asarray(x), out=out) is out
    assert_agrees(out, expected)
    apart = xp.zeros((4, 10), np.float32)
    linear.linear_backward_weights(xp.asarray(dy), xp.asarray(x), out=apart[:, ::2])
    assert_agrees(apart[:, ::2], expected)
    assert not to_host(apart)[:, 1::2].any()


def test_long_sums_keep_their_digits(xp, rng):
    """With numbers that are all positive, as behind a ReLU: added one by one, they are off by 2e-6."""
    dy, x = rng.random((20_000, 5), np.float32), rng.random((20_000, 7), np.float32)
    dw = linear.linear_backward_weights(xp.asarray(dy), xp.asarray(x))
    assert_agrees(dw, definition.linear_backward_weights(*doubled(dy, x)), 1e-6)


def test_other_arrays_are_refused(cupy):
    x, w = cupy.zeros((2, 3), np.float32), cupy.zeros((4, 3), np.float32)
    for call, message in [
        (lambda: linear.linear_forward(x, w.T), r"linear_forward: w is float32 \(3, 4\)"),
        (lambda: linear.linear_forward(x[0], w), "linear_forward: x is"),
        (lambda: linear.linear_backward_input(x, w), "linear_backward_input: w is"),
        (lambda: linear.linear_backward_weights(x, w), "linear_backward_weights: x is"),
        (lambda: linear.linear_backward_weights(x, x, out=w), "linear_backward_weights: out is"),
        (lambda: linear.linear_forward(cupy.zeros((2, 3), np.float64), w), "linear_forward: x is float64"),
    ]:
        with pytest.raises(TypeError, match=message):
            call()

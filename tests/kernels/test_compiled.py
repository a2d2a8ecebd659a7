"""The compiled loops beside what they stand in for, bit for bit; but max pooling, see test_fast_max_pool2d.py."""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconvnet.kernels.cpu import bias_relu as bias_relu_by_numpy
from npconvnet.kernels.cpu import relu as relu_by_numpy
from npconvnet.kernels.cpu import tiles as tiles_by_either
from tests.conftest import distinct

pytest.importorskip("numba")
from numba.core.caching import FunctionCache

from npconvnet.kernels.compiled import bias_relu, compiled, relu, tiles

cut_by_numpy, place_by_numpy, add_by_numpy = (
    inspect.unwrap(function)  # or it would be the compiled one
    for function in (tiles_by_either.cut_tiles, tiles_by_either.place_tiles, tiles_by_either.add_tiles)
)

VALUES = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.5, 1e-42]


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.ascontiguousarray(a).tobytes() == b.tobytes()


def layouts(rng, dtype):
    """dy (2, 3, 4, 6) in every layout that a network may hand it over in."""
    whole = distinct(rng, (2, 3, 4, 18), dtype)
    return {
        "contiguous": whole[..., :6].copy(),
        "the first channels": whole[..., :6],
        "the last channels": whole[..., 12:],
        "every third channel": whole[..., ::3],
        "channels first in memory": distinct(rng, (2, 6, 3, 4), dtype).transpose(0, 2, 3, 1),
        "some rows": distinct(rng, (2, 9, 4, 6), dtype)[:, 1:4],
        "one number for a channel": np.broadcast_to(distinct(rng, (2, 1, 1, 6), dtype), (2, 3, 4, 6)),
        "from behind": distinct(rng, (2, 3, 4, 6), dtype)[::-1, ::-1, ::-1],
    }


@pytest.mark.parametrize("layout", list(layouts(np.random.default_rng(0), np.float32)))
@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
def test_relu_backward(rng, rule, layout, dtype):
    dy = layouts(rng, dtype)[layout]
    y = np.maximum(distinct(rng, (2, 3, 4, 12), dtype), 0)
    for y_now in (y[..., :6], y[..., 6:].copy(), np.asfortranarray(y[..., 6:])):
        assert same_bits(relu.relu_backward(dy, y_now, rule), relu_by_numpy.relu_backward(dy, y_now, rule))


@pytest.mark.parametrize("shape", [(7,), (1, 1), (3, 1), (5, 3), (1, 1, 1, 9)], ids=str)
def test_relu_backward_of_any_shape(rng, shape, dtype):
    dy, y = distinct(rng, shape, dtype), distinct(rng, shape, dtype)
    assert same_bits(relu.relu_backward(dy, y), relu_by_numpy.relu_backward(dy, y))


def test_relu_backward_of_unusual_numbers(dtype):
    dy, y = (np.array(part, dtype) for part in zip(*[(a, b) for a in VALUES for b in VALUES], strict=True))
    assert same_bits(relu.relu_backward(dy, y), relu_by_numpy.relu_backward(dy, y))


def test_relu_backward_of_one_image_for_all_and_in_another_type(rng):
    """What NumPy would broadcast or convert, it does here too."""
    dy, y = distinct(rng, (1, 3), np.float64), distinct(rng, (4, 3), np.float32)
    for share in (dy, dy.repeat(4, axis=0), dy.astype(np.float32)):
        assert same_bits(relu.relu_backward(share, y), relu_by_numpy.relu_backward(share, y))


def test_a_derivative_of_other_images_is_refused():
    with pytest.raises(ValueError, match="broadcast"):
        relu.relu_backward(np.ones((2, 3)), np.ones((4, 3)))


def test_where_nothing_can_be_kept_on_disk_it_is_compiled_anew(monkeypatch):
    def refuse(*_):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(FunctionCache, "__init__", refuse)

    @compiled
    def double(x):
        for n in range(x.size):
            x[n] *= 2

    x = np.arange(3.0)
    double(x)
    assert x.tolist() == [0, 2, 4]


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="no ReLU rule 'other'"):
        relu.relu_backward(np.ones((1, 2)), np.ones((1, 2)), "other")  # type: ignore[arg-type]


def test_bias_relu_forward(rng, dtype):
    x, b = distinct(rng, (2, 3, 4, 5), dtype), distinct(rng, (5,), dtype)
    expected = bias_relu_by_numpy.bias_relu_forward(x.copy(), b)
    y = bias_relu.bias_relu_forward(x, b)
    assert y is x and same_bits(y, expected)


def test_bias_relu_forward_of_unusual_numbers(dtype):
    x = np.array(VALUES, dtype).repeat(len(VALUES)).reshape(len(VALUES), -1)
    b = np.array(VALUES, dtype)
    with np.errstate(invalid="ignore"):
        expected = bias_relu_by_numpy.bias_relu_forward(x.copy(), b)
    assert same_bits(bias_relu.bias_relu_forward(x, b), expected)


@st.composite
def cuts(draw):
    """(images' shape, corner, step, tiles' shape): tiles with and without overlap, of which the last reach beyond."""
    along = []
    for _ in range(2):
        size, step, more, before = (draw(st.integers(low, 4)) for low in (1, 1, 0, 0))
        count = -(-(size + before) // step)
        along.append((size, min(before, step + more - 1), step, step + more, count))
    (h, top, step_h, n_h, down), (w, left, step_w, n_w, across) = along
    return (2, h, w, 3), (top, left), (step_h, step_w), (n_h, n_w, 2, down, across, 3)


@given(cuts())
def test_tiles_are_cut_and_added_up(cut):
    shape, corner, step, tiles_shape = cut
    rng = np.random.default_rng(0)
    x, d_tiles = distinct(rng, shape, np.float32), distinct(rng, tiles_shape, np.float32)
    found, expected = (np.empty(tiles_shape, np.float32) for _ in range(2))
    tiles.cut_tiles(x, corner, step, found)
    cut_by_numpy(x, corner, step, expected)
    assert same_bits(found, expected)
    dx, expected_dx = np.empty_like(x), np.empty_like(x)
    tiles.add_tiles(d_tiles, corner, step, dx)
    add_by_numpy(d_tiles, corner, step, expected_dx)
    assert same_bits(dx, expected_dx)
    assert np.vdot(found, d_tiles) == pytest.approx(np.vdot(x, dx), rel=1e-5, abs=1e-5)  # adjoint


@given(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 4)] * 2))
def test_tiles_are_placed_side_by_side(size, tile):
    rng = np.random.default_rng(0)
    down, across = (-(-pixels // side) for pixels, side in zip(size, tile, strict=True))
    given_tiles = distinct(rng, (*tile, 2, down, across, 3), np.float32)
    y, expected = (np.empty((2, *size, 3), np.float32) for _ in range(2))
    tiles.place_tiles(given_tiles, y)
    place_by_numpy(given_tiles, expected)
    assert same_bits(y, expected)
    back = np.empty_like(given_tiles)
    tiles.cut_tiles(y, (0, 0), tile, back)
    inside = np.zeros_like(back)
    tiles.cut_tiles(np.ones_like(y), (0, 0), tile, inside)
    np.testing.assert_array_equal(back, given_tiles * inside)
